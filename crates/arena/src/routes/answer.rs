//! Answers in JSON, refusals included.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BEFORE: &[u8] = br#"{"num":"#;
const AFTER: &[u8] = b"}";

/// `{"num":n}`, written by hand into a buffer of exactly its size: a spare byte would cost a second allocation.
pub(crate) fn number(n: u64) -> Response {
    let digits = n.checked_ilog10().map_or(1, |power| power as usize + 1);
    let mut body = Vec::with_capacity(BEFORE.len() + digits + AFTER.len());
    body.extend_from_slice(BEFORE);
    body.resize(BEFORE.len() + digits, b'0');
    let mut rest = n;
    for digit in body[BEFORE.len()..].iter_mut().rev() {
        // The remainder of a division by ten fits a byte.
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    body.extend_from_slice(AFTER);
    response(StatusCode::OK, Bytes::from(body))
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("our answers are structs of strings and numbers");
    response(status, Bytes::from(body))
}

/// `{"error":"…"}`.
pub(crate) fn refusal(status: StatusCode, message: &str) -> Response {
    #[derive(Serialize)]
    struct Refusal<'a> {
        error: &'a str,
    }
    json(status, &Refusal { error: message })
}

fn response(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn every_number_is_written_as_serde_would() {
        let powers = (0..20).map(|power| 10_u64.pow(power));
        let around = powers.flat_map(|power| [power - 1, power, power + 1]);
        for n in around.chain([u64::MAX]) {
            let body = super::number(n).into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, serde_json::json!({ "num": n }).to_string());
        }
    }
}
