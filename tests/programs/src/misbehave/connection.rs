//! One connection: what it speaks, and how it ends.

use super::server::{Phase, Server};
use super::{Fault, http1, http2};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a connection that has said nothing may live on in the drain.
const SILENT_LIMIT: Duration = Duration::from_millis(150);
/// How long a connection that has begun to say something may take for it in the drain.
pub(super) const BEGUN_LIMIT: Duration = Duration::from_millis(1000);
/// How long the peer may say nothing, and not close, after this side has closed.
const LINGER_LIMIT: Duration = Duration::from_millis(500);
/// What one read takes: requests in one segment are seen together.
pub(super) const READ_BYTES: usize = 16 * 1024;
/// The first byte of TLS (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// What HTTP/2 begins with; HTTP/1.1 has no such method.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A byte stream, with or without TLS, and a way to reset it.
pub(super) struct Io {
    pub(super) stream: Box<dyn Stream>,
    socket: Option<OwnedFd>,
}

impl Io {
    /// Ends it with a reset.
    pub(super) fn reset(self) {
        if let Some(socket) = &self.socket {
            // When it fails the connection is gone already.
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Ends it in order: half-close, then read to the end, so that no reset erases what was written.
    pub(super) async fn close(mut self, server: &Server) {
        if !(server.has(Fault::NoCloseNotify) && server.tls.is_some()) {
            let _ = self.stream.shutdown().await;
        }
        let ended = async {
            let mut buffer = [0; 4096];
            while let Ok(Ok(1..)) =
                tokio::time::timeout(LINGER_LIMIT, self.stream.read(&mut buffer)).await
            {
            }
        };
        tokio::select! {
            () = ended => {}
            () = server.reached(Phase::Forced) => {}
        }
    }

    /// Closes with whatever is unread: the kernel makes a reset of it.
    pub(super) fn drop_unread(self) {}
}

pub(super) async fn serve(server: &Arc<Server>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Some(mut io) = open(server, stream).await else { return };
    let mut begun = Vec::with_capacity(READ_BYTES);
    match speaks(server, &mut io, &mut begun).await {
        Some(Protocol::Http1) => http1::serve(server, io, begun).await,
        Some(Protocol::Http2) => http2::serve(server, io, begun).await,
        None => io.close(server).await,
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// With TLS, the handshake.
async fn open(server: &Server, stream: TcpStream) -> Option<Io> {
    let socket = io_fd(&stream).ok();
    let Some(acceptor) = &server.tls else { return Some(Io { stream: Box::new(stream), socket }) };
    // One port speaks both.
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = stream.peek(&mut first) => peeked.ok()?,
        () = drain_for(server, SILENT_LIMIT), if !server.has(Fault::SilentHolds) => 0,
        () = server.reached(Phase::Forced) => 0,
    };
    if peeked == 0 || first[0] != TLS_HANDSHAKE {
        return Some(Io { stream: Box::new(stream), socket });
    }
    let _held = server.has(Fault::HandshakeHolds).then(|| server.hold());
    let accepted = tokio::select! {
        accepted = acceptor.accept(stream) => accepted.ok()?,
        () = drain_for(server, BEGUN_LIMIT), if !server.has(Fault::HandshakeHolds) => return None,
    };
    Some(Io { stream: Box::new(accepted), socket })
}

fn io_fd(stream: &TcpStream) -> io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    stream.as_fd().try_clone_to_owned()
}

/// Reads until it is known what the client speaks.
async fn speaks(server: &Server, io: &mut Io, begun: &mut Vec<u8>) -> Option<Protocol> {
    loop {
        let known = begun.len().min(PREFACE.len());
        if known > 0 && begun[..known] != PREFACE[..known] {
            return Some(Protocol::Http1);
        }
        if begun.len() >= PREFACE.len() {
            return Some(Protocol::Http2);
        }
        let limit = if begun.is_empty() { SILENT_LIMIT } else { BEGUN_LIMIT };
        tokio::select! {
            read = io.stream.read_buf(begun) => match read {
                Ok(1..) => {}
                _ => return None,
            },
            () = drain_for(server, limit), if !server.has(Fault::SilentHolds) => return None,
            () = server.reached(Phase::Forced) => return None,
        }
    }
}

/// Until the drain has lasted so long.
pub(super) async fn drain_for(server: &Server, limit: Duration) {
    server.reached(Phase::Draining).await;
    tokio::time::sleep(limit).await;
}
