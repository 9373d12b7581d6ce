//! Each message, field by field, in both directions next to each other.

use std::time::Duration;

use super::error::Error;
use super::fields::{Field, Reader, Writer};
use super::message::{
    Command, Commit, Connection, Hello, Kind, Listener, Message, Offer, Protocols, Readable, Ready,
    Reason, Reply, Session, Socket, State, Status, Why,
};
use super::{
    HEADER, MAGIC, MAX_ADDED, MAX_ADDRESS, MAX_ARGUMENT, MAX_ARGUMENTS, MAX_DESCRIPTORS, MAX_FRAME,
    MAX_INHERITED, MAX_KINDS, MAX_LISTENERS, MAX_NAME, MAX_PROBE, MAX_PROGRAM, MAX_REPLY,
    MAX_SERVERS, MAX_SESSION, MAX_SPILLED, MAX_STATE_SIZE, MAX_STATES, MAX_TEXT, MAX_UNREAD,
    MAX_VERB, OPTIONAL_FRAME, PROTOCOLS, Received,
};

/// The longest extension a [`Status`] can ask for, in milliseconds; who grants it has a limit of its own.
const MAX_EXTEND: u64 = u32::MAX as u64;

pub(super) fn encode(message: &Message, protocol: u16) -> Result<Vec<u8>, Error> {
    let kind = message.kind();
    let needs = message.descriptors();
    if needs > MAX_DESCRIPTORS {
        let message = kind.name();
        return Err(Error::Descriptors { message, needs, says: MAX_DESCRIPTORS, came: needs });
    }
    let mut writer = Writer::new(kind.name());
    write(message, &mut writer)?;
    let fields = writer.finish();
    let mut frame = Vec::with_capacity(HEADER + fields.len());
    frame.extend(MAGIC);
    frame.extend(protocol.to_le_bytes());
    frame.extend((kind as u16).to_le_bytes());
    frame.extend(flags(kind).to_le_bytes());
    frame.extend((needs as u16).to_le_bytes());
    frame.extend((fields.len() as u32).to_le_bytes());
    frame.extend(fields);
    match frame.len() {
        // Only where many listeners have long names of a service manager's.
        has if has > MAX_FRAME => Err(Error::Long { has }),
        _ => Ok(frame),
    }
}

/// A predecessor can do without a status, so a later version may drop it.
fn flags(kind: Kind) -> u16 {
    match kind {
        Kind::Status => OPTIONAL_FRAME,
        Kind::Hello
        | Kind::Refuse
        | Kind::Offer
        | Kind::Ready
        | Kind::Probe
        | Kind::Commit
        | Kind::Accepting
        | Kind::Connection
        | Kind::Drained
        | Kind::Resume
        | Kind::Rollback
        | Kind::Final
        | Kind::Command
        | Kind::Reply => 0,
    }
}

pub(super) fn decode(frame: &[u8], descriptors: usize) -> Result<Received, Error> {
    if frame.len() > MAX_FRAME {
        return Err(Error::Long { has: frame.len() });
    }
    let Some((header, fields)) = frame.split_first_chunk::<HEADER>() else {
        return Err(Error::Short { has: frame.len() });
    };
    let [m0, m1, m2, m3, p0, p1, k0, k1, f0, f1, d0, d1, l0, l1, l2, l3] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(Error::Magic { found: [m0, m1, m2, m3] });
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if usize::try_from(length) != Ok(fields.len()) {
        return Err(Error::Length { says: length, has: fields.len() });
    }
    let protocol = u16::from_le_bytes([p0, p1]);
    let flags = u16::from_le_bytes([f0, f1]);
    let code = u16::from_le_bytes([k0, k1]);
    let says = usize::from(u16::from_le_bytes([d0, d1]));
    let kind = Kind::from_u16(code);
    let spoken = (PROTOCOLS.oldest..=PROTOCOLS.newest).contains(&protocol);
    let for_ever = matches!(kind, Some(Kind::Hello | Kind::Refuse));
    if !spoken && !for_ever {
        return Err(Error::Protocol { found: protocol });
    }
    if flags & !OPTIONAL_FRAME != 0 {
        return Err(Error::Flags { found: flags });
    }
    let Some(kind) = kind else {
        if flags & OPTIONAL_FRAME == 0 {
            return Err(Error::Kind { found: code });
        }
        counted("a skipped frame", says, says, descriptors)?;
        return Ok(Received::Skipped { kind: code });
    };
    let mut reader = Reader::new(kind.name(), fields)?;
    let message = read(kind, &mut reader)?;
    reader.finish()?;
    counted(kind.name(), message.descriptors(), says, descriptors)?;
    Ok(Received::Message(message))
}

fn counted(message: &'static str, needs: usize, says: usize, came: usize) -> Result<(), Error> {
    if needs == says && says == came && needs <= MAX_DESCRIPTORS {
        return Ok(());
    }
    Err(Error::Descriptors { message, needs, says, came })
}

fn write(message: &Message, to: &mut Writer) -> Result<(), Error> {
    match message {
        Message::Hello(hello) => hello.write(to),
        Message::Refuse(refuse) | Message::Resume(refuse) | Message::Rollback(refuse) => {
            refuse.write(to)
        }
        Message::Offer(offer) => offer.write(to),
        Message::Status(status) => status.write(to),
        Message::Ready(ready) => ready.write(to),
        Message::Commit(commit) => commit.write(to),
        Message::Connection(connection) => connection.write(to),
        Message::Command(command) => command.write(to),
        Message::Reply(reply) => reply.write(to),
        Message::Probe | Message::Accepting | Message::Drained | Message::Final => Ok(()),
    }
}

fn read(kind: Kind, from: &mut Reader<'_>) -> Result<Message, Error> {
    Ok(match kind {
        Kind::Hello => Message::Hello(Hello::read(from)?),
        Kind::Refuse => Message::Refuse(Why::read(from)?),
        Kind::Offer => Message::Offer(Offer::read(from)?),
        Kind::Status => Message::Status(Status::read(from)?),
        Kind::Ready => Message::Ready(Ready::read(from)?),
        Kind::Probe => Message::Probe,
        Kind::Commit => Message::Commit(Commit::read(from)?),
        Kind::Accepting => Message::Accepting,
        Kind::Connection => Message::Connection(Connection::read(from)?),
        Kind::Drained => Message::Drained,
        Kind::Resume => Message::Resume(Why::read(from)?),
        Kind::Rollback => Message::Rollback(Why::read(from)?),
        Kind::Final => Message::Final,
        Kind::Command => Message::Command(Command::read(from)?),
        Kind::Reply => Message::Reply(Reply::read(from)?),
    })
}

impl Hello {
    const OLDEST: Field = Field::required(1, "oldest protocol");
    const NEWEST: Field = Field::required(2, "newest protocol");
    const PROGRAM: Field = Field::required(3, "program");
    const PID: Field = Field::required(4, "pid");
    const GENERATION: Field = Field::optional(5, "generation");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.u16(Self::OLDEST, self.protocols.oldest);
        to.u16(Self::NEWEST, self.protocols.newest);
        to.name(Self::PROGRAM, &self.program, MAX_PROGRAM)?;
        to.u32(Self::PID, self.pid);
        if let Some(generation) = self.generation {
            to.u32(Self::GENERATION, generation);
        }
        Ok(())
    }

    fn read(from: &mut Reader<'_>) -> Result<Hello, Error> {
        let oldest = from.u16(Self::OLDEST)?;
        let newest = from.u16(Self::NEWEST)?;
        if newest < oldest {
            return Err(from.value(Self::NEWEST, newest.into()));
        }
        Ok(Hello {
            protocols: Protocols { oldest, newest },
            program: from.name(Self::PROGRAM, MAX_PROGRAM)?,
            pid: from.u32(Self::PID)?,
            generation: from.maybe_u32(Self::GENERATION)?,
        })
    }
}

impl Why {
    const REASON: Field = Field::required(1, "reason");
    const TEXT: Field = Field::required(2, "text");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.u16(Self::REASON, self.reason.code());
        to.text(Self::TEXT, &self.text, MAX_TEXT)
    }

    fn read(from: &mut Reader<'_>) -> Result<Why, Error> {
        let reason = Reason::from_code(from.u16(Self::REASON)?);
        Ok(Why { reason, text: from.text(Self::TEXT, MAX_TEXT)? })
    }
}

impl Reason {
    const CODES: [(Reason, u16); 14] = [
        (Reason::NotServing, 1),
        (Reason::AnotherStarting, 2),
        (Reason::TooManyGenerations, 3),
        (Reason::Protocol, 4),
        (Reason::NotAllowed, 5),
        (Reason::Unexpected, 6),
        (Reason::Names, 7),
        (Reason::State, 8),
        (Reason::Limits, 9),
        (Reason::TimedOut, 10),
        (Reason::Failed, 11),
        (Reason::Stopping, 12),
        (Reason::Operator, 13),
        (Reason::HandedOn, 14),
    ];

    fn code(self) -> u16 {
        if let Reason::Other(code) = self {
            return code;
        }
        let known = Reason::CODES.iter().find(|(reason, _)| *reason == self);
        known.map_or(0, |(_, code)| *code)
    }

    fn from_code(code: u16) -> Reason {
        let known = Reason::CODES.iter().find(|(_, known)| *known == code);
        known.map_or(Reason::Other(code), |(reason, _)| *reason)
    }
}

impl Offer {
    const GENERATION: Field = Field::required(1, "generation");
    const LISTENER: Field = Field::required(2, "listener");
    const STATE: Field = Field::required(3, "state");
    const LAST: Field = Field::required(4, "last");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.u32(Self::GENERATION, self.generation);
        to.records(Self::LISTENER, &self.listeners, MAX_DESCRIPTORS, |to, listener| {
            listener.write(to)
        })?;
        to.records(Self::STATE, &self.states, MAX_STATES, |to, state| state.write(to))?;
        to.u8(Self::LAST, self.last.into());
        Ok(())
    }

    fn read(from: &mut Reader<'_>) -> Result<Offer, Error> {
        Ok(Offer {
            generation: from.u32(Self::GENERATION)?,
            listeners: from.records(Self::LISTENER, MAX_DESCRIPTORS, Listener::read)?,
            states: from.records(Self::STATE, MAX_STATES, State::read)?,
            last: from.flag(Self::LAST)?,
        })
    }
}

impl Listener {
    const NAME: Field = Field::required(1, "listener name");
    const SOCKET: Field = Field::required(2, "listener socket");
    const ADDRESS: Field = Field::required(3, "listener address");
    const SHARED: Field = Field::optional(4, "listener is shared");
    const INHERITED: Field = Field::optional(5, "inherited as");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.name(Self::NAME, &self.name, MAX_NAME)?;
        to.u8(Self::SOCKET, self.socket.code());
        to.name(Self::ADDRESS, &self.address, MAX_ADDRESS)?;
        if self.shared {
            to.u8(Self::SHARED, 1);
        }
        match &self.inherited {
            Some(name) => to.text(Self::INHERITED, name, MAX_INHERITED),
            None => Ok(()),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Listener, Error> {
        let name = from.name(Self::NAME, MAX_NAME)?;
        let code = from.u8(Self::SOCKET)?;
        let socket =
            Socket::from_code(code).ok_or_else(|| from.value(Self::SOCKET, code.into()))?;
        Ok(Listener {
            name,
            socket,
            address: from.name(Self::ADDRESS, MAX_ADDRESS)?,
            shared: from.maybe_flag(Self::SHARED)?,
            inherited: from.maybe_text(Self::INHERITED, MAX_INHERITED)?,
        })
    }
}

impl Socket {
    fn code(self) -> u8 {
        match self {
            Socket::Tcp => 1,
            Socket::Unix => 2,
        }
    }

    fn from_code(code: u8) -> Option<Socket> {
        [Socket::Tcp, Socket::Unix].into_iter().find(|socket| socket.code() == code)
    }
}

impl State {
    const KEY: Field = Field::required(1, "state key");
    const VERSION: Field = Field::required(2, "state version");
    const SIZE: Field = Field::required(3, "state size");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.name(Self::KEY, &self.key, MAX_NAME)?;
        to.u32(Self::VERSION, self.version);
        to.u64(Self::SIZE, self.size, MAX_STATE_SIZE)
    }

    fn read(from: &mut Reader<'_>) -> Result<State, Error> {
        Ok(State {
            key: from.name(Self::KEY, MAX_NAME)?,
            version: from.u32(Self::VERSION)?,
            size: from.u64(Self::SIZE, MAX_STATE_SIZE)?,
        })
    }
}

impl Status {
    const TEXT: Field = Field::required(1, "text");
    const EXTEND: Field = Field::required(2, "extension");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.text(Self::TEXT, &self.text, MAX_TEXT)?;
        let millis = u64::try_from(self.extend.as_millis()).unwrap_or(u64::MAX);
        to.u64(Self::EXTEND, millis, MAX_EXTEND)
    }

    fn read(from: &mut Reader<'_>) -> Result<Status, Error> {
        Ok(Status {
            text: from.text(Self::TEXT, MAX_TEXT)?,
            extend: Duration::from_millis(from.u64(Self::EXTEND, MAX_EXTEND)?),
        })
    }
}

impl Ready {
    const USED: Field = Field::required(1, "used name");
    const DROPPED: Field = Field::required(2, "dropped name");
    const ADDED: Field = Field::required(3, "added address");
    const SESSION: Field = Field::optional(4, "session kind");
    const PROBE: Field = Field::optional(5, "probe path");
    // Said although there is none: that is not the same as not being said.
    const NAMES_SERVERS: Field = Field::optional(6, "names its servers");
    const SERVER: Field = Field::optional(7, "server");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.names(Self::USED, &self.used, MAX_LISTENERS, MAX_NAME)?;
        let left = MAX_LISTENERS - self.used.len();
        to.names(Self::DROPPED, &self.dropped, left, MAX_NAME)?;
        to.names(Self::ADDED, &self.added, MAX_ADDED, MAX_ADDRESS)?;
        to.records(Self::SESSION, &self.sessions, MAX_KINDS, |to, kind| kind.write(to))?;
        to.names(Self::PROBE, self.probe.as_slice(), 1, MAX_PROBE)?;
        let Some(servers) = &self.servers else { return Ok(()) };
        to.u8(Self::NAMES_SERVERS, 1);
        to.names(Self::SERVER, servers, MAX_SERVERS, MAX_NAME)
    }

    fn read(from: &mut Reader<'_>) -> Result<Ready, Error> {
        let used = from.names(Self::USED, MAX_LISTENERS, MAX_NAME)?;
        let left = MAX_LISTENERS - used.len();
        Ok(Ready {
            used,
            dropped: from.names(Self::DROPPED, left, MAX_NAME)?,
            added: from.names(Self::ADDED, MAX_ADDED, MAX_ADDRESS)?,
            sessions: from.records(Self::SESSION, MAX_KINDS, Readable::read)?,
            probe: from.names(Self::PROBE, 1, MAX_PROBE)?.pop(),
            servers: {
                let servers = from.names(Self::SERVER, MAX_SERVERS, MAX_NAME)?;
                from.maybe_flag(Self::NAMES_SERVERS)?.then_some(servers)
            },
        })
    }
}

impl Readable {
    const KIND: Field = Field::required(1, "session kind");
    const OLDEST: Field = Field::required(2, "oldest session version");
    const NEWEST: Field = Field::required(3, "newest session version");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.name(Self::KIND, &self.kind, MAX_NAME)?;
        to.u32(Self::OLDEST, self.oldest);
        to.u32(Self::NEWEST, self.newest);
        Ok(())
    }

    fn read(from: &mut Reader<'_>) -> Result<Readable, Error> {
        Ok(Readable {
            kind: from.name(Self::KIND, MAX_NAME)?,
            oldest: from.u32(Self::OLDEST)?,
            newest: from.u32(Self::NEWEST)?,
        })
    }
}

impl Commit {
    const STATE: Field = Field::required(1, "state");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.records(Self::STATE, &self.states, MAX_STATES, |to, state| state.write(to))
    }

    fn read(from: &mut Reader<'_>) -> Result<Commit, Error> {
        Ok(Commit { states: from.records(Self::STATE, MAX_STATES, State::read)? })
    }
}

impl Connection {
    const SERVER: Field = Field::required(1, "server");
    const PEER: Field = Field::required(2, "peer");
    const UNREAD: Field = Field::required(3, "unread bytes");
    const SPILLED: Field = Field::required(4, "spilled bytes");
    // Required: whoever does not know it would take the connection for one of HTTP.
    const SESSION: Field = Field::required(5, "session");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.name(Self::SERVER, &self.server, MAX_NAME)?;
        to.name(Self::PEER, &self.peer, MAX_ADDRESS)?;
        to.bytes(Self::UNREAD, &self.unread, MAX_UNREAD)?;
        if let Some(size) = self.spilled {
            to.u64(Self::SPILLED, size, MAX_SPILLED)?;
        }
        to.records(Self::SESSION, self.session.as_slice(), 1, |to, session| session.write(to))
    }

    fn read(from: &mut Reader<'_>) -> Result<Connection, Error> {
        Ok(Connection {
            server: from.name(Self::SERVER, MAX_NAME)?,
            peer: from.name(Self::PEER, MAX_ADDRESS)?,
            unread: from.bytes(Self::UNREAD, MAX_UNREAD)?.to_vec(),
            spilled: from.maybe_u64(Self::SPILLED, MAX_SPILLED)?,
            session: from.records(Self::SESSION, 1, Session::read)?.pop(),
        })
    }
}

impl Session {
    const KIND: Field = Field::required(1, "session kind");
    const VERSION: Field = Field::required(2, "session version");
    const REQUEST: Field = Field::required(3, "session request");
    const STATE: Field = Field::required(4, "session state");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.name(Self::KIND, &self.kind, MAX_NAME)?;
        to.u32(Self::VERSION, self.version);
        to.name(Self::REQUEST, &self.request, MAX_ADDRESS)?;
        to.bytes(Self::STATE, &self.state, MAX_SESSION)
    }

    fn read(from: &mut Reader<'_>) -> Result<Session, Error> {
        Ok(Session {
            kind: from.name(Self::KIND, MAX_NAME)?,
            version: from.u32(Self::VERSION)?,
            request: from.name(Self::REQUEST, MAX_ADDRESS)?,
            state: from.bytes(Self::STATE, MAX_SESSION)?.to_vec(),
        })
    }
}

impl Command {
    const VERB: Field = Field::required(1, "verb");
    const ARGUMENT: Field = Field::required(2, "argument");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.name(Self::VERB, &self.verb, MAX_VERB)?;
        to.names(Self::ARGUMENT, &self.arguments, MAX_ARGUMENTS, MAX_ARGUMENT)
    }

    fn read(from: &mut Reader<'_>) -> Result<Command, Error> {
        Ok(Command {
            verb: from.name(Self::VERB, MAX_VERB)?,
            arguments: from.names(Self::ARGUMENT, MAX_ARGUMENTS, MAX_ARGUMENT)?,
        })
    }
}

impl Reply {
    const CODE: Field = Field::required(1, "code");
    const TEXT: Field = Field::required(2, "text");
    const LAST: Field = Field::required(3, "last");
    const REASON: Field = Field::optional(4, "reason");

    fn write(&self, to: &mut Writer) -> Result<(), Error> {
        to.u8(Self::CODE, self.code);
        to.text(Self::TEXT, &self.text, MAX_REPLY)?;
        to.u8(Self::LAST, self.last.into());
        if let Some(reason) = self.reason {
            to.u16(Self::REASON, reason.code());
        }
        Ok(())
    }

    fn read(from: &mut Reader<'_>) -> Result<Reply, Error> {
        Ok(Reply {
            code: from.u8(Self::CODE)?,
            text: from.text(Self::TEXT, MAX_REPLY)?,
            last: from.flag(Self::LAST)?,
            reason: from.maybe_u16(Self::REASON)?.map(Reason::from_code),
        })
    }
}
