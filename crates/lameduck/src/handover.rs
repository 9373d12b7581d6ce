//! Where connections that can move wait to be sent to a successor.
//!
//! # Invariants
//!
//! 1. A connection is live work until its descriptor was sent: the drain cannot end with one on the way.
//! 2. A connection that cannot be sent is given back to whoever served it.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{mpsc, watch};

use crate::connection::Stream;
use crate::error::Error;
use crate::listener::Handler;
use crate::takeover::wire::{self, MAX_KINDS, MAX_NAME, MAX_SERVERS, Readable, Session};

/// Unread bytes that travel with a connection at most; one with more stays until it has been read.
pub const UNREAD_AT_MOST: usize = 32 * 1024;

/// A connection between two requests or two messages, on its way to the successor.
pub(crate) struct Moved {
    /// The server it was accepted by, whose namesake in the successor goes on with it.
    pub(crate) server: Arc<str>,
    pub(crate) stream: Stream,
    pub(crate) unread: Vec<u8>,
    /// What it carries, if that is not HTTP.
    pub(crate) session: Option<Box<Session>>,
}

/// Goes on with a connection and its session.
pub(crate) type SessionHandler = Arc<dyn Fn(Stream, Vec<u8>, Session) + Send + Sync>;

/// A kind of session that this program goes on with.
struct Kind {
    versions: RangeInclusive<u32>,
    handler: SessionHandler,
}

/// What the successor goes on with.
#[derive(Default)]
struct Takes {
    /// The sessions; `None` while there is no successor.
    kinds: Option<Vec<Readable>>,
    /// The servers whose connections it goes on with; `None` while that is not known: then any.
    servers: Option<Vec<String>>,
}

impl Takes {
    fn reads(&self, kind: &str, version: u32) -> bool {
        self.kinds.iter().flatten().any(|readable| {
            readable.kind == kind && (readable.oldest..=readable.newest).contains(&version)
        })
    }

    fn serves(&self, server: &str) -> bool {
        self.servers.as_ref().is_none_or(|servers| servers.iter().any(|other| other == server))
    }
}

/// Whether a server goes on with connections that come from another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoesOn {
    /// It speaks HTTP.
    WithHttp,
    /// Only with those that it has accepted.
    WithNone,
}

/// Who serves connections.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) handler: Handler,
    pub(crate) goes_on: GoesOn,
}

/// The way to the successor, while there is one, and the servers that go on with what comes from a predecessor.
#[derive(Default)]
pub(crate) struct Handover {
    way: Arc<Mutex<Option<mpsc::UnboundedSender<Moved>>>>,
    takes: watch::Sender<Takes>,
    servers: Mutex<HashMap<Arc<str>, Server>>,
    /// Who answers a probe.
    probed: OnceLock<Arc<str>>,
    kinds: Mutex<HashMap<String, Kind>>,
}

/// A connection's access to the way.
#[derive(Clone)]
pub(crate) struct Moving {
    way: Arc<Mutex<Option<mpsc::UnboundedSender<Moved>>>>,
    takes: watch::Receiver<Takes>,
}

impl Handover {
    pub(crate) fn moving(&self) -> Moving {
        Moving { way: Arc::clone(&self.way), takes: self.takes.subscribe() }
    }

    /// Names who goes on with sessions of `kind`; refused when somebody does already, or with too many kinds.
    pub(crate) fn goes_on_with(
        &self,
        kind: &str,
        versions: RangeInclusive<u32>,
        handler: SessionHandler,
    ) -> Result<(), Error> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = if kind.is_empty() || kind.len() > MAX_NAME || kind.contains(char::is_control)
        {
            format!("a kind has 1 to {MAX_NAME} bytes, none of them a control character")
        } else if kinds.contains_key(kind) {
            "the kind is taken".to_owned()
        } else if kinds.len() == MAX_KINDS {
            format!("{MAX_KINDS} kinds are known already")
        } else {
            kinds.insert(kind.to_owned(), Kind { versions, handler });
            return Ok(());
        };
        Err(Error::name(format!("go on with sessions of kind '{kind}': {problem}")))
    }

    /// What a predecessor is told that this program goes on with.
    pub(crate) fn readable(&self) -> Vec<Readable> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let readable = |(kind, known): (&String, &Kind)| Readable {
            kind: kind.clone(),
            oldest: *known.versions.start(),
            newest: *known.versions.end(),
        };
        kinds.iter().map(readable).collect()
    }

    /// Goes on with a session, one that a predecessor sent or one that could not be sent.
    pub(crate) fn go_on(&self, stream: Stream, unread: Vec<u8>, session: Session) {
        let handler = {
            let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            kinds.get(&session.kind).map(|kind| Arc::clone(&kind.handler))
        };
        // None was announced, so none is sent; what comes all the same is closed.
        if let Some(handler) = handler {
            handler(stream, unread, session);
        }
    }

    /// Names who serves connections of `server`.
    pub(crate) fn serves(&self, server: Arc<str>, handler: Handler, goes_on: GoesOn) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.insert(server, Server { handler, goes_on });
    }

    /// Names who goes on with connections of a predecessor's `server`, which has another name here by now.
    pub(crate) fn serves_instead(&self, server: &str, handler: Handler, goes_on: GoesOn) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.entry(Arc::from(server)).or_insert(Server { handler, goes_on });
    }

    /// Whose connections another generation may send here; `None` if there are too many to be told.
    pub(crate) fn goes_on(&self) -> Option<Vec<String>> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let http = servers.iter().filter(|(_, server)| server.goes_on == GoesOn::WithHttp);
        // A connection of any other name could not be sent.
        let can_be_told = |name: &&Arc<str>| wire::is_name(name) && name.len() <= MAX_NAME;
        let mut names: Vec<String> =
            http.map(|(name, _)| name).filter(can_be_told).map(|name| name.to_string()).collect();
        names.sort_unstable();
        (names.len() <= MAX_SERVERS).then_some(names)
    }

    /// Says that `server` speaks HTTP: the first one to say so answers a predecessor's probe.
    #[cfg(feature = "http")]
    pub(crate) fn answers_probes(&self, server: &str) {
        let _ = self.probed.set(Arc::from(server));
    }

    /// Answers a probe. Without a server that can, the stream is never made, and its end tells.
    pub(crate) fn probe(&self, stream: impl FnOnce(Arc<str>) -> Stream) {
        if let Some(server) = self.probed.get() {
            self.receive(server, Vec::new(), stream);
        }
    }

    pub(crate) fn server(&self, name: &str) -> Option<(Arc<str>, Server)> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.get_key_value(name).map(|(name, server)| (Arc::clone(name), server.clone()))
    }

    /// Goes on with a connection that a predecessor sent. One of a server that is no more is closed: a predecessor that was
    /// told which there are sends none.
    pub(crate) fn receive(
        &self,
        server: &str,
        unread: Vec<u8>,
        stream: impl FnOnce(Arc<str>) -> Stream,
    ) {
        if let Some((name, Server { handler, goes_on: GoesOn::WithHttp })) = self.server(server) {
            handler(stream(name), unread);
        }
    }

    /// Serves a connection here again that could not be sent.
    pub(crate) fn give_back(&self, moved: Moved) {
        if let Some(session) = moved.session {
            return self.go_on(moved.stream, moved.unread, *session);
        }
        if let Some((_, server)) = self.server(&moved.server) {
            (server.handler)(moved.stream, moved.unread);
        }
    }

    /// Opens the way. As many connections wait in it as are open, so their descriptors bound it.
    pub(crate) fn open(
        &self,
        kinds: Vec<Readable>,
        servers: Option<Vec<String>>,
    ) -> mpsc::UnboundedReceiver<Moved> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        self.takes.send_replace(Takes { kinds: Some(kinds), servers });
        receiver
    }

    /// The way leads to another generation, which goes on with connections of these servers.
    pub(crate) fn leads_to(&self, servers: Option<Vec<String>>) {
        self.takes.send_modify(|takes| takes.servers = servers);
    }

    /// Whether the way leads to somebody who goes on with connections of `server`.
    pub(crate) fn leads_on(&self, server: &str) -> bool {
        self.takes.borrow().serves(server)
    }

    /// Closes the way: there is no successor any more.
    pub(crate) fn close(&self) {
        self.leads_nowhere(Takes::default());
    }

    /// Closes the way: there was a successor, and nobody takes anything in its place.
    pub(crate) fn nobody_takes(&self) {
        self.leads_nowhere(Takes { kinds: Some(Vec::new()), servers: None });
    }

    fn leads_nowhere(&self, takes: Takes) {
        self.takes.send_replace(takes);
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Moving {
    /// Waits until a successor goes on with sessions of this kind and version; at once while one does. Cancel safe.
    pub(crate) async fn asked(&self, kind: &str, version: u32) {
        let mut takes = self.takes.clone();
        if takes.wait_for(|takes| takes.reads(kind, version)).await.is_err() {
            // The life is over: nobody asks any more.
            std::future::pending().await
        }
    }

    /// Waits until there is a successor, and tells whether it goes on with sessions of this kind and version. Cancel safe.
    ///
    /// That a successor has taken over is told a moment before the way to it is open: who is woken by the former and looks
    /// for the latter may come too early.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP has WebSockets"))]
    pub(crate) async fn with_successor(&self, kind: &str, version: u32) -> bool {
        let mut takes = self.takes.clone();
        let reads = takes.wait_for(|takes| takes.kinds.is_some()).await;
        reads.is_ok_and(|takes| takes.reads(kind, version))
    }

    /// Whether a successor goes on with such a session now.
    pub(crate) fn is_asked(&self, kind: &str, version: u32) -> bool {
        self.takes.borrow().reads(kind, version)
    }

    /// Whether there is a successor that does not go on with connections of `server`.
    #[cfg(feature = "http")]
    pub(crate) fn leaves_behind(&self, server: &str) -> bool {
        !self.takes.borrow().serves(server)
    }

    /// Sends a connection off, or gives it back when there is no way, it carries too much, its keys are here, or it could not
    /// be told of before.
    pub(crate) fn send(&self, moved: Moved) -> Result<(), Moved> {
        let stays = moved.stream.is_encrypted() || moved.stream.entry().stays();
        if moved.unread.len() > UNREAD_AT_MOST || stays {
            return Err(moved);
        }
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        match way.as_ref() {
            Some(way) => way.send(moved).map_err(|refused| refused.0),
            None => Err(moved),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    #[tokio::test]
    async fn what_a_successor_reads_is_told_when_it_is_known() {
        let handover = Handover::default();
        let moving = handover.moving();
        let told = tokio::spawn({
            let moving = moving.clone();
            async move { moving.with_successor("chat", 1).await }
        });
        // It has been woken too early, and found nothing open.
        tokio::task::yield_now().await;
        assert!(!told.is_finished());
        let chat = Readable { kind: "chat".to_owned(), oldest: 1, newest: 2 };
        let _way = handover.open(vec![chat], None);
        assert!(told.await.unwrap());
        assert!(!moving.with_successor("chat", 3).await);
        handover.nobody_takes();
        assert!(!moving.with_successor("chat", 1).await);
        handover.close();
        let mut waits = std::pin::pin!(moving.with_successor("chat", 1));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waits.as_mut().poll(&mut cx).is_pending());
    }
}
