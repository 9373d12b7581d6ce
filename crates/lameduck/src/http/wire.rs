//! The byte stream below hyper: hands on one message at a time and keeps what was read beyond it.

mod view;
mod websocket;
mod writing;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use writing::Writing;

use crate::connection::{Stream, Wakers};
use crate::http::LINGERING;
use crate::http::framing::{BodyLength, Framing};
use crate::http::inbound::Inbound;
#[cfg(feature = "rustls023")]
use crate::http::tls::Session;
use crate::http::websocket::WebSocket;
use crate::work::Entry;

pub(crate) use view::Io;

/// Bytes read ahead while an answer is decided, at most.
const AHEAD: usize = 16 * 1024;

/// One connection, as shared between hyper (through [`Io`]), the service around the handlers and the task that owns
/// both. All three run in one task, one after the other: the lock is never contended.
pub(crate) struct Wire {
    state: Mutex<State>,
    entry: Arc<Entry>,
    mobility: Mobility,
    #[cfg(feature = "rustls023")]
    session: Option<Session>,
}

/// Whether a successor could go on with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mobility {
    Moves,
    /// Its keys are here.
    Stays,
}

struct State {
    stream: Stream,
    framing: Framing,
    /// Read, and not handed on yet: `held[handed..]`.
    held: Vec<u8>,
    handed: usize,
    answers: Answers,
    owner: Owner,
    writing: Writing,
    pipelined: u32,
    goes: Goes,
    close: Close,
    /// The frames that an HTTP/2 client sends.
    inbound: Option<Box<Inbound>>,
    /// Once the connection has become one.
    websocket: Option<Box<WebSocket>>,
    dropped: Dropped,
}

/// Who lets go of the byte stream when its [`Io`] is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dropped {
    ByHandler,
    /// To give it to another.
    #[cfg_attr(not(feature = "tungstenite029"), expect(dead_code))]
    ByUs,
}

/// When the connection is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    /// When all are told to.
    WithOthers,
    /// It is old.
    Now,
}

/// How the connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    /// With a half-close: what was sent is complete.
    InOrder,
    /// With a reset: an end in order would make what was cut look complete.
    ByReset,
}

/// Who decides how the connection closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The connection's task, above hyper.
    Server,
    /// Whoever took it over by an upgrade.
    Upgraded,
}

/// Whether an answer has announced the close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// The client may send another request.
    KeepAlive,
    /// The client has been told that no further request is answered.
    CloseAnnounced,
}

impl State {
    fn held(&self) -> usize {
        self.held.len() - self.handed
    }

    /// So much of what is held was handed on.
    fn hand_on(&mut self, taken: usize) {
        self.handed += taken;
        if self.held() == 0 {
            self.held.clear();
            self.handed = 0;
        }
    }

    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.websocket.is_some() {
            return self.read_websocket(cx, buf);
        }
        if self.held() > 0 {
            let most = self.held().min(buf.remaining());
            let offered = &self.held[self.handed..self.handed + most];
            let taken = self.framing.take(offered);
            buf.put_slice(&offered[..taken]);
            self.hand_on(taken);
            return Poll::Ready(Ok(()));
        }
        if self.inbound.as_ref().is_some_and(|inbound| !inbound.only_looks()) {
            return self.read_filtered(cx, buf);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let came = &buf.filled()[before..];
        if let Some(inbound) = &mut self.inbound {
            inbound.look(came);
        }
        let taken = self.framing.take(came);
        if taken < came.len() {
            self.held.extend_from_slice(&came[taken..]);
            buf.set_filled(before + taken);
        }
        Poll::Ready(Ok(()))
    }

    /// Hands on what an HTTP/2 client sends that was told to go, but for what the engine would take amiss.
    fn read_filtered(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(inbound) = &mut self.inbound else { return Poll::Ready(Ok(())) };
        let before = buf.filled().len();
        self.held.clear();
        self.handed = 0;
        while self.held.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            let came = &buf.filled()[before..];
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            inbound.filter(came, &mut self.held);
            buf.set_filled(before);
        }
        // It may be longer than what came by a part of a header that was kept before.
        self.handed = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..self.handed]);
        Poll::Ready(Ok(()))
    }

    /// Reads what the kernel holds already, without waiting.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        let mut bytes = [0; 2048];
        while self.held() < AHEAD {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                // Errors and ends are met again by whoever reads next.
                Poll::Pending | Poll::Ready(Err(_)) => return,
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return,
                Poll::Ready(Ok(())) => self.held.extend_from_slice(buf.filled()),
            }
        }
    }
}

impl Wire {
    /// A connection of which `read` was read already.
    pub(crate) fn new(stream: Stream, read: Vec<u8>) -> Arc<Wire> {
        let entry = Arc::clone(stream.entry());
        let mobility = if stream.is_encrypted() { Mobility::Stays } else { Mobility::Moves };
        #[cfg(feature = "rustls023")]
        let session = stream.tls().map(Session::of);
        let state = State {
            stream,
            framing: Framing::new(),
            held: read,
            handed: 0,
            answers: Answers::KeepAlive,
            owner: Owner::Server,
            writing: Writing::new(),
            pipelined: 0,
            goes: Goes::WithOthers,
            close: Close::InOrder,
            inbound: None,
            websocket: None,
            dropped: Dropped::ByHandler,
        };
        Arc::new(Wire {
            state: Mutex::new(state),
            entry,
            mobility,
            #[cfg(feature = "rustls023")]
            session,
        })
    }

    pub(crate) fn can_move(&self) -> bool {
        self.mobility == Mobility::Moves
    }

    /// Gives a request what is known of its client.
    #[cfg(feature = "rustls023")]
    pub(crate) fn describe<B>(&self, request: &mut ::http::Request<B>) {
        if let Some(session) = &self.session {
            request.extensions_mut().insert(session.clone());
        }
    }

    #[cfg(not(feature = "rustls023"))]
    pub(crate) fn describe<B>(&self, _: &mut ::http::Request<B>) {}

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    pub(crate) fn request_begins(&self, body: BodyLength) {
        self.lock().framing.request_begins(body);
    }

    /// Whether more requests were sent behind the one in hand, as far as that can be known now.
    ///
    /// Counts the times it said yes, so that a client that always has one more cannot hold the drain.
    pub(crate) fn has_more(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.lock();
        if !state.framing.keeps_track() || state.pipelined >= super::PIPELINED {
            return false;
        }
        state.read_ahead(cx);
        let held = state.held();
        let more = state.framing.has_more(held);
        state.pipelined += u32::from(more);
        more
    }

    pub(crate) fn announce_close(&self) {
        self.lock().answers = Answers::CloseAnnounced;
    }

    /// The next answer is to announce the close, whatever connections are told.
    pub(crate) fn is_to_go(&self) {
        self.lock().goes = Goes::Now;
    }

    pub(crate) fn goes(&self) -> bool {
        self.lock().goes == Goes::Now
    }

    pub(crate) fn answers(&self) -> Answers {
        self.lock().answers
    }

    /// From now on the bytes belong to another protocol, and anybody may poll for them.
    pub(crate) fn becomes_raw(&self) {
        let mut state = self.lock();
        state.framing.let_through();
        state.owner = Owner::Upgraded;
        state.stream.set_wakers(Wakers::EachWait);
    }

    /// HTTP/2 needs no framing: streams are told apart by the protocol.
    pub(crate) fn becomes_http2(&self) {
        let mut state = self.lock();
        state.framing.let_through();
        state.writing.gathers();
        let mut inbound = Box::new(Inbound::new());
        inbound.look(&state.held[state.handed..]);
        state.inbound = Some(inbound);
    }

    /// From now on the answer to our PING is looked for.
    pub(crate) fn expect_ping_acknowledged(&self) {
        if let Some(inbound) = &mut self.lock().inbound {
            inbound.is_pinged();
        }
    }

    pub(crate) fn is_ping_acknowledged(&self) -> bool {
        self.lock().inbound.as_ref().is_some_and(|inbound| inbound.is_acknowledged())
    }

    /// Whether a part of a head was read that is not a request yet, as far as that can be known.
    pub(crate) fn is_inside_head(&self) -> bool {
        let state = self.lock();
        state.held() > 0 || state.framing.is_inside_head()
    }

    /// Whether the client has more of a request's body to send, as far as that can be known.
    pub(crate) fn is_inside_body(&self) -> bool {
        let state = self.lock();
        state.framing.keeps_track() && state.framing.is_inside_body()
    }

    /// Whether what was written last waits for the client to read.
    pub(crate) fn is_write_blocked(&self) -> bool {
        self.lock().writing.is_blocked()
    }

    /// A fresh start on the same connection: what hyper had read and not used comes first.
    pub(crate) fn rewind(&self, unused: &[u8]) {
        let mut state = self.lock();
        let mut bytes = unused.to_vec();
        bytes.extend_from_slice(&state.held[state.handed..]);
        state.held = bytes;
        state.handed = 0;
        state.framing = Framing::new();
    }

    /// Whether the connection has no state but its socket and unread bytes: nothing is in hand, all that was
    /// answered is written, and a next request has not gone past its head.
    ///
    /// Asked when hyper waits for the client: had the last answer ended the connection, hyper would be done with it.
    pub(crate) fn is_between_requests(&self) -> bool {
        let state = self.lock();
        state.framing.is_between_messages()
            && !state.writing.is_blocked()
            && state.answers == Answers::KeepAlive
            && self.entry.requests() == 0
    }

    /// The connection, and what was read and not handed on; itself, while anybody else holds it.
    pub(crate) fn try_into_stream(self: Arc<Wire>) -> Result<(Stream, Vec<u8>), Arc<Wire>> {
        let wire = Arc::try_unwrap(self)?;
        let mut state = wire.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.held.drain(..state.handed);
        Ok((state.stream, state.held))
    }

    /// Whether anything was sent that has not been answered; asks the kernel too.
    pub(crate) fn poll_unread(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.lock();
        state.read_ahead(cx);
        state.held() > 0
    }

    pub(crate) fn reset_on_close(&self) {
        let mut state = self.lock();
        state.close = Close::ByReset;
        state.stream.reset_on_close();
    }

    pub(crate) fn poll_write_raw(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.lock().stream).poll_write(cx, bytes)
    }

    pub(crate) fn poll_half_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        match state.close {
            Close::InOrder => Pin::new(&mut state.stream).poll_shutdown(cx),
            // The half-close would be the end in order that the reset is to prevent.
            Close::ByReset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    /// Half-closes and reads to the end, so that no reset erases what was sent (RFC 9112 §9.6). Nothing may come for
    /// `quiet` at most.
    pub(crate) async fn close(&self, quiet: Duration) {
        if poll_fn(|cx| self.poll_half_close(cx)).await.is_err() {
            return;
        }
        let lingering = async {
            loop {
                match timeout(quiet, poll_fn(|cx| self.poll_discard(cx))).await {
                    Ok(Ok(n)) if n > 0 => {}
                    // The end, an error, or silence.
                    Ok(Ok(_) | Err(_)) | Err(_) => return,
                }
            }
        };
        let _ = timeout(LINGERING, lingering).await;
    }

    /// Reads and throws away; 0 at the end of the stream.
    fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [0; 4096];
        let mut buf = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.lock().stream).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}
