//! Listening sockets: bound once, accepted from by one loop, closed through the gate.
//!
//! # Invariants
//!
//! 1. A connection that the kernel completed before the gate closed is accepted and handed on: it is never reset
//!    unread.
//! 2. Accept errors never end the loop. Those that the next try would meet again are retried after a growing, bounded pause.
//! 3. A Unix socket's path is removed only while it still is our own inode.
//!
//! # The gate
//!
//! A busy listener never runs empty by itself: while one connection is accepted the next one arrives, and whatever
//! is queued when the socket closes is reset by the kernel. So new connections are kept out first. For TCP on Linux
//! that is a filter on the listening socket (`SO_ATTACH_FILTER`): new SYNs are dropped, and their
//! clients try again a second later and meet a closed port or the next server; handshakes that are under way
//! complete. Where filters are refused, it is `IP_MINTTL` (`IPV6_MINHOPCOUNT`) set to 255, which does the same, but also drops
//! what comes on a completed connection before it is accepted; its client sends that again. For a Unix socket it is the removal of its path. Then: accept until the queue is empty, wait
//! [`HANDSHAKE`] for handshakes under way, accept until empty again; and so on while the kernel says that one is under way
//! (`sock_diag(7)`), since a client's answer takes its round trip, but no longer than [`HANDSHAKE_LONGEST`]; close.
//!
//! Where the kernel does not say (a sandbox without `AF_NETLINK`), the wait is repeated only while connections keep
//! completing, at most [`HANDSHAKE_ROUNDS`] times. One that was answered with a SYN cookie is in no list.
//!
//! Where the option is not to be had, the queue is emptied the same way, but no more than [`QUEUE`] connections
//! are taken in each pass, since under load it need not run empty. What arrives between the last accept and the close is
//! then reset; the report counts nothing for it, because nobody can.
//!
//! A socket that was inherited may be held by another process as well (a service manager, a successor). It is not
//! gated, since the option belongs to the socket and would keep clients out there too: this process just stops
//! accepting, and what is queued stays for whoever holds the socket.

mod accepting;
#[cfg(target_os = "linux")]
mod diag;
mod errors;
mod gate;
mod handshakes;
mod origin;
mod path;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::Poll;

use rustix::net::{AddressFamily, SocketType, sockopt};
use socket2::{Domain, SockAddr, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use origin::Origin;
use path::{Keeper, OwnPath, inode, is_socket};

use crate::connection::Socket;
use crate::error::Error;
use crate::work::Peer;

pub(crate) use accepting::{Accepting, Close, Handler, Order};
pub(crate) use errors::AcceptErrors;
pub use errors::{BACK_OFF, BACK_OFF_MOST};
pub use gate::{HANDSHAKE, HANDSHAKE_LONGEST, HANDSHAKE_ROUNDS, SHUT, STARVED_GATE};
pub use origin::LET_GO;
pub(crate) use origin::{Others, Predecessor};

/// Completed connections the kernel may hold for us, asked for at listen(2); the kernel's own
/// `net.core.somaxconn` may be smaller. Also the most that one pass of an ungated close takes.
pub const QUEUE: u32 = 4096;

/// A bound and listening socket, TCP or Unix, that has not been served yet.
///
/// From here on clients can connect; they wait in the kernel's queue until the lifecycle is ready. Dropping it closes the
/// socket, and takes the path of a Unix socket away if it still is this one's.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// use lameduck::Listener;
///
/// let listener = Listener::bind("127.0.0.1:0").await?;
/// assert!(!listener.address().ends_with(":0"), "the kernel chose a port");
///
/// let error = Listener::bind(listener.address()).await.unwrap_err();
/// assert!(error.is_address_in_use(), "{error}");
/// assert!(Listener::bind("localhost").await.unwrap_err().is_usage());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    /// As the program asked for it: how a successor that asks for the same finds it.
    given: String,
    address: String,
    origin: Origin,
    /// The name a service manager passed it under.
    passed_as: Option<String>,
    /// The server that a predecessor served from it.
    served_as: Option<String>,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener, Family),
    Unix(UnixListener, Option<OwnPath>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Listener {
    /// Binds `address` and starts to listen: `127.0.0.1:8080`, `[::1]:8080`, or `unix:PATH`.
    ///
    /// Port 0 lets the kernel choose; [`Listener::address`] tells. A stale Unix socket (nobody accepts on it) is
    /// replaced; a live one is an error.
    ///
    /// # Errors
    ///
    /// When the address cannot be understood ([`Error::is_usage`]), is taken ([`Error::is_address_in_use`]), is not this
    /// machine's, is a file that is no socket, or is not ours to use ([`Error::is_permission`]). Host names are not
    /// looked up.
    ///
    /// Cancel safe: nothing in it waits.
    ///
    /// # Panics
    ///
    /// When polled outside a tokio runtime with I/O.
    pub async fn bind(address: &str) -> Result<Listener, Error> {
        match address.strip_prefix("unix:") {
            Some(path) => Listener::bind_unix(address, Path::new(path)),
            None => Listener::bind_tcp(address, parse_tcp(address)?),
        }
    }

    /// Serves from a socket that is already listening, such as `tokio::net::TcpListener`.
    ///
    /// It counts as this process's own: at a stop it is closed through the gate.
    ///
    /// # Errors
    ///
    /// When the socket has no local address.
    pub fn from_tcp(socket: TcpListener) -> Result<Listener, Error> {
        let local = socket
            .local_addr()
            .map_err(|error| Error::io("read the address of", "a TCP listener", error))?;
        let family = if local.is_ipv6() { Family::V6 } else { Family::V4 };
        Ok(Listener {
            socket: Bound::Tcp(socket, family),
            given: local.to_string(),
            address: local.to_string(),
            origin: Origin::Bound,
            passed_as: None,
            served_as: None,
        })
    }

    /// Says that another process holds this socket too and goes on accepting from it.
    ///
    /// At a stop this process then just stops accepting: what is queued stays for the other one.
    pub fn shared(mut self) -> Listener {
        self.origin = Origin::Shared;
        self
    }

    /// Serves from a socket that somebody handed to this process and may still have.
    pub(crate) fn inherited(socket: OwnedFd) -> io::Result<Listener> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if sockopt::socket_type(&socket)? != SocketType::STREAM {
            return refuse("it is not a stream socket");
        }
        if !sockopt::socket_acceptconn(&socket)? {
            return refuse("it is not listening (a single connection, as with Accept=yes?)");
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        let (socket, address) = match sockopt::socket_domain(&socket)? {
            AddressFamily::INET | AddressFamily::INET6 => {
                let socket = TcpListener::from_std(socket.into())?;
                let local = socket.local_addr()?;
                let family = if local.is_ipv6() { Family::V6 } else { Family::V4 };
                (Bound::Tcp(socket, family), local.to_string())
            }
            AddressFamily::UNIX => {
                let socket = std::os::unix::net::UnixListener::from(socket);
                let address = format!("unix:{}", unix_name(&socket.local_addr()?));
                let socket = UnixListener::from_std(socket)?;
                // The path belongs to whoever bound it.
                (Bound::Unix(socket, None), address)
            }
            _ => return refuse("it is neither a TCP nor a Unix socket"),
        };
        let (given, origin) = (address.clone(), Origin::Shared);
        Ok(Listener { socket, given, address, origin, passed_as: None, served_as: None })
    }

    /// Serves from a predecessor's socket, which `given` asked for there too.
    pub(crate) fn taken_over(
        socket: OwnedFd,
        given: &str,
        predecessor: watch::Receiver<Predecessor>,
        others: Others,
    ) -> io::Result<Listener> {
        let mut listener = Listener::inherited(socket)?;
        given.clone_into(&mut listener.given);
        listener.origin = Origin::TakenOver(predecessor, others);
        if let (Others::Leave, Bound::Unix(_, own), Some(path)) =
            (others, &mut listener.socket, given.strip_prefix("unix:"))
        {
            // Ours to remove once we accept: until then the predecessor serves from it, whatever becomes of us.
            *own = OwnPath::of(Path::new(path)).ok();
            listener.path_belongs_to(Keeper::Other);
        }
        if listener.is_unix() {
            given.clone_into(&mut listener.address);
        }
        Ok(listener)
    }

    /// Whether a predecessor handed it to us.
    pub(crate) fn is_taken_over(&self) -> bool {
        matches!(self.origin, Origin::TakenOver(..))
    }

    /// Whether somebody else holds it too, who is no generation of this service.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.origin, Origin::Shared | Origin::TakenOver(_, Others::Hold))
    }

    /// Remembers the name that a service manager passed it under.
    pub(crate) fn passed_as(mut self, name: Option<String>) -> Listener {
        self.passed_as = name;
        self
    }

    /// Remembers the server that a predecessor served from it.
    pub(crate) fn served_as(mut self, server: &str) -> Listener {
        self.served_as = Some(server.to_owned());
        self
    }

    pub(crate) fn server_before(&self) -> Option<&str> {
        self.served_as.as_deref()
    }

    pub(crate) fn name_passed(&self) -> Option<&str> {
        self.passed_as.as_deref()
    }

    /// As the program asked for it.
    pub(crate) fn given(&self) -> &str {
        &self.given
    }

    /// Whether it is a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self.socket, Bound::Unix(..))
    }

    fn duplicate(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            Bound::Tcp(socket, _) => socket.as_fd().try_clone_to_owned(),
            Bound::Unix(socket, _) => socket.as_fd().try_clone_to_owned(),
        }
    }

    fn path_belongs_to(&mut self, keeper: Keeper) {
        if let Bound::Unix(_, Some(own)) = &mut self.socket {
            own.belongs_to(keeper);
        }
    }

    /// Looks whether `address` could be listened on, and leaves it as it is: nobody can connect meanwhile.
    ///
    /// # Errors
    ///
    /// As [`bind`](Listener::bind).
    pub fn look(address: &str) -> Result<(), Error> {
        let fail = |error| Error::io("listen on", address, error);
        if let Some(path) = address.strip_prefix("unix:") {
            let path = Path::new(path);
            Listener::is_free(address, path)?;
            let directory = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            return rustix::fs::access(directory, rustix::fs::Access::WRITE_OK)
                .map_err(|error| fail(error.into()));
        }
        let parsed = parse_tcp(address)?;
        let socket = socket2::Socket::new(Domain::for_address(parsed), Type::STREAM, None);
        let socket = socket.map_err(fail)?;
        socket.set_reuse_address(true).map_err(fail)?;
        socket.bind(&SockAddr::from(parsed)).map_err(fail)
    }

    fn bind_tcp(given: &str, address: SocketAddr) -> Result<Listener, Error> {
        let fail = |error| Error::io("listen on", given, error);
        let family = if address.is_ipv6() { Family::V6 } else { Family::V4 };
        let socket =
            socket2::Socket::new(Domain::for_address(address), Type::STREAM, None).map_err(fail)?;
        // A restart must be able to bind while old connections are in TIME_WAIT.
        socket.set_reuse_address(true).map_err(fail)?;
        socket.set_nonblocking(true).map_err(fail)?;
        socket.bind(&SockAddr::from(address)).map_err(fail)?;
        socket.listen(QUEUE as i32).map_err(fail)?;
        let socket = TcpListener::from_std(socket.into()).map_err(fail)?;
        let address = socket.local_addr().map_err(fail)?.to_string();
        Ok(Listener {
            socket: Bound::Tcp(socket, family),
            given: given.to_owned(),
            address,
            origin: Origin::Bound,
            passed_as: None,
            served_as: None,
        })
    }

    /// Whether nobody serves at this path.
    fn is_free(given: &str, path: &Path) -> Result<(), Error> {
        if path.as_os_str().is_empty() {
            return Err(Error::address(given, "the path is empty"));
        }
        let taken = match inode(path) {
            // Only a socket is ever replaced, and only one that nobody accepts on.
            Ok(_) if !is_socket(path) => {
                let words = "a file that is no socket lies there";
                Err(io::Error::new(io::ErrorKind::AlreadyExists, words))
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
            },
            Err(_) => Ok(()),
        };
        taken.map_err(|error| Error::io("listen on", given, error))
    }

    fn bind_unix(given: &str, path: &Path) -> Result<Listener, Error> {
        Listener::is_free(given, path)?;
        let fail = |error| Error::io("listen on", given, error);
        // Bound beside and renamed into place: there is no moment without a socket at the path.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let _ = std::fs::remove_file(&beside);
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).map_err(fail)?;
        socket.set_nonblocking(true).map_err(fail)?;
        socket.bind(&SockAddr::unix(&beside).map_err(fail)?).map_err(fail)?;
        let placed = socket
            .listen(QUEUE as i32)
            .and_then(|()| std::fs::rename(&beside, path))
            .and_then(|()| OwnPath::of(path));
        let own = match placed {
            Ok(own) => own,
            Err(error) => {
                let _ = std::fs::remove_file(&beside);
                return Err(fail(error));
            }
        };
        let socket = UnixListener::from_std(socket.into()).map_err(fail)?;
        Ok(Listener {
            socket: Bound::Unix(socket, Some(own)),
            given: given.to_owned(),
            address: given.to_owned(),
            origin: Origin::Bound,
            passed_as: None,
            served_as: None,
        })
    }

    /// The address as bound: `127.0.0.1:8080`, `[::1]:8080` or `unix:PATH`.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn poll_accept(&self, cx: &mut std::task::Context<'_>) -> Poll<io::Result<(Socket, Peer)>> {
        match &self.socket {
            Bound::Tcp(socket, _) => socket
                .poll_accept(cx)
                .map_ok(|(stream, peer)| (Socket::Tcp(stream), Peer::Tcp(peer))),
            Bound::Unix(socket, _) => {
                socket.poll_accept(cx).map_ok(|(stream, _)| (Socket::Unix(stream), Peer::Unix))
            }
        }
    }

    /// Asks the kernel itself for a queued connection: `WouldBlock` means that there is none.
    ///
    /// The runtime's own accept cannot say that. It is also "pending" when the task's budget is used up, or when
    /// the event of a new connection has not been read from epoll yet.
    fn accept_now(&self) -> io::Result<(Socket, Peer)> {
        let accepted = match &self.socket {
            Bound::Tcp(socket, _) => socket2::SockRef::from(socket).accept(),
            Bound::Unix(socket, _) => socket2::SockRef::from(socket).accept(),
        };
        let (socket, peer) = accepted?;
        socket.set_nonblocking(true)?;
        match peer.as_socket() {
            Some(peer) => {
                let stream = tokio::net::TcpStream::from_std(socket.into())?;
                Ok((Socket::Tcp(stream), Peer::Tcp(peer)))
            }
            None => {
                let stream = tokio::net::UnixStream::from_std(socket.into())?;
                Ok((Socket::Unix(stream), Peer::Unix))
            }
        }
    }
}

fn unix_name(address: &std::os::unix::net::SocketAddr) -> String {
    #[cfg(target_os = "linux")]
    if let Some(name) = std::os::linux::net::SocketAddrExt::as_abstract_name(address) {
        return format!("@{}", String::from_utf8_lossy(name));
    }
    address.as_pathname().map_or_else(String::new, |path| path.display().to_string())
}

fn parse_tcp(address: &str) -> Result<SocketAddr, Error> {
    match address.parse::<SocketAddr>() {
        Ok(address) => Ok(address),
        Err(_) => {
            let problem = match address.rsplit_once(':') {
                None => "the port is missing",
                Some((_, port)) if port.parse::<u16>().is_err() => {
                    "the port is not a number from 0 to 65535"
                }
                Some((host, _)) if host.contains(':') && !host.starts_with('[') => {
                    "an IPv6 address needs brackets"
                }
                Some((_, _)) => "the host is not an IP address",
            };
            Err(Error::address(address, problem))
        }
    }
}
