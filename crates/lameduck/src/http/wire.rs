//! The byte stream below hyper: hands on one message at a time and keeps what was read beyond it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::{Stream, Wakers};
use crate::http::farewell::{self, Entered};
use crate::http::framing::{BodyLength, Framing};
use crate::http::ping::PingAck;
#[cfg(feature = "rustls023")]
use crate::http::tls::Session;
use crate::http::websocket::{Place, WebSocket};
use crate::websocket::Care;
use crate::work::{Entry, Side, Told};

/// Bytes read ahead while an answer is decided, at most.
const AHEAD: usize = 16 * 1024;

/// A write shorter than this may wait for answers that are nearly there; a longer one is worth a packet of its own.
const GATHERED: usize = 4 * 1024;

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
    written: Written,
    gather: Gather,
    pipelined: u32,
    goes: Goes,
    close: Close,
    /// Looked for in what an HTTP/2 client sends once it was told to go.
    ping: Option<PingAck>,
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

/// Whether everything given to the stream has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    All,
    /// The last write has to wait for the client.
    Blocked,
}

/// Whether a short write waits one turn of the runtime, so that several answers leave in one packet.
///
/// Each answer of an HTTP/2 connection is made by a task of its own, and wakes the connection's task to write it. The
/// runtime runs what was woken last first, so the connection would write, and its client read, one answer at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gather {
    /// HTTP/1.1 has one answer at a time: nothing to wait for.
    Never,
    /// The next short write waits.
    Next,
    /// It has waited; what is there by now is written.
    Waited,
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

fn total(bufs: &[io::IoSlice<'_>]) -> usize {
    bufs.iter().map(|buf| buf.len()).sum()
}

impl State {
    fn wrote(
        &mut self,
        bufs: &[io::IoSlice<'_>],
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.written = match &result {
            Poll::Pending => Written::Blocked,
            Poll::Ready(_) => Written::All,
        };
        if self.gather == Gather::Waited {
            // What is left of a longer write follows at once.
            let whole = matches!(result, Poll::Ready(Ok(written)) if written == total(bufs));
            self.gather = if whole { Gather::Next } else { Gather::Waited };
        }
        result
    }

    /// Whether this write is put off to the next turn, which comes by itself: behind the tasks that are ready now, and
    /// at once where there are none.
    fn puts_off(&mut self, bufs: &[io::IoSlice<'_>], entry: &Entry, cx: &Context<'_>) -> bool {
        if self.gather != Gather::Next || total(bufs) >= GATHERED || entry.requests() == 0 {
            return false;
        }
        self.gather = Gather::Waited;
        self.written = Written::Blocked;
        cx.waker().wake_by_ref();
        true
    }

    fn held(&self) -> usize {
        self.held.len() - self.handed
    }

    /// Hands on what a WebSocket's handler may have: nothing once the client has closed, and to one that may move whole
    /// frames only.
    fn read_websocket(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let Some(websocket) = &mut self.websocket else { return Poll::Ready(Ok(())) };
            if websocket.reading_is_over() || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let held = &self.held[self.handed..];
            if let (false, Some(may)) = (held.is_empty(), websocket.hands_on(held)) {
                let taken = &held[..may.min(buf.remaining())];
                websocket.handed(taken);
                buf.put_slice(taken);
                self.handed += taken.len();
                if self.held() == 0 {
                    self.held.clear();
                    self.handed = 0;
                }
                return Poll::Ready(Ok(()));
            }
            // Read where the handler wants it, which is all there is to do as long as whole frames come.
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            let came = &buf.filled()[before..];
            if came.is_empty() {
                websocket.client_is_gone();
                // A part of a frame: its handler knows what to make of it.
                let most = self.held().min(buf.remaining());
                buf.put_slice(&self.held[self.handed..self.handed + most]);
                self.handed += most;
                return Poll::Ready(Ok(()));
            }
            if held.is_empty() && websocket.hands_on(came) == Some(came.len()) {
                websocket.handed(came);
                return Poll::Ready(Ok(()));
            }
            self.held.drain(..self.handed);
            self.handed = 0;
            self.held.extend_from_slice(came);
            buf.set_filled(before);
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
            self.handed += taken;
            if self.held() == 0 {
                self.held.clear();
                self.handed = 0;
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let came = &buf.filled()[before..];
        if let Some(ping) = &mut self.ping {
            ping.read(came);
        }
        let taken = self.framing.take(came);
        if taken < came.len() {
            self.held.extend_from_slice(&came[taken..]);
            buf.set_filled(before + taken);
        }
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
            written: Written::All,
            gather: Gather::Never,
            pipelined: 0,
            goes: Goes::WithOthers,
            close: Close::InOrder,
            ping: None,
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

    /// From now on the bytes are a WebSocket's.
    pub(crate) fn becomes_websocket(&self, care: Arc<Care>, entered: Entered) {
        self.becomes_raw();
        self.lock().websocket = Some(Box::new(WebSocket::new(care, entered)));
    }

    /// It comes from another generation, as a WebSocket.
    #[cfg(feature = "tungstenite029")]
    pub(crate) fn goes_on_as_websocket(&self, care: Arc<Care>, entered: Entered) {
        self.becomes_raw();
        self.lock().websocket = Some(Box::new(WebSocket::goes_on(care, entered)));
    }

    /// Its handler may move it: `unused` was read already, one frame is handed on at a time, and it is entered with others
    /// of its kind.
    #[cfg(feature = "tungstenite029")]
    pub(crate) fn hand_whole_frames(&self, unused: &[u8], entered: Entered) {
        self.rewind(unused);
        let mut state = self.lock();
        state.framing.let_through();
        if let Some(websocket) = &mut state.websocket {
            websocket.hand_whole_frames(entered);
        }
    }

    #[cfg(feature = "tungstenite029")]
    pub(crate) fn is_closed_by_its_handler(&self) {
        if let Some(websocket) = &self.lock().websocket {
            websocket.care.by_handler();
        }
    }

    /// Makes a byte stream of it again, if it is between two messages.
    #[cfg(feature = "tungstenite029")]
    pub(crate) fn take_websocket(&self) -> Option<Box<WebSocket>> {
        let mut state = self.lock();
        let between = state.websocket.as_ref().is_some_and(|it| it.is_between_messages());
        if between { state.websocket.take() } else { None }
    }

    #[cfg(feature = "tungstenite029")]
    pub(crate) fn put_back_websocket(&self, websocket: Box<WebSocket>) {
        self.lock().websocket = Some(websocket);
    }

    /// The connection and what was read and not handed on; itself, while anybody else holds it.
    #[cfg(feature = "tungstenite029")]
    pub(crate) fn try_into_stream(self: Arc<Wire>) -> Result<(Stream, Vec<u8>), Arc<Wire>> {
        let wire = Arc::try_unwrap(self)?;
        let mut state = wire.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.held.drain(..state.handed);
        Ok((state.stream, state.held))
    }

    /// Whether nobody is to close this WebSocket but its handler, or there is none any more.
    pub(crate) fn is_closed_by_handler(&self) -> bool {
        let state = self.lock();
        state.websocket.as_ref().is_none_or(|websocket| websocket.care.is_by_handler())
    }

    /// Sends a close frame; ready when one was sent, this or the handler's.
    pub(crate) fn poll_close_websocket(
        &self,
        cx: &mut Context<'_>,
        frame: &[u8],
        place: Place,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.lock();
        match &mut state.websocket {
            Some(websocket) => websocket.poll_close(&mut state.stream, cx, frame, place),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Ready when the WebSocket's client has closed, as far as its handler has read.
    pub(crate) fn poll_client_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.lock().websocket {
            Some(websocket) => websocket.poll_client_closed(cx),
            None => Poll::Ready(()),
        }
    }

    /// The handler reads an end of file from now on.
    pub(crate) fn end_reading(&self) {
        if let Some(websocket) = &mut self.lock().websocket {
            websocket.end_reading();
        }
        self.entry.wake(Side::Read);
    }

    /// The handler lets go of it: whether the client is still owed an end in order.
    fn is_left_behind(&self) -> bool {
        let state = self.lock();
        let ended =
            |websocket: &WebSocket| websocket.has_closed() || websocket.farewell().is_some();
        state.dropped == Dropped::ByHandler
            && state.websocket.as_deref().is_some_and(ended)
            && self.entry.told() != Told::Force
    }

    /// HTTP/2 needs no framing: streams are told apart by the protocol.
    pub(crate) fn becomes_http2(&self) {
        let mut state = self.lock();
        state.framing.let_through();
        state.gather = Gather::Next;
    }

    /// From now on the answer to our PING is looked for.
    pub(crate) fn expect_ping_acknowledged(&self) {
        self.lock().ping = Some(PingAck::default());
    }

    pub(crate) fn is_ping_acknowledged(&self) -> bool {
        self.lock().ping.as_ref().is_some_and(PingAck::has_come)
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
        self.lock().written == Written::Blocked
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
            && state.written == Written::All
            && state.answers == Answers::KeepAlive
            && self.entry.requests() == 0
    }

    /// What a client is still to be told whose handler let go of it.
    pub(crate) fn farewell(&self) -> Option<crate::websocket::Farewell> {
        self.lock().websocket.as_ref().and_then(|websocket| websocket.farewell())
    }

    /// Takes the connection out of hyper's hands; `None` while anybody else holds it.
    pub(crate) fn into_stream(self: Arc<Wire>) -> Option<(Stream, Vec<u8>)> {
        let wire = Arc::into_inner(self)?;
        let state = wire.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let unread = state.held[state.handed..].to_vec();
        Some((state.stream, unread))
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

    /// Reads and throws away; 0 at the end of the stream.
    pub(crate) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [0; 4096];
        let mut buf = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.lock().stream).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

/// hyper's view of a [`Wire`]. Its shutdown does nothing before an upgrade: how a connection closes is decided above
/// hyper.
pub(crate) struct Io(pub(crate) Arc<Wire>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.lock().read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.lock();
        if let Some(websocket) = &mut state.websocket {
            return websocket.poll_write(&mut state.stream, cx, bufs);
        }
        if state.puts_off(bufs, self.0.entry(), cx) {
            return Poll::Pending;
        }
        let result = Pin::new(&mut state.stream).poll_write_vectored(cx, bufs);
        state.wrote(bufs, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.can_move() {
            // The kernel has what was written.
            return Poll::Ready(Ok(()));
        }
        let mut state = self.0.lock();
        let flushed = Pin::new(&mut state.stream).poll_flush(cx);
        // Records wait to be written: a write that was taken need not have left.
        match (&flushed, state.gather) {
            (Poll::Pending, _) => state.written = Written::Blocked,
            (Poll::Ready(_), Gather::Waited) => {}
            (Poll::Ready(_), Gather::Never | Gather::Next) => state.written = Written::All,
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        match state.owner {
            Owner::Server => Poll::Ready(Ok(())),
            Owner::Upgraded => Pin::new(&mut state.stream).poll_shutdown(cx),
        }
    }
}

#[cfg(feature = "tungstenite029")]
impl Io {
    /// Its wire, to be held by whoever asks.
    pub(crate) fn wire(self) -> Arc<Wire> {
        let wire = Arc::clone(&self.0);
        wire.lock().dropped = Dropped::ByUs;
        drop(self);
        wire.lock().dropped = Dropped::ByHandler;
        wire
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if !self.0.is_left_behind() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(farewell::part(Arc::clone(&self.0))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connection::{Arrival, Socket};
    use crate::work::{Clock, Hold, Peer, Registry, RequestName};

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Wakes>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn connected() -> (Arc<Wire>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (socket, peer) = listener.accept().await.unwrap();
        socket.writable().await.unwrap();
        let guard = Registry::new().connect(Arc::from("test"), Peer::Tcp(peer), Hold::Drain);
        let stream = Stream::new(Socket::Tcp(socket), guard, Arrival::Open);
        (Wire::new(stream, Vec::new()), client)
    }

    fn request() -> RequestName {
        RequestName { method: ::http::Method::GET, path: None, since: Clock::now() }
    }

    /// Writes `length` bytes once; how many were taken, and how often the task was woken.
    fn write(wire: &Arc<Wire>, length: usize) -> (Option<usize>, usize) {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut io = Io(Arc::clone(wire));
        let written =
            Pin::new(&mut io).poll_write(&mut Context::from_waker(&waker), &vec![0; length]);
        let written = match written {
            Poll::Ready(written) => Some(written.unwrap()),
            Poll::Pending => None,
        };
        (written, wakes.0.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_short_http2_write_waits_one_turn_for_the_answers_in_hand() {
        let (wire, _client) = connected().await;
        wire.becomes_http2();
        assert_eq!(write(&wire, 100), (Some(100), 0), "nothing is in hand");
        let slot = wire.entry().request_begins(request());
        for _ in 0..2 {
            assert_eq!(write(&wire, 100), (None, 1), "its next turn comes by itself");
            assert_eq!(write(&wire, 300), (Some(300), 0), "and it waits for one turn only");
        }
        assert_eq!(write(&wire, GATHERED), (Some(GATHERED), 0), "a long write goes at once");
        assert_eq!(write(&wire, 100), (None, 1));
        wire.entry().request_ends(slot);
        assert_eq!(write(&wire, 100), (Some(100), 0));
    }

    #[tokio::test]
    async fn an_http1_answer_never_waits() {
        let (wire, _client) = connected().await;
        let _slot = wire.entry().request_begins(request());
        assert_eq!(write(&wire, 100), (Some(100), 0));
    }
}
