//! What is live, as snapshots and reports name and count it.

use std::time::Duration;

use crate::duration::seconds;
use crate::json::Object;

/// What kind of work something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkKind {
    /// A connection, idle or not.
    Connection,
    /// A request in hand.
    Request,
    /// A task started by [`Lifecycle::task`](crate::Lifecycle::task).
    Task,
    /// A call on a blocking thread or one of its own, started by [`Lifecycle::blocking`](crate::Lifecycle::blocking) or
    /// [`Lifecycle::thread`](crate::Lifecycle::thread).
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

impl WorkItem {
    /// The item as one JSON object.
    pub(crate) fn to_json(&self) -> String {
        Object::new()
            .string("kind", self.kind.word())
            .string("name", &self.name)
            .optional("peer", self.peer.as_deref())
            .millis("age_ms", self.age)
            .end()
    }
}

impl std::fmt::Display for WorkItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.name)?;
        if let Some(peer) = &self.peer {
            write!(f, " from {peer}")?;
        }
        write!(f, ", {}", seconds(self.age))
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
    /// Calls on blocking threads and on threads of their own.
    pub blocking: usize,
    /// The connections among them that have become WebSockets.
    pub websockets: usize,
    /// The requests among them whose answers are streams of [`Lifecycle::streams`](crate::Lifecycle::streams).
    pub streams: usize,
}

impl Counts {
    /// The counts as one JSON object.
    pub(crate) fn to_json(self) -> String {
        Object::new()
            .number("requests", self.requests as u64)
            .number("connections", self.connections as u64)
            .number("tasks", self.tasks as u64)
            .number("blocking", self.blocking as u64)
            .number("websockets", self.websockets as u64)
            .number("streams", self.streams as u64)
            .end()
    }
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
