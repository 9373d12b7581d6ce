//! Closed-loop clients that are careful, so that each loss they report is the server's.
//!
//! - They never retry.
//! - Before a connection is reused they look at its socket, with a system call and not in a cache: an end of
//!   file, a reset or an unasked byte there means a new connection. `Connection: close` is honoured.
//! - A request that could not connect, whose kept connection failed before a byte was written, or whose
//!   stream a GOAWAY excluded, was not sent.
//!
//! A closed loop waits with its next request until it has an answer, so it does not see how long others would have
//! waited: [`open`] is the load whose times of sending are fixed beforehand.
//!
//! Each client is one task with one connection. The tasks are spread over a few threads with a runtime each,
//! so that a request never crosses a thread.
//!
//! **Bounds**: [`CONNECT_LIMIT`], [`REQUEST_LIMIT`], [`EXAMPLES`] and the consts in [`Until`].

mod acked;
mod alarm;
mod http1;
mod http2;
mod ledger;
pub mod open;
mod reach;
mod report;
mod requests;
mod stream;

pub use crate::trust::Trust;
pub use report::{Latency, Report};

use crate::address::{Place, Scheme};
use crate::trace::Recording;
use acked::Acked;
use alarm::Alarm;
use ledger::Ledger;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a connection may take to be established. Longer than the kernel's first retransmission of a SYN
/// (1 s), so that a server which drops SYNs while it closes is met again, refusing.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long a request may take from its first byte to the last of its answer, when nothing is said.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// The pause after an attempt that did not reach a server.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// Whoever waits for a number of answers is told at each of so many.
const TOLD_ANSWERS: u64 = 1000;

/// So many losses are kept with their time and circumstances.
pub const EXAMPLES: usize = 20;

/// What each client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `GET` after `GET` on one kept connection.
    KeepAlive,
    /// A connection for each `GET`, which says `Connection: close`.
    NewConnection,
    /// `POST` with an order `{"id":"…",…}`, each id once, on one kept connection.
    Post,
    /// `GET` on so many streams at a time, on one HTTP/2 connection with prior knowledge.
    Http2 {
        /// Streams open at the same time on each connection.
        streams: usize,
    },
}

impl Mode {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::KeepAlive => "keep-alive",
            Mode::NewConnection => "new-connection",
            Mode::Post => "post",
            Mode::Http2 { .. } => "h2",
        }
    }

    /// Requests that one connection has open at a time.
    fn streams(self) -> usize {
        match self {
            Mode::Http2 { streams } => streams,
            Mode::KeepAlive | Mode::NewConnection | Mode::Post => 1,
        }
    }
}

/// When the clients end, other than by [`Running::stop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After this long.
    Elapsed(Duration),
    /// A client ends when it was refused [`GONE_REFUSALS`](Until::GONE_REFUSALS) times in a row over at least
    /// [`GONE_TIME`](Until::GONE_TIME); all end after `at_most`.
    Gone {
        /// The bound, should the server never go.
        at_most: Duration,
    },
}

impl Until {
    /// So many refusals in a row say that the server is gone.
    pub const GONE_REFUSALS: u32 = 10;
    /// The refusals must span this time: a short gap in listening is not the end of a server.
    pub const GONE_TIME: Duration = Duration::from_millis(300);

    fn at_most(self) -> Duration {
        match self {
            Until::Elapsed(time) | Until::Gone { at_most: time } => time,
        }
    }
}

/// A load to be started.
#[derive(Clone, Debug)]
pub struct Load {
    place: Place,
    mode: Mode,
    connections: usize,
    threads: usize,
    pause: Duration,
    request_limit: Duration,
    until: Until,
    acked: Option<PathBuf>,
    trust: Trust,
    recorded_since: Option<Instant>,
}

impl Load {
    /// 32 clients without pause on half of the cores (the server needs the other half), for 5 s.
    pub fn new(place: Place, mode: Mode) -> Load {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Load {
            place,
            mode,
            connections: 32,
            threads: (cores / 2).max(1),
            pause: Duration::ZERO,
            request_limit: REQUEST_LIMIT,
            until: Until::Elapsed(Duration::from_secs(5)),
            acked: None,
            trust: Trust::anybody(),
            recorded_since: None,
        }
    }

    /// Whom the clients trust and who they are, where the place is https; nothing said, they trust anybody.
    pub fn trust(mut self, trust: Trust) -> Load {
        self.trust = trust;
        self
    }

    /// What the clients share for TLS, where there is TLS.
    fn tls(&self) -> io::Result<Option<Arc<rustls::ClientConfig>>> {
        let protocols: &[&[u8]] = match self.mode {
            Mode::KeepAlive | Mode::NewConnection | Mode::Post => &[b"http/1.1"],
            Mode::Http2 { .. } => &[b"h2"],
        };
        match self.place.scheme {
            Scheme::Http => Ok(None),
            Scheme::Https => self.trust.client(protocols).map(Some),
        }
    }

    /// How many clients, with a connection each. At least one.
    pub fn connections(mut self, count: usize) -> Load {
        self.connections = count.max(1);
        self
    }

    /// How many threads carry the clients. At least one, at most one for each client.
    pub fn threads(mut self, count: usize) -> Load {
        self.threads = count.max(1);
        self
    }

    /// How long a client waits between an answer and its next request.
    pub fn pause(mut self, pause: Duration) -> Load {
        self.pause = pause;
        self
    }

    /// How long a request may take; [`REQUEST_LIMIT`] when nothing is said.
    pub fn request_limit(mut self, limit: Duration) -> Load {
        self.request_limit = limit;
        self
    }

    /// When the clients end by themselves.
    pub fn until(mut self, until: Until) -> Load {
        self.until = until;
        self
    }

    /// Appends the id of each acknowledged `POST` to this file, one a line.
    pub fn acked(mut self, path: impl AsRef<Path>) -> Load {
        self.acked = Some(path.as_ref().to_owned());
        self
    }

    /// Keeps what each connection does, with times since `begun`, for [`Report::pour_into`].
    pub fn recorded(mut self, begun: Instant) -> Load {
        self.recorded_since = Some(begun);
        self
    }

    /// Starts the clients on threads of their own.
    ///
    /// # Errors
    /// When the file of acknowledged ids cannot be opened, the identity cannot be used, or a thread cannot be started.
    pub fn start(self) -> io::Result<Running> {
        let acked = self.acked.as_deref().map(Acked::open).transpose()?.map(Arc::new);
        let tls = self.tls()?;
        let threads = self.threads.min(self.connections);
        let begun = Instant::now();
        let shared = Arc::new(Shared {
            stopping: AtomicBool::new(false),
            begun,
            flow: Mutex::new(Flow { threads, answered: 0 }),
            changed: Condvar::new(),
            answers: AtomicU64::new(0),
            alarm: Arc::default(),
            wanted: self.connections * self.mode.streams(),
        });
        let mut running = Running {
            load: self.clone(),
            shared: shared.clone(),
            acked: acked.clone(),
            threads: Vec::new(),
        };
        for thread in 0..threads {
            // Thread t of n carries the clients t, t + n, t + 2n, …
            let clients: Vec<usize> = (thread..self.connections).step_by(threads).collect();
            let (load, shared, acked) = (self.clone(), shared.clone(), acked.clone());
            let tls = tls.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = move || {
                let _ended = EndOfThread(shared.clone());
                let local = tokio::task::LocalSet::new();
                let clients = clients_of_a_thread(load, thread, clients, shared, acked, tls);
                runtime.block_on(local.run_until(clients))
            };
            let started = std::thread::Builder::new().name(format!("clients-{thread}")).spawn(work);
            running.threads.push(started?);
        }
        Ok(running)
    }
}

/// Runs the clients of one thread to their end.
async fn clients_of_a_thread(
    load: Load,
    thread: usize,
    clients: Vec<usize>,
    shared: Arc<Shared>,
    acked: Option<Arc<Acked>>,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> Ledger {
    let recording = load.recorded_since.map(|begun| Recording::new(begun, thread));
    let ledger = Ledger::new(shared.begun, recording).ringing(shared.alarm.clone());
    let ledger = Rc::new(std::cell::RefCell::new(ledger));
    let mut tasks = tokio::task::JoinSet::new();
    for client in clients {
        let part = Part {
            client,
            load: load.clone(),
            shared: shared.clone(),
            ledger: ledger.clone(),
            tls: tls.clone(),
        };
        match load.mode {
            Mode::KeepAlive | Mode::NewConnection | Mode::Post => {
                tasks.spawn_local(http1::client(part, acked.clone()));
            }
            Mode::Http2 { streams } => {
                tasks.spawn_local(http2::client(part, streams));
            }
        }
    }
    let last = tokio::time::sleep(load.until.at_most());
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::pin!(last, all);
    tokio::select! {
        () = &mut all => {}
        () = last => {
            // A request that is on its way is answered first, bounded by its own limit.
            shared.stop();
            all.await;
        }
    }
    // Every task has ended, so this is the only reference; a clone serves the impossible case as well.
    Rc::try_unwrap(ledger).map_or_else(|shared| shared.borrow().clone(), |cell| cell.into_inner())
}

/// What one client is given.
struct Part {
    client: usize,
    tls: Option<Arc<rustls::ClientConfig>>,
    load: Load,
    shared: Arc<Shared>,
    ledger: Rc<std::cell::RefCell<Ledger>>,
}

/// What all threads see.
struct Shared {
    stopping: AtomicBool,
    begun: Instant,
    flow: Mutex<Flow>,
    changed: Condvar,
    /// Answers to all clients.
    answers: AtomicU64,
    alarm: Arc<Alarm>,
    /// First answers until the load flows.
    wanted: usize,
}

struct Flow {
    threads: usize,
    answered: usize,
}

impl Shared {
    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// One more client (or stream) had its first answer.
    fn first_answer(&self) {
        self.change(|flow| flow.answered += 1);
    }

    /// One more answer of any client.
    fn answer(&self) {
        let before = self.answers.fetch_add(1, Ordering::Relaxed);
        if (before + 1).is_multiple_of(TOLD_ANSWERS) {
            self.change(|_| ());
        }
    }

    fn change(&self, change: impl FnOnce(&mut Flow)) {
        change(&mut self.flow.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

/// Tells [`Running`] that a thread has ended, also when it panics.
struct EndOfThread(Arc<Shared>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        self.0.change(|flow| flow.threads -= 1);
    }
}

/// A load that runs. Dropping it stops the clients and waits for them.
#[must_use]
pub struct Running {
    load: Load,
    shared: Arc<Shared>,
    acked: Option<Arc<Acked>>,
    threads: Vec<JoinHandle<Ledger>>,
}

impl Running {
    /// Waits until every client (in HTTP/2 every stream) has had its first answer.
    ///
    /// # Errors
    /// When that did not happen within `limit` or before the clients ended; says how many had one.
    pub fn wait_flowing(&self, limit: Duration) -> Result<(), NotFlowing> {
        let is_short = |flow: &mut Flow| flow.answered < self.shared.wanted && flow.threads > 0;
        let flow = self.shared.flow.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.changed.wait_timeout_while(flow, limit, is_short);
        let answered = waited.unwrap_or_else(PoisonError::into_inner).0.answered;
        if answered < self.shared.wanted {
            let place = self.load.place.to_string();
            return Err(NotFlowing { place, answered, wanted: self.shared.wanted });
        }
        Ok(())
    }

    /// Waits until the clients have had so many answers, to the next thousand, and says whether they have: not when they
    /// ended or `limit` passed before.
    pub fn wait_answered(&self, count: u64, limit: Duration) -> bool {
        let has = || self.shared.answers.load(Ordering::Relaxed) >= count;
        let flow = self.shared.flow.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |flow: &mut Flow| !has() && flow.threads > 0;
        drop(self.shared.changed.wait_timeout_while(flow, limit, waits));
        has()
    }

    /// Waits until a client has met a failure, and says whether one has: not when `limit` passed before.
    pub fn wait_failed(&self, limit: Duration) -> bool {
        self.shared.alarm.wait(limit)
    }

    /// Waits until every client has ended by itself, or `limit`; says whether they have.
    pub fn wait_ended(&self, limit: Duration) -> bool {
        let flow = self.shared.flow.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.changed.wait_timeout_while(flow, limit, |flow| flow.threads > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.threads == 0
    }

    /// Asks the clients to end after the request they are at. Returns at once.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// A handle that stops the clients, for a signal handler's task.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || shared.stop()
    }

    /// Waits until the clients have ended (by their [`Until`] or [`stop`](Running::stop)) and reports.
    ///
    /// # Panics
    /// When a client panicked.
    pub fn finish(mut self) -> Report {
        let mut sum = Ledger::new(self.shared.begun, None);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(ledger) => sum.merge(&ledger),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let unwritten = self.acked.take().and_then(|acked| acked.flush().err());
        Report::new(&self.load, sum, self.shared.begun.elapsed(), unwritten)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A panic was printed by its thread; a second one in a drop would abort the test run.
            let _ = thread.join();
        }
    }
}

/// The load did not reach every client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFlowing {
    place: String,
    answered: usize,
    wanted: usize,
}

impl fmt::Display for NotFlowing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotFlowing { place, answered, wanted } = self;
        write!(f, "{answered} of {wanted} clients had an answer from {place}")
    }
}

impl std::error::Error for NotFlowing {}
