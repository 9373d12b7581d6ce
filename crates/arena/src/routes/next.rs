//! `GET /next`: a long poll, answered with the next number that is counted.
//!
//! It waits for [`POLL_LIMIT`] at most, and not beyond the begin of a drain: a poll without news is work that can be
//! ended at once, and its client asks again, of the next version after an upgrade.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use lameduck::Drain;
use tokio::time::timeout;

use super::{Events, answer};

/// How long a poll waits when nothing is counted.
pub const POLL_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Poll {
    events: Events,
    drain: Drain,
}

/// The route.
pub fn router(events: Events, drain: Drain) -> Router {
    Router::new().route("/next", get(next)).with_state(Poll { events, drain })
}

async fn next(State(poll): State<Poll>) -> Response {
    let (mut seen, current) = poll.events.listen();
    let news = timeout(POLL_LIMIT, seen.wait_for(|seen| *seen > current));
    tokio::select! {
        // However it ended, the number that is current now is the answer.
        _ = news => {}
        () = poll.drain.started() => {}
    }
    answer::number(poll.events.current())
}
