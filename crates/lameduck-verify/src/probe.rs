//! Connections in delicate states, and what came of each, byte by byte.
//!
//! A [`Wire`] is one bare connection, with TLS on it where the place is https. The functions of the submodules bring wires into a state; [`watch`]
//! then reads any number of them until they are answered or closed, and knows when each byte and each close
//! came. Nothing here retries, and nothing is hidden.
//!
//! ```no_run
//! use lameduck_verify::address::Place;
//! use lameduck_verify::probe::{self, Until, fates};
//! use lameduck_verify::target::{Ready, Signal, Target};
//! use std::time::Duration;
//!
//! let place: Place = "http://127.0.0.1:8080/b".parse()?;
//! let mut server = Target::command("my-server").ready(Ready::Stderr("listening".into())).start()?;
//! // Fifty requests in the accept queue when the stop comes.
//! let mut wires = probe::http1::backlog(&mut server, &place, 50)?;
//! server.signal(Signal::TERM)?;
//! server.thaw()?;
//! probe::watch(&mut wires, Until::Closed, Duration::from_secs(10))?;
//! assert_eq!(fates(&wires).lost(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod body;
mod history;
pub mod http1;
pub mod http2;
mod secure;
pub mod tls;
mod watch;
pub mod websocket;

pub use history::Exchange;
pub use secure::Speaks;
pub use watch::{Until, watch};

use crate::address::{Address, Place, Scheme};
use crate::answer::{Answer, Head};
use crate::fate::{Fate, Tally};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use secure::{HANDSHAKE_LIMIT, Session};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long a connection may take to be established.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long one write may take: a peer that does not read must not hold the tester.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// What one read may take.
const READ_BYTES: usize = 16 * 1024;

/// So many received bytes of a wire are kept to be looked at; all are counted.
pub const KEPT_BYTES: usize = 64 * 1024;

/// One bare connection, with everything that came over it.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    /// Where the connection is TLS. Nothing of it is sent before the first write.
    tls: Option<Box<Session>>,
    opened: Instant,
    /// One for each request written in full; says whether the wire had been answered before, and when it was written.
    requests: Vec<(Use, Instant)>,
    heads: Vec<Head>,
    /// When the first and the last byte of each whole answer came.
    times: Vec<(Instant, Instant)>,
    /// When the first byte of the answer that is being read came.
    begun: Option<Instant>,
    current: Answer,
    /// Bytes of the body of the last whole answer.
    last_body: u64,
    malformed: Option<&'static str>,
    received: Vec<u8>,
    received_bytes: u64,
    first_byte: Option<Instant>,
    last_byte: Option<Instant>,
    /// A write was told of a reset.
    was_reset: bool,
    end: End,
    ended: Option<Instant>,
}

/// Whether a request was the first on its wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Fresh,
    Reused,
}

/// How the peer's side of a wire ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is open.
    Open,
    /// A clean end of file.
    Eof,
    /// A reset.
    Reset,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// Names the address. The kind tells a refusal.
    pub fn connect(address: &Address) -> io::Result<Wire> {
        Wire::connect_with(address, |_| Ok(()))
    }

    /// Connects to a place to speak HTTP/1.1 there: over TLS where it is https.
    ///
    /// # Errors
    /// As [`connect`](Wire::connect).
    pub fn open(place: &Place) -> io::Result<Wire> {
        Wire::open_to(place, Speaks::Http1)
    }

    /// As [`open`](Wire::open), to speak one protocol or the other.
    ///
    /// # Errors
    /// As [`connect`](Wire::connect).
    pub fn open_to(place: &Place, speaks: Speaks) -> io::Result<Wire> {
        Wire::connect(&place.address)?.secured(place, speaks)
    }

    /// As [`open`](Wire::open) with a small receive buffer, so that a peer's writes stop soon when nobody reads.
    ///
    /// # Errors
    /// As [`connect`](Wire::connect).
    pub fn open_with_receive_buffer(place: &Place, bytes: usize) -> io::Result<Wire> {
        // Before the connection is made: the window is agreed on with the first segments.
        let wire = Wire::connect_with(&place.address, |socket| socket.set_recv_buffer_size(bytes))?;
        wire.secured(place, Speaks::Http1)
    }

    /// Connects with a small receive buffer, so that a peer's writes stop soon when nobody reads.
    ///
    /// # Errors
    /// As [`connect`](Wire::connect).
    pub fn connect_with_receive_buffer(address: &Address, bytes: usize) -> io::Result<Wire> {
        // Before the connection is made: the window is agreed on with the first segments.
        Wire::connect_with(address, |socket| socket.set_recv_buffer_size(bytes))
    }

    fn secured(mut self, place: &Place, speaks: Speaks) -> io::Result<Wire> {
        if place.scheme == Scheme::Https {
            self.tls = Some(Box::new(Session::new(place, speaks)?));
        }
        Ok(self)
    }

    /// The first write does not wait for the TLS handshake, because nobody can answer it yet; it goes on whenever the
    /// wire is read.
    pub fn put_off_handshake(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.is_eager = false;
        }
    }

    fn connect_with(
        address: &Address,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<Wire> {
        let opened = Instant::now();
        let connected = match address {
            Address::Tcp(address) => Socket::new(Domain::for_address(*address), Type::STREAM, None)
                .and_then(|socket| {
                    prepare(&socket)?;
                    socket.connect_timeout(&SockAddr::from(*address), CONNECT_LIMIT)?;
                    socket.set_tcp_nodelay(true)?;
                    Ok(socket)
                }),
            Address::Unix(path) => {
                Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
                    prepare(&socket)?;
                    socket.connect(&SockAddr::unix(path)?)?;
                    Ok(socket)
                })
            }
        };
        let ready = connected.and_then(|socket| {
            socket.set_write_timeout(Some(WRITE_LIMIT))?;
            Ok(socket)
        });
        let socket = ready.map_err(|error| {
            io::Error::new(error.kind(), format!("connect to {address}: {error}"))
        })?;
        Ok(Wire {
            socket,
            tls: None,
            opened,
            requests: Vec::new(),
            heads: Vec::new(),
            times: Vec::new(),
            begun: None,
            current: Answer::default(),
            last_body: 0,
            malformed: None,
            received: Vec::new(),
            received_bytes: 0,
            first_byte: None,
            last_byte: None,
            was_reset: false,
            end: End::Open,
            ended: None,
        })
    }

    /// Writes bytes that do not end a request.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.socket.write_all(bytes) };
        tls.put(bytes)?;
        self.flush()?;
        self.shake_hands()
    }

    /// Writes what TLS has to say.
    fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let sealed = tls.sealed()?;
        if sealed.is_empty() { Ok(()) } else { self.socket.write_all(&sealed) }
    }

    /// Waits for the end of the handshake, unless it was put off. A connection that ends in it shows that by its end.
    fn shake_hands(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + HANDSHAKE_LIMIT;
        let waits = |tls: &Session| tls.is_eager && tls.is_handshaking();
        while self.end == End::Open && self.tls.as_deref().is_some_and(waits) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.read_some(left)? {
                break;
            }
        }
        Ok(())
    }

    /// Writes bytes that end one more HTTP/1.1 request, whose answer is then awaited. A failed write is not
    /// an error here: the fate of the request tells.
    pub fn request(&mut self, bytes: &[u8]) {
        self.requests_in_one_write(bytes, 1);
    }

    /// As [`request`](Wire::request), with bytes that end `count` requests.
    pub fn requests_in_one_write(&mut self, bytes: &[u8], count: usize) {
        let first = if self.heads.is_empty() { Use::Fresh } else { Use::Reused };
        self.requests.extend(std::iter::repeat_n((first, Instant::now()), count));
        if let Err(error) = self.send(bytes) {
            self.note_write_error(&error);
        }
    }

    /// Says that nothing more will be written (FIN).
    pub fn half_close(&self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Write)
    }

    /// Closes with a reset, as a client does that vanishes.
    pub fn reset(self) -> io::Result<()> {
        self.socket.set_linger(Some(Duration::ZERO))
    }

    /// Another handle of the same socket, to write from another thread.
    fn writer(&self) -> io::Result<Socket> {
        match self.tls {
            None => self.socket.try_clone(),
            // One session cannot be in two threads.
            Some(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "an upload beside its answer does not speak TLS",
            )),
        }
    }

    /// The heads of the answers that came in full, in their order.
    pub fn answers(&self) -> &[Head] {
        &self.heads
    }

    /// Each request has its whole answer.
    pub fn is_answered(&self) -> bool {
        self.heads.len() >= self.requests.len()
    }

    /// Bytes received, up to [`KEPT_BYTES`].
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// How many bytes were received.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Bytes of the body of the answer that is being read, or of the last whole one, without chunk framing.
    pub fn body_bytes(&self) -> u64 {
        if self.current.has_begun() { self.current.body_bytes() } else { self.last_body }
    }

    /// Waits up to `limit` for bytes or an end, and reads once; says whether anything came.
    pub fn wait_bytes(&mut self, limit: Duration) -> io::Result<bool> {
        self.read_some(limit)
    }

    /// Waits up to `limit` until bytes or an end could be read, and leaves them where they are.
    pub fn wait_readable(&self, limit: Duration) -> io::Result<bool> {
        let left = Timespec::try_from(limit).ok();
        Ok(poll(&mut [PollFd::new(self, PollFlags::IN)], left.as_ref())? > 0)
    }

    /// When the first byte was read.
    pub fn first_byte(&self) -> Option<Instant> {
        self.first_byte
    }

    /// When the last byte was read.
    pub fn last_byte(&self) -> Option<Instant> {
        self.last_byte
    }

    /// How the peer's side ended.
    pub fn end(&self) -> End {
        self.end
    }

    /// When the end was read.
    pub fn ended(&self) -> Option<Instant> {
        self.ended
    }

    /// What became of each request on this wire, in their order.
    pub fn fates(&self) -> Vec<Fate> {
        let each = self.requests.iter().enumerate();
        each.map(|(place, (used, _))| self.fate(place, *used)).collect()
    }

    fn fate(&self, place: usize, used: Use) -> Fate {
        if let Some(head) = self.heads.get(place) {
            return Fate::of_status(head.status);
        }
        let has_begun = place == self.heads.len() && self.current.has_begun();
        match (self.malformed, self.end, has_begun) {
            (Some(_), _, _) => Fate::Malformed,
            (None, End::Open, _) => Fate::TimedOut,
            (None, End::Eof, true) => Fate::Truncated,
            (None, End::Reset, true) => Fate::ResetMidResponse,
            (None, End::Eof | End::Reset, false) if used == Use::Reused => Fate::IdleCloseRace,
            (None, End::Eof, false) => Fate::EofBeforeResponse,
            (None, End::Reset, false) => Fate::ResetBeforeResponse,
        }
    }

    /// Waits up to `limit` for bytes or an end, and reads once; says whether anything came.
    fn read_some(&mut self, limit: Duration) -> io::Result<bool> {
        if !self.wait_readable(limit)? {
            return Ok(false);
        }
        self.read_once(&mut [0; READ_BYTES]);
        Ok(true)
    }

    /// Reads once. For a wire that [`watch`] found readable it does not block.
    fn read_once(&mut self, buffer: &mut [u8]) {
        match self.socket.read(buffer) {
            Ok(0) => {
                if !self.was_reset && self.current.end_of_file() {
                    self.complete();
                }
                self.note_end(End::Eof);
            }
            Ok(count) if self.tls.is_some() => self.take_sealed(&buffer[..count]),
            Ok(count) => self.take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.note_end(End::Reset),
        }
    }

    fn take_sealed(&mut self, sealed: &[u8]) {
        let Some(tls) = &mut self.tls else { return };
        let mut plain = Vec::new();
        let is_tls = tls.open(sealed, &mut plain);
        if !plain.is_empty() {
            self.take(&plain);
        }
        if !is_tls {
            self.malformed.get_or_insert("what came is not TLS, or an alert");
        }
        // The handshake goes on, and what waited for it. What the peer wrote before it closed tells more than a failed
        // write.
        if let Err(error) = self.flush() {
            self.note_write_error(&error);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        self.first_byte.get_or_insert(now);
        self.last_byte = Some(now);
        self.received_bytes += bytes.len() as u64;
        let room = KEPT_BYTES.saturating_sub(self.received.len());
        self.received.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let mut rest = bytes;
        // On a wire without HTTP/1.1 requests (HTTP/2, silent) there is nothing to be read as an answer.
        while !rest.is_empty() && self.malformed.is_none() && !self.requests.is_empty() {
            self.begun.get_or_insert(now);
            match self.current.feed(rest) {
                Ok(used) => rest = &rest[used..],
                Err(malformed) => self.malformed = Some(malformed.0),
            }
            if self.current.is_complete() {
                self.complete();
            }
        }
    }

    fn complete(&mut self) {
        if let Some(head) = self.current.head() {
            let last = Instant::now();
            self.heads.push(head);
            self.times.push((self.begun.take().unwrap_or(last), last));
        }
        self.last_body = self.current.body_bytes();
        self.current.clear();
    }

    fn note_write_error(&mut self, error: &io::Error) {
        // What the peer wrote before it closed can still be read, and tells more than the failed write.
        match error.kind() {
            // The kernel reports a reset once. Every later read finds an end of file instead.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.was_reset = true,
            _ => {
                self.malformed.get_or_insert("the request could not be written");
            }
        }
    }

    /// As [`note_write_error`](Wire::note_write_error), by a writer beside the reader that may have seen an
    /// end of file already.
    fn note_late_write_error(&mut self, error: &io::Error) {
        self.note_write_error(error);
        if self.was_reset && self.end == End::Eof {
            self.end = End::Reset;
        }
    }

    fn note_end(&mut self, end: End) {
        self.end = if self.was_reset { End::Reset } else { end };
        self.ended = Some(Instant::now());
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The fates of all requests on these wires.
pub fn fates<'a>(wires: impl IntoIterator<Item = &'a Wire>) -> Tally {
    wires.into_iter().flat_map(Wire::fates).collect()
}

/// How many of these wires ended this way.
pub fn ended(wires: &[Wire], end: End) -> usize {
    wires.iter().filter(|wire| wire.end == end).count()
}

/// Raises the limit of open files of this process to the most it is allowed, and says what it is now.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where it is not allowed, the limit stays, and the caller sees that.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
