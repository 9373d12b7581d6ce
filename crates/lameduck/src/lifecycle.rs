//! The handle a program holds: everything is registered with it.

mod builder;
mod link;
mod task;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::closing::{CloseOutcome, Resources, Turn};
use crate::connection::{Age, Stream};
use crate::control::{self, Message, View};
use crate::driver::{Gates, Loop};
use crate::error::Error;
use crate::exit::Exit;
use crate::generation::{Input as GenerationInput, Queue};
use crate::generations::Place;
use crate::handover::Handover;
use crate::inherit;
use crate::listener::{AcceptErrors, Accepting, Handler, Listener};
use crate::log::Log;
use crate::operator::Waiting;
use crate::phase::{Cause, Input, Outcome, Phase};
use crate::readiness::Readiness;
use crate::report::{Report, panic_words};
use crate::shared::Cells;
use crate::snapshot::Snapshot;
use crate::states::{Origin, States};
use crate::succeed::Succession;
use crate::takeover::successor;
use crate::takeover::wire::{MAX_TEXT, Status};
use crate::upgrade::LEAVE_WITH_US;
use crate::websocket::CloseFrames;
use crate::work::{Hold, Registry, WorkKind};

pub use builder::Builder;
pub(crate) use task::CatchPanic;
pub use task::{Blocking, Drain, Task, TaskEnd};

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

/// How long the end waits for operators to be told of it.
const TOLD: Duration = Duration::from_millis(50);

/// How long the end waits at most for successors that are told to leave, killed ones included.
const UNWANTED: Duration = Duration::from_secs(1);

/// Whether lame duck and closing leave any time to drain.
fn fits(grace: Option<Duration>, lame_duck: Duration, reserve: Duration) -> Result<(), Error> {
    let Some(grace) = grace else { return Ok(()) };
    if lame_duck.saturating_add(reserve) <= grace {
        return Ok(());
    }
    let closing = match reserve {
        Duration::ZERO => String::new(),
        reserve => format!(" and closing budgets of {reserve:?}"),
    };
    Err(Error::budget(format!(
        "fit a lame duck of {lame_duck:?}{closing} into a grace period of {grace:?}"
    )))
}

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
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.control.send(Message::Abandon);
    }
}

/// A service's life, from start to exit: the handle everything is registered with.
///
/// Cheap to clone; all clones are the same life. When the last one is dropped before a stop began, the life is given
/// up: signals then do what they do to a program without lameduck. See the [crate root](crate) for a whole program with a server; this one has only
/// something to finish and something to close:
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
    /// Sets up a lifecycle.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Binds `address` and listens: `127.0.0.1:8080`, `[::1]:8080` or `unix:PATH`.
    ///
    /// Clients can connect from here on and wait in the kernel's queue until the service is ready.
    ///
    /// # Errors
    ///
    /// As [`Listener::bind`].
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
    /// the next start.
    ///
    /// # Errors
    ///
    /// When the variables cannot be understood, when a descriptor is not a listening stream socket (TCP or Unix), and
    /// when the sockets were taken before.
    pub fn inherited(&self) -> Result<Vec<(String, Listener)>, Error> {
        let _runtime = self.shared.runtime.enter();
        inherit::take(|name| std::env::var_os(name), std::process::id())
    }

    /// Serves each connection of `listener` with `handler`, a protocol of your own without HTTP.
    ///
    /// The handler gets the stream and the drain signal; its connection is live work until the stream is dropped.
    /// Accepting begins when the lifecycle is ready. At the deadline reads and writes fail.
    ///
    /// # Errors
    ///
    /// When the lifecycle has stopped accepting already.
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
        self.accept(name, listener, Hold::Drain, move |stream, _read| {
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
        serve: impl Fn(Stream, Vec<u8>) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let serve: Handler = Arc::new(serve);
        let (orders, received) = mpsc::unbounded_channel();
        self.shared.gates.add(Loop {
            server: name.to_owned(),
            given: listener.given().to_owned(),
            unix: listener.is_unix(),
            taken_over: listener.is_taken_over(),
            hold,
            orders,
        })?;
        let server: Arc<str> = Arc::from(name);
        self.shared.handover.serves(Arc::clone(&server), Arc::clone(&serve));
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

    /// Starts a named background task, which holds the drain until it ends.
    ///
    /// The task gets the drain signal and should end soon after it. A panic is caught and reported; it does not
    /// hold the drain. At the deadline the task is dropped at its next await and named in the report.
    ///
    /// Dropping the [`Task`] lets it go on; awaiting it tells how it ended.
    pub fn task<F, Fut>(&self, name: &str, task: F) -> Task
    where
        F: FnOnce(Drain) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let guard = self.shared.registry.begin(WorkKind::Task, name);
        let id = guard.id();
        let registry = Arc::clone(&self.shared.registry);
        let future = task(self.drain());
        let label = name.to_owned();
        let handle = self.shared.runtime.spawn(async move {
            let _guard = guard;
            match CatchPanic(Box::pin(future)).await {
                Ok(()) => TaskEnd::Finished,
                Err(panic) => {
                    registry.panicked(format!("task {label}: {panic}"));
                    TaskEnd::Panicked(panic)
                }
            }
        });
        self.shared.registry.abort_with(id, handle.abort_handle());
        Task { handle }
    }

    /// Runs `call` on a blocking thread, as a named piece of work that holds the drain until it returns.
    ///
    /// A blocking call cannot be interrupted. Long loops should ask [`Drain::should_stop`]; at the deadline the process
    /// leaves without the call and the report names it. Awaiting the [`Blocking`] gives what the call returned.
    pub fn blocking<F, T>(&self, name: &str, call: F) -> Blocking<T>
    where
        F: FnOnce(&Drain) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (end, run) = self.stubborn("blocking call", name, call);
        drop(self.shared.runtime.spawn_blocking(run));
        Blocking { end }
    }

    /// Runs `work` on an OS thread of its own with this name, as a named piece of work that holds the drain until it
    /// returns. What is told of [`blocking`](Lifecycle::blocking) holds for it.
    ///
    /// For work that lasts: the runtime's blocking threads are shared, and bounded in number.
    ///
    /// # Errors
    ///
    /// When the system gives no thread; nothing has run then.
    pub fn thread<F, T>(&self, name: &str, work: F) -> Result<Blocking<T>, Error>
    where
        F: FnOnce(&Drain) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (end, run) = self.stubborn("thread", name, work);
        // The system's name for a thread cannot hold a zero byte.
        let thread = std::thread::Builder::new().name(name.replace('\0', " "));
        match thread.spawn(run) {
            Ok(_) => Ok(Blocking { end }),
            Err(error) => Err(Error::io("start", format!("thread '{name}'"), error)),
        }
    }

    /// Work that cannot be interrupted, entered by its name, and how it ends.
    fn stubborn<F, T>(
        &self,
        kind: &'static str,
        name: &str,
        work: F,
    ) -> (oneshot::Receiver<Result<T, String>>, impl FnOnce() + Send + 'static)
    where
        F: FnOnce(&Drain) -> T + Send + 'static,
        T: Send + 'static,
    {
        let guard = self.shared.registry.begin(WorkKind::Blocking, name);
        let registry = Arc::clone(&self.shared.registry);
        let (drain, label) = (self.drain(), name.to_owned());
        let (ended, end) = oneshot::channel();
        let run = move || {
            let worked = std::panic::AssertUnwindSafe(|| work(&drain));
            let result = std::panic::catch_unwind(worked).map_err(|panic| {
                let words = panic_words(&*panic).to_owned();
                registry.panicked(format!("{kind} {label}: {words}"));
                words
            });
            drop(guard);
            // Nobody need wait for it.
            let _ = ended.send(result);
        };
        (end, run)
    }

    /// Registers a resource that is closed after all work, and gives it back.
    ///
    /// `close` may return nothing or a result whose error is reported. Resources registered this way close in parallel;
    /// use [`on_close`](Lifecycle::on_close) to say what one uses, and its budget.
    ///
    /// # Panics
    ///
    /// When the name is taken.
    pub fn resource<T, F, Fut>(&self, name: &str, value: T, close: F) -> T
    where
        T: Clone + Send + 'static,
        F: FnOnce(T) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: CloseOutcome,
    {
        let closed = value.clone();
        let registered = self.on_close(name).run(move || close(closed));
        assert!(
            registered.is_ok(),
            "{}",
            registered.err().map_or_else(String::new, |e| e.to_string())
        );
        value
    }

    /// Registers something to do after all work has ended, in order with other resources; see [`Closing`].
    pub fn on_close(&self, name: &str) -> Closing<'_> {
        Closing {
            life: self,
            name: name.to_owned(),
            uses: Vec::new(),
            budget: None,
            turn: Turn::Ordered,
        }
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

    /// Says that the service can serve: accepting begins and readiness turns green. [`run`](Lifecycle::run) says it too.
    pub fn ready(&self) {
        let ready = self
            .shared
            .succession
            .as_ref()
            .map(|succession| succession.ready(self.shared.handover.readable()));
        let ready = GenerationInput::Ready(ready.unwrap_or_default());
        self.shared.control.send(Message::Input(ready));
    }

    /// Says that this start takes long: a predecessor waits at least `more` from now, and logs what for. Nothing
    /// happens without a predecessor, or after [`ready`](Lifecycle::ready).
    ///
    /// However often it is said, a predecessor waits no longer than
    /// [`TAKEOVER_LONGEST`](crate::takeover::TAKEOVER_LONGEST).
    pub fn still_starting(&self, doing: &str, more: Duration) {
        let printable = doing.chars().filter(|c| !c.is_control());
        let text = printable.take(MAX_TEXT / 4).collect();
        let status = successor::Input::Status(Status { text, extend: more });
        self.shared.control.send(Message::Input(GenerationInput::Above(status)));
    }

    /// Counters that all generations of this service go on counting: `count` cells under a name.
    ///
    /// The second value says whether a predecessor left them or they begin here at zero. See [`shared`](crate::shared).
    ///
    /// # Errors
    ///
    /// When the name is taken, when a predecessor's cells have another version or number, or when the system gives
    /// no memory.
    pub fn cells(&self, name: &str, version: u32, count: usize) -> Result<(Cells, Origin), Error> {
        self.shared.states.cells(name, version, count)
    }

    /// Offers a successor a state: `save` writes it when one asks.
    ///
    /// At most [`MAX_STATE_SIZE`](crate::takeover::wire::MAX_STATE_SIZE) bytes; more fails the upgrade.
    ///
    /// # Errors
    ///
    /// When the name is taken, or too many states are kept.
    pub fn offer_state(
        &self,
        name: &str,
        version: u32,
        save: impl Fn() -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.shared.states.blob(name, version, Arc::new(save))
    }

    /// Takes the state that a predecessor offered under `name`, with its version; `None` if there is none.
    ///
    /// # Errors
    ///
    /// When its version is not among those that can be read: return it from `main`, and the upgrade fails before
    /// anything has changed.
    pub fn take_state(
        &self,
        name: &str,
        readable: std::ops::RangeInclusive<u32>,
    ) -> Result<Option<(u32, Vec<u8>)>, Error> {
        self.shared.states.read_blob(name, &readable)
    }

    /// The session tickets of this life, for its TLS servers: their keys are a predecessor's if there is one, and move to
    /// a successor. Each call gives the same ones.
    ///
    /// # Errors
    ///
    /// When the state [`tickets::STATE`](crate::tickets::STATE) is used for something else, or a predecessor's has a
    /// version that cannot be read.
    #[cfg(feature = "rustls023")]
    pub fn tickets(&self) -> Result<crate::tickets::Tickets, Error> {
        use crate::tickets::{STATE, Tickets, VERSION};
        use std::sync::PoisonError;
        let mut tickets = self.shared.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tickets) = &*tickets {
            return Ok(tickets.clone());
        }
        let left = self.take_state(STATE, VERSION..=VERSION)?;
        let made = Tickets::new(left.as_ref().map(|(_, blob)| &blob[..]));
        let offered = made.clone();
        self.offer_state(STATE, VERSION, move || offered.save())?;
        Ok(tickets.insert(made).clone())
    }

    /// Starts the program anew and hands over to it, as SIGHUP and `lameduck upgrade` do.
    ///
    /// Returns the successor's process id and generation once it accepts. This generation then finishes what it has in
    /// hand and ends.
    ///
    /// # Errors
    ///
    /// Without a control socket ([`Builder::control`]), and when the successor fails: then nothing has changed.
    pub async fn upgrade(&self) -> Result<(u32, u32), Error> {
        let fail = |why: String| Error::name(format!("upgrade: {why}"));
        if self.shared.upgrades.is_none() {
            return Err(fail("there is no control socket".to_owned()));
        }
        let (reply, outcome) = oneshot::channel();
        self.shared.control.send(Message::Upgrade { queue: Queue::Refuse, reply });
        match outcome.await {
            Ok(Ok(successor)) => Ok((successor.pid, successor.generation)),
            Ok(Err(why)) => Err(fail(why)),
            Err(_) => Err(fail("the service is ending".to_owned())),
        }
    }

    /// This process's place in the chain of upgrades; the first is 1.
    pub fn generation(&self) -> u32 {
        self.shared.settings.generation
    }

    /// Begins a graceful stop, as a signal does; while one is under way, forces it.
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

    /// Waits until everything has ended, without saying that the service is ready. Cancel safe.
    pub async fn ended(&self) -> Exit {
        let mut report = self.shared.report.clone();
        let report = report.wait_for(Option::is_some).await.ok().and_then(|seen| seen.clone());
        if let Some(upgrades) = &self.shared.upgrades {
            upgrades.waiting.told(TOLD).await;
            self.unwanted_are_gone(report.as_ref()).await;
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

/// Something to close after all work has ended, in the making; [`Lifecycle::on_close`] begins it.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// # use std::time::Duration;
/// # let life = lameduck::Lifecycle::builder().without_signals().start()?;
/// life.on_close("database").budget(Duration::from_secs(2)).run(|| async { Ok::<(), String>(()) })?;
/// // Written before the database closes, and not at all if that is not registered:
/// life.on_close("counter").uses(["database"]).run(|| async {})?;
/// life.on_close("logs").last().run(|| async {})?;
/// assert!(life.on_close("cache").uses(["reddis"]).run(|| async {}).is_err());
/// # Ok(()) }
/// ```
#[must_use = "nothing is registered before `run`"]
pub struct Closing<'a> {
    life: &'a Lifecycle,
    name: String,
    uses: Vec<String>,
    budget: Option<Duration>,
    turn: Turn,
}

impl Closing<'_> {
    /// What this one uses: those close only after it.
    pub fn uses<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.uses.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// How long it may take, reserved at the end of the grace period: work is forced that much earlier.
    ///
    /// Without a budget it may take what is left of the grace period, at most
    /// [`DEFAULT_BUDGET`](crate::closing::DEFAULT_BUDGET), and [`AFTER_FORCE`] once the stop was forced.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Closes after everything that is not last itself: the place of log and telemetry flushes.
    pub fn last(mut self) -> Self {
        self.turn = Turn::Last;
        self
    }

    /// Registers it.
    ///
    /// # Errors
    ///
    /// When the name is taken, something used is not registered, or lame duck and closing budgets no longer fit into
    /// the grace period.
    pub fn run<F, Fut>(self, close: F) -> Result<(), Error>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: CloseOutcome,
    {
        let shared = &self.life.shared;
        shared.resources.register(
            &self.name,
            &self.uses,
            self.budget,
            self.turn,
            Box::new(move || Box::pin(async move { close().await.into_result() })),
        )?;
        let reserve = shared.resources.reserve();
        if let Err(refused) = fits(shared.settings.grace, shared.settings.lame_duck, reserve) {
            // Refused means as if it had never been registered.
            shared.resources.forget(&self.name);
            return Err(refused);
        }
        shared.control.send(Message::Reserve(reserve));
        Ok(())
    }
}
