//! The life of one HTTP connection, from its first byte to its close. One task owns it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, timeout};
use tower_service::Service;

use crate::connection::{Arrival, Stream, Wakers};
use crate::handover::{Moved, Moving};
use crate::http::tracking::Tracking;
use crate::http::wire::{Answers, Io, Wire};
use crate::http::{BoxError, FIRST_BYTE, HEAD, LINGERING, PING, QUIET, QUIET_IDLE};
use crate::work::{Entry, Side, Told};

/// What every HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is read at first, to tell the protocols apart.
const FIRST_READ: usize = 2048;

/// What a client is told whose head did not come in time.
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves one connection, of which `read` was read already, until it closes, moves, is upgraded or is cut.
pub(crate) async fn serve<S, B>(
    mut stream: Stream,
    read: Vec<u8>,
    service: S,
    linger: Duration,
    moving: Moving,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    // Everything below is polled by this one task: its waker is noted once, not at each wait.
    stream.set_wakers(Wakers::OneTask);
    poll_fn(|cx| {
        stream.entry().polled_by(Side::Read, cx.waker());
        Poll::Ready(())
    })
    .await;
    let silence = match stream.arrival() {
        Arrival::Open => linger,
        Arrival::AtTheGate => linger.max(FIRST_BYTE),
    };
    let mut may_move = MayMove::Yes;
    let mut read = read;
    loop {
        match first_bytes(&mut stream, &mut read, silence, may_move).await {
            First::Idle => {
                let server = Arc::clone(stream.entry().server());
                match moving.send(Moved { server, stream, unread: Vec::new() }) {
                    Ok(()) => return,
                    Err(refused) => {
                        stream = refused.stream;
                        may_move = MayMove::No;
                    }
                }
            }
            First::Http1 => {
                return http1(Wire::new(stream, read), service, linger, &moving).await;
            }
            First::Http2 => return http2(Wire::new(stream, read), service).await,
            First::Silent => return close(&Wire::new(stream, Vec::new()), QUIET_IDLE).await,
            First::Unfinished => return close(&Wire::new(stream, Vec::new()), QUIET).await,
            First::Gone => return,
        }
    }
}

/// Whether a connection may try to move (again).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MayMove {
    Yes,
    /// It was refused: it stays until it has been served once more, and finishes when it is told to.
    No,
}

/// A wait that begins when the connection is told to finish.
struct Patience {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new() -> Patience {
        Patience { sleep: None }
    }

    /// Ready once the connection has been told to finish `patience` ago.
    fn poll(&mut self, entry: &Entry, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if entry.told() < Told::Finish {
            return Poll::Pending;
        }
        self.poll_asked(patience, cx)
    }

    /// Ready `patience` after it was first polled.
    fn poll_asked(&mut self, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        sleep.as_mut().poll(cx)
    }
}

enum First {
    Http1,
    Http2,
    /// No byte came, and the connection may go to the successor as it is.
    Idle,
    /// No byte came in time.
    Silent,
    /// An HTTP/2 preface that was not finished.
    Unfinished,
    Gone,
}

/// What the bytes read so far say.
fn protocol(read: &[u8]) -> Option<First> {
    let known = read.len().min(PREFACE.len());
    if read[..known] != PREFACE[..known] {
        Some(First::Http1)
    } else if known == PREFACE.len() {
        Some(First::Http2)
    } else {
        None
    }
}

/// Reads until the protocol is known.
async fn first_bytes(
    stream: &mut Stream,
    read: &mut Vec<u8>,
    silence: Duration,
    may_move: MayMove,
) -> First {
    let mut patience = Patience::new();
    poll_fn(|cx| {
        loop {
            if let Some(first) = protocol(read) {
                return Poll::Ready(first);
            }
            let mut bytes = [0; FIRST_READ];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(First::Gone),
                Poll::Ready(Ok(())) => read.extend_from_slice(buf.filled()),
                Poll::Ready(Err(_)) => return Poll::Ready(First::Gone),
                Poll::Pending => {
                    let told = stream.entry().told();
                    if told == Told::Move && may_move == MayMove::Yes && read.is_empty() {
                        return Poll::Ready(First::Idle);
                    }
                    let wait = if read.is_empty() { silence } else { HEAD };
                    let over = patience.poll(stream.entry(), wait, cx).is_ready();
                    return match (over, read.is_empty()) {
                        (false, _) => Poll::Pending,
                        (true, true) => Poll::Ready(First::Silent),
                        (true, false) => Poll::Ready(First::Unfinished),
                    };
                }
            }
            // A first byte came: the wait for the rest has its own bound, counted anew.
            patience = Patience::new();
        }
    })
    .await
}

/// What is left when hyper is done with a connection.
enum Rest {
    /// Somebody took the connection over.
    Upgraded,
    /// Bytes that hyper read and did not use.
    Unused(Vec<u8>),
}

async fn http1<S, B>(mut wire: Arc<Wire>, service: S, linger: Duration, moving: &Moving)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
{
    let mut until = Until { linger, told_at: None, may_move: MayMove::Yes };
    loop {
        let (asked, rest) = http1_until_done(&wire, service.clone(), &mut until).await;
        let unused = match rest {
            Rest::Upgraded => return,
            Rest::Unused(unused) => unused,
        };
        // Closed for any reason but our asking a quiet connection to let go: nothing more is owed.
        if asked == Asked::No || wire.answers() == Answers::CloseAnnounced {
            return close(&wire, QUIET).await;
        }
        wire.rewind(&unused);
        if asked == Asked::Move {
            match move_away(wire, moving) {
                None => return,
                Some(stays) => {
                    wire = stays;
                    until.may_move = MayMove::No;
                    continue;
                }
            }
        }
        // A request may have arrived, whole or in part, in the moment the connection was let go.
        let unread = poll_fn(|cx| Poll::Ready(wire.poll_unread(cx))).await;
        if !unread {
            return close(&wire, QUIET_IDLE).await;
        }
        if until.head_is_late() {
            return time_out(&wire).await;
        }
    }
}

/// Sends an idle connection to the successor; gives it back when it cannot go.
fn move_away(wire: Arc<Wire>, moving: &Moving) -> Option<Arc<Wire>> {
    let server = Arc::clone(wire.entry().server());
    // hyper and the handlers have let go of it: this task holds the only reference.
    let (stream, unread) = wire.into_stream()?;
    match moving.send(Moved { server, stream, unread }) {
        Ok(()) => None,
        Err(refused) => Some(Wire::new(refused.stream, refused.unread)),
    }
}

/// When an HTTP/1.1 connection is asked to let go.
struct Until {
    linger: Duration,
    told_at: Option<Instant>,
    may_move: MayMove,
}

impl Until {
    /// How long to wait from now on: the linger at first, then what is left of the head's time.
    fn wait(&self) -> Duration {
        match self.told_at {
            None => self.linger,
            Some(told_at) => (told_at + HEAD).saturating_duration_since(Instant::now()),
        }
    }

    fn head_is_late(&self) -> bool {
        self.told_at.is_some() && self.wait().is_zero()
    }
}

/// Whether we asked hyper to let the connection go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    /// To close it.
    Finish,
    /// To send it to the successor.
    Move,
}

/// Runs hyper on the connection until it is done with it, or until it is asked to let go.
async fn http1_until_done<S, B>(wire: &Arc<Wire>, service: S, until: &mut Until) -> (Asked, Rest)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
{
    let tracking = Tracking { service, wire: Arc::clone(wire) };
    let io = TokioIo::new(Io(Arc::clone(wire)));
    let mut connection =
        hyper::server::conn::http1::Builder::new().serve_connection(io, tracking).with_upgrades();
    let mut patience = Patience::new();
    let wait = until.wait();
    let mut asked = Asked::No;
    // hyper's errors are the client's doing (malformed, gone) or the force: the close that follows answers each.
    let _ = poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(done);
            }
            if asked != Asked::No {
                return Poll::Pending;
            }
            let told = wire.entry().told();
            if told >= Told::Finish && until.told_at.is_none() {
                until.told_at = Some(Instant::now());
            }
            if until.may_move == MayMove::No && wire.entry().requests() > 0 {
                // It has been served once more: it may ask again.
                until.may_move = MayMove::Yes;
            }
            let moves = told == Told::Move && until.may_move == MayMove::Yes;
            if moves && wire.is_between_requests() {
                asked = Asked::Move;
            } else if patience.poll(wire.entry(), wait, cx).is_ready() {
                asked = Asked::Finish;
            } else {
                return Poll::Pending;
            }
            Pin::new(&mut connection).graceful_shutdown();
        }
    })
    .await;
    match connection.into_parts() {
        Some(parts) => (asked, Rest::Unused(parts.read_buf.to_vec())),
        None => (asked, Rest::Upgraded),
    }
}

async fn http2<S, B>(wire: Arc<Wire>, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    wire.becomes_http2();
    let tracking = Tracking { service, wire: Arc::clone(&wire) };
    let io = TokioIo::new(Io(Arc::clone(&wire)));
    let mut connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(io, tracking);
    let mut patience = Patience::new();
    let mut asked = Asked::No;
    poll_fn(|cx| {
        if asked == Asked::No && wire.entry().told() >= Told::Move {
            asked = Asked::Finish;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // hyper waits for the PING's answer, and for a preface, without a bound. We do not: but streams in hand are
        // always waited for.
        if asked == Asked::Finish
            && patience.poll_asked(PING, cx).is_ready()
            && wire.entry().requests() == 0
        {
            return Poll::Ready(());
        }
        Pin::new(&mut connection).poll(cx).map(|_| ())
    })
    .await;
    drop(connection);
    close(&wire, QUIET).await;
}

async fn time_out(wire: &Wire) {
    // A few bytes into an empty send buffer: written at once or not at all.
    let _ = poll_fn(|cx| Poll::Ready(wire.poll_write_raw(cx, REQUEST_TIMEOUT))).await;
    close(wire, QUIET).await;
}

/// Half-closes and reads to the end, so that no reset erases what was sent (RFC 9112 §9.6).
async fn close(wire: &Wire, quiet: Duration) {
    if poll_fn(|cx| wire.poll_half_close(cx)).await.is_err() {
        return;
    }
    let lingering = async {
        loop {
            match timeout(quiet, poll_fn(|cx| wire.poll_discard(cx))).await {
                Ok(Ok(n)) if n > 0 => {}
                // The end, an error, or silence.
                Ok(Ok(_) | Err(_)) | Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGERING, lingering).await;
}
