//! The handle a program holds: everything is registered with it.

mod builder;
mod check;
mod closing;
mod drain;
mod link;
mod task;
mod upgrade;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::closing::Resources;
use crate::connection::{Age, Stream};
use crate::control::{self, Message, View};
use crate::driver::{Gates, Loop};
use crate::error::Error;
use crate::exit::Exit;
use crate::generation::Input as GenerationInput;
use crate::generations::Place;
use crate::handover::{GoesOn, Handover, Server};
use crate::inherit;
use crate::listener::{AcceptErrors, Accepting, Handler, Listener};
use crate::log::Log;
use crate::operator::Waiting;
use crate::panics::CatchPanic;
use crate::phase::{Cause, Input, Outcome, Phase};
use crate::readiness::Readiness;
use crate::report::Report;
use crate::snapshot::Snapshot;
use crate::states::States;
use crate::succeed::Succession;
use crate::takeover::wire::{self, MAX_NAME};
use crate::upgrade::{LEAVE_WITH_US, Started};
use crate::websocket::CloseFrames;
use crate::work::{Hold, Registry};

pub use builder::Builder;
pub use check::{CHECK, CHECKS_AT_MOST};
pub use closing::Closing;
pub use drain::{Drain, LAST_CALL};
pub use task::{Blocking, Task, TaskEnd};

/// [`Builder::grace_period`] when nothing was said: what Kubernetes grants by default.
pub const GRACE_PERIOD: Duration = Duration::from_secs(30);
/// [`Builder::linger`] when nothing was said.
pub const LINGER: Duration = Duration::from_millis(250);
/// [`Builder::settle`] when nothing was said.
pub const SETTLE: Duration = Duration::from_millis(100);
/// How long closing may still take once a stop was forced, and nothing was reserved for it.
pub const AFTER_FORCE: Duration = Duration::from_millis(150);
/// How long a successor's death gives the service back.
pub const PROBATION: Duration = Duration::from_secs(10);
/// Older generations that may drain at once.
pub const MAX_GENERATIONS: usize = 4;

/// [`Builder::upgrade_linger`] when nothing was said.
pub const UPGRADE_LINGER: Duration = Duration::from_secs(5);

/// How long the end waits for operators to be answered: each was told by then, or does not read.
const TOLD: Duration = Duration::from_secs(1);

/// How long the end waits at most for successors that are told to leave, killed ones included.
const UNWANTED: Duration = Duration::from_secs(1);

/// What was settled at the start.
#[derive(Debug)]
pub(crate) struct Settings {
    grace: Option<Duration>,
    lame_duck: Duration,
    pub(crate) generation: u32,
    #[cfg_attr(not(feature = "http"), expect(dead_code))]
    pub(crate) linger: Duration,
    #[cfg_attr(not(feature = "http"), expect(dead_code))]
    pub(crate) upgrade_linger: Duration,
    #[cfg_attr(not(feature = "http"), expect(dead_code))]
    pub(crate) age: Option<Age>,
    #[cfg_attr(not(feature = "http"), expect(dead_code))]
    pub(crate) close_frames: CloseFrames,
    pub(crate) version: String,
    probe: Option<String>,
}

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) started: Instant,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) registry: Arc<Registry>,
    resources: Arc<Resources>,
    pub(crate) accept_errors: Arc<AcceptErrors>,
    drain: Drain,
    log: Arc<Log>,
    control: Arc<control::Sender>,
    gates: Arc<Gates>,
    readiness: Readiness,
    pub(crate) handover: Arc<Handover>,
    states: Arc<States>,
    checks: check::Checks,
    #[cfg(feature = "rustls023")]
    tickets: std::sync::Mutex<Option<crate::tickets::Tickets>>,
    /// What a predecessor left, when this process takes over from one.
    succession: Option<Arc<Succession>>,
    upgrades: Option<Upgrades>,
    /// Successors that were told to leave and have not.
    unwanted: watch::Receiver<usize>,
    view: watch::Receiver<View>,
    report: watch::Receiver<Option<Report>>,
}

/// What a life with a control socket has besides.
struct Upgrades {
    place: Place,
    /// Operators that are still to be told of the end.
    waiting: Arc<Waiting>,
    /// Its successors' processes.
    started: Started,
}

impl Upgrades {
    fn new(place: Place, started: Started) -> Upgrades {
        Upgrades { place, waiting: Arc::default(), started }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.control.send(Message::Abandon);
    }
}

/// A service's life, from start to exit: the handle everything is registered with.
///
/// Cheap to clone; all clones are the same life. When the last one is dropped before a stop began, the life is given
/// up: signals then do what they do to a program without lameduck. See the [crate root](crate) for a whole program with
/// a server. Here is one with something to finish and something to close, and no more:
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// use lameduck::Lifecycle;
///
/// let life = Lifecycle::builder().without_signals().start()?;
/// let outbox = life.resource("outbox", vec!["mail"], |outbox| async move { drop(outbox) });
/// life.task("mailer", |drain| async move {
///     drain.started().await;
///     println!("{} left for the next start", outbox.len());
/// });
/// life.stop();
/// let exit = life.run().await;
/// assert_eq!(exit.code(), lameduck::exit::OK);
/// assert_eq!(exit.report().finished.tasks, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Lifecycle {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lifecycle").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

impl Lifecycle {
    /// Sets up a lifecycle; nothing happens before [`Builder::start`].
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Binds `address` and listens: `127.0.0.1:8080`, `[::1]:8080` or `unix:PATH`.
    ///
    /// Clients can connect from here on and wait in the kernel's queue until the service is ready. In a successor the
    /// socket that the predecessor bound for the same words is taken over instead, with what is queued on it. Cancel safe.
    ///
    /// # Errors
    ///
    /// As [`Listener::bind`], and when what a predecessor gave cannot be used.
    pub async fn listen(&self, address: &str) -> Result<Listener, Error> {
        let left = self.shared.succession.as_ref().and_then(|left| left.listener(address));
        match left {
            Some(taken_over) => taken_over,
            None => Listener::bind(address).await,
        }
    }

    /// The listening sockets a service manager opened for this process (`LISTEN_FDS`), with their names
    /// (`LISTEN_FDNAMES`), in order. None when there are none, or when they are meant for another process.
    ///
    /// They may be taken once. Take them before child processes start: until then a child inherits them too. The
    /// manager keeps its own copy, so at a stop this process just stops accepting, and what is queued waits for
    /// the next start. A successor gets those of its predecessor, by the same names.
    ///
    /// # Errors
    ///
    /// When the variables cannot be understood, when a descriptor is not a listening stream socket (TCP or Unix), and
    /// when the sockets were taken before.
    pub fn inherited(&self) -> Result<Vec<(String, Listener)>, Error> {
        let _runtime = self.shared.runtime.enter();
        if let Some(left) = &self.shared.succession {
            let passed = left.inherited()?;
            if !passed.is_empty() {
                return Ok(passed);
            }
        }
        inherit::take(|name| std::env::var_os(name), std::process::id())
    }

    /// Serves each connection of `listener` with `handler`, a protocol of your own without HTTP.
    ///
    /// The handler gets the stream and the drain signal; its connection is live work until the stream is dropped.
    /// Returns at once; accepting begins when the lifecycle is ready. At the deadline reads and writes fail. A handler
    /// that panics ends its connection and is named in the report.
    ///
    /// # Errors
    ///
    /// When the lifecycle has stopped accepting already, and when the name has not 1 to 64 bytes or a control character in
    /// it: a successor is told it, and it stands in reports.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
    /// use tokio::io::AsyncWriteExt;
    ///
    /// # let life = lameduck::Lifecycle::builder().without_signals().start()?;
    /// let listener = life.listen("127.0.0.1:0").await?;
    /// life.serve_streams("greeter", listener, |mut stream, _drain| async move {
    ///     let _ = stream.write_all(b"hello\n").await;
    /// })?;
    /// # Ok(()) }
    /// ```
    pub fn serve_streams<F, Fut>(
        &self,
        name: &str,
        listener: Listener,
        handler: F,
    ) -> Result<(), Error>
    where
        F: Fn(Stream, Drain) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let drain = self.drain();
        let registry = Arc::clone(&self.shared.registry);
        let server: Arc<str> = Arc::from(name);
        self.accept(name, listener, Hold::Drain, GoesOn::WithNone, move |stream, _read| {
            let connection = handler(stream, drain.clone());
            let (registry, server) = (Arc::clone(&registry), Arc::clone(&server));
            drop(tokio::spawn(async move {
                if let Err(panic) = CatchPanic(Box::pin(connection)).await {
                    registry.panicked(format!("a connection of {server}: {panic}"));
                }
            }));
        })
    }

    /// Starts the accept loop of a server.
    pub(crate) fn accept(
        &self,
        name: &str,
        listener: Listener,
        hold: Hold,
        goes_on: GoesOn,
        serve: impl Fn(Stream, Vec<u8>) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        check_name(name)?;
        let serve: Handler = Arc::new(serve);
        let (orders, received) = mpsc::unbounded_channel();
        self.shared.gates.add(Loop {
            server: name.to_owned(),
            given: listener.given().to_owned(),
            unix: listener.is_unix(),
            taken_over: listener.is_taken_over(),
            shared: listener.is_shared(),
            inherited: listener.name_passed().map(str::to_owned),
            hold,
            orders,
        })?;
        let server: Arc<str> = Arc::from(name);
        self.shared.handover.serves(Arc::clone(&server), Arc::clone(&serve), goes_on);
        if let Some(before) = listener.server_before() {
            self.shared.handover.serves_instead(before, Arc::clone(&serve), goes_on);
        }
        let accepting = Accepting {
            server,
            hold,
            registry: Arc::clone(&self.shared.registry),
            errors: Arc::clone(&self.shared.accept_errors),
            orders: received,
        };
        drop(self.shared.runtime.spawn(accepting.run(listener, serve)));
        Ok(())
    }

    /// The drain signal, which comes when connections and tasks are told to finish: after the gate, not at the stop.
    pub fn drain(&self) -> Drain {
        self.shared.drain.clone()
    }

    /// Whether the service asks for new work, to read or to wait on.
    pub fn readiness(&self) -> Readiness {
        self.shared.readiness.clone()
    }

    /// The built-in log, for lines of the program's own.
    pub fn log(&self) -> Arc<Log> {
        Arc::clone(&self.shared.log)
    }

    /// The phase the life is in now.
    pub fn phase(&self) -> Phase {
        self.shared.view.borrow().phase
    }

    /// What is live now, by name: what USR1 prints and `/status` answers.
    pub fn snapshot(&self) -> Snapshot {
        let view = *self.shared.view.borrow();
        Snapshot {
            generation: self.generation(),
            phase: view.phase,
            ready: self.shared.readiness.is_ready(),
            pid: std::process::id(),
            version: self.shared.settings.version.clone(),
            uptime: self.shared.started.elapsed(),
            left: view.deadline.map(|at| at.saturating_duration_since(Instant::now())),
            live: self.shared.registry.counts(),
            work: self.shared.registry.items(),
            served: self.shared.registry.served(),
            accept_errors: self.shared.accept_errors.count(),
            tally: self.shared.registry.counters.tally(),
        }
    }

    /// Says that the service can serve: accepting begins and readiness turns green, once its [checks](Lifecycle::check)
    /// have passed. [`run`](Lifecycle::run) says it too.
    pub fn ready(&self) {
        self.ready_when_checked();
    }

    fn say_ready(&self) {
        self.serve_rest_of_groups();
        let settings = &self.shared.settings;
        let succession = self.shared.succession.as_ref();
        let handover = &self.shared.handover;
        let ready = succession.map(|left| wire::Ready {
            sessions: handover.readable(),
            probe: settings.probe.clone(),
            servers: handover.goes_on(),
            ..left.ready()
        });
        let ready = GenerationInput::Ready(ready.unwrap_or_default());
        self.shared.control.send(Message::Input(ready));
    }

    /// Of several sockets with one address (`SO_REUSEPORT`) a program may have asked for fewer than its predecessor had.
    /// The kernel gives clients to all of them as long as somebody holds them, and resets who waits where one is closed:
    /// the server at that address accepts from the rest too.
    fn serve_rest_of_groups(&self) {
        let Some(left) = &self.shared.succession else { return };
        let _runtime = self.shared.runtime.enter();
        for listener in left.rest_of_groups() {
            let Ok(listener) = listener else { continue };
            let Some((server, hold)) = self.shared.gates.server_at(listener.given()) else {
                continue;
            };
            let Some((_, Server { handler, goes_on })) = self.shared.handover.server(&server)
            else {
                continue;
            };
            let serve = move |stream, read| handler(stream, read);
            // A stop that came first closes it.
            let _ = self.accept(&server, listener, hold, goes_on, serve);
        }
    }

    /// This process's place in the chain of upgrades; the first is 1.
    pub fn generation(&self) -> u32 {
        self.shared.settings.generation
    }

    /// Begins a graceful stop, as TERM does: the next call ends a lame duck that lasts, and one while the service drains
    /// forces the end. Returns at once.
    pub fn stop(&self) {
        self.shared.control.send(Input::Stop(Cause::Request));
    }

    /// Says [`ready`](Lifecycle::ready) and waits until everything has ended.
    ///
    /// Return the [`Exit`] from `main`. Cancel safe: dropping the future stops nothing, and another clone may wait again.
    pub async fn run(self) -> Exit {
        self.ready();
        self.ended().await
    }

    /// Waits until everything has ended, without saying that the service is ready.
    ///
    /// Cancel safe, and any number may wait: all are given the same report.
    pub async fn ended(&self) -> Exit {
        let mut report = self.shared.report.clone();
        let report = report.wait_for(Option::is_some).await.ok().and_then(|seen| seen.clone());
        if let Some(upgrades) = &self.shared.upgrades {
            upgrades.waiting.told(TOLD).await;
            self.unwanted_are_gone(report.as_ref()).await;
            upgrades.started.reap_the_ended().await;
        }
        match report {
            Some(report) => Exit { report },
            // The control thread never ends before its report while a handle is held.
            None => unreachable!("the control thread ended without a report"),
        }
    }

    /// Waits until no successor is left that a stop overtook. One that is slow to leave is killed, before the deadline
    /// takes this process away.
    async fn unwanted_are_gone(&self, report: Option<&Report>) {
        let left = match report.map(|report| report.outcome) {
            Some(Outcome::Finished) => {
                self.shared.view.borrow().deadline.map_or(LEAVE_WITH_US, |deadline| {
                    deadline.saturating_duration_since(Instant::now()) / 2
                })
            }
            Some(Outcome::DeadlineExceeded | Outcome::Forced(_)) | None => Duration::ZERO,
        };
        let until = Instant::now() + left.min(LEAVE_WITH_US);
        let mut unwanted = self.shared.unwanted.clone();
        if *unwanted.borrow() > 0 {
            self.shared.control.send(Message::Input(GenerationInput::Leaving { until }));
            let _ = tokio::time::timeout(UNWANTED, unwanted.wait_for(|left| *left == 0)).await;
        }
    }
}

/// Whether a server's name can be told to a successor and stand in a line.
fn check_name(name: &str) -> Result<(), Error> {
    if (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control) {
        return Ok(());
    }
    let problem = format!("a name has 1 to {MAX_NAME} bytes, none of them a control character");
    Err(Error::name(format!("serve '{}': {problem}", name.escape_debug())))
}
