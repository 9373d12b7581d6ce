//! `POST /jobs?take=MS` and `GET /jobs`.

use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::{JobQueue, TAKE_LIMIT};
use crate::routes::answer;

pub(crate) fn router(jobs: JobQueue) -> Router {
    Router::new().route("/jobs", get(states).post(post)).with_state(jobs)
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    take: u64,
}

#[derive(Serialize)]
struct Posted {
    id: i64,
}

async fn post(
    State(jobs): State<JobQueue>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let take = match wanted {
        Ok(Query(Wanted { take })) => Duration::from_millis(take),
        Err(error) => return answer::refusal(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    if take > TAKE_LIMIT {
        let message = format!("a job may take {} ms", TAKE_LIMIT.as_millis());
        return answer::refusal(StatusCode::BAD_REQUEST, &message);
    }
    match jobs.post(take).await {
        Ok(id) => answer::json(StatusCode::CREATED, &Posted { id }),
        Err(error) => answer::refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

async fn states(State(jobs): State<JobQueue>) -> Response {
    match jobs.states().await {
        Ok(states) => answer::json(StatusCode::OK, &states),
        Err(error) => answer::refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}
