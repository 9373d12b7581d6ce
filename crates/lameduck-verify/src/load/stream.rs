//! A TCP or Unix connection, and a look at it that no cache can falsify.

use crate::address::Address;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection that remembers a reset.
///
/// The kernel reports a reset once, to whoever asks first: a read, a write, or a look. Every later read finds
/// an end of file. So the first report is kept, for all to see.
pub(super) struct Stream {
    socket: Socket,
    reset: ResetSeen,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Whether a connection was reset, shared by all that use it.
#[derive(Clone, Default)]
pub(super) struct ResetSeen(Arc<AtomicBool>);

impl ResetSeen {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn note<T>(&self, result: &Poll<io::Result<T>>) {
        if let Poll::Ready(Err(_)) = result {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// What waits at the socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing: the peer has not closed.
    Quiet,
    /// At least one byte.
    Bytes,
    /// The peer closed in order.
    Closed,
    /// The peer reset the connection (or the socket has another error).
    Reset,
}

impl Stream {
    pub(super) async fn connect(address: &Address) -> io::Result<Stream> {
        let socket = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
        };
        Ok(Stream { socket, reset: ResetSeen::default() })
    }

    pub(super) fn reset_seen(&self) -> ResetSeen {
        self.reset.clone()
    }

    pub(super) fn look(&self) -> Look {
        look(self.as_fd(), &self.reset)
    }
}

/// Asks the kernel, not the runtime: what the runtime knows is as old as its last turn of the event loop.
pub(super) fn look(socket: BorrowedFd<'_>, reset: &ResetSeen) -> Look {
    let mut byte = [0u8; 1];
    loop {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        return match rustix::net::recv(socket, &mut byte, flags) {
            Ok((0, _)) if reset.is_set() => Look::Reset,
            Ok((0, _)) => Look::Closed,
            Ok(_) => Look::Bytes,
            Err(Errno::AGAIN) => Look::Quiet,
            Err(Errno::INTR) => continue,
            Err(_) => {
                reset.set();
                Look::Reset
            }
        };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = match &mut this.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        this.reset.note(&result);
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = match &mut this.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        this.reset.note(&result);
        result
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
