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

mod clock;
mod entry;
mod live;
mod tally;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

pub(crate) use clock::Clock;
#[cfg_attr(not(feature = "http"), expect(unused_imports))]
pub(crate) use entry::RequestName;
pub(crate) use entry::{ConnectionGuard, Entry, Hold, Peer, Side};
pub use live::{Counts, WorkItem, WorkKind};
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
    /// Streams under way, which come and go with the bodies of answers.
    pub(crate) streams: Arc<AtomicUsize>,
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
            streams: Arc::default(),
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
        if told == Told::Serve {
            // A successor was lost: the next stop settles anew.
            self.settling.store(false, Ordering::SeqCst);
        }
        self.told.store(told as u8, Ordering::SeqCst);
        for shard in &self.connections {
            // Wake outside the shard's lock: a woken connection may leave at once and wants it.
            let wakers: Vec<Waker> =
                lock(shard).values().flat_map(|connection| connection.wakers()).collect();
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
        // In one order with `tell`, which stores the one and reads the other: with anything weaker both could look before
        // either has written, and nobody would tell that the last one has left.
        let told = Told::from_u8(self.told.load(Ordering::SeqCst));
        if before == 1 && told >= Told::Move {
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
        let connection = Arc::new(Entry::new(id, server, peer, hold, Arc::clone(self)));
        lock(self.shard(id)).insert(id, Arc::clone(&connection));
        ConnectionGuard::new(connection)
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<Entry>>> {
        &self.connections[id as usize % SHARDS]
    }

    /// An accepted connection was read for the first time, or is gone.
    fn first_read(&self) {
        let before = self.unread.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.settling.load(Ordering::SeqCst) {
            self.notify(Notice::Settled);
        }
    }

    fn disconnect(&self, connection: &Entry) {
        {
            let mut shard = lock(self.shard(connection.id()));
            if connection.holds_drain() {
                self.served_before.fetch_add(connection.served(), Ordering::Relaxed);
            }
            shard.remove(&connection.id());
        }
        connection.was_read();
        if connection.holds_drain() {
            self.left.connections.fetch_add(1, Ordering::Relaxed);
            let websockets = usize::from(connection.is_websocket());
            self.left.websockets.fetch_add(websockets, Ordering::Relaxed);
            self.leave();
        }
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

    /// Gives a running task its abort handle; none is kept for one that has ended already.
    pub(crate) fn abort_with(&self, id: u64, handle: tokio::task::AbortHandle) {
        if let Some(item) = lock(&self.items).get_mut(&id) {
            item.abort = Some(handle.clone());
        }
        // Looked at after the handle is there: a force that comes later finds it, and one that came before is seen here.
        if self.told() == Told::Force {
            handle.abort();
        }
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

    /// What has left the table since the start; requests, streams among them, are counted by [`served`](Registry::served).
    pub(crate) fn left(&self) -> Counts {
        Counts {
            requests: 0,
            connections: self.left.connections.load(Ordering::Relaxed),
            websockets: self.left.websockets.load(Ordering::Relaxed),
            streams: 0,
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
                shard.values().filter(|c| c.holds_drain()).map(|c| c.served()).sum::<u64>()
            })
            .sum();
        let all = live + self.served_before.load(Ordering::Relaxed);
        let cut = self.cut_requests.load(Ordering::Relaxed) + self.counters.requests_cut_for_age();
        all.saturating_sub(cut)
    }

    pub(crate) fn counts(&self) -> Counts {
        let streams = self.streams.load(Ordering::Relaxed);
        let mut counts = Counts { streams, ..Counts::default() };
        for shard in &self.connections {
            for connection in lock(shard).values().filter(|c| c.holds_drain()) {
                connection.count_into(&mut counts);
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
            for connection in lock(shard).values().filter(|c| c.holds_drain()) {
                connection.name_into(now, &mut items);
            }
        }
        items.sort_by_key(|item| (item.kind == WorkKind::Connection, std::cmp::Reverse(item.age)));
        items.truncate(NAMED_AT_MOST);
        items
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What was read later would settle the next stop before its time.
    #[test]
    fn a_settle_is_over_when_the_service_goes_on() {
        let (registry, heard) = (Registry::new(), Arc::new(Mutex::new(Vec::new())));
        let hears = Arc::clone(&heard);
        registry.listen(Box::new(move |notice| lock(&hears).push(notice)));
        let accept = || registry.connect(Arc::from("test"), Peer::Unix, Hold::Drain);
        accept().entry().was_read();
        assert!(lock(&heard).is_empty(), "nobody has asked");
        registry.settle();
        registry.tell(Told::Serve);
        accept().entry().was_read();
        assert_eq!(*lock(&heard), [Notice::Settled], "told when it was asked for, and no more");
        let _unread = accept();
        registry.settle();
        assert_eq!(lock(&heard).len(), 1);
    }
}
