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

/// Serves one connection until it closes, is upgraded or is cut.
pub(crate) async fn serve<S, B>(mut stream: Stream, service: S, linger: Duration)
where
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
    match first_bytes(&mut stream, silence).await {
        First::Http1(read) => http1(Wire::new(stream, read), service, linger).await,
        First::Http2(read) => http2(Wire::new(stream, read), service).await,
        First::Silent => close(&Wire::new(stream, Vec::new()), QUIET_IDLE).await,
        First::Unfinished => close(&Wire::new(stream, Vec::new()), QUIET).await,
        First::Gone => {}
    }
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
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        sleep.as_mut().poll(cx)
    }
}

enum First {
    Http1(Vec<u8>),
    Http2(Vec<u8>),
    /// No byte came.
    Silent,
    /// An HTTP/2 preface that was not finished.
    Unfinished,
    Gone,
}

/// Reads until the protocol is known.
async fn first_bytes(stream: &mut Stream, silence: Duration) -> First {
    let mut read = Vec::new();
    let mut patience = Patience::new();
    poll_fn(|cx| {
        loop {
            let wait = if read.is_empty() { silence } else { HEAD };
            let mut bytes = [0; FIRST_READ];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(First::Gone),
                Poll::Ready(Ok(())) => read.extend_from_slice(buf.filled()),
                Poll::Ready(Err(_)) => return Poll::Ready(First::Gone),
                Poll::Pending => {
                    let over = patience.poll(stream.entry(), wait, cx).is_ready();
                    return match (over, read.is_empty()) {
                        (false, _) => Poll::Pending,
                        (true, true) => Poll::Ready(First::Silent),
                        (true, false) => Poll::Ready(First::Unfinished),
                    };
                }
            }
            let known = read.len().min(PREFACE.len());
            if read[..known] != PREFACE[..known] {
                return Poll::Ready(First::Http1(std::mem::take(&mut read)));
            }
            if known == PREFACE.len() {
                return Poll::Ready(First::Http2(std::mem::take(&mut read)));
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

async fn http1<S, B>(wire: Arc<Wire>, service: S, linger: Duration)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
{
    let mut wait = linger;
    let mut told_at = None;
    loop {
        let (asked, rest) = http1_until_done(&wire, service.clone(), wait, &mut told_at).await;
        let unused = match rest {
            Rest::Upgraded => return,
            Rest::Unused(unused) => unused,
        };
        // Closed for any reason but our asking an idle connection to finish: nothing more is owed.
        if asked == Asked::No || wire.answers() == Answers::CloseAnnounced {
            let quiet = match asked {
                Asked::No => QUIET,
                Asked::Finish => QUIET_IDLE,
            };
            let quiet = if wire.answers() == Answers::CloseAnnounced { QUIET } else { quiet };
            return close(&wire, quiet).await;
        }
        // A request may have arrived, whole or in part, in the moment the connection was let go.
        wire.rewind(&unused);
        let unread = poll_fn(|cx| Poll::Ready(wire.poll_unread(cx))).await;
        if !unread {
            return close(&wire, QUIET_IDLE).await;
        }
        let head_until = told_at.unwrap_or_else(Instant::now) + HEAD;
        wait = head_until.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return time_out(&wire).await;
        }
    }
}

/// Whether we asked hyper to let the connection go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    Finish,
}

/// Runs hyper on the connection until it is done with it; once told to finish, asks it to after `wait`.
async fn http1_until_done<S, B>(
    wire: &Arc<Wire>,
    service: S,
    wait: Duration,
    told_at: &mut Option<Instant>,
) -> (Asked, Rest)
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
    let mut asked = Asked::No;
    // hyper's errors are the client's doing (malformed, gone) or the force: the close below is the answer to each.
    let _ = poll_fn(|cx| {
        if asked == Asked::No {
            if told_at.is_none() && wire.entry().told() >= Told::Finish {
                *told_at = Some(Instant::now());
            }
            if patience.poll(wire.entry(), wait, cx).is_ready() {
                asked = Asked::Finish;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
        Pin::new(&mut connection).poll(cx)
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
        if asked == Asked::No && wire.entry().told() >= Told::Finish {
            asked = Asked::Finish;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // hyper waits for the PING's answer, and for a preface, without a bound. We do not: but streams in hand are
        // always waited for.
        if asked == Asked::Finish
            && patience.poll(wire.entry(), PING, cx).is_ready()
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
