//! What there is to ask for, for both versions of HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/b` | counts at once; a `POST` is read to its end first |
//! | `/a?ms=N` | counts after a while |
//! | `/orders` | what was sent |
//! | `/download?bytes=N` | so many bytes |
//! | `/stream?pieces=N` | a piece each 100 ms, in no length told before |
//! | `/endless` | pieces for ever |
//! | `/events` | server-sent events |
//! | `/poll` | nothing to tell for a minute |
//! | `/match` | a WebSocket that echoes |
//! | `/ready`, `/live` | readiness, liveness |
//! | `/child` | starts a child process |
//! | `/grpc.health.v1.Health/Watch` | a gRPC stream |

use super::Fault;
use super::server::{Phase, Server};
use crate::app::number;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two pieces of a stream, or two events.
const PIECE_PAUSE: Duration = Duration::from_millis(100);
/// How long a poll waits for news that never come.
const POLL_LIMIT: Duration = Duration::from_secs(60);
const PIECES: u64 = 20;
const PIECE: &[u8] = &[b'x'; 16 * 1024];
/// A gRPC message: not compressed, two bytes long, `status: SERVING`.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
const GRPC: &str = "/grpc.health.v1.Health/Watch";

pub(super) const JSON: &str = "application/json";

/// An answer.
pub(super) enum Reply {
    Whole { status: u16, kind: &'static str, body: Bytes },
    Stream { kind: &'static str, pieces: mpsc::Receiver<Piece> },
}

/// A piece of an answer.
pub(super) enum Piece {
    Data(Bytes),
    /// The gRPC status that ends a stream.
    Status(&'static str),
    /// The stream breaks off here.
    Cut,
}

/// Whether a request to this path is read before it is answered.
pub(super) fn is_known(path: &str) -> bool {
    matches!(
        path,
        "/" | "/b"
            | "/a"
            | "/orders"
            | "/download"
            | "/stream"
            | "/endless"
            | "/events"
            | "/poll"
            | "/match"
            | "/ready"
            | "/live"
            | "/child"
            | GRPC
    )
}

/// The answer, or nothing where the connection is to be cut instead.
pub(super) async fn answer(server: &Arc<Server>, target: &str, body: Bytes) -> Option<Reply> {
    let _work = server.work();
    let (path, query) =
        target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let whole = |status, body: String| Reply::Whole { status, kind: JSON, body: body.into() };
    Some(match path {
        "/" | "/b" if server.is_cold() => whole(503, "cold".to_owned()),
        "/" | "/b" => whole(200, count(server)),
        "/a" => {
            let wait = number(query, "ms").map_or(server.options.slow, Duration::from_millis);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = server.drained_by(Fault::CutInFlight) => return None,
            }
            whole(200, count(server))
        }
        "/orders" => {
            count(server);
            Reply::Whole { status: 200, kind: JSON, body }
        }
        "/download" => {
            let bytes = number(query, "bytes").unwrap_or(0);
            stream(server, "application/octet-stream", move |server, to| {
                download(server, to, bytes)
            })
        }
        "/stream" => {
            let pieces = number(query, "pieces").unwrap_or(PIECES);
            stream(server, "text/plain", move |server, to| pieces_of(server, to, pieces))
        }
        "/endless" => stream(server, "text/plain", |server, to| pieces_of(server, to, u64::MAX)),
        "/events" => stream(server, "text/event-stream", events),
        GRPC => stream(server, "application/grpc", health),
        "/poll" => {
            tokio::select! {
                () = tokio::time::sleep(POLL_LIMIT) => {}
                () = server.reached(Phase::Draining), if !server.has(Fault::HoldLongPolls) => {}
            }
            whole(200, "{\"news\": []}".to_owned())
        }
        "/ready" => match is_ready(server) {
            true => whole(200, "ready".to_owned()),
            false => whole(503, "not ready".to_owned()),
        },
        "/live" => match server.has(Fault::DeadWhileDraining) && server.phase() > Phase::Serving {
            true => whole(503, "dead".to_owned()),
            false => whole(200, "live".to_owned()),
        },
        "/child" => child(server),
        _ => whole(404, "{\"error\": \"no such path\"}".to_owned()),
    })
}

pub(super) fn count(server: &Server) -> String {
    let number = server.count.fetch_add(1, SeqCst) + 1;
    format!("{{\"num\": {number}, \"pid\": {}}}", std::process::id())
}

fn is_ready(server: &Server) -> bool {
    // A successor's first moments are when the upgrade is.
    let is_new =
        server.options.predecessor.is_some() && server.began.elapsed() < Duration::from_millis(300);
    if server.has(Fault::RedAtUpgrade) && is_new {
        return false;
    }
    // One that has been replaced speaks for its successor.
    let is_served = server.phase() == Phase::Serving || server.upgrades.load(SeqCst) > 0;
    server.has(Fault::ReadyWhileDraining) || is_served
}

/// A child that would outlive its parent, and ends with it where the parent is careful.
fn child(server: &Server) -> Reply {
    let spawned = std::process::Command::new("sleep").arg("3600").spawn();
    let (status, body) = match spawned {
        Ok(child) => {
            server.adopt(rustix::process::Pid::from_child(&child));
            (200, format!("{{\"child\": {}}}", child.id()))
        }
        Err(error) => (500, error.to_string()),
    };
    Reply::Whole { status, kind: JSON, body: body.into() }
}

/// A stream that a task of its own fills.
fn stream<F: Future<Output = ()> + Send + 'static>(
    server: &Arc<Server>,
    kind: &'static str,
    fill: impl FnOnce(Arc<Server>, mpsc::Sender<Piece>) -> F,
) -> Reply {
    let (to, pieces) = mpsc::channel(1);
    tokio::spawn(fill(server.clone(), to));
    Reply::Stream { kind, pieces }
}

async fn download(server: Arc<Server>, to: mpsc::Sender<Piece>, bytes: u64) {
    let _work = server.work();
    let mut left = bytes;
    while left > 0 {
        let length = PIECE.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let piece = Piece::Data(Bytes::from_static(&PIECE[..length]));
        tokio::select! {
            sent = to.send(piece) => if sent.is_err() { return },
            () = server.drained_by(Fault::CutSlowReader) => {
                return drop(to.send(Piece::Cut).await);
            }
        }
        left -= length as u64;
    }
}

async fn pieces_of(server: Arc<Server>, to: mpsc::Sender<Piece>, pieces: u64) {
    let _work = server.work();
    for _ in 0..pieces {
        if to.send(Piece::Data(Bytes::from_static(b"a piece of the stream\n"))).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(PIECE_PAUSE) => {}
            () = server.drained_by(Fault::EndStreamEarly) => return,
            () = server.drained_by(Fault::CutInFlight) => {
                return drop(to.send(Piece::Cut).await);
            }
        }
    }
}

async fn events(server: Arc<Server>, to: mpsc::Sender<Piece>) {
    for number in 0.. {
        let event = format!("id: {number}\nevent: tick\ndata: {{\"num\": {number}}}\n\n");
        if to.send(Piece::Data(event.into())).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(PIECE_PAUSE) => {}
            () = server.reached(Phase::Draining) => break,
        }
    }
    if server.has(Fault::CutEvent) {
        let _ = to.send(Piece::Data(Bytes::from_static(b"id: 7\nevent: ti"))).await;
    }
}

async fn health(server: Arc<Server>, to: mpsc::Sender<Piece>) {
    if to.send(Piece::Data(Bytes::from_static(SERVING))).await.is_err() {
        return;
    }
    tokio::select! {
        () = server.reached(Phase::Draining) => {}
        () = to.closed() => return,
    }
    let last = if server.has(Fault::BareGrpc) { Piece::Cut } else { Piece::Status("14") };
    let _ = to.send(last).await;
}
