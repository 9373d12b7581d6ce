//! `GET /sleep`: starts a program that outlives its request, as a conversion or an export does: `{"child":PID}`.
//!
//! It is a [child](lameduck::child) of the lifecycle: told when a drain begins, and gone with the service.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use lameduck::Lifecycle;
use serde::Serialize;

use super::answer;

/// How many such programs there may be at once.
pub const PROGRAMS: usize = 16;
/// What is started; it does nothing for ten minutes.
const PROGRAM: [&str; 2] = ["sleep", "600"];

#[derive(Clone)]
struct Programs {
    life: Lifecycle,
    running: Arc<AtomicUsize>,
}

#[derive(Serialize)]
struct Started {
    child: u32,
}

/// The route.
pub fn router(life: &Lifecycle) -> Router {
    let programs = Programs { life: life.clone(), running: Arc::default() };
    Router::new().route("/sleep", get(start)).with_state(programs)
}

async fn start(State(Programs { life, running }): State<Programs>) -> Response {
    if running.fetch_add(1, Ordering::Relaxed) >= PROGRAMS {
        running.fetch_sub(1, Ordering::Relaxed);
        let message = format!("{PROGRAMS} programs run already");
        return answer::refusal(StatusCode::TOO_MANY_REQUESTS, &message);
    }
    let [program, time] = PROGRAM;
    let mut command = Command::new(program);
    command.arg(time);
    match life.child(program, command) {
        Ok(child) => {
            let started = Started { child: child.id() };
            // The lifecycle waits for it and tells it; this only counts.
            drop(tokio::spawn(async move {
                child.await;
                running.fetch_sub(1, Ordering::Relaxed);
            }));
            answer::json(StatusCode::OK, &started)
        }
        Err(error) => {
            running.fetch_sub(1, Ordering::Relaxed);
            answer::refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
        }
    }
}
