//! `GET /events`: each count as a server-sent event, none missed and none twice over stops and upgrades.
//!
//! An event's id is the number that was counted, so the counter is the history: it lives in memory that all generations
//! share, and its last value is stored at the end of each run. Whoever comes back with `Last-Event-ID` gets what was
//! counted since, up to [`HISTORY`] events; what lies further back is told as `event: missed`.
//!
//! After a crash up to a second of counts is given out again ([`crate::counter`]), and ids with them: a client that is
//! ahead of the counter goes on from where the counter is.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use lameduck::http::streams::Streams;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::answer;
use crate::counter::Counter;

/// How many events back a client is told what it missed.
pub const HISTORY: u64 = 100_000;
/// How often new counts are looked for while somebody listens. Other generations count too, in memory that wakes nobody.
pub const FOLLOW_EVERY: Duration = Duration::from_millis(20);
/// How many events are handed to a connection at once.
pub const EVENTS_AT_ONCE: u64 = 512;
/// How long nothing is sent before a comment shows that the connection is alive.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a client is told to wait before it comes back from a connection that broke. The last words of a stream that ends
/// in order say something else.
const RETRY: &str = "retry: 1000\n\n";

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tells whoever listens what is counted.
#[derive(Debug, Clone)]
pub struct Events {
    counter: Arc<Counter>,
    streams: Streams,
    follower: Arc<Follower>,
}

/// The last number that was seen, for all listeners of this process.
#[derive(Debug)]
struct Follower {
    seen: watch::Sender<u64>,
    /// Whether somebody looks.
    running: Mutex<bool>,
}

impl Events {
    /// Streams of what `counter` counts, which end as `streams` says.
    #[must_use]
    pub fn new(counter: Arc<Counter>, streams: Streams) -> Self {
        let follower = Follower { seen: watch::Sender::new(0), running: Mutex::new(false) };
        Self { counter, streams, follower: Arc::new(follower) }
    }

    /// Listens from now on: the second value is the number that was current.
    pub(super) fn listen(&self) -> (watch::Receiver<u64>, u64) {
        let follower = &self.follower;
        let mut running = follower.running.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = follower.seen.subscribe();
        if !*running {
            *running = true;
            let (follower, counter) = (Arc::clone(follower), Arc::clone(&self.counter));
            drop(tokio::spawn(async move { follower.follow(&counter).await }));
        }
        drop(running);
        (seen, self.current())
    }

    /// The last number that was counted.
    pub(super) fn current(&self) -> u64 {
        self.counter.current()
    }
}

impl Follower {
    /// Looks until nobody listens any more.
    async fn follow(&self, counter: &Counter) {
        loop {
            let current = counter.current();
            self.seen.send_if_modified(|seen| std::mem::replace(seen, current) != current);
            sleep(FOLLOW_EVERY).await;
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if self.seen.receiver_count() == 0 {
                *running = false;
                return;
            }
        }
    }
}

pub(super) fn router(events: Events) -> Router {
    Router::new().route("/events", get(listen)).with_state(events)
}

async fn listen(State(events): State<Events>, head: HeaderMap) -> Response {
    let last = match head.get(LAST_EVENT_ID).map(|id| id.to_str().ok()?.parse().ok()) {
        None => None,
        Some(Some(id)) => Some(id),
        Some(None) => {
            let message = "Last-Event-ID is not the id of an event from here";
            return answer::refusal(StatusCode::BAD_REQUEST, message);
        }
    };
    let (seen, current) = events.listen();
    let listener = Listener::new(seen, current, last);
    let body = StreamBody::new(stream::unfold(listener, |mut listener| async {
        let text = listener.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), listener))
    }));
    let mut response = Response::new(Body::new(events.streams.events(body)));
    let head = response.headers_mut();
    head.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    head.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Any page may show what is counted; nothing here belongs to a user.
    head.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// One client's place in the count.
struct Listener {
    seen: watch::Receiver<u64>,
    /// The next event it is told.
    next: u64,
    /// What is sent first.
    first: Option<String>,
}

impl Listener {
    fn new(seen: watch::Receiver<u64>, current: u64, last: Option<u64>) -> Self {
        // A client cannot be ahead, unless a crash took back what it was told.
        let last = last.unwrap_or(current).min(current);
        let oldest = current.saturating_sub(HISTORY);
        let mut first = RETRY.to_owned();
        if last < oldest {
            // Without an id: it is none of the events.
            let (from, to) = (last + 1, oldest);
            let _ = write!(first, "event: missed\ndata: {{\"from\":{from},\"to\":{to}}}\n\n");
        }
        Self { seen, next: last.max(oldest) + 1, first: Some(first) }
    }

    /// The next events, as text; whole ones, and at least a comment.
    async fn next(&mut self) -> Option<String> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let next = self.next;
        let Ok(seen) = timeout(KEEP_ALIVE, self.seen.wait_for(|seen| *seen >= next)).await else {
            return Some(":\n\n".to_owned());
        };
        // The sender lives as long as the service: an end is the end of the runtime.
        let last = (*seen.ok()?).min(next + EVENTS_AT_ONCE - 1);
        let mut text = String::new();
        for number in next..=last {
            let _ = write!(text, "id: {number}\ndata: {{\"num\":{number}}}\n\n");
        }
        self.next = last + 1;
        Some(text)
    }
}
