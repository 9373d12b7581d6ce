//! The successor's side of an upgrade: asks the predecessor for the service and takes what it gives. What is said when
//! is decided by [`Successor`], here until the whole offer has come, and by [`generation`](crate::generation) from
//! then on.
//!
//! ```text
//! start():  Hello ─▶   ◀─ Offer…           bounded by OFFER_TIMEOUT; any failure is an error of the start
//! ready():  Ready ─▶   ◀─ Commit           accept, then Accepting ─▶
//! after:               ◀─ Connection…, Final, Rollback, end of file
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::connection::{Arrival, Socket, Stream};
use crate::driver::Loop;
use crate::error::{Error, TAKE_OVER};
use crate::handover::Handover;
use crate::listener::{Listener, Others, Predecessor as Does};
use crate::log::Log;
use crate::states::Left;
use crate::takeover::Limits;
use crate::takeover::channel::{Came, Channel};
use crate::takeover::successor::{Action, Input, Successor};
use crate::takeover::wire::{self, Connection, Hello, Message, Offer, PROTOCOLS, Ready};
use crate::text::{cut, printable};
use crate::work::{Hold, Peer, Registry};

/// How long a start waits for room in the queue at the predecessor's control socket.
pub const CONNECT: Duration = Duration::from_secs(5);

/// What a predecessor gave, until the program has taken what it needs.
pub(crate) struct Succession {
    pub(crate) generation: u32,
    offered: Mutex<Vec<Offered>>,
    used: Mutex<Vec<String>>,
    /// The addresses that were taken.
    taken: Mutex<Vec<String>>,
    /// What the predecessor does with its listeners.
    does: watch::Sender<Does>,
}

struct Offered {
    name: String,
    given: String,
    shared: bool,
    inherited: Option<String>,
    socket: OwnedFd,
}

/// A takeover whose offer is complete.
pub(crate) struct Begun {
    pub(crate) succession: Succession,
    pub(crate) left: HashMap<String, Left>,
    pub(crate) machine: Successor,
    pub(crate) channel: Channel,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the generation at `path` for the service and waits for its offer.
pub(crate) fn ask(path: &Path, version: &str) -> Result<Begun, Error> {
    let fail = |error| Error::io(TAKE_OVER, path.display().to_string(), error);
    let channel = Channel::connect_within(path, CONNECT).map_err(fail)?;
    channel.check_peer().map_err(fail)?;
    let hello = Hello {
        protocols: PROTOCOLS,
        program: introduce(version),
        pid: std::process::id(),
        generation: None,
    };
    let mut machine = Successor::new(Instant::now(), Limits::default(), hello);
    let (mut offered, mut left) = (Vec::new(), HashMap::new());
    loop {
        while let Some(action) = machine.poll_action() {
            match action {
                Action::Send(message) => {
                    let until = machine.poll_timeout().unwrap_or_else(Instant::now);
                    channel.send_by(until, &message, &[]).map_err(fail)?;
                }
                Action::Initialise(inventory) => {
                    let succession = Succession {
                        generation: inventory.generation,
                        offered: Mutex::new(offered),
                        used: Mutex::default(),
                        taken: Mutex::default(),
                        does: watch::Sender::new(Does::Keeps),
                    };
                    return Ok(Begun { succession, left, machine, channel });
                }
                Action::Failed(why) => {
                    return Err(fail(io::Error::other(format!("it refused: {why}"))));
                }
                // Nothing else comes before the offer is complete.
                _ => {}
            }
        }
        let until = machine.poll_timeout().unwrap_or_else(Instant::now);
        let input = match channel.receive_by(until) {
            Ok(Came::Message(message, descriptors)) => {
                if let Message::Offer(offer) = &message {
                    sort(offer.clone(), descriptors, &mut offered, &mut left);
                }
                Input::Received(message)
            }
            Ok(Came::End) => return Err(fail(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Input::Tick,
            Err(error) => return Err(fail(error)),
        };
        machine.handle(Instant::now(), input);
    }
}

/// The program's name and version, for people.
fn introduce(version: &str) -> String {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy();
    match printable(format!("{name} {version}").trim(), wire::MAX_PROGRAM) {
        text if text.is_empty() => "?".to_owned(),
        text => text,
    }
}

/// Names and descriptors were counted against each other by the wire format.
fn sort(
    offer: Offer,
    descriptors: Vec<OwnedFd>,
    offered: &mut Vec<Offered>,
    left: &mut HashMap<String, Left>,
) {
    let mut descriptors = descriptors.into_iter();
    for (listener, socket) in offer.listeners.into_iter().zip(descriptors.by_ref()) {
        offered.push(Offered {
            name: listener.name,
            given: listener.address,
            shared: listener.shared,
            inherited: listener.inherited,
            socket,
        });
    }
    for (state, file) in offer.states.into_iter().zip(descriptors) {
        left.insert(state.key, Left { version: state.version, size: state.size, file });
    }
}

impl Succession {
    /// The predecessor's socket for this address, if it has one.
    pub(crate) fn listener(&self, given: &str) -> Option<Result<Listener, Error>> {
        let mut offered = lock(&self.offered);
        let index = offered.iter().position(|offered| offered.given == given)?;
        let found = offered.remove(index);
        Some(self.take(found))
    }

    /// The sockets that a service manager passed to a predecessor, with their names, in their order.
    pub(crate) fn inherited(&self) -> Result<Vec<(String, Listener)>, Error> {
        let passed = |offered: &mut Offered| offered.inherited.is_some();
        let found: Vec<Offered> = lock(&self.offered).extract_if(.., passed).collect();
        let take = |found: Offered| -> Result<(String, Listener), Error> {
            Ok((found.inherited.clone().unwrap_or_default(), self.take(found)?))
        };
        found.into_iter().map(take).collect()
    }

    /// What is left of groups of sockets with one address, of which the program has taken some: the kernel goes on giving
    /// clients to each of them.
    pub(crate) fn rest_of_groups(&self) -> Vec<Result<Listener, Error>> {
        let taken = lock(&self.taken).clone();
        let of_a_group = |offered: &mut Offered| taken.contains(&offered.given);
        let found: Vec<Offered> = lock(&self.offered).extract_if(.., of_a_group).collect();
        found.into_iter().map(|found| self.take(found)).collect()
    }

    fn take(&self, found: Offered) -> Result<Listener, Error> {
        let Offered { name, given, shared, inherited, socket } = found;
        // As `wire_listener` made it.
        let server = name.rsplit_once('#').map_or("", |(server, _)| server).to_owned();
        lock(&self.used).push(name);
        lock(&self.taken).push(given.clone());
        let others = if shared { Others::Hold } else { Others::Leave };
        let taken = Listener::taken_over(socket, &given, self.does.subscribe(), others);
        let taken = taken.map_err(|error| Error::io("take over the socket of", &given, error))?;
        Ok(taken.passed_as(inherited).served_as(&server))
    }

    /// What this program makes of the listeners. What it did not ask for is closed here.
    pub(crate) fn ready(&self) -> Ready {
        let dropped: Vec<Offered> = lock(&self.offered).drain(..).collect();
        Ready {
            used: lock(&self.used).clone(),
            dropped: dropped.into_iter().map(|offered| offered.name).collect(),
            ..Ready::default()
        }
    }

    /// What the predecessor does with its listeners from now on.
    pub(crate) fn predecessor_does(&self, does: Does) {
        self.does.send_replace(does);
    }
}

/// What goes on with connections that a predecessor sends.
pub(crate) struct Adopting {
    pub(crate) handover: Arc<Handover>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) log: Arc<Log>,
}

impl Adopting {
    pub(crate) fn new(
        handover: &Arc<Handover>,
        registry: &Arc<Registry>,
        log: &Arc<Log>,
    ) -> Adopting {
        Adopting {
            handover: Arc::clone(handover),
            registry: Arc::clone(registry),
            log: Arc::clone(log),
        }
    }

    pub(crate) fn go_on_with(&self, connection: Connection, descriptors: Vec<OwnedFd>) {
        let Some(socket) = descriptors.into_iter().next() else { return };
        match open(socket) {
            Ok((socket, peer)) => {
                let Connection { server, unread, session, .. } = connection;
                if let Some(session) = session {
                    let guard = self.registry.connect(Arc::from(server), peer, Hold::Drain);
                    let stream = Stream::new(socket, guard, Arrival::Open);
                    return self.handover.go_on(stream, unread, session);
                }
                self.handover.receive(&server, unread, |name| {
                    let guard = self.registry.connect(name, peer, Hold::Drain);
                    Stream::new(socket, guard, Arrival::Elsewhere)
                });
            }
            Err(error) => self.lost(&error),
        }
    }

    /// Answers the request that comes over this socket as a client's would be, before anybody is accepted.
    pub(crate) fn answer(&self, descriptors: Vec<OwnedFd>) {
        let Some(socket) = descriptors.into_iter().next() else { return };
        match open(socket) {
            Ok((socket, peer)) => self.handover.probe(|name| {
                let guard = self.registry.connect(name, peer, Hold::Nothing);
                Stream::new(socket, guard, Arrival::Elsewhere)
            }),
            Err(error) => self.lost(&error),
        }
    }

    pub(crate) fn lost(&self, error: &io::Error) {
        self.log.line("connection-lost", &format!("A connection did not arrive: {error}"));
    }
}

fn open(socket: OwnedFd) -> io::Result<(Socket, Peer)> {
    match rustix::net::sockopt::socket_domain(&socket)? {
        rustix::net::AddressFamily::UNIX => {
            let stream = std::os::unix::net::UnixStream::from(socket);
            Ok((Socket::Unix(tokio::net::UnixStream::from_std(stream)?), Peer::Unix))
        }
        _ => {
            let stream = std::net::TcpStream::from(socket);
            let peer = stream.peer_addr()?;
            Ok((Socket::Tcp(tokio::net::TcpStream::from_std(stream)?), Peer::Tcp(peer)))
        }
    }
}

/// What the predecessor calls one of its listeners: unique, whatever the program called its servers.
pub(crate) fn wire_listener(index: usize, accepting: &Loop) -> wire::Listener {
    let Loop { server, given, unix, shared, inherited, .. } = accepting;
    let number = format!("#{index}");
    let room = wire::MAX_NAME - number.len();
    wire::Listener {
        name: format!("{}{number}", cut(server, room)),
        socket: if *unix { wire::Socket::Unix } else { wire::Socket::Tcp },
        address: given.clone(),
        shared: *shared,
        inherited: inherited.clone(),
    }
}
