//! Bytes in and out, in bounded memory.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};

use super::answer;

/// The largest upload.
pub const UPLOAD_LIMIT_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// How long an upload may pause before it is given up.
pub const UPLOAD_PAUSE: Duration = Duration::from_secs(30);
/// The largest download.
pub const DOWNLOAD_LIMIT_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// How many bytes of a download are handed to the connection at once.
pub const CHUNK_BYTES: usize = 64 * 1024;

pub(super) fn router() -> Router {
    Router::new().route("/upload", post(upload)).route("/download", get(download))
}

#[derive(Serialize)]
struct Received {
    bytes: u64,
}

async fn upload(mut body: Body) -> Response {
    // A body that announces its length is refused before it is sent.
    let mut bytes = 0;
    if body.size_hint().lower() > UPLOAD_LIMIT_BYTES {
        return too_large();
    }
    loop {
        let frame = match tokio::time::timeout(UPLOAD_PAUSE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                let message = format!("the body ended after {bytes} bytes: {error}");
                return answer::refusal(StatusCode::BAD_REQUEST, &message);
            }
            Ok(None) => return answer::json(StatusCode::OK, &Received { bytes }),
            Err(_) => {
                let message = format!("no byte came for {} s", UPLOAD_PAUSE.as_secs());
                return answer::refusal(StatusCode::REQUEST_TIMEOUT, &message);
            }
        };
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        if bytes > UPLOAD_LIMIT_BYTES {
            return too_large();
        }
    }
}

fn too_large() -> Response {
    let message = format!("an upload may have {UPLOAD_LIMIT_BYTES} bytes");
    answer::refusal(StatusCode::PAYLOAD_TOO_LARGE, &message)
}

#[derive(Deserialize)]
struct Wanted {
    bytes: u64,
}

async fn download(wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
    match wanted {
        Ok(Query(Wanted { bytes })) if bytes <= DOWNLOAD_LIMIT_BYTES => {
            let mut response = Response::new(Body::new(Pattern { left: bytes }));
            let kind = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Ok(_) => {
            let message = format!("a download may have {DOWNLOAD_LIMIT_BYTES} bytes");
            answer::refusal(StatusCode::BAD_REQUEST, &message)
        }
        Err(_) => answer::refusal(StatusCode::BAD_REQUEST, "write /download?bytes=N"),
    }
}

/// Byte `i` is `i % 256`, so that a reader can tell a gap from a delay.
static CHUNK: [u8; CHUNK_BYTES] = {
    let mut chunk = [0; CHUNK_BYTES];
    let mut at = 0;
    while at < CHUNK_BYTES {
        chunk[at] = (at % 256) as u8;
        at += 1;
    }
    chunk
};

/// A body of known length made of one static chunk: a slow reader costs no memory here.
struct Pattern {
    left: u64,
}

impl HttpBody for Pattern {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let bytes = CHUNK_BYTES.min(usize::try_from(self.left).unwrap_or(CHUNK_BYTES));
        if bytes == 0 {
            return Poll::Ready(None);
        }
        self.left -= bytes as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK[..bytes])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
