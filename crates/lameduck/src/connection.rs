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

/// The byte stream of an accepted connection, TCP or Unix, with TLS on it or without.
///
/// It is live work as long as it exists. At the deadline, or when a stop is forced, reads and writes fail with
/// [`io::ErrorKind::ConnectionAborted`], so whatever is built on it ends.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
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

/// What carries the bytes.
#[derive(Debug)]
enum Transport {
    Plain(Socket),
    #[cfg(feature = "rustls023")]
    Tls(Box<tokio_rustls::server::TlsStream<Socket>>),
}

impl Transport {
    fn socket(&self) -> &Socket {
        match self {
            Transport::Plain(socket) => socket,
            #[cfg(feature = "rustls023")]
            Transport::Tls(tls) => tls.get_ref().0,
        }
    }
}

/// Does the same with whatever carries the bytes.
macro_rules! with_transport {
    ($transport:expr, $io:ident => $does:expr) => {
        match $transport {
            Transport::Plain($io) => $does,
            #[cfg(feature = "rustls023")]
            Transport::Tls($io) => $does,
        }
    };
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

/// How old a connection may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Age {
    /// Then it is told to go.
    pub(crate) most: std::time::Duration,
    /// So much later what is still in hand on it is cut.
    pub(crate) grace: std::time::Duration,
}

/// When the connection was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// While the listener was open to everybody.
    Open,
    /// While the gate closed. Its first packets may have been dropped and come again after the client's
    /// retransmission time-out.
    AtTheGate,
    /// By a predecessor, which sent it on.
    Elsewhere,
}

impl std::fmt::Debug for ConnectionGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionGuard")
    }
}

impl Stream {
    pub(crate) fn new(socket: Socket, guard: ConnectionGuard, arrival: Arrival) -> Stream {
        let transport = Transport::Plain(socket);
        Stream {
            transport,
            guard,
            first_read: FirstRead::Awaited,
            wakers: Wakers::EachWait,
            arrival,
        }
    }

    /// The address of the other end; `None` for a Unix socket.
    ///
    /// # Errors
    ///
    /// When the connection is already gone.
    pub fn peer_addr(&self) -> io::Result<Option<std::net::SocketAddr>> {
        match self.transport.socket() {
            Socket::Tcp(stream) => stream.peer_addr().map(Some),
            Socket::Unix(_) => Ok(None),
        }
    }

    /// The socket alone, if it is a Unix socket. It is no live work any more.
    pub(crate) fn into_unix(self) -> Option<UnixStream> {
        self.guard.entry().was_read();
        match self.transport {
            Transport::Plain(Socket::Unix(stream)) => Some(stream),
            _ => None,
        }
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        self.guard.entry()
    }

    /// The socket's descriptor, to be sent to a successor.
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        match self.transport.socket() {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }

    /// Whether the bytes mean something only to this process, which alone holds the keys.
    pub(crate) fn is_encrypted(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) => false,
            #[cfg(feature = "rustls023")]
            Transport::Tls(_) => true,
        }
    }

    /// The TLS session, for what it tells about the client.
    #[cfg(feature = "rustls023")]
    pub(crate) fn tls(&self) -> Option<&rustls::ServerConnection> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(tls) => Some(tls.get_ref().1),
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
        let _ = match self.transport.socket() {
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

    fn read_once(&mut self) {
        if self.first_read == FirstRead::Awaited {
            self.first_read = FirstRead::Done;
            self.entry().was_read();
        }
    }
}

/// Whether there is a byte or an end; takes nothing.
#[cfg(feature = "rustls023")]
fn look(socket: &impl std::os::fd::AsFd) -> io::Result<()> {
    use rustix::net::RecvFlags;
    rustix::net::recv(socket, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok(())
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "connection cut: the stop was forced")
}

/// A TLS handshake under way. It is live work like the connection it becomes.
#[cfg(feature = "rustls023")]
pub(crate) struct Handshake {
    accept: tokio_rustls::server::FallibleAccept<Socket>,
    // After the socket, as in a stream.
    guard: Option<ConnectionGuard>,
    arrival: Arrival,
}

#[cfg(feature = "rustls023")]
impl Stream {
    /// Ready when a first byte, or the end, can be read. Polled by the one task that owns the connection.
    pub(crate) fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        use tokio::io::Interest;
        self.check(Side::Read, cx)?;
        let heard = loop {
            let socket = self.transport.socket();
            let ready = match socket {
                Socket::Tcp(stream) => stream.poll_read_ready(cx),
                Socket::Unix(stream) => stream.poll_read_ready(cx),
            };
            match ready {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
            // A socket that was never read may be called ready and be empty: a look that finds nothing says so.
            let looked = match socket {
                Socket::Tcp(stream) => stream.try_io(Interest::READABLE, || look(stream)),
                Socket::Unix(stream) => stream.try_io(Interest::READABLE, || look(stream)),
            };
            match looked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                looked => break Poll::Ready(looked),
            }
        };
        self.read_once();
        heard
    }

    /// Begins the server's side of a TLS handshake; gives back a stream that is encrypted already.
    pub(crate) fn handshake(self, config: Arc<rustls::ServerConfig>) -> Result<Handshake, Stream> {
        let Stream { transport, guard, first_read, wakers, arrival } = self;
        match transport {
            Transport::Plain(socket) => {
                let accept = tokio_rustls::TlsAcceptor::from(config).accept(socket).into_fallible();
                Ok(Handshake { accept, guard: Some(guard), arrival })
            }
            Transport::Tls(_) => Err(Stream { transport, guard, first_read, wakers, arrival }),
        }
    }
}

#[cfg(feature = "rustls023")]
impl Handshake {
    pub(crate) fn told(&self) -> Told {
        self.guard.as_ref().map_or(Told::Force, |guard| guard.entry().told())
    }

    /// The encrypted stream, or the bare one on which the handshake failed. Not polled again after that.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, Stream>> {
        let done = match Pin::new(&mut self.accept).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(tls)) => Ok(Transport::Tls(Box::new(tls))),
            Poll::Ready(Err((_, socket))) => Err(Transport::Plain(socket)),
        };
        let guard = self.guard.take().expect("a handshake ends once");
        let (first_read, wakers, arrival) = (FirstRead::Done, Wakers::OneTask, self.arrival);
        let stream = |transport| Stream { transport, guard, first_read, wakers, arrival };
        Poll::Ready(match done {
            Ok(transport) => Ok(stream(transport)),
            Err(transport) => Err(stream(transport)),
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(Side::Read, cx)?;
        let result = with_transport!(&mut this.transport, io => Pin::new(io).poll_read(cx, buf));
        this.read_once();
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
        with_transport!(&mut this.transport, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(Side::Write, cx)?;
        with_transport!(&mut this.transport, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_encrypted() {
            // The kernel has what was written.
            return Poll::Ready(Ok(()));
        }
        this.check(Side::Write, cx)?;
        with_transport!(&mut this.transport, io => Pin::new(io).poll_flush(cx))
    }

    /// Half-closes; with TLS the client is told so before (close_notify, RFC 8446 §6.1).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_encrypted() {
            // The word may have to wait for a client that does not read.
            this.check(Side::Write, cx)?;
        }
        with_transport!(&mut this.transport, io => Pin::new(io).poll_shutdown(cx))
    }
}

/// Does the same with both kinds of sockets.
macro_rules! with_socket {
    ($socket:expr, $io:ident => $does:expr) => {
        match $socket {
            Socket::Tcp($io) => $does,
            Socket::Unix($io) => $does,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_socket!(self.get_mut(), io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        with_socket!(self.get_mut(), io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with_socket!(self.get_mut(), io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_socket!(self.get_mut(), io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_socket!(self.get_mut(), io => Pin::new(io).poll_shutdown(cx))
    }
}
