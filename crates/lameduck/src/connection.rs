//! An accepted connection: counted while it is open, marked at its first read, closable at the deadline.
//!
//! # Invariants
//!
//! 1. A connection is live from accept until its [`Stream`] is dropped, whoever holds it by then. An upgraded
//!    connection (WebSocket, CONNECT) is therefore counted like any other.
//! 2. Once force was told, every read and write fails; whoever waits in one is woken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::work::{ConnectionGuard, Entry, Side, Told};

/// The byte stream of an accepted connection, TCP or Unix.
///
/// It is live work as long as it exists. At the deadline, or when a stop is forced, reads and writes fail with
/// [`io::ErrorKind::ConnectionAborted`], so whatever is built on it ends.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    // After the socket: the descriptor is closed before the connection leaves the count.
    guard: ConnectionGuard,
    first_read: FirstRead,
    wakers: Wakers,
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "only HTTP waits for a first byte")
    )]
    arrival: Arrival,
}

#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstRead {
    Awaited,
    Done,
}

/// Who is woken when the connection is told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wakers {
    /// One task polls this connection and has said so itself.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP owns its connections"))]
    OneTask,
    /// Anybody may poll it: each wait notes its waker.
    EachWait,
}

/// When the connection was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// While the listener was open to everybody.
    Open,
    /// While the gate closed. Its first packets may have been dropped and come again after the client's
    /// retransmission time-out.
    AtTheGate,
}

impl std::fmt::Debug for ConnectionGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionGuard")
    }
}

impl Stream {
    pub(crate) fn new(socket: Socket, guard: ConnectionGuard, arrival: Arrival) -> Stream {
        Stream { socket, guard, first_read: FirstRead::Awaited, wakers: Wakers::EachWait, arrival }
    }

    /// The address of the other end; `None` for a Unix socket.
    ///
    /// # Errors
    ///
    /// When the connection is already gone.
    pub fn peer_addr(&self) -> io::Result<Option<std::net::SocketAddr>> {
        match &self.socket {
            Socket::Tcp(stream) => stream.peer_addr().map(Some),
            Socket::Unix(_) => Ok(None),
        }
    }

    /// The socket alone, if it is a Unix socket. It is no live work any more.
    pub(crate) fn into_unix(self) -> Option<UnixStream> {
        self.guard.entry().was_read();
        match self.socket {
            Socket::Unix(stream) => Some(stream),
            Socket::Tcp(_) => None,
        }
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        self.guard.entry()
    }

    /// The socket's descriptor, to be sent to a successor.
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn set_wakers(&mut self, wakers: Wakers) {
        self.wakers = wakers;
    }

    #[cfg(feature = "http")]
    pub(crate) fn arrival(&self) -> Arrival {
        self.arrival
    }

    /// Makes the end of this connection a reset, so that what was cut cannot pass for complete.
    #[cfg(feature = "http")]
    pub(crate) fn reset_on_close(&self) {
        // It is about to be closed: an error here changes nothing.
        let _ = match &self.socket {
            Socket::Tcp(stream) => {
                socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO))
            }
            Socket::Unix(_) => Ok(()),
        };
    }

    fn check(&mut self, side: Side, cx: &mut Context<'_>) -> io::Result<()> {
        if self.wakers == Wakers::EachWait {
            self.entry().polled_by(side, cx.waker());
        }
        match self.entry().told() {
            Told::Force => Err(cut()),
            Told::Serve | Told::MarkAnswers | Told::Move | Told::Finish => Ok(()),
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "connection cut: the stop was forced")
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(Side::Read, cx)?;
        let result = match &mut this.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if this.first_read == FirstRead::Awaited {
            this.first_read = FirstRead::Done;
            this.entry().was_read();
        }
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(Side::Write, cx)?;
        match &mut this.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(Side::Write, cx)?;
        match &mut this.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
