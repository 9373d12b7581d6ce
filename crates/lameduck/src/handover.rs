//! Where connections that can move wait to be sent to a successor.
//!
//! # Invariants
//!
//! 1. A connection is live work until its descriptor was sent: the drain cannot end with one on the way.
//! 2. A connection that cannot be sent is given back to whoever served it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::connection::Stream;
use crate::listener::Handler;

/// Unread bytes that travel with a connection at most; one with more stays until it has been read.
pub const UNREAD_AT_MOST: usize = 32 * 1024;

/// A connection between two requests, on its way to the successor.
pub(crate) struct Moved {
    /// The server it was accepted by, whose namesake in the successor goes on with it.
    pub(crate) server: Arc<str>,
    pub(crate) stream: Stream,
    pub(crate) unread: Vec<u8>,
}

/// The way to the successor, while there is one, and the servers that go on with what comes from a predecessor.
#[derive(Default)]
pub(crate) struct Handover {
    way: Arc<Mutex<Option<mpsc::UnboundedSender<Moved>>>>,
    servers: Mutex<HashMap<Arc<str>, Handler>>,
}

/// A connection's access to the way.
#[derive(Clone)]
pub(crate) struct Moving {
    way: Arc<Mutex<Option<mpsc::UnboundedSender<Moved>>>>,
}

impl Handover {
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP connections move"))]
    pub(crate) fn moving(&self) -> Moving {
        Moving { way: Arc::clone(&self.way) }
    }

    /// Names who goes on with connections of `server`.
    pub(crate) fn serves(&self, server: Arc<str>, handler: Handler) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.insert(server, handler);
    }

    fn server(&self, name: &str) -> Option<(Arc<str>, Handler)> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.get_key_value(name).map(|(name, handler)| (Arc::clone(name), Arc::clone(handler)))
    }

    /// Goes on with a connection that a predecessor sent. One of a server that is no more is closed.
    pub(crate) fn receive(
        &self,
        server: &str,
        unread: Vec<u8>,
        stream: impl FnOnce(Arc<str>) -> Stream,
    ) {
        if let Some((name, handler)) = self.server(server) {
            handler(stream(name), unread);
        }
    }

    /// Serves a connection here again that could not be sent.
    pub(crate) fn give_back(&self, moved: Moved) {
        if let Some((_, handler)) = self.server(&moved.server) {
            handler(moved.stream, moved.unread);
        }
    }

    /// Opens the way. As many connections wait in it as are open, so their descriptors bound it.
    pub(crate) fn open(&self) -> mpsc::UnboundedReceiver<Moved> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    pub(crate) fn close(&self) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Moving {
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP connections move"))]
    /// Sends a connection off, or gives it back when there is no way, it carries too much, or its keys are here.
    pub(crate) fn send(&self, moved: Moved) -> Result<(), Moved> {
        if moved.unread.len() > UNREAD_AT_MOST || moved.stream.is_encrypted() {
            return Err(moved);
        }
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        match way.as_ref() {
            Some(way) => way.send(moved).map_err(|refused| refused.0),
            None => Err(moved),
        }
    }
}
