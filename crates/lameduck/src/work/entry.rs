//! A connection's entry in the table of live work: what it is told, what it has in hand, and its name in reports.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use super::{Clock, Counts, Registry, Told, WorkItem, WorkKind, lock};
use crate::text::printable;

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
    /// No successor can be told of it.
    stays: AtomicBool,
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
    /// Method and path. The query is left out: it may hold secrets. So are control characters, of which a client may send
    /// those beyond ASCII: a line of the log and a message to a successor have no room for them.
    #[cfg(feature = "http")]
    fn text(&self) -> String {
        let path = self.path.as_ref().map_or("*", |path| path.path());
        format!("{} {}", self.method, printable(path, usize::MAX))
    }

    #[cfg(not(feature = "http"))]
    fn text(&self) -> String {
        String::new()
    }
}

impl Entry {
    /// One that has just been accepted.
    pub(super) fn new(
        id: u64,
        server: Arc<str>,
        peer: Peer,
        hold: Hold,
        registry: Arc<Registry>,
    ) -> Entry {
        Entry {
            id,
            server,
            peer,
            since: Clock::now(),
            hold,
            served: AtomicU64::new(0),
            read_once: AtomicBool::new(hold == Hold::Nothing),
            is_cut: AtomicBool::new(false),
            stays: AtomicBool::new(false),
            own: Mutex::default(),
            registry,
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn holds_drain(&self) -> bool {
        self.hold == Hold::Drain
    }

    /// Requests it has answered.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub(super) fn is_websocket(&self) -> bool {
        lock(&self.own).websocket.is_some()
    }

    /// Whoever polls it, to be told something.
    pub(super) fn wakers(&self) -> impl Iterator<Item = Waker> + use<> {
        lock(&self.own).wakers.clone().into_iter().flatten()
    }

    pub(super) fn count_into(&self, counts: &mut Counts) {
        let own = lock(&self.own);
        counts.connections += 1;
        counts.requests += own.active;
        counts.websockets += usize::from(own.websocket.is_some());
    }

    pub(super) fn name_into(&self, now: Clock, items: &mut Vec<WorkItem>) {
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
        lock(&self.own).label = Some(printable(label, LABEL_AT_MOST).into_boxed_str());
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

    /// No message can tell a successor of it: it does not ask to move again.
    pub(crate) fn cannot_move(&self) {
        self.stays.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stays(&self) -> bool {
        self.stays.load(Ordering::Relaxed)
    }

    /// Its descriptor went to a successor.
    pub(crate) fn is_sent(&self) {
        if lock(&self.own).websocket.is_some() {
            self.registry.counters.websocket_moved();
        }
    }

    /// What is counted beside live work.
    #[cfg(feature = "http")]
    pub(crate) fn counters(&self) -> &super::Counters {
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
            self.registry.first_read();
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
    pub(super) fn new(entry: Arc<Entry>) -> ConnectionGuard {
        ConnectionGuard(entry)
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.0
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.registry.disconnect(&self.0);
    }
}

#[cfg(all(test, feature = "http"))]
mod tests {
    use super::*;

    fn request() -> RequestName {
        RequestName { method: http::Method::GET, path: None, since: Clock(0) }
    }

    /// What a client sends as a path stands in lines, and goes to a successor with a WebSocket.
    #[test]
    fn no_path_breaks_a_line() {
        let path = Some("/a\u{85}\u{9b}2Jb?c".parse().unwrap());
        assert_eq!(RequestName { path, ..request() }.text(), "GET /a2Jb");
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
