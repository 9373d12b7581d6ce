//! One connection of the open loop, without an async runtime.

use super::super::stream::{Look, ResetSeen, look};
use crate::address::Address;
use crate::answer::{Answer, Persistence};
use crate::fate::Fate;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// What is read at once of a connection that was reset while a request was written.
const LAST_BYTES: usize = 4096;

/// So often a connection is read before another has its turn.
const READS: usize = 8;

/// A connection, and the request on it.
pub(super) struct Wire {
    socket: Socket,
    answer: Answer,
    reset: ResetSeen,
    /// The intended time of the request that it carries.
    pub(super) carries: Option<Instant>,
    /// Bytes of the request that the socket did not take yet.
    rest: Vec<u8>,
    written: usize,
    /// Requests begun on it.
    pub(super) requests: u64,
    /// Nothing was ever read or written: a connection under way.
    is_connecting: bool,
    has_more: bool,
}

/// What became of the request on a wire.
pub(super) enum End {
    Answered {
        /// The connection may carry another.
        reusable: bool,
        /// The server announced that it closes.
        told: bool,
    },
    Failed(Fate, String),
}

impl Wire {
    /// Begins a connection; it may be established only later.
    pub(super) fn begin(address: &Address) -> io::Result<Wire> {
        let (domain, to) = match address {
            Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        let is_connecting = match socket.connect(&to) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => true,
            Err(error) => return Err(error),
        };
        Ok(Wire {
            socket,
            answer: Answer::default(),
            reset: ResetSeen::default(),
            carries: None,
            rest: Vec::new(),
            written: 0,
            requests: 0,
            is_connecting,
            has_more: false,
        })
    }

    /// The look before a reuse.
    pub(super) fn look(&self) -> Look {
        look(self.socket.as_fd(), &self.reset)
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.is_connecting
    }

    /// The connection is established, or why not.
    pub(super) fn connected(&mut self) -> io::Result<()> {
        self.is_connecting = false;
        self.socket.take_error()?.map_or(Ok(()), Err)
    }

    /// Takes a request. The end is there at once when nothing of it could be written.
    pub(super) fn send(&mut self, intended: Instant, request: &[u8]) -> Option<End> {
        self.carries = Some(intended);
        self.requests += 1;
        self.answer.clear();
        self.rest.clear();
        self.rest.extend_from_slice(request);
        self.written = 0;
        if self.is_connecting {
            return None;
        }
        // A reset that the write was told of is not told again.
        self.write()
            .or_else(|| self.reset.is_set().then(|| self.read(&mut [0; LAST_BYTES])).flatten())
    }

    /// Writes what the socket takes.
    pub(super) fn write(&mut self) -> Option<End> {
        while self.written < self.rest.len() {
            match self.socket.write(&self.rest[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.reset.set();
                    if self.written == 0 && self.requests > 1 {
                        let detail = format!("write: {error}");
                        return Some(End::Failed(Fate::ClosedBeforeSend, detail));
                    }
                    // An answer may still be there to read.
                    return None;
                }
            }
        }
        None
    }

    /// Something of the request waits until the socket takes it.
    pub(super) fn wants_to_write(&self) -> bool {
        self.is_connecting || (self.written < self.rest.len() && !self.reset.is_set())
    }

    /// Reads what is there, but no more than [`READS`] times: a server that never stops writing is not to hold the others
    /// up. Whether there may be more is told by [`has_more`](Wire::has_more).
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Option<End> {
        self.has_more = false;
        for _ in 0..READS {
            let count = match self.socket.read(buffer) {
                Ok(0) => return Some(self.stopped("end of file")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.reset.set();
                    return Some(self.stopped(&error.to_string()));
                }
            };
            match self.answer.feed(&buffer[..count]) {
                Err(malformed) => {
                    return Some(End::Failed(Fate::Malformed, malformed.0.to_owned()));
                }
                Ok(used) if self.answer.is_complete() => {
                    return Some(self.completed(used == count));
                }
                Ok(_) => {}
            }
        }
        self.has_more = true;
        None
    }

    /// The last read did not empty the socket, which will not be told of again.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    fn completed(&self, alone: bool) -> End {
        let head = self.answer.head().expect("a complete answer has a head");
        let told = head.persistence == Persistence::Close;
        match Fate::of_status(head.status) {
            Fate::Answered => End::Answered { reusable: alone && !told, told },
            fate => End::Failed(fate, format!("status {}", head.status)),
        }
    }

    fn stopped(&mut self, how: &str) -> End {
        let is_reset = self.reset.is_set();
        if !is_reset && self.answer.end_of_file() {
            return match self.completed(true) {
                End::Answered { told, .. } => End::Answered { reusable: false, told },
                failed => failed,
            };
        }
        let fate = match (self.answer.has_begun(), is_reset, self.requests) {
            (true, true, _) => Fate::ResetMidResponse,
            (true, false, _) => Fate::Truncated,
            (false, true, 1) => Fate::ResetBeforeResponse,
            (false, false, 1) => Fate::EofBeforeResponse,
            (false, _, _) => Fate::IdleCloseRace,
        };
        End::Failed(fate, format!("{how} after {} bytes of the body", self.answer.body_bytes()))
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
