//! Knows what is live, by name: connections, requests, tasks and blocking calls.
//!
//! # Invariants
//!
//! 1. Whatever holds the drain is entered before it starts and leaves by dropping its guard, so completion is a
//!    fact of ownership that a panic cannot skip.
//! 2. A request costs its connection's own uncontended lock and no shared cache line: the shared counters move
//!    once for each connection, not for each request.
//! 3. What connections have been told (`Told`) is stored before they are woken; a connection that enters later
//!    reads it on its first poll. So none misses it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

mod tally;

use tally::Counters;
pub use tally::Tally;

/// Shards of the table of connections: enough that accepting on every core rarely meets.
const SHARDS: usize = 16;

/// Work items a snapshot or a report names at most; the counts are always whole.
pub const NAMED_AT_MOST: usize = 200;

/// What connections have been told, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Told {
    /// Serve as ever.
    Serve = 0,
    /// Say on each answer that the connection will close.
    MarkAnswers = 1,
    /// Go to the successor as soon as nothing is in hand; what cannot go, finish.
    Move = 2,
    /// Finish: answer what comes within the linger, then close.
    Finish = 3,
    /// Cut, now.
    Force = 4,
}

impl Told {
    fn from_u8(value: u8) -> Told {
        match value {
            0 => Told::Serve,
            1 => Told::MarkAnswers,
            2 => Told::Move,
            3 => Told::Finish,
            _ => Told::Force,
        }
    }
}

/// What kind of work something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkKind {
    /// A connection, idle or not.
    Connection,
    /// A request in hand.
    Request,
    /// A task started by [`Lifecycle::task`](crate::Lifecycle::task).
    Task,
    /// A call on a blocking thread, started by [`Lifecycle::blocking`](crate::Lifecycle::blocking).
    Blocking,
    /// A connection that has become a WebSocket.
    WebSocket,
}

impl WorkKind {
    /// The word used in reports: `connection`, `request`, `task`, `blocking call`, `websocket`.
    pub fn word(self) -> &'static str {
        match self {
            WorkKind::Connection => "connection",
            WorkKind::Request => "request",
            WorkKind::Task => "task",
            WorkKind::Blocking => "blocking call",
            WorkKind::WebSocket => "websocket",
        }
    }
}

/// One piece of live work, as snapshots and reports name it.
#[derive(Debug, Clone)]
pub struct WorkItem {
    /// What kind of work.
    pub kind: WorkKind,
    /// Method and path of a request, and of the one that began a WebSocket, with its label; the name of a task or call; the
    /// server's name for a connection.
    pub name: String,
    /// The other end, where there is one.
    pub peer: Option<String>,
    /// How long it has been going on.
    pub age: Duration,
}

impl std::fmt::Display for WorkItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.name)?;
        if let Some(peer) = &self.peer {
            write!(f, " from {peer}")?;
        }
        write!(f, ", {}", crate::report::seconds(self.age))
    }
}

/// How much is live, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections, idle ones included.
    pub connections: usize,
    /// Requests in hand.
    pub requests: usize,
    /// Tasks.
    pub tasks: usize,
    /// Calls on blocking threads.
    pub blocking: usize,
    /// The connections among them that have become WebSockets.
    pub websockets: usize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            (self.requests, "request"),
            (self.connections, "connection"),
            (self.websockets, "websocket"),
            (self.tasks, "task"),
            (self.blocking, "blocking call"),
        ];
        let mut first = true;
        for (count, word) in parts {
            if count > 0 {
                let separator = if first { "" } else { ", " };
                let plural = if count == 1 { "" } else { "s" };
                write!(f, "{separator}{count} {word}{plural}")?;
                first = false;
            }
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}

/// What the registry reports by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Connections have been told to finish and nothing that holds the drain is left.
    Idle,
    /// A settle was asked for and each accepted connection has been read once.
    Settled,
}

type Listener = Box<dyn Fn(Notice) + Send + Sync>;

/// The table of live work.
pub(crate) struct Registry {
    told: AtomicU8,
    settling: AtomicBool,
    /// What holds the drain: connections, tasks, blocking calls.
    live: AtomicUsize,
    /// Accepted connections that have not been read yet.
    unread: AtomicUsize,
    /// Requests answered on connections that are gone.
    served_before: AtomicU64,
    /// Requests whose answer was ended before its end, which their connections count as answered.
    cut_requests: AtomicU64,
    next_id: AtomicU64,
    connections: [Mutex<HashMap<u64, Arc<Entry>>>; SHARDS],
    items: Mutex<HashMap<u64, Item>>,
    panics: Mutex<Vec<String>>,
    /// What has left the table since the start.
    left: Left,
    /// What became of connections besides.
    pub(crate) counters: Counters,
    listener: OnceLock<Listener>,
}

#[derive(Default)]
struct Left {
    connections: AtomicUsize,
    websockets: AtomicUsize,
    tasks: AtomicUsize,
    blocking: AtomicUsize,
}

struct Item {
    kind: WorkKind,
    name: Arc<str>,
    since: Clock,
    abort: Option<tokio::task::AbortHandle>,
}

/// A connection's entry. The connection's own task writes it; anybody may read it.
pub(crate) struct Entry {
    id: u64,
    server: Arc<str>,
    peer: Peer,
    since: Clock,
    hold: Hold,
    served: AtomicU64,
    read_once: AtomicBool,
    /// It is told [`Told::Force`], alone.
    is_cut: AtomicBool,
    own: Mutex<Own>,
    registry: Arc<Registry>,
}

#[derive(Default)]
struct Own {
    /// Who polls the reading and who the writing side.
    wakers: [Option<Waker>; 2],
    requests: Vec<Option<RequestName>>,
    /// What it has become.
    websocket: Option<Box<WebSocketName>>,
    /// What its handler calls it, said before it has become one perhaps.
    label: Option<Box<str>>,
    /// No slot below this one is free.
    free_from: usize,
    active: usize,
}

/// What names a WebSocket.
struct WebSocketName {
    /// Method and path of the request that began it.
    request: String,
    since: Clock,
}

/// The longest label of a WebSocket, in bytes.
const LABEL_AT_MOST: usize = 128;

/// The two sides of a byte stream, which two tasks may poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Read = 0,
    Write = 1,
}

/// Whether a connection keeps the drain waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The drain waits for it.
    Drain,
    /// It lives until the process ends: the admin server's.
    Nothing,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A TCP address.
    Tcp(std::net::SocketAddr),
    /// A Unix socket, whose clients have no address.
    Unix,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// What names a request. Cloning the path shares the bytes that were read; nothing is formatted on the way.
pub(crate) struct RequestName {
    #[cfg(feature = "http")]
    pub(crate) method: http::Method,
    #[cfg(feature = "http")]
    pub(crate) path: Option<http::uri::PathAndQuery>,
    pub(crate) since: Clock,
}

impl RequestName {
    /// Method and path. The query is left out: it may hold secrets.
    #[cfg(feature = "http")]
    fn text(&self) -> String {
        format!("{} {}", self.method, self.path.as_ref().map_or("*", |path| path.path()))
    }

    #[cfg(not(feature = "http"))]
    fn text(&self) -> String {
        String::new()
    }
}

/// The kernel's coarse monotonic clock: milliseconds are enough for an age, and reading it is nearly free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Clock(u64);

impl Clock {
    pub(crate) fn now() -> Clock {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::MonotonicCoarse;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(clock);
        Clock(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    fn age(self, now: Clock) -> Duration {
        Duration::from_nanos(now.0.saturating_sub(self.0))
    }
}

/// A lock here is held for a few instructions and never across user code, so poisoning says nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    pub(crate) fn new() -> Arc<Registry> {
        Arc::new(Registry {
            told: AtomicU8::new(Told::Serve as u8),
            settling: AtomicBool::new(false),
            live: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            served_before: AtomicU64::new(0),
            cut_requests: AtomicU64::new(0),
            next_id: AtomicU64::new(0),
            connections: std::array::from_fn(|_| Mutex::default()),
            items: Mutex::default(),
            panics: Mutex::default(),
            left: Left::default(),
            counters: Counters::default(),
            listener: OnceLock::new(),
        })
    }

    /// Sets who hears of notices. Once.
    pub(crate) fn listen(&self, listener: Listener) {
        let set = self.listener.set(listener);
        debug_assert!(set.is_ok(), "the registry has one listener");
    }

    fn notify(&self, notice: Notice) {
        if let Some(listener) = self.listener.get() {
            listener(notice);
        }
    }

    pub(crate) fn told(&self) -> Told {
        Told::from_u8(self.told.load(Ordering::Acquire))
    }

    /// Tells every connection, present and future, and wakes those present.
    pub(crate) fn tell(&self, told: Told) {
        self.told.store(told as u8, Ordering::SeqCst);
        for shard in &self.connections {
            // Wake outside the shard's lock: a woken connection may leave at once and wants it.
            let wakers: Vec<Waker> = lock(shard)
                .values()
                .flat_map(|connection| lock(&connection.own).wakers.clone())
                .flatten()
                .collect();
            wakers.into_iter().for_each(Waker::wake);
        }
        if told >= Told::Move && self.live.load(Ordering::SeqCst) == 0 {
            self.notify(Notice::Idle);
        }
    }

    /// Whether nothing that holds the drain is live.
    pub(crate) fn is_idle(&self) -> bool {
        self.live.load(Ordering::SeqCst) == 0
    }

    /// Notifies once each accepted connection has been read; at once if all have been.
    pub(crate) fn settle(&self) {
        self.settling.store(true, Ordering::SeqCst);
        if self.unread.load(Ordering::SeqCst) == 0 {
            self.notify(Notice::Settled);
        }
    }

    fn enter(&self) {
        self.live.fetch_add(1, Ordering::SeqCst);
    }

    fn leave(&self) {
        let before = self.live.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "something left that never entered");
        if before == 1 && self.told() >= Told::Move {
            self.notify(Notice::Idle);
        }
    }

    /// Enters an accepted connection. It leaves when the guard is dropped.
    pub(crate) fn connect(
        self: &Arc<Registry>,
        server: Arc<str>,
        peer: Peer,
        hold: Hold,
    ) -> ConnectionGuard {
        if hold == Hold::Drain {
            self.unread.fetch_add(1, Ordering::SeqCst);
            self.enter();
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Entry {
            id,
            server,
            peer,
            since: Clock::now(),
            hold,
            served: AtomicU64::new(0),
            read_once: AtomicBool::new(hold == Hold::Nothing),
            is_cut: AtomicBool::new(false),
            own: Mutex::default(),
            registry: Arc::clone(self),
        });
        lock(&self.connections[id as usize % SHARDS]).insert(id, Arc::clone(&connection));
        ConnectionGuard(connection)
    }

    /// Enters a task or a blocking call. It leaves when the guard is dropped.
    pub(crate) fn begin(self: &Arc<Registry>, kind: WorkKind, name: &str) -> ItemGuard {
        ItemGuard { id: self.add(kind, name), registry: Arc::clone(self) }
    }

    fn add(&self, kind: WorkKind, name: &str) -> u64 {
        self.enter();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let item = Item { kind, name: Arc::from(name), since: Clock::now(), abort: None };
        lock(&self.items).insert(id, item);
        id
    }

    /// Notes that a request is ended before its end because its time is up. It stays live work, so that the report of what
    /// was cut names it.
    #[cfg(feature = "tonic014")]
    pub(crate) fn cut_request(&self, name: &str) {
        self.cut_requests.fetch_add(1, Ordering::Relaxed);
        self.add(WorkKind::Request, name);
    }

    /// Aborts each task, so that its destructors run, if the runtime still runs anything.
    pub(crate) fn abort_tasks(&self) {
        let handles: Vec<_> =
            lock(&self.items).values_mut().filter_map(|item| item.abort.take()).collect();
        for handle in handles {
            handle.abort();
        }
    }

    /// Notes that something panicked.
    pub(crate) fn panicked(&self, what: String) {
        let mut panics = lock(&self.panics);
        if panics.len() < NAMED_AT_MOST {
            panics.push(what);
        }
    }

    pub(crate) fn panics(&self) -> Vec<String> {
        lock(&self.panics).clone()
    }

    /// What has left the table since the start; requests are counted by [`served`](Registry::served).
    pub(crate) fn left(&self) -> Counts {
        Counts {
            requests: 0,
            connections: self.left.connections.load(Ordering::Relaxed),
            websockets: self.left.websockets.load(Ordering::Relaxed),
            tasks: self.left.tasks.load(Ordering::Relaxed),
            blocking: self.left.blocking.load(Ordering::Relaxed),
        }
    }

    /// Requests answered so far; a health check is none.
    pub(crate) fn served(&self) -> u64 {
        // Connections first: one that leaves meanwhile is then counted in one place at least, and the total
        // only grows.
        let live: u64 = self
            .connections
            .iter()
            .map(|shard| {
                let shard = lock(shard);
                let drained = shard.values().filter(|c| c.hold == Hold::Drain);
                drained.map(|c| c.served.load(Ordering::Relaxed)).sum::<u64>()
            })
            .sum();
        let all = live + self.served_before.load(Ordering::Relaxed);
        let cut = self.cut_requests.load(Ordering::Relaxed) + self.counters.requests_cut_for_age();
        all.saturating_sub(cut)
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.connections {
            for connection in lock(shard).values().filter(|c| c.hold == Hold::Drain) {
                counts.connections += 1;
                let own = lock(&connection.own);
                counts.requests += own.active;
                counts.websockets += usize::from(own.websocket.is_some());
            }
        }
        for item in lock(&self.items).values() {
            match item.kind {
                WorkKind::Task => counts.tasks += 1,
                WorkKind::Blocking => counts.blocking += 1,
                WorkKind::Request => counts.requests += 1,
                WorkKind::Connection | WorkKind::WebSocket => {}
            }
        }
        counts
    }

    /// Names what is live: requests, tasks and calls first, oldest first; idle connections last.
    pub(crate) fn items(&self) -> Vec<WorkItem> {
        let now = Clock::now();
        let mut items = Vec::new();
        for item in lock(&self.items).values() {
            items.push(WorkItem {
                kind: item.kind,
                name: item.name.to_string(),
                peer: None,
                age: item.since.age(now),
            });
        }
        for shard in &self.connections {
            for connection in lock(shard).values().filter(|c| c.hold == Hold::Drain) {
                connection.name_into(now, &mut items);
            }
        }
        items.sort_by_key(|item| (item.kind == WorkKind::Connection, std::cmp::Reverse(item.age)));
        items.truncate(NAMED_AT_MOST);
        items
    }
}

impl Entry {
    fn name_into(&self, now: Clock, items: &mut Vec<WorkItem>) {
        let own = lock(&self.own);
        let mut busy = false;
        for request in own.requests.iter().flatten() {
            busy = true;
            items.push(WorkItem {
                kind: WorkKind::Request,
                name: request.text(),
                peer: Some(self.peer.to_string()),
                age: request.since.age(now),
            });
        }
        if let (false, Some(websocket)) = (busy, &own.websocket) {
            let label = own.label.as_ref().map_or_else(String::new, |label| format!(": {label}"));
            items.push(WorkItem {
                kind: WorkKind::WebSocket,
                name: format!("{}{label}", websocket.request),
                peer: Some(self.peer.to_string()),
                age: websocket.since.age(now),
            });
        } else if !busy {
            items.push(WorkItem {
                kind: WorkKind::Connection,
                name: self.server.to_string(),
                peer: Some(self.peer.to_string()),
                age: self.since.age(now),
            });
        }
    }

    /// Method and path of the request in this slot.
    #[cfg(feature = "http")]
    pub(crate) fn request_text(&self, slot: usize) -> String {
        let own = lock(&self.own);
        let request = own.requests.get(slot).and_then(|name| name.as_ref().map(RequestName::text));
        request.unwrap_or_default()
    }

    /// The connection is a WebSocket from now on, which this request began.
    #[cfg(feature = "http")]
    pub(crate) fn becomes_websocket(&self, request: String) {
        let websocket = WebSocketName { request, since: Clock::now() };
        lock(&self.own).websocket = Some(Box::new(websocket));
    }

    /// The request that began the WebSocket.
    #[cfg(feature = "tungstenite029")]
    pub(crate) fn websocket_request(&self) -> String {
        let own = lock(&self.own);
        own.websocket.as_ref().map_or_else(String::new, |websocket| websocket.request.clone())
    }

    /// Names a WebSocket further; without control characters, which would end a line of the log.
    pub(crate) fn label(&self, label: &str) {
        let printable: String = label.chars().filter(|c| !c.is_control()).collect();
        let mut end = printable.len().min(LABEL_AT_MOST);
        while !printable.is_char_boundary(end) {
            end -= 1;
        }
        lock(&self.own).label = Some(Box::from(&printable[..end]));
    }

    /// Wakes who polls a side.
    #[cfg(feature = "http")]
    pub(crate) fn wake(&self, side: Side) {
        let waker = lock(&self.own).wakers[side as usize].clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The name of the server that accepted it.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP connections move"))]
    pub(crate) fn server(&self) -> &Arc<str> {
        &self.server
    }

    /// The other end.
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// What this connection is to do now. An admin connection is left alone, unless a successor has an admin server
    /// of its own for it.
    pub(crate) fn told(&self) -> Told {
        if self.is_cut.load(Ordering::Relaxed) {
            return Told::Force;
        }
        match (self.hold, self.registry.told()) {
            (Hold::Drain, told) => told,
            (Hold::Nothing, Told::Move) => Told::Move,
            (Hold::Nothing, Told::Serve | Told::MarkAnswers | Told::Finish | Told::Force) => {
                Told::Serve
            }
        }
    }

    /// Cuts it, because it is too old: its reads and writes fail from now on, and what it has in hand is counted as cut.
    #[cfg(feature = "http")]
    pub(crate) fn cut_for_age(&self) {
        let requests = self.requests();
        self.registry.counters.connection_cut_for_age(requests);
        self.is_cut.store(true, Ordering::Relaxed);
        self.wake(Side::Read);
        self.wake(Side::Write);
    }

    /// Its descriptor went to a successor.
    pub(crate) fn is_sent(&self) {
        if lock(&self.own).websocket.is_some() {
            self.registry.counters.websocket_moved();
        }
    }

    /// What is counted beside live work.
    #[cfg(feature = "http")]
    pub(crate) fn counters(&self) -> &Counters {
        &self.registry.counters
    }

    /// Remembers who polls a side of this connection, so that it can be told things.
    pub(crate) fn polled_by(&self, side: Side, waker: &Waker) {
        let known = &mut lock(&self.own).wakers[side as usize];
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// The socket was read, or found empty: from now on an idle connection really is idle.
    pub(crate) fn was_read(&self) {
        if !self.read_once.swap(true, Ordering::AcqRel) {
            let before = self.registry.unread.fetch_sub(1, Ordering::SeqCst);
            if before == 1 && self.registry.settling.load(Ordering::SeqCst) {
                self.registry.notify(Notice::Settled);
            }
        }
    }

    /// Enters a request; the number names it until [`request_ends`](Entry::request_ends).
    #[cfg_attr(not(feature = "http"), expect(dead_code))]
    pub(crate) fn request_begins(&self, name: RequestName) -> usize {
        let mut own = lock(&self.own);
        own.active += 1;
        let mut slot = own.free_from;
        while own.requests.get(slot).is_some_and(Option::is_some) {
            slot += 1;
        }
        match own.requests.get_mut(slot) {
            Some(free) => *free = Some(name),
            None => own.requests.push(Some(name)),
        }
        own.free_from = slot + 1;
        slot
    }

    #[cfg_attr(not(feature = "http"), expect(dead_code))]
    pub(crate) fn request_ends(&self, slot: usize) {
        let mut own = lock(&self.own);
        own.requests[slot] = None;
        own.free_from = own.free_from.min(slot);
        own.active -= 1;
        match self.hold {
            // One writer for HTTP/1.1, and a lock held for HTTP/2: a plain add is enough.
            Hold::Drain => {
                self.served.store(self.served.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            // A health check is not the service's work.
            Hold::Nothing => {}
        }
    }

    /// Requests in hand on this connection.
    #[cfg_attr(not(feature = "http"), expect(dead_code))]
    pub(crate) fn requests(&self) -> usize {
        lock(&self.own).active
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({} of {})", self.peer, self.server)
    }
}

/// Keeps a connection in the table; dropping it takes it out.
pub(crate) struct ConnectionGuard(Arc<Entry>);

impl ConnectionGuard {
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.0
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let connection = &self.0;
        let registry = &connection.registry;
        let served = connection.served.load(Ordering::Relaxed);
        {
            let mut shard = lock(&registry.connections[connection.id as usize % SHARDS]);
            if connection.hold == Hold::Drain {
                registry.served_before.fetch_add(served, Ordering::Relaxed);
            }
            shard.remove(&connection.id);
        }
        connection.was_read();
        if connection.hold == Hold::Drain {
            registry.left.connections.fetch_add(1, Ordering::Relaxed);
            let was_websocket = lock(&connection.own).websocket.is_some();
            registry.left.websockets.fetch_add(usize::from(was_websocket), Ordering::Relaxed);
            registry.leave();
        }
    }
}

/// Keeps a task or blocking call in the table; dropping it takes it out.
pub(crate) struct ItemGuard {
    id: u64,
    registry: Arc<Registry>,
}

impl ItemGuard {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Registry {
    /// Gives a running task its abort handle; none is kept for one that has ended already.
    pub(crate) fn abort_with(&self, id: u64, handle: tokio::task::AbortHandle) {
        if let Some(item) = lock(&self.items).get_mut(&id) {
            item.abort = Some(handle);
        }
    }
}

impl Drop for ItemGuard {
    fn drop(&mut self) {
        let removed = lock(&self.registry.items).remove(&self.id);
        let left = &self.registry.left;
        match removed.map(|item| item.kind) {
            Some(WorkKind::Blocking) => left.blocking.fetch_add(1, Ordering::Relaxed),
            Some(
                WorkKind::Task | WorkKind::Connection | WorkKind::Request | WorkKind::WebSocket,
            )
            | None => left.tasks.fetch_add(1, Ordering::Relaxed),
        };
        self.registry.leave();
    }
}

#[cfg(all(test, feature = "http"))]
mod tests {
    use super::*;

    fn request() -> RequestName {
        RequestName { method: http::Method::GET, path: None, since: Clock(0) }
    }

    #[test]
    fn the_lowest_free_slot_names_a_request() {
        let guard = Registry::new().connect(Arc::from("test"), Peer::Unix, Hold::Drain);
        let entry = guard.entry();
        let begin = || entry.request_begins(request());
        assert_eq!([begin(), begin(), begin(), begin()], [0, 1, 2, 3]);
        entry.request_ends(2);
        entry.request_ends(0);
        assert_eq!([begin(), begin(), begin()], [0, 2, 4]);
        assert_eq!(entry.requests(), 5);
        for slot in 0..5 {
            entry.request_ends(slot);
        }
        assert_eq!(entry.requests(), 0);
        assert_eq!(entry.served.load(Ordering::Relaxed), 7);
        assert_eq!(begin(), 0);
    }
}
