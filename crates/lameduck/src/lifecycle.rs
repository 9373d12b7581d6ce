//! The handle a program holds, and the driver: the one task that does what only the async runtime can do.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::closing::{AllClosed, CloseOutcome, Resources, Turn};
use crate::connection::Stream;
use crate::control::{self, Command, Hands, Message, Scope, View};
use crate::error::Error;
use crate::exit::Exit;
use crate::listener::{AcceptErrors, Accepting, Listener, Order};
use crate::log::{Log, LogFormat};
use crate::phase::{Cause, Config, Input, Machine, Phase};
use crate::readiness::{Readiness, Sign};
use crate::report::{Report, panic_words};
use crate::signals::Signals;
use crate::snapshot::Snapshot;
use crate::work::{Hold, Registry, WorkKind};

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

/// Sets up a [`Lifecycle`].
#[derive(Debug, Clone)]
#[must_use = "a lifecycle begins with `start`"]
pub struct Builder {
    grace: Option<Duration>,
    lame_duck: Duration,
    linger: Duration,
    settle: Duration,
    signals: Option<Signals>,
    log: Option<LogFormat>,
    version: String,
}

impl Builder {
    fn new() -> Builder {
        Builder {
            grace: Some(GRACE_PERIOD),
            lame_duck: Duration::ZERO,
            linger: LINGER,
            settle: SETTLE,
            signals: Some(Signals::default()),
            log: None,
            version: String::new(),
        }
    }

    /// The whole time from a stop to force. Default [`GRACE_PERIOD`], 30 s.
    ///
    /// Lame duck, drain and closing all fit into it. Set your service manager's own limit (`TimeoutStopSec`,
    /// `terminationGracePeriodSeconds`) a little higher.
    pub fn grace_period(mut self, grace: Duration) -> Builder {
        self.grace = Some(grace);
        self
    }

    /// Waits as long as work lasts; only a second stop ends the wait.
    pub fn no_deadline(mut self) -> Builder {
        self.grace = None;
        self
    }

    /// How long to go on accepting once readiness has turned red, so that balancers look away first. Default 0.
    pub fn lame_duck(mut self, lame_duck: Duration) -> Builder {
        self.lame_duck = lame_duck;
        self
    }

    /// How long an idle kept-alive connection is still answered while draining. Default [`LINGER`], 250 ms.
    ///
    /// A client whose next request is on the wire when the drain begins is answered within this time. Make it longer
    /// than your clients' longest pause on a busy connection plus a round trip.
    pub fn linger(mut self, linger: Duration) -> Builder {
        self.linger = linger;
        self
    }

    /// How long accepted connections may take to their first read. Default [`SETTLE`], 100 ms.
    pub fn settle(mut self, settle: Duration) -> Builder {
        self.settle = settle;
        self
    }

    /// Which signal means what; see [`Signals`].
    pub fn signals(mut self, signals: Signals) -> Builder {
        self.signals = Some(signals);
        self
    }

    /// Takes no signal, prints nothing and never ends the process: the program calls [`Lifecycle::stop`].
    ///
    /// The deadline still cuts work, and [`Lifecycle::run`] still returns on time.
    pub fn without_signals(mut self) -> Builder {
        self.signals = None;
        self
    }

    /// How the built-in log is written. Default [`LogFormat::Text`] with signals, silent without.
    pub fn log_format(mut self, format: LogFormat) -> Builder {
        self.log = Some(format);
        self
    }

    /// The program's version, for status and reports.
    pub fn version(mut self, version: &str) -> Builder {
        version.clone_into(&mut self.version);
        self
    }

    /// Arms signals and deadline.
    ///
    /// # Errors
    ///
    /// Outside a tokio runtime; when the lame duck does not fit into the grace period; when the system gives no
    /// thread or descriptor.
    pub fn start(self) -> Result<Lifecycle, Error> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::no_runtime())?;
        fits(self.grace, self.lame_duck, Duration::ZERO)?;
        let (scope, signals) = match &self.signals {
            Some(signals) => (Scope::Process, signals.clone()),
            None => (Scope::Library, Signals::none()),
        };
        let format = self.log.unwrap_or(match scope {
            Scope::Process => LogFormat::Text,
            Scope::Library => LogFormat::Silent,
        });
        let machine = Machine::new(self.machine_config());
        let registry = Registry::new();
        let resources = Arc::new(Resources::default());
        let accept_errors = Arc::new(AcceptErrors::default());
        let drain = CancellationToken::new();
        let log = Arc::new(Log::new(format));
        let picked_up = Arc::new(AtomicU64::new(0));
        let sign = Sign::new();
        let readiness = sign.readiness();
        let (commands, orders) = mpsc::unbounded_channel();
        let (view, view_seen) = watch::channel(View { phase: Phase::Starting, deadline: None });
        let (ended, report) = watch::channel(None);
        let hands = Hands {
            registry: Arc::clone(&registry),
            sign,
            resources: Arc::clone(&resources),
            accept_errors: Arc::clone(&accept_errors),
            drain: drain.clone(),
            log: Arc::clone(&log),
            commands,
            picked_up: Arc::clone(&picked_up),
            view,
            ended,
        };
        let control = control::start(machine, signals, scope, |_| hands)
            .map_err(|error| Error::io("start", "the control thread", error))?;
        let gates = Arc::new(Gates::default());
        let driver = Driver {
            orders,
            picked_up,
            gates: Arc::clone(&gates),
            resources: Arc::clone(&resources),
            control: Arc::clone(&control),
        };
        drop(runtime.spawn(driver.run()));
        let shared = Shared {
            settings: Settings {
                grace: self.grace,
                lame_duck: self.lame_duck,
                linger: self.linger,
                version: self.version,
            },
            started: Instant::now(),
            runtime,
            registry,
            resources,
            accept_errors,
            drain: Drain { token: drain },
            log,
            control,
            gates,
            readiness,
            view: view_seen,
            report,
        };
        Ok(Lifecycle { shared: Arc::new(shared) })
    }

    fn machine_config(&self) -> Config {
        Config {
            grace: self.grace,
            reserve: Duration::ZERO,
            lame_duck: self.lame_duck,
            settle: self.settle,
            after_force: AFTER_FORCE,
            probation: PROBATION,
            upgrade_grace: None,
            max_generations: MAX_GENERATIONS,
        }
    }
}

/// Whether lame duck and closing leave any time to drain.
fn fits(grace: Option<Duration>, lame_duck: Duration, reserve: Duration) -> Result<(), Error> {
    match grace {
        Some(grace) if lame_duck + reserve > grace => Err(Error::budget(format!(
            "fit a lame duck of {lame_duck:?} and closing budgets of {reserve:?} into a grace period of \
             {grace:?}"
        ))),
        Some(_) | None => Ok(()),
    }
}

/// What was settled at the start.
#[derive(Debug)]
pub(crate) struct Settings {
    grace: Option<Duration>,
    lame_duck: Duration,
    #[cfg_attr(not(feature = "http"), expect(dead_code))]
    pub(crate) linger: Duration,
    pub(crate) version: String,
}

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) started: Instant,
    runtime: tokio::runtime::Handle,
    pub(crate) registry: Arc<Registry>,
    resources: Arc<Resources>,
    pub(crate) accept_errors: Arc<AcceptErrors>,
    drain: Drain,
    log: Arc<Log>,
    control: Arc<control::Sender>,
    gates: Arc<Gates>,
    readiness: Readiness,
    view: watch::Receiver<View>,
    report: watch::Receiver<Option<Report>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.control.send(Message::Abandon);
    }
}

/// A service's life, from start to exit: the handle everything is registered with.
///
/// Cheap to clone; all clones are the same life. See the [crate root](crate) for a whole program.
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
    /// Clients can connect from here on and wait until the service is ready.
    ///
    /// # Errors
    ///
    /// As [`Listener::bind`].
    pub async fn listen(&self, address: &str) -> Result<Listener, Error> {
        Listener::bind(address).await
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
        self.accept(name, listener, Hold::Drain, move |stream| {
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
        serve: impl Fn(Stream) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let (orders, received) = mpsc::unbounded_channel();
        match hold {
            Hold::Drain => self.shared.gates.add(name, orders)?,
            Hold::Nothing => {
                // The admin server answers from the start to the very end.
                let _ = orders.send(Order::Open);
                self.shared.gates.keep(orders);
            }
        }
        let accepting = Accepting {
            server: Arc::from(name),
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
    /// leaves without the call and the report names it.
    pub fn blocking<F, T>(&self, name: &str, call: F) -> Blocking<T>
    where
        F: FnOnce(&Drain) -> T + Send + 'static,
        T: Send + 'static,
    {
        let guard = self.shared.registry.begin(WorkKind::Blocking, name);
        let registry = Arc::clone(&self.shared.registry);
        let drain = self.drain();
        let label = name.to_owned();
        let handle = self.shared.runtime.spawn_blocking(move || {
            let _guard = guard;
            let called = std::panic::AssertUnwindSafe(|| call(&drain));
            std::panic::catch_unwind(called).map_err(|panic| {
                let words = panic_words(&*panic).to_owned();
                registry.panicked(format!("blocking call {label}: {words}"));
                words
            })
        });
        Blocking { handle }
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

    /// Registers something to do after all work has ended, in order with other resources.
    pub fn on_close(&self, name: &str) -> Closing<'_> {
        Closing {
            life: self,
            name: name.to_owned(),
            uses: Vec::new(),
            budget: None,
            turn: Turn::Ordered,
        }
    }

    /// The drain signal: it comes when connections and tasks are told to finish.
    pub fn drain(&self) -> Drain {
        self.shared.drain.clone()
    }

    /// Whether the service asks for new work.
    pub fn readiness(&self) -> Readiness {
        self.shared.readiness.clone()
    }

    /// The built-in log, for lines of the program's own.
    pub fn log(&self) -> Arc<Log> {
        Arc::clone(&self.shared.log)
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        self.shared.view.borrow().phase
    }

    /// What is live now, by name.
    pub fn snapshot(&self) -> Snapshot {
        let view = *self.shared.view.borrow();
        Snapshot {
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
        }
    }

    /// Says that the service can serve: accepting begins and readiness turns green. [`run`](Lifecycle::run) says it too.
    pub fn ready(&self) {
        self.shared.control.send(Message::Input(Input::Ready));
    }

    /// Begins a graceful stop, as a signal does; while one is under way, forces it.
    pub fn stop(&self) {
        self.shared.control.send(Message::Input(Input::Stop(Cause::Request)));
    }

    /// Says [`ready`](Lifecycle::ready) and waits until everything has ended.
    ///
    /// Return the [`Exit`] from `main`. Cancel safe: dropping the future stops nothing, and another clone may wait again.
    pub async fn run(self) -> Exit {
        self.ready();
        self.ended().await
    }

    /// Waits until everything has ended, without saying that the service is ready.
    pub async fn ended(&self) -> Exit {
        let mut report = self.shared.report.clone();
        let seen = report.wait_for(Option::is_some).await;
        match seen.ok().and_then(|report| report.clone()) {
            Some(report) => Exit { report },
            // The control thread never ends before its report while a handle is held.
            None => unreachable!("the control thread ended without a report"),
        }
    }
}

/// Registers something to close; made by [`Lifecycle::on_close`].
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
        fits(shared.settings.grace, shared.settings.lame_duck, reserve)?;
        shared.control.send(Message::Reserve(reserve));
        Ok(())
    }
}

/// The drain signal: finish what is in hand, take nothing new.
#[derive(Debug, Clone)]
pub struct Drain {
    token: CancellationToken,
}

impl Drain {
    /// Waits until the drain begins; returns at once when it has. Cancel safe.
    pub async fn started(&self) {
        self.token.cancelled().await;
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The same question, as a checkpoint in a loop of blocking work.
    pub fn should_stop(&self) -> bool {
        self.is_draining()
    }

    /// The signal as a token, for code that speaks `tokio_util`. Cancelling it does not stop the service.
    pub fn token(&self) -> CancellationToken {
        self.token.child_token()
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEnd {
    /// It returned.
    Finished,
    /// It panicked with these words.
    Panicked(String),
    /// It was aborted, or cut at the deadline.
    Aborted,
}

/// A running task. Dropping it lets the task go on.
#[derive(Debug)]
pub struct Task {
    handle: tokio::task::JoinHandle<TaskEnd>,
}

impl Task {
    /// Drops the task at its next await.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl Future for Task {
    type Output = TaskEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TaskEnd> {
        Pin::new(&mut self.handle).poll(cx).map(|end| end.unwrap_or(TaskEnd::Aborted))
    }
}

/// A call on a blocking thread; awaiting it gives what it returned, or the words of its panic.
#[derive(Debug)]
pub struct Blocking<T> {
    handle: tokio::task::JoinHandle<Result<T, String>>,
}

impl<T> Future for Blocking<T> {
    type Output = Result<T, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(Pin::new(&mut self.handle).poll(cx));
        Poll::Ready(result.unwrap_or_else(|_| Err("the runtime ended first".to_owned())))
    }
}

/// Runs a future and turns a panic into its words.
struct CatchPanic<F>(Pin<Box<F>>);

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // After a panic the future is never polled again, only dropped.
        let polled = std::panic::AssertUnwindSafe(|| self.0.as_mut().poll(cx));
        match std::panic::catch_unwind(polled) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_words(&*panic).to_owned())),
        }
    }
}

/// The accept loops' orders, and whether loops that join later may open at once.
#[derive(Default)]
struct Gates {
    state: Mutex<GatesState>,
}

#[derive(Default)]
struct GatesState {
    loops: Vec<mpsc::UnboundedSender<Order>>,
    /// Loops outside the drain; kept so that their orders never end.
    kept: Vec<mpsc::UnboundedSender<Order>>,
    position: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Position {
    #[default]
    Waiting,
    Open,
    Closed,
}

impl Gates {
    fn lock(&self) -> MutexGuard<'_, GatesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, name: &str, orders: mpsc::UnboundedSender<Order>) -> Result<(), Error> {
        let mut state = self.lock();
        match state.position {
            Position::Waiting => {}
            Position::Open => {
                let _ = orders.send(Order::Open);
            }
            Position::Closed => {
                return Err(Error::name(format!("serve '{name}': the service is stopping")));
            }
        }
        state.loops.push(orders);
        Ok(())
    }

    fn keep(&self, orders: mpsc::UnboundedSender<Order>) {
        self.lock().kept.push(orders);
    }

    fn open(&self) {
        let mut state = self.lock();
        state.position = Position::Open;
        state.loops.retain(|orders| orders.send(Order::Open).is_ok());
    }

    /// Orders every loop to close and returns their acknowledgements.
    fn close(&self, shared: bool) -> Vec<oneshot::Receiver<()>> {
        let mut state = self.lock();
        state.position = Position::Closed;
        let close = |orders: &mpsc::UnboundedSender<Order>| {
            let (ack, acked) = oneshot::channel();
            // A loop that is gone drops `ack` here, which acknowledges as well.
            let _ = orders.send(Order::Close { shared, ack });
            acked
        };
        state.loops.iter().map(close).collect()
    }
}

/// Does what the control thread cannot: it waits for accept loops and runs closings.
struct Driver {
    orders: mpsc::UnboundedReceiver<Command>,
    picked_up: Arc<AtomicU64>,
    gates: Arc<Gates>,
    resources: Arc<Resources>,
    control: Arc<control::Sender>,
}

impl Driver {
    async fn run(mut self) {
        while let Some(command) = self.orders.recv().await {
            self.picked_up.fetch_add(1, Ordering::AcqRel);
            match command {
                Command::Accept => self.gates.open(),
                Command::CloseGate { shared } => {
                    let acks = self.gates.close(shared);
                    let control = Arc::clone(&self.control);
                    drop(tokio::spawn(async move {
                        for ack in acks {
                            // Sent or dropped: either way that loop accepts no more.
                            let _ = ack.await;
                        }
                        control.send(Message::Input(Input::GateClosed));
                    }));
                }
                Command::CloseResources { until } => {
                    let closing = Arc::clone(&self.resources).close_all(until);
                    let control = Arc::clone(&self.control);
                    drop(tokio::spawn(async move {
                        match closing.await {
                            AllClosed::InTime => control.send(Message::Input(Input::Closed)),
                            // The control thread's own clock says so as well, and its word is the outcome: two clocks
                            // that race for it would tell the same end now one way and now the other.
                            AllClosed::DeadlineCame => {}
                        }
                    }));
                }
            }
        }
    }
}
