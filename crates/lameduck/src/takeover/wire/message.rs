//! The messages, and nothing about bytes.

use std::fmt;
use std::time::Duration;

/// Everything that can be said.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// Successor: I would like to take over.
    Hello(Hello),
    /// Either end, before the commit: this takeover will not be.
    Refuse(Why),
    /// Predecessor: here are my listeners and states, their descriptors beside this frame.
    Offer(Offer),
    /// Successor: I am still initialising.
    Status(Status),
    /// Successor: I could serve now.
    Ready(Ready),
    /// Predecessor: answer the request that comes over the socket beside this frame, as a client would be answered.
    Probe,
    /// Predecessor: accept.
    Commit(Commit),
    /// Successor: I accept. Only now the predecessor stops accepting.
    Accepting,
    /// Predecessor: an open connection between two requests, its descriptor beside this frame.
    Connection(Connection),
    /// Predecessor: no more connections will come.
    Drained,
    /// Successor, in probation: take the service back. The predecessor answers with `Rollback` once it accepts.
    Resume(Why),
    /// Predecessor, after the commit: stop accepting, finish, and go.
    Rollback(Why),
    /// Either end: there is no way back from here. Probation is over, or the successor was told to stop, or it is about
    /// to hand the service on itself.
    Final,
    /// The command line: do this.
    Command(Command),
    /// To the command line: this came of it.
    Reply(Reply),
}

/// A message without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[expect(missing_docs, reason = "each is the kind of the message of the same name")]
pub enum Kind {
    Hello = 1,
    Refuse = 2,
    Offer = 3,
    Status = 4,
    Ready = 5,
    Commit = 6,
    Accepting = 7,
    Connection = 8,
    Drained = 9,
    Resume = 10,
    Rollback = 11,
    Final = 12,
    Probe = 13,
    Command = 32,
    Reply = 33,
}

/// Who would like to take over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hello {
    /// What it speaks.
    pub protocols: Protocols,
    /// Its name and version, for people.
    pub program: String,
    /// Its process, for people; in another namespace it means nothing.
    pub pid: u32,
    /// The generation it was told it would be, if it was.
    pub generation: Option<u32>,
}

/// A range of protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protocols {
    /// The oldest still understood.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Protocols {
    /// The newest protocol both ends speak.
    pub fn agree(self, other: Protocols) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Why {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

impl Why {
    /// A refusal.
    pub fn new(reason: Reason, text: impl Into<String>) -> Why {
        Why { reason, text: text.into() }
    }

    /// What is for people: the text, or what the reason is called where there is none.
    pub(crate) fn in_words(&self) -> String {
        match self.text.as_str() {
            "" => self.reason.to_string(),
            text => text.to_owned(),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text.as_str() {
            "" => write!(f, "{}", self.reason),
            text => write!(f, "{}: {text}", self.reason),
        }
    }
}

/// Why not, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The predecessor is not serving: it is starting or stopping.
    NotServing,
    /// Another successor is starting.
    AnotherStarting,
    /// As many generations drain as may.
    TooManyGenerations,
    /// No protocol is spoken by both.
    Protocol,
    /// The peer may not do this: another user.
    NotAllowed,
    /// A message that does not belong here.
    Unexpected,
    /// The names of the listeners do not fit those offered.
    Names,
    /// A state can't be written or read.
    State,
    /// A limit of the system or of the protocol is reached.
    Limits,
    /// The other end took too long.
    TimedOut,
    /// The successor can't serve.
    Failed,
    /// This end was told to stop.
    Stopping,
    /// An operator asked for it.
    Operator,
    /// This end has handed the service on.
    HandedOn,
    /// A reason of a later version.
    Other(u16),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NotServing => "not serving",
            Reason::AnotherStarting => "another successor is starting",
            Reason::TooManyGenerations => "too many generations are draining",
            Reason::Protocol => "no common protocol",
            Reason::NotAllowed => "not allowed",
            Reason::Unexpected => "unexpected message",
            Reason::Names => "listener names do not fit",
            Reason::State => "state not readable",
            Reason::Limits => "limit reached",
            Reason::TimedOut => "timed out",
            Reason::Failed => "failed to start",
            Reason::Stopping => "stopping",
            Reason::Operator => "asked by the operator",
            Reason::HandedOn => "handed on",
            Reason::Other(code) => return write!(f, "reason {code}"),
        })
    }
}

/// A part of what the predecessor has: as much as fits beside one frame.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Offer {
    /// The generation the successor will be.
    pub generation: u32,
    /// The listeners, in the order of their descriptors.
    pub listeners: Vec<Listener>,
    /// The states as they are now, in the order of their descriptors, which follow those of the listeners.
    pub states: Vec<State>,
    /// Nothing more is offered after this.
    pub last: bool,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listener {
    /// The server it belongs to.
    pub name: String,
    /// What kind of socket it is.
    pub socket: Socket,
    /// Where it listens, for people and for telling two of one name apart.
    pub address: String,
    /// Somebody else holds the socket as well, and goes on when this service stops.
    pub shared: bool,
    /// The name that a service manager passed it under.
    pub inherited: Option<String>,
}

/// The kind of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Socket {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// A Unix stream socket.
    Unix,
}

/// A state that moves, in a memory file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// What it is.
    pub key: String,
    /// The version of its content, for the program that reads it.
    pub version: u32,
    /// Its bytes.
    pub size: u64,
}

/// How initialising goes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Status {
    /// What it is about.
    pub text: String,
    /// How much longer than now it may take before the predecessor gives up; zero asks for nothing.
    pub extend: Duration,
}

/// What the successor makes of the listeners: each one offered is used or dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Ready {
    /// Names it serves.
    pub used: Vec<String>,
    /// Names it has no use for.
    pub dropped: Vec<String>,
    /// Addresses it bound itself.
    pub added: Vec<String>,
    /// The sessions it goes on with. A successor of before this was told says none, and none is sent to it.
    pub sessions: Vec<Readable>,
    /// The path that has to be answered with 2xx before the commit. A predecessor of before this was told asks nothing.
    pub probe: Option<String>,
    /// The servers that go on with connections of HTTP; those of others are not sent. A successor of before this was told
    /// says nothing, and is sent all.
    pub servers: Option<Vec<String>>,
}

/// A kind of session, and the versions of its state that can be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Readable {
    /// What the program calls it.
    pub kind: String,
    /// The oldest version.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

/// Accept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Commit {
    /// The states as they are at the hand-over, in the order of their descriptors. They replace those offered.
    pub states: Vec<State>,
}

/// A connection between two requests, or with a session between two messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Connection {
    /// The server that accepted it.
    pub server: String,
    /// Its other end.
    pub peer: String,
    /// What was read from it and not used.
    pub unread: Vec<u8>,
    /// As many unread bytes are in a memory file beside the socket instead.
    pub spilled: Option<u64>,
    /// What it carries, if that is not HTTP; only for a successor that said it goes on with it.
    pub session: Option<Session>,
}

/// What moves with a connection that has state of its own: a WebSocket, or a link between two generations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Session {
    /// What the program calls it.
    pub kind: String,
    /// The version of the state.
    pub version: u32,
    /// The request that began it, for people.
    pub request: String,
    /// What its handler goes on from.
    pub state: Vec<u8>,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Command {
    /// What.
    pub verb: String,
    /// How.
    pub arguments: Vec<String>,
}

/// What came of a command, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reply {
    /// The exit code of the command line; that of the last part counts.
    pub code: u8,
    /// What it prints.
    pub text: String,
    /// Nothing more comes after this.
    pub last: bool,
    /// Why nothing came of it, for programs. Who answers from before this was told says none.
    pub reason: Option<Reason>,
}

impl Message {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Message::Hello(_) => Kind::Hello,
            Message::Refuse(_) => Kind::Refuse,
            Message::Offer(_) => Kind::Offer,
            Message::Status(_) => Kind::Status,
            Message::Ready(_) => Kind::Ready,
            Message::Probe => Kind::Probe,
            Message::Commit(_) => Kind::Commit,
            Message::Accepting => Kind::Accepting,
            Message::Connection(_) => Kind::Connection,
            Message::Drained => Kind::Drained,
            Message::Resume(_) => Kind::Resume,
            Message::Rollback(_) => Kind::Rollback,
            Message::Final => Kind::Final,
            Message::Command(_) => Kind::Command,
            Message::Reply(_) => Kind::Reply,
        }
    }

    /// How many descriptors travel beside it.
    pub fn descriptors(&self) -> usize {
        match self {
            Message::Offer(offer) => offer.listeners.len() + offer.states.len(),
            Message::Probe => 1,
            Message::Commit(commit) => commit.states.len(),
            Message::Connection(connection) => 1 + usize::from(connection.spilled.is_some()),
            Message::Hello(_)
            | Message::Refuse(_)
            | Message::Status(_)
            | Message::Ready(_)
            | Message::Accepting
            | Message::Drained
            | Message::Resume(_)
            | Message::Rollback(_)
            | Message::Final
            | Message::Command(_)
            | Message::Reply(_) => 0,
        }
    }
}

impl Kind {
    const ALL: [Kind; 15] = [
        Kind::Hello,
        Kind::Refuse,
        Kind::Offer,
        Kind::Status,
        Kind::Ready,
        Kind::Commit,
        Kind::Accepting,
        Kind::Connection,
        Kind::Drained,
        Kind::Resume,
        Kind::Rollback,
        Kind::Final,
        Kind::Probe,
        Kind::Command,
        Kind::Reply,
    ];

    /// The kind a header names.
    pub(super) fn from_u16(code: u16) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u16 == code)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hello => "Hello",
            Kind::Refuse => "Refuse",
            Kind::Offer => "Offer",
            Kind::Status => "Status",
            Kind::Ready => "Ready",
            Kind::Probe => "Probe",
            Kind::Commit => "Commit",
            Kind::Accepting => "Accepting",
            Kind::Connection => "Connection",
            Kind::Drained => "Drained",
            Kind::Resume => "Resume",
            Kind::Rollback => "Rollback",
            Kind::Final => "Final",
            Kind::Command => "Command",
            Kind::Reply => "Reply",
        }
    }
}
