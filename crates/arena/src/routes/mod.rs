//! What the service answers.
//!
//! | request | answer |
//! |---|---|
//! | `GET /a`, `GET /a?for=MS` | waits [`App::slow`], or so long, then counts one: `{"num":n}` |
//! | `GET /b` | counts one at once: `{"num":n}` |
//! | `GET /version` | which program, which generation, which process |
//! | `POST /orders` | stores an order: 201 new, 200 again, 409 another with that id |
//! | `GET /orders/{id}`, `GET /orders/count` | what is stored |
//! | `POST /jobs?take=MS` | stores a background job that takes so long: 201 `{"id":n}` |
//! | `GET /jobs` | how many jobs are in which state, and what they did |
//! | `GET /events` | each count as a server-sent event |
//! | `GET /next` | waits for the next count, a minute at most and not beyond the begin of a drain: `{"num":n}` |
//! | `GET /sleep` | starts a program that outlives the request, and not the service: `{"child":PID}` |
//! | `POST /upload` | reads a body to its end: `{"bytes":n}` |
//! | `GET /download?bytes=N` | N bytes |
//!
//! Everything else is refused in JSON. Sockets that outlive a request (WebSocket) and gRPC get
//! a file of their own beside these and one line in [`router`].

pub(crate) mod answer;
pub mod events;
pub(crate) mod next;
pub(crate) mod programs;
mod transfer;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::http::Uri;
use axum::response::Response;
use axum::routing::get;
use serde::{Deserialize, Serialize};

use crate::counter::Counter;
use crate::jobs::{self, JobQueue};
use crate::orders::{self, Orders};

pub use self::events::Events;
pub use self::next::POLL_LIMIT;
pub use self::programs::PROGRAMS;
pub use self::transfer::{CHUNK_BYTES, DOWNLOAD_LIMIT_BYTES, UPLOAD_LIMIT_BYTES, UPLOAD_PAUSE};

/// The longest wait that a request to `/a` may ask for, in milliseconds.
pub const WAIT_LIMIT_MS: u64 = 3_600_000;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct App {
    /// Counts `GET /a` and `GET /b`.
    pub counter: Arc<Counter>,
    /// Takes orders.
    pub orders: Arc<Orders>,
    /// Background jobs.
    pub jobs: JobQueue,
    /// Tells what is counted.
    pub events: Events,
    /// How long `GET /a` waits before it counts.
    pub slow: Duration,
    /// The version `GET /version` tells.
    pub version: Arc<str>,
    /// This process's place in the chain of upgrades; the first is 1.
    pub generation: u32,
}

/// All routes of the service.
pub fn router(app: &App) -> Router {
    let (counter, slow) = (Arc::clone(&app.counter), app.slow);
    let a = get(move |wanted: Result<Query<Wait>, QueryRejection>| async move {
        let wait = match wanted {
            Ok(Query(Wait { milliseconds: None })) => slow,
            Ok(Query(Wait { milliseconds: Some(wait) })) if wait <= WAIT_LIMIT_MS => {
                Duration::from_millis(wait)
            }
            Ok(_) | Err(_) => {
                let message = format!("write /a?for=MS with at most {WAIT_LIMIT_MS} ms");
                return answer::refusal(StatusCode::BAD_REQUEST, &message);
            }
        };
        tokio::time::sleep(wait).await;
        answer::number(counter.next())
    });
    // The measured path: no extractor, no state to clone but one pointer, an answer in two allocations.
    let counter = Arc::clone(&app.counter);
    let b = get(move || std::future::ready(answer::number(counter.next())));

    let (program, generation) = (Arc::clone(&app.version), app.generation);
    let version = get(move || async move {
        let pid = std::process::id();
        answer::json(StatusCode::OK, &Version { version: &program, generation, pid })
    });

    Router::new()
        .route("/a", a)
        .route("/b", b)
        .route("/version", version)
        .merge(orders::http::router(Arc::clone(&app.orders)))
        .merge(jobs::http::router(app.jobs.clone()))
        .merge(events::router(app.events.clone()))
        .merge(transfer::router())
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
}

/// How long a request to `/a` wants to wait.
#[derive(Deserialize)]
struct Wait {
    #[serde(rename = "for")]
    milliseconds: Option<u64>,
}

#[derive(Serialize)]
struct Version<'a> {
    version: &'a str,
    generation: u32,
    pid: u32,
}

async fn unknown_path(uri: Uri) -> Response {
    answer::refusal(StatusCode::NOT_FOUND, &format!("no such path: {}", uri.path()))
}

async fn wrong_method(uri: Uri) -> Response {
    let message = format!("{} does not answer this method", uri.path());
    answer::refusal(StatusCode::METHOD_NOT_ALLOWED, &message)
}
