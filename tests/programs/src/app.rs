//! The application every axum-based server here answers with.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body::Frame;

/// One piece of a download: large enough to be quick, small enough that a client which does not
/// read holds no more than a few of them.
const PIECE: &[u8] = &[b'x'; 64 * 1024];

/// Between two pieces of a stream, or two events.
const PACE: Duration = Duration::from_millis(100);

const PACED_PIECE: &str = "a piece of the stream\n";
const PACED_PIECES: u64 = 20;

/// How long a poll waits for news that never come.
const POLL: Duration = Duration::from_secs(60);

/// Longer than any test: a blocked thread stays blocked until the process ends.
const BLOCKED: Duration = Duration::from_secs(3600);

static COUNT: AtomicU64 = AtomicU64::new(0);

/// `GET /a` waits (`slow`, or `?ms=`) and counts, `GET /b` counts at once, `POST /orders` answers
/// with what it was sent, `GET /download?bytes=N` streams, `GET /trickle` streams for ever with no length,
/// `GET /stream` streams twenty pieces in two seconds, `GET /events` sends events for ever, `GET /poll` waits for a
/// minute, `GET /block` and `GET /spin` block their thread.
pub fn router(slow: Duration) -> Router {
    Router::new()
        .route("/a", get(wait_and_count))
        .route("/b", get(async || count()))
        .route("/orders", post(async |body: Bytes| body))
        .route("/download", get(download))
        .route("/trickle", get(async || Response::new(Body::new(Trickle::Begun))))
        .route(
            "/stream",
            get(async || paced("text/plain", PACED_PIECES, |_| PACED_PIECE.to_owned())),
        )
        .route("/events", get(async || paced("text/event-stream", u64::MAX, event)))
        .route("/poll", get(poll))
        .route("/block", get(block))
        .route("/spin", get(spin))
        .with_state(slow)
}

async fn wait_and_count(State(slow): State<Duration>, RawQuery(query): RawQuery) -> Response {
    let wait = number(query.as_deref(), "ms").map_or(slow, Duration::from_millis);
    tokio::time::sleep(wait).await;
    count()
}

/// The benchmarked answer: the same few lines for every server compared.
fn count() -> Response {
    ([(CONTENT_TYPE, "application/json")], counted()).into_response()
}

/// Adds one and renders the article's answer.
pub fn counted() -> String {
    let num = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    format!("{{\"num\": {num}}}")
}

async fn download(RawQuery(query): RawQuery) -> Response {
    let bytes = number(query.as_deref(), "bytes").unwrap_or(0);
    Body::new(Pieces { left: bytes }).into_response()
}

async fn poll() -> Response {
    tokio::time::sleep(POLL).await;
    count()
}

fn event(number: u64) -> String {
    format!("id: {number}\nevent: tick\ndata: {{\"num\": {number}}}\n\n")
}

fn paced(kind: &'static str, pieces: u64, next: fn(u64) -> String) -> Response {
    let pace = tokio::time::interval(PACE);
    ([(CONTENT_TYPE, kind)], Body::new(Paced { pace, sent: 0, pieces, next })).into_response()
}

/// Blocks a worker thread on purpose, as a careless handler does.
async fn block() -> Response {
    std::thread::sleep(BLOCKED);
    count()
}

/// Blocks a worker thread as an endless loop does: it never yields, and no sleep can be interrupted.
async fn spin() -> Response {
    loop {
        std::hint::spin_loop();
    }
}

/// The number a query gives to a key, as in `?ms=300`.
pub fn number(query: Option<&str>, key: &str) -> Option<u64> {
    query?.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

/// A body that is made while it is sent: 64 MiB for a client that reads nothing cost no memory.
struct Pieces {
    left: u64,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = PIECE.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if length == 0 {
            return Poll::Ready(None);
        }
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}

/// A body that comes piece by piece, with no length told before.
struct Paced {
    pace: tokio::time::Interval,
    sent: u64,
    pieces: u64,
    next: fn(u64) -> String,
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent == self.pieces {
            return Poll::Ready(None);
        }
        std::task::ready!(self.pace.poll_tick(context));
        let piece = (self.next)(self.sent);
        self.sent += 1;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}

/// A body without a length: one piece, then nothing more and no end.
enum Trickle {
    Begun,
    Waiting,
}

impl http_body::Body for Trickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match *self {
            Trickle::Begun => {
                *self = Trickle::Waiting;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"begun\n")))))
            }
            Trickle::Waiting => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_query_gives_its_number_or_none() {
        assert_eq!(number(Some("x=1&ms=300"), "ms"), Some(300));
        assert_eq!(number(Some("ms=soon"), "ms"), None);
        assert_eq!(number(Some("msx=1"), "ms"), None);
        assert_eq!(number(None, "ms"), None);
    }
}
