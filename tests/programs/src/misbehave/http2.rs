//! HTTP/2: hyper's engine behind a relay that can change what it says.

use super::connection::Io;
use super::routes::{self, Piece, Reply};
use super::server::{Phase, Server};
use super::{Fault, relay};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{HeaderMap, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// Between the engine and the relay.
const PIPE_BYTES: usize = 64 * 1024;

pub(super) async fn serve(server: &Arc<Server>, io: Io, begun: Vec<u8>) {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let engine = tokio::spawn(engine(server.clone(), near));
    relay::run(server, io, begun, far).await;
    engine.abort();
}

async fn engine(server: Arc<Server>, pipe: tokio::io::DuplexStream) {
    let handler = server.clone();
    let service = service_fn(move |request| handle(handler.clone(), request));
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(pipe), service));
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        () = server.drained_by(Fault::CutInFlight) => return,
        () = server.reached(Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection.as_mut() => {}
        () = server.reached(Phase::Forced) => {}
    }
}

async fn handle(
    server: Arc<Server>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    if server.has(Fault::MuteNewStreams) && server.is_draining() {
        routes::count(&server);
        return std::future::pending().await;
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let is_read = routes::is_known(request.uri().path()) && request.uri().path() != "/a";
    let body = match is_read {
        true => request.into_body().collect().await.map_err(io::Error::other)?.to_bytes(),
        false => Bytes::new(),
    };
    let reply = routes::answer(&server, &target, body).await;
    let reply = reply.ok_or_else(|| io::Error::other("cut"))?;
    let (status, kind, body) = match reply {
        Reply::Whole { status, kind, body } => (status, kind, Body::Whole(Some(body))),
        Reply::Stream { kind, pieces } => (200, kind, Body::Stream(pieces)),
    };
    let response = Response::builder().status(status).header("content-type", kind).body(body);
    response.map_err(io::Error::other)
}

enum Body {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Piece>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let pieces = match &mut *self {
            Body::Whole(body) => return Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Body::Stream(pieces) => pieces,
        };
        Poll::Ready(ready!(pieces.poll_recv(context)).map(|piece| match piece {
            Piece::Data(data) => Ok(Frame::data(data)),
            Piece::Status(code) => Ok(Frame::trailers(trailers(code))),
            Piece::Cut => Err(io::Error::other("cut")),
        }))
    }
}

fn trailers(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers
}
