//! A TCP or Unix connection, and a look at it that no cache can falsify.

use crate::address::Address;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection, with TLS on it or without.
pub(super) enum Stream {
    Plain(Bare),
    Tls(Box<TlsStream<Bare>>),
}

/// A socket that remembers a reset.
///
/// The kernel reports a reset once, to whoever asks first: a read, a write, or a look. Every later read finds
/// an end of file. So the first report is kept, for all to see.
pub(super) struct Bare {
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
    /// The peer closed a TLS connection without saying so (close_notify): it might as well be a truncation.
    Truncated,
    /// The peer reset the connection (or the socket has another error).
    Reset,
}

impl Bare {
    pub(super) async fn connect(address: &Address) -> io::Result<Bare> {
        let socket = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
        };
        Ok(Bare { socket, reset: ResetSeen::default() })
    }

    pub(super) fn reset_seen(&self) -> ResetSeen {
        self.reset.clone()
    }
}

/// So often a TLS connection is given a turn to read what waits at its socket: tickets come unasked.
const LOOKS: usize = 4;

impl Stream {
    pub(super) async fn secure(
        bare: Bare,
        config: Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<Stream> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, bare).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn bare(&self) -> &Bare {
        match self {
            Stream::Plain(bare) => bare,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Whether the TLS session of this connection was resumed; nothing without TLS.
    pub(super) fn is_resumed(&self) -> Option<bool> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => {
                Some(tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed))
            }
        }
    }

    pub(super) fn reset_seen(&self) -> ResetSeen {
        self.bare().reset_seen()
    }

    pub(super) async fn look(&mut self) -> Look {
        let found = look(self.as_fd(), &self.bare().reset);
        match (self, found) {
            (Stream::Plain(_), _) | (Stream::Tls(_), Look::Quiet | Look::Reset) => found,
            // What waits may be no answer: it has to be read to be known.
            (Stream::Tls(tls), _) => look_inside(tls).await,
        }
    }
}

async fn look_inside(tls: &mut TlsStream<Bare>) -> Look {
    for _ in 0..LOOKS {
        let mut byte = [0u8; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut *tls).poll_read(cx, &mut buffer))).await;
        match read {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Look::Closed,
            Poll::Ready(Ok(())) => return Look::Bytes,
            Poll::Ready(Err(_)) if tls.get_ref().0.reset.is_set() => return Look::Reset,
            Poll::Ready(Err(_)) => return Look::Truncated,
            Poll::Pending => {}
        }
        let bare = tls.get_ref().0;
        if look(bare.as_fd(), &bare.reset) == Look::Quiet {
            return Look::Quiet;
        }
        // The runtime has not heard of these bytes yet.
        tokio::task::yield_now().await;
    }
    // A part of a record: the next answer's read goes on with it.
    Look::Quiet
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

impl AsFd for Bare {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Bare {
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

impl AsyncWrite for Bare {
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

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bare().as_fd()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
