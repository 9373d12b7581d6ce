//! Orders over HTTP.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;

use super::{Order, Orders, PlaceError, Placed};
use crate::routes::answer::{json, refusal};

/// The largest body of `POST /orders`; the longest order fits even when each of its characters is escaped.
pub const BODY_LIMIT_BYTES: usize = 16 * 1024;
/// How long the body of an order may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// When to come again if the queue is full, in seconds.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("1");

pub(crate) fn router(orders: Arc<Orders>) -> Router {
    Router::new()
        .route("/orders", post(place))
        .route("/orders/count", get(count))
        .route("/orders/{id}", get(find))
        .with_state(orders)
}

#[derive(Serialize)]
struct Acknowledgement<'a> {
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

async fn place(State(orders): State<Arc<Orders>>, body: Body) -> Response {
    let order = match read(body).await.and_then(|body| parse(&body)) {
        Ok(order) => order,
        Err((status, message)) => return refusal(status, &message),
    };
    let id = order.id.clone();
    let acknowledge = |status, duplicate| {
        json(status, &Acknowledgement { id: &id, status: "committed", duplicate })
    };
    match orders.place(order).await {
        Ok(Placed::Committed) => acknowledge(StatusCode::CREATED, false),
        Ok(Placed::Duplicate) => acknowledge(StatusCode::OK, true),
        Ok(Placed::Conflict) => {
            refusal(StatusCode::CONFLICT, &format!("another order has the id {id}"))
        }
        Err(error) => unavailable(&error),
    }
}

/// An order without a fate is never a 500: the client is told that it may ask again.
fn unavailable(error: &PlaceError) -> Response {
    let message = format!("{error}; send the order again with the same id");
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, &message);
    response.headers_mut().insert(RETRY_AFTER, COME_AGAIN);
    response
}

type Refused = (StatusCode, String);

async fn read(body: Body) -> Result<Bytes, Refused> {
    let whole = Limited::new(body, BODY_LIMIT_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("an order may have {BODY_LIMIT_BYTES} bytes");
            Err((StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(error)) => {
            Err((StatusCode::BAD_REQUEST, format!("the body did not arrive: {error}")))
        }
        Err(_) => {
            let message = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Err((StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

fn parse(body: &[u8]) -> Result<Order, Refused> {
    let order: Order = serde_json::from_slice(body).map_err(|error| {
        // JSON of another shape is understood but of no use; anything else is not JSON.
        let status = match error.classify() {
            serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::BAD_REQUEST,
        };
        (status, error.to_string())
    })?;
    order.check().map_err(|message| (StatusCode::UNPROCESSABLE_ENTITY, message))?;
    Ok(order)
}

#[derive(Serialize)]
struct Stored {
    #[serde(flatten)]
    order: Order,
    status: &'static str,
}

async fn find(State(orders): State<Arc<Orders>>, Path(id): Path<String>) -> Response {
    match orders.find(&id).await {
        Ok(Some(order)) => json(StatusCode::OK, &Stored { order, status: "committed" }),
        Ok(None) => refusal(StatusCode::NOT_FOUND, &format!("no order has the id {id}")),
        Err(error) => refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

#[derive(Serialize)]
struct Count {
    count: u64,
}

async fn count(State(orders): State<Arc<Orders>>) -> Response {
    match orders.count().await {
        Ok(count) => json(StatusCode::OK, &Count { count }),
        Err(error) => refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}
