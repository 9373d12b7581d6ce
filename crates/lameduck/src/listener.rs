//! Listening sockets: bound once, accepted from by one loop, closed through the gate.
//!
//! # Invariants
//!
//! 1. A connection that the kernel completed before the gate closed is accepted and handed on: it is never reset
//!    unread.
//! 2. Accept errors never end the loop. Those that mean exhaustion are retried after a growing, bounded pause.
//! 3. A Unix socket's path is removed only while it still is our own inode.
//!
//! # The gate
//!
//! A busy listener never runs empty by itself: while one connection is accepted the next one arrives, and whatever
//! is queued when the socket closes is reset by the kernel. So new connections are kept out first. For TCP on Linux
//! that is `IP_MINTTL` (`IPV6_MINHOPCOUNT`) set to 255 on the listening socket: new SYNs are dropped, and their
//! clients try again a second later and meet a closed port or the next server; handshakes that are under way
//! complete. For a Unix socket it is the removal of its path. Then: accept until the queue is empty, wait
//! [`HANDSHAKE`] for handshakes under way, accept until empty again, close.
//!
//! Where the option is not to be had, the queue is emptied the same way, but no more than [`QUEUE`] connections
//! are taken in each pass, since under load it need not run empty. What arrives between the last accept and the close is
//! then reset; the report counts nothing for it, because nobody can.
//!
//! A socket that was inherited may be held by another process as well (a service manager, a successor). It is not
//! gated, since the option belongs to the socket and would keep clients out there too: this process just stops
//! accepting, and what is queued stays for whoever holds the socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};
use socket2::{Domain, SockAddr, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot, watch};

use crate::connection::{Arrival, Socket, Stream};
use crate::error::Error;
use crate::generation::Closing;
use crate::sys::{self, MinTtl};
use crate::work::{Hold, Peer, Registry};

/// How long handshakes under way have to complete once new ones are kept out: a round trip in one data centre,
/// many times over. Waited again, at most [`HANDSHAKE_ROUNDS`] times, as long as connections keep completing.
pub const HANDSHAKE: Duration = Duration::from_millis(20);

/// How often [`HANDSHAKE`] is waited at most.
pub const HANDSHAKE_ROUNDS: u32 = 5;

/// Completed connections the kernel may hold for us, asked for at listen(2); the kernel's own
/// `net.core.somaxconn` may be smaller. Also the most that one pass of an ungated close takes.
pub const QUEUE: u32 = 4096;

/// The most that a gated close takes, all in all: a full queue and as many handshakes under way. Only clients whose
/// packets carry the largest TTL, which the gate lets in, can make it so many.
pub const SHUT: u32 = 2 * QUEUE;

/// The first pause after an accept error that means exhaustion (no descriptor, no memory). Doubles up to
/// [`BACK_OFF_MOST`].
pub const BACK_OFF: Duration = Duration::from_millis(5);

/// The longest pause after an accept error.
pub const BACK_OFF_MOST: Duration = Duration::from_millis(500);

/// How long the gate goes on trying to empty the queue while descriptors are exhausted, all in all.
pub const STARVED_GATE: Duration = Duration::from_secs(1);

/// How long a stop soon after an upgrade waits for the predecessor to let go of the socket.
pub const LET_GO: Duration = Duration::from_secs(1);

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

/// Where the socket came from.
#[derive(Debug, Clone)]
enum Origin {
    /// This process bound it, and nobody else has it.
    Bound,
    /// Somebody handed it to us and may still have it.
    Shared,
    /// A predecessor handed it to us.
    TakenOver(watch::Receiver<Predecessor>),
}

/// What a predecessor does with the sockets it handed to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Predecessor {
    /// It keeps copies for a way back.
    Keeps,
    /// It let go of them for good, or is gone.
    LetGo,
    /// It accepts from them again.
    Resumed,
}

impl Origin {
    /// Whether no other process can accept from the socket. A predecessor is waited for, no longer than [`LET_GO`].
    async fn is_sole(&mut self) -> bool {
        match self {
            Origin::Bound => true,
            Origin::Shared => false,
            Origin::TakenOver(predecessor) => {
                let decided = predecessor.wait_for(|does| *does != Predecessor::Keeps);
                match tokio::time::timeout(LET_GO, decided).await {
                    Ok(Ok(does)) => *does == Predecessor::LetGo,
                    // Whoever could tell is gone, and so is the predecessor.
                    Ok(Err(_)) => true,
                    Err(_) => false,
                }
            }
        }
    }
}

/// The path of a Unix socket, with what tells whether it still is ours.
#[derive(Debug)]
struct OwnPath {
    path: PathBuf,
    inode: (u64, u64),
    keeper: Keeper,
}

/// Who removes the path in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    Us,
    /// Another generation serves from the socket: a successor, or a predecessor that has not let it go.
    Other,
}

impl OwnPath {
    fn of(path: &Path) -> io::Result<OwnPath> {
        Ok(OwnPath { path: path.to_owned(), inode: inode(path)?, keeper: Keeper::Us })
    }

    /// Removes the path if it still leads to our socket.
    fn remove(&self) {
        if self.keeper == Keeper::Us && inode(&self.path).is_ok_and(|now| now == self.inode) {
            // Lost to a race or to permissions: the next start replaces a stale path anyway.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        self.remove();
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
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
    /// machine's, or is not ours to use ([`Error::is_permission`]). Host names are not looked up.
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
        Ok(Listener { socket, given: address.clone(), address, origin: Origin::Shared })
    }

    /// Serves from a predecessor's socket, which `given` asked for there too.
    pub(crate) fn taken_over(
        socket: OwnedFd,
        given: &str,
        predecessor: watch::Receiver<Predecessor>,
    ) -> io::Result<Listener> {
        let mut listener = Listener::inherited(socket)?;
        given.clone_into(&mut listener.given);
        listener.origin = Origin::TakenOver(predecessor);
        if let (Bound::Unix(_, own), Some(path)) =
            (&mut listener.socket, given.strip_prefix("unix:"))
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
        matches!(self.origin, Origin::TakenOver(_))
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
            own.keeper = keeper;
        }
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
        })
    }

    fn bind_unix(given: &str, path: &Path) -> Result<Listener, Error> {
        if path.as_os_str().is_empty() {
            return Err(Error::address(given, "the path is empty"));
        }
        let fail = |error| Error::io("listen on", given, error);
        let taken = match inode(path) {
            // Only a socket is ever replaced, and only one that nobody accepts on.
            Ok(_) if !is_socket(path) => Err(io::ErrorKind::AddrInUse.into()),
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
            },
            Err(_) => Ok(()),
        };
        taken.map_err(fail)?;
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

    /// Keeps new connections out; says whether that is to be had here.
    fn shut_out(&mut self) -> Gate {
        match &mut self.socket {
            Bound::Tcp(socket, family) => {
                let v4 = sys::set_min_ttl_v4(socket.as_fd(), MinTtl::Largest);
                let v6 = match family {
                    Family::V4 => Ok(()),
                    Family::V6 => sys::set_min_ttl_v6(socket.as_fd(), MinTtl::Largest),
                };
                if v4.is_ok() && v6.is_ok() { Gate::Shut } else { Gate::Open }
            }
            Bound::Unix(_, own) => match own.take() {
                Some(own) => {
                    own.remove();
                    Gate::Shut
                }
                None => Gate::Open,
            },
        }
    }

    /// What an accepted socket inherited from a shut gate is taken off again.
    fn let_through(&self, socket: &Socket) {
        if let (Bound::Tcp(_, family), Socket::Tcp(stream)) = (&self.socket, socket) {
            // The socket was just accepted and the option was just set on its listener: no reason to fail.
            let _ = sys::set_min_ttl_v4(stream.as_fd(), MinTtl::Any);
            if *family == Family::V6 {
                let _ = sys::set_min_ttl_v6(stream.as_fd(), MinTtl::Any);
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

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Shut,
}

/// What an accept loop is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Accept, or accept again. `ack` is sent when this loop does, or dropped when it is gone.
    Open { ack: oneshot::Sender<()> },
    /// Answer with a second descriptor of the socket, for a successor.
    Duplicate(oneshot::Sender<io::Result<OwnedFd>>),
    /// Stop accepting. `ack` is sent, or dropped, when no connection can be accepted any more.
    Close { closing: Closing, ack: oneshot::Sender<()> },
}

/// What went wrong and was survived, for reports and metrics.
#[derive(Debug, Default)]
pub(crate) struct AcceptErrors(AtomicU64);

impl AcceptErrors {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a server does with a connection of which some bytes may have been read already.
pub(crate) type Handler = Arc<dyn Fn(Stream, Vec<u8>) + Send + Sync>;

/// Everything an accept loop needs besides its listener.
pub(crate) struct Accepting {
    pub(crate) server: Arc<str>,
    pub(crate) hold: Hold,
    pub(crate) registry: Arc<Registry>,
    pub(crate) errors: Arc<AcceptErrors>,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
}

enum Event {
    Order(Option<Order>),
    Accepted(io::Result<(Socket, Peer)>),
}

impl Accepting {
    /// Accepts until told to close, and hands each connection to `serve`.
    pub(crate) async fn run(mut self, mut listener: Listener, serve: Handler) {
        // Clients wait in the kernel's queue until the lifecycle is ready, and while a successor is on probation.
        while let Some(order) = self.orders.recv().await {
            match order {
                Order::Open { ack } => {
                    let _ = ack.send(());
                }
                Order::Duplicate(to) => {
                    let _ = to.send(listener.duplicate());
                    continue;
                }
                Order::Close { ack, .. } => {
                    drop(listener);
                    drop(ack);
                    return;
                }
            }
            listener.path_belongs_to(Keeper::Us);
            match self.accept_until_close(&listener, &serve).await {
                Some((Closing::HandedOver, ack)) => {
                    // The successor accepts from this socket; the copy stays for a rollback.
                    listener.path_belongs_to(Keeper::Other);
                    let _ = ack.send(());
                }
                Some((Closing::GivenAway, ack)) => {
                    listener.path_belongs_to(Keeper::Other);
                    drop(listener);
                    let _ = ack.send(());
                    return;
                }
                Some((Closing::Sole, ack)) => {
                    if listener.origin.is_sole().await {
                        self.close_gate(&mut listener, &serve).await;
                    }
                    drop(listener);
                    let _ = ack.send(());
                    return;
                }
                None => return,
            }
        }
    }

    /// Accepts until told to close; `None` means that nobody gives orders any more.
    async fn accept_until_close(
        &mut self,
        listener: &Listener,
        serve: &Handler,
    ) -> Option<(Closing, oneshot::Sender<()>)> {
        loop {
            match self.accept_until_order(listener, serve).await? {
                Order::Open { ack } => {
                    let _ = ack.send(());
                }
                Order::Duplicate(to) => {
                    let _ = to.send(listener.duplicate());
                }
                Order::Close { closing, ack } => return Some((closing, ack)),
            }
        }
    }

    /// Accepts connections until an order comes; `None` means that nobody gives orders any more.
    async fn accept_until_order(&mut self, listener: &Listener, serve: &Handler) -> Option<Order> {
        let mut pause = BACK_OFF;
        loop {
            let event = std::future::poll_fn(|cx| {
                if let Poll::Ready(order) = self.orders.poll_recv(cx) {
                    return Poll::Ready(Event::Order(order));
                }
                listener.poll_accept(cx).map(Event::Accepted)
            })
            .await;
            match event {
                Event::Order(order) => return order,
                Event::Accepted(Ok((socket, peer))) => {
                    pause = BACK_OFF;
                    self.hand_on(socket, peer, Arrival::Open, serve);
                }
                Event::Accepted(Err(error)) => {
                    self.errors.0.fetch_add(1, Ordering::Relaxed);
                    if is_exhaustion(&error) {
                        if let Some(order) = self.order_within(pause).await {
                            return order;
                        }
                        pause = (pause * 2).min(BACK_OFF_MOST);
                    }
                }
            }
        }
    }

    /// Waits `pause` out unless an order comes first.
    async fn order_within(&mut self, pause: Duration) -> Option<Option<Order>> {
        tokio::time::timeout(pause, self.orders.recv()).await.ok()
    }

    fn hand_on(&self, socket: Socket, peer: Peer, arrival: Arrival, serve: &Handler) {
        if let Socket::Tcp(stream) = &socket {
            // Answers are written whole: waiting to fill a segment only adds latency. A peer that is
            // gone already makes this fail, and the first read tells.
            let _ = stream.set_nodelay(true);
        }
        let guard = self.registry.connect(Arc::clone(&self.server), peer, self.hold);
        serve(Stream::new(socket, guard, arrival), Vec::new());
    }

    async fn close_gate(&self, listener: &mut Listener, serve: &Handler) {
        let mut closing = GateClosing::new(listener.shut_out());
        self.empty_queue(listener, &mut closing, serve).await;
        for _ in 0..HANDSHAKE_ROUNDS {
            tokio::time::sleep(HANDSHAKE).await;
            if self.empty_queue(listener, &mut closing, serve).await == 0 {
                break;
            }
        }
    }

    /// Accepts until the queue is empty, or a bound of the closing is reached, and returns how many came.
    async fn empty_queue(
        &self,
        listener: &Listener,
        closing: &mut GateClosing,
        serve: &Handler,
    ) -> u32 {
        let most = closing.most_of_a_pass();
        let mut taken = 0;
        while taken < most {
            let next = listener.accept_now();
            match next {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok((socket, peer)) => {
                    taken += 1;
                    if closing.gate == Gate::Shut {
                        listener.let_through(&socket);
                    }
                    self.hand_on(socket, peer, Arrival::AtTheGate, serve);
                }
                Err(error) => {
                    self.errors.0.fetch_add(1, Ordering::Relaxed);
                    if is_exhaustion(&error) {
                        if tokio::time::Instant::now() >= closing.starved_at {
                            break;
                        }
                        tokio::time::sleep(BACK_OFF).await;
                    }
                }
            }
        }
        closing.taken += taken;
        taken
    }
}

/// What bounds one closing of a gate, over all its passes.
struct GateClosing {
    gate: Gate,
    taken: u32,
    starved_at: tokio::time::Instant,
}

impl GateClosing {
    fn new(gate: Gate) -> GateClosing {
        let starved_at = tokio::time::Instant::now() + STARVED_GATE;
        GateClosing { gate, taken: 0, starved_at }
    }

    fn most_of_a_pass(&self) -> u32 {
        match self.gate {
            Gate::Open => QUEUE,
            Gate::Shut => SHUT.saturating_sub(self.taken),
        }
    }
}

/// No descriptor or no memory is left: trying again at once would only spin.
fn is_exhaustion(error: &io::Error) -> bool {
    let exhausted = [
        rustix::io::Errno::MFILE,
        rustix::io::Errno::NFILE,
        rustix::io::Errno::NOBUFS,
        rustix::io::Errno::NOMEM,
    ];
    let code = error.raw_os_error();
    exhausted.iter().any(|errno| code == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the socket is ours alone, and how long that took to find out.
    async fn check(does: Predecessor) -> (bool, Duration) {
        let (_tells, predecessor) = watch::channel(does);
        let asked = tokio::time::Instant::now();
        let is_sole = Origin::TakenOver(predecessor).is_sole().await;
        (is_sole, asked.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_predecessor_that_has_not_decided_is_waited_for() {
        assert_eq!(check(Predecessor::LetGo).await, (true, Duration::ZERO));
        assert_eq!(check(Predecessor::Resumed).await, (false, Duration::ZERO));
        let (is_sole, took) = check(Predecessor::Keeps).await;
        assert!(!is_sole && took >= LET_GO, "{took:?}");
    }
}
