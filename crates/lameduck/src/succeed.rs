//! The successor's side of an upgrade: asks the predecessor for the service, takes what it gives, and says when it
//! accepts.
//!
//! ```text
//! start():  Hello ─▶   ◀─ Offer…           bounded by HELLO_TIMEOUT; any failure is an error of the start
//! ready():  Ready ─▶   ◀─ Commit           accept, then Accepting ─▶
//! after:               ◀─ Connection…, Final, Rollback, end of file
//! ```
//!
//! A predecessor that goes away after its offer leaves the listeners here: the service is taken over all the same.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::connection::{Arrival, Socket, Stream};
use crate::control::{self, Message as ToControl};
use crate::driver::Gates;
use crate::error::Error;
use crate::generations::Place;
use crate::handover::Handover;
use crate::listener::{Listener, Predecessor as Does};
use crate::log::Log;
use crate::phase::{Cause, Input};
use crate::readiness::Readiness;
use crate::states::Left;
use crate::takeover::HELLO_TIMEOUT;
use crate::takeover::channel::{AsyncChannel, Came, Channel};
use crate::takeover::wire::{
    self, Connection, Hello, MAX_LISTENERS, Message, Offer, PROTOCOLS, Ready, Reason, Status, Why,
};
use crate::upgrade::SEND;
use crate::work::{Hold, Peer, Registry};

/// How long a predecessor may take to serve again.
pub const ROLLBACK: Duration = Duration::from_secs(5);

/// What a predecessor gave, until the program has taken what it needs.
pub(crate) struct Succession {
    channel: Mutex<Option<Channel>>,
    pub(crate) generation: u32,
    offered: Mutex<Vec<Offered>>,
    used: Mutex<Vec<String>>,
    /// What the predecessor does with its listeners.
    does: watch::Sender<Does>,
    /// The predecessor, from the commit on.
    predecessor: Mutex<Option<Arc<AsyncChannel>>>,
}

struct Offered {
    name: String,
    given: String,
    socket: OwnedFd,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the generation at `path` for the service; waits for its offer, no longer than [`HELLO_TIMEOUT`].
pub(crate) fn ask(
    path: &Path,
    version: &str,
) -> Result<(Succession, HashMap<String, Left>), Error> {
    let fail = |error| Error::io("take over from", path.display().to_string(), error);
    let until = Instant::now() + HELLO_TIMEOUT;
    let channel = Channel::connect(path).map_err(fail)?;
    channel.check_peer().map_err(fail)?;
    let hello = Message::Hello(Hello {
        protocols: PROTOCOLS,
        program: introduce(version),
        pid: std::process::id(),
        generation: None,
    });
    channel.send_by(until, &hello, &[]).map_err(fail)?;
    let mut offered = Vec::new();
    let mut left = HashMap::new();
    loop {
        match channel.receive_by(until).map_err(fail)? {
            Came::Message(Message::Offer(offer), descriptors) => {
                let (last, generation) = (offer.last, offer.generation);
                sort(offer, descriptors, &mut offered, &mut left);
                if offered.len() > MAX_LISTENERS {
                    return Err(fail(io::Error::other("it offers too many listeners")));
                }
                if last {
                    let succession = Succession {
                        channel: Mutex::new(Some(channel)),
                        generation,
                        offered: Mutex::new(offered),
                        used: Mutex::default(),
                        does: watch::Sender::new(Does::Keeps),
                        predecessor: Mutex::default(),
                    };
                    return Ok((succession, left));
                }
            }
            Came::Message(Message::Refuse(why), _) => {
                return Err(fail(io::Error::other(format!("it refused: {why}"))));
            }
            Came::Message(message, _) => {
                let words = format!("it answered with {}", message.kind().name());
                return Err(fail(io::Error::new(io::ErrorKind::InvalidData, words)));
            }
            Came::End => return Err(fail(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// The program's name and version, for people.
fn introduce(version: &str) -> String {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy();
    let words = format!("{name} {version}");
    let printable = words.trim().chars().filter(|c| !c.is_control());
    let mut text: String = printable.take(wire::MAX_PROGRAM / 4).collect();
    if text.is_empty() {
        text.push('?');
    }
    text
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
        offered.push(Offered { name: listener.name, given: listener.address, socket });
    }
    for (state, file) in offer.states.into_iter().zip(descriptors) {
        left.insert(state.key, Left { version: state.version, size: state.size, file });
    }
}

/// What the conversation after the start acts on.
pub(crate) struct Taking {
    pub(crate) control: Arc<control::Sender>,
    pub(crate) gates: Arc<Gates>,
    pub(crate) handover: Arc<Handover>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) readiness: Readiness,
    pub(crate) log: Arc<Log>,
    pub(crate) place: Place,
    pub(crate) respawned: bool,
}

impl Succession {
    /// The predecessor's socket for this address, if it has one.
    pub(crate) fn listener(&self, given: &str) -> Option<Result<Listener, Error>> {
        let mut offered = lock(&self.offered);
        let index = offered.iter().position(|offered| offered.given == given)?;
        let found = offered.remove(index);
        lock(&self.used).push(found.name);
        let taken = Listener::taken_over(found.socket, given, self.does.subscribe());
        Some(taken.map_err(|error| Error::io("take over the socket of", given, error)))
    }

    /// Asks the predecessor to wait for `more` from now.
    pub(crate) fn still_starting(&self, doing: &str, more: Duration) {
        let printable = doing.chars().filter(|c| !c.is_control());
        let text = printable.take(wire::MAX_TEXT / 4).collect();
        if let Some(channel) = lock(&self.channel).as_ref() {
            let status = Message::Status(Status { text, extend: more });
            // A predecessor that is gone or does not read is met again when this process is ready.
            let _ = channel.send_by(Instant::now(), &status, &[]);
        }
    }

    /// Says that this process can serve, once; goes on with the conversation on a task of its own.
    pub(crate) fn ready(self: &Arc<Self>, taking: Taking) {
        let Some(channel) = lock(&self.channel).take() else { return };
        let succession = Arc::clone(self);
        drop(tokio::spawn(async move { succession.converse(channel, taking).await }));
    }

    async fn converse(self: Arc<Self>, channel: Channel, taking: Taking) {
        let channel = match channel.into_async() {
            Ok(channel) => channel,
            Err(error) => return taking.give_up(&error.to_string()),
        };
        let dropped: Vec<Offered> = lock(&self.offered).drain(..).collect();
        let used = lock(&self.used).clone();
        let ready = Message::Ready(Ready {
            used: used.clone(),
            dropped: dropped.into_iter().map(|offered| offered.name).collect(),
            added: Vec::new(),
            sessions: taking.handover.readable(),
        });
        // A predecessor that is gone is met again by the next read.
        let _ = channel.send_within(SEND, &ready, &[]).await;
        loop {
            match channel.receive().await {
                Ok(Came::Message(Message::Commit(_), _)) => break,
                Ok(Came::Message(Message::Refuse(why), _)) => {
                    return taking.give_up(&why.to_string());
                }
                Ok(Came::Message(..)) => {}
                // It is gone, and we hold its sockets: nobody else will serve.
                Ok(Came::End) | Err(_) => {
                    taking.log.line(
                        "predecessor-lost",
                        "The predecessor went away before its commit: taking over all the same",
                    );
                    break;
                }
            }
        }
        taking.accept(self.generation).await;
        let channel = Arc::new(channel);
        // First: whoever is told that the upgrade is done may ask for a rollback at once.
        *lock(&self.predecessor) = Some(Arc::clone(&channel));
        let _ = channel.send_within(SEND, &Message::Accepting, &[]).await;
        let tells = tell_of_stop(Arc::clone(&channel), taking.readiness.clone());
        let telling = tokio::spawn(tells);
        self.take_connections(&channel, &taking).await;
        telling.abort();
        *lock(&self.predecessor) = None;
        self.does.send_replace(Does::LetGo);
    }

    /// Tells the predecessor that this generation keeps the service, whatever becomes of it.
    pub(crate) async fn keep(&self) {
        let predecessor = lock(&self.predecessor).clone();
        if let Some(channel) = predecessor {
            let _ = channel.send_within(SEND, &Message::Final, &[]).await;
        }
    }

    /// Gives the service back to the predecessor; returns when that serves again.
    pub(crate) async fn roll_back(&self) -> Result<(), String> {
        let predecessor = lock(&self.predecessor).clone();
        let channel = match predecessor {
            Some(channel) if *self.does.borrow() != Does::LetGo => channel,
            Some(_) => return Err("probation is over: the upgrade is final".to_owned()),
            None => return Err("the predecessor is gone: the upgrade is final".to_owned()),
        };
        let why = Message::Resume(Why::new(Reason::Operator, String::new()));
        let mut does = self.does.subscribe();
        let sent = channel.send_within(SEND, &why, &[]).await;
        let done =
            tokio::time::timeout(ROLLBACK, does.wait_for(|does| *does == Does::Resumed)).await;
        match (sent, done) {
            (Ok(()), Ok(Ok(_))) => Ok(()),
            (Err(error), _) => Err(format!("the predecessor could not be asked: {error}")),
            (Ok(()), _) => Err("the predecessor did not take the service back".to_owned()),
        }
    }

    /// Takes what the predecessor still sends, until it is gone.
    async fn take_connections(&self, channel: &AsyncChannel, taking: &Taking) {
        loop {
            match channel.receive().await {
                Ok(Came::Message(Message::Connection(connection), descriptors)) => {
                    if let Some(socket) = descriptors.into_iter().next() {
                        taking.go_on_with(connection, socket);
                    }
                }
                // A stop came first there: the whole service is to end.
                Ok(Came::Message(Message::Refuse(why), _)) => taking.give_up(&why.to_string()),
                Ok(Came::Message(Message::Final, _)) => {
                    self.does.send_replace(Does::LetGo);
                }
                Ok(Came::Message(Message::Rollback(why), _)) => {
                    taking.log.line("rollback", &format!("Giving the service back: {why}"));
                    taking.gates.hand_back();
                    self.does.send_replace(Does::Resumed);
                    taking.control.send(ToControl::Input(Input::PredecessorResumed));
                }
                Ok(Came::Message(..)) => {}
                Ok(Came::End) => return,
                // Without room for a descriptor, or with a message that a predecessor of another version sends, the
                // conversation goes on: to end it would tell the predecessor that this process died.
                Err(error) => {
                    let line = format!("What the predecessor sent could not be taken: {error}");
                    taking.log.line("connection-lost", &line);
                }
            }
        }
    }
}

/// A stop here is no reason for the predecessor to serve again: tells it so.
async fn tell_of_stop(channel: Arc<AsyncChannel>, mut readiness: Readiness) {
    readiness.not_ready().await;
    let _ = channel.send_within(SEND, &Message::Final, &[]).await;
}

impl Taking {
    fn give_up(&self, why: &str) {
        self.log.line("takeover-refused", &format!("Not taking over: {why}"));
        self.control.send(ToControl::Input(Input::Stop(Cause::Request)));
    }

    async fn accept(&self, generation: u32) {
        if self.respawned {
            crate::respawn::take_standard_error();
        }
        // Best effort: operators are led to whoever serves; without it they still find the predecessor, which
        // tells them where to ask.
        let _ = self.place.point_to(generation);
        self.control.send(ToControl::Input(Input::Ready));
        self.gates.opened().await;
    }

    fn go_on_with(&self, connection: Connection, socket: OwnedFd) {
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
                    Stream::new(socket, guard, Arrival::Open)
                });
            }
            Err(error) => {
                self.log.line("connection-lost", &format!("A connection did not arrive: {error}"));
            }
        }
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
pub(crate) fn wire_listener(index: usize, server: &str, given: &str, unix: bool) -> wire::Listener {
    let number = format!("#{index}");
    let room = wire::MAX_NAME - number.len();
    let mut end = server.len().min(room);
    while !server.is_char_boundary(end) {
        end -= 1;
    }
    wire::Listener {
        name: format!("{}{number}", &server[..end]),
        socket: if unix { wire::Socket::Unix } else { wire::Socket::Tcp },
        address: given.to_owned(),
    }
}
