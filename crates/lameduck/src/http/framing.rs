//! Finds where one HTTP/1.1 request ends and the next begins, without parsing either.
//!
//! The server needs to know one thing hyper does not tell: whether, behind the request in hand, more requests were
//! already read. If so, its answer must not announce the close: the client would stop reading (RFC 9112 §9.6) and the
//! answers behind would be lost. So bytes are handed to hyper up to the end of one head or body at a time.
//!
//! Pure: bytes in, a number out. When it loses track (a head with bare line feeds, a chunk size that is none) it hands
//! everything on and says that nothing is known to be behind; then a pipelined request is left unexecuted, as RFC 9112
//! allows, and the connection is not moved to a successor.

use std::sync::LazyLock;

use memchr::memmem::Finder;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Made once: to prepare the search costs as much as several searches in a head.
static HEAD_END_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(HEAD_END));

/// The length of a request's body, as its parsed head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// `Content-Length`, or none.
    Known(u64),
    /// `Transfer-Encoding: chunked` (RFC 9112 §7.1).
    Chunked,
}

#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    /// The last bytes of the head handed on, in case its end falls between two reads.
    tail: [u8; 3],
    /// Bytes of a head handed on since the last request began.
    head: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Inside a head, or between requests.
    Head,
    /// A whole head was handed on; its request has not begun yet.
    HeadWhole,
    /// Inside a body of which this much is left.
    Body(u64),
    /// Inside a chunked body.
    Chunked(Chunk),
    /// Track is lost.
    Through,
}

/// Where in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// In the size, with what was read of it.
    Size(u64),
    /// Behind the size, up to the end of its line.
    Extension(u64),
    /// In the data.
    Data(u64),
    /// In the line end behind the data.
    DataEnd,
    /// In a trailer line, or at the start of one.
    Trailer { empty: bool },
    /// The body has ended.
    End,
    /// This is no chunked body.
    Broken,
}

impl Chunk {
    /// Takes one byte outside of data.
    fn step(self, byte: u8) -> Chunk {
        match (self, byte) {
            (Chunk::Size(size), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = u64::from(char::from(byte).to_digit(16).unwrap_or(0));
                match size.checked_mul(16).and_then(|size| size.checked_add(digit)) {
                    Some(size) => Chunk::Size(size),
                    None => Chunk::Broken,
                }
            }
            (Chunk::Size(0) | Chunk::Extension(0), b'\n') => Chunk::Trailer { empty: true },
            (Chunk::Size(size) | Chunk::Extension(size), b'\n') => Chunk::Data(size),
            (Chunk::Size(size), b'\r' | b';' | b' ' | b'\t') => Chunk::Extension(size),
            (Chunk::Size(_), _) => Chunk::Broken,
            (Chunk::Extension(size), _) => Chunk::Extension(size),
            (Chunk::DataEnd, b'\r') => Chunk::DataEnd,
            (Chunk::DataEnd, b'\n') => Chunk::Size(0),
            (Chunk::Trailer { empty: true }, b'\n') => Chunk::End,
            (Chunk::Trailer { empty: false }, b'\n') => Chunk::Trailer { empty: true },
            (Chunk::Trailer { empty }, b'\r') => Chunk::Trailer { empty },
            (Chunk::Trailer { .. }, _) => Chunk::Trailer { empty: false },
            (Chunk::DataEnd | Chunk::Data(_) | Chunk::End | Chunk::Broken, _) => Chunk::Broken,
        }
    }

    /// Takes bytes up to the end of the body; returns how many those are.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            *self = match *self {
                Chunk::End | Chunk::Broken => break,
                Chunk::Data(left) => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX);
                    let data = most.min(bytes.len() - taken);
                    taken += data;
                    match left - data as u64 {
                        0 => Chunk::DataEnd,
                        left => Chunk::Data(left),
                    }
                }
                other => {
                    taken += 1;
                    other.step(bytes[taken - 1])
                }
            };
        }
        taken
    }
}

impl Framing {
    pub(crate) fn new() -> Framing {
        Framing { state: State::Head, tail: [0; 3], head: 0 }
    }

    /// How many of `bytes` to hand on now; the rest is for later.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        match self.state {
            State::Head => match self.head_end(bytes) {
                Some(end) => {
                    self.state = State::HeadWhole;
                    self.head += end;
                    end
                }
                None => {
                    self.remember(bytes);
                    self.head += bytes.len();
                    bytes.len()
                }
            },
            // The parser wants more than what looked like a whole head (leading empty lines).
            State::HeadWhole => {
                self.state = State::Through;
                bytes.len()
            }
            State::Body(left) => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.state = match left - taken as u64 {
                    0 => State::Head,
                    left => State::Body(left),
                };
                taken
            }
            State::Chunked(mut chunk) => {
                let taken = chunk.take(bytes);
                match chunk {
                    Chunk::End => {
                        self.state = State::Head;
                        taken
                    }
                    Chunk::Broken => {
                        self.state = State::Through;
                        bytes.len()
                    }
                    chunk => {
                        self.state = State::Chunked(chunk);
                        taken
                    }
                }
            }
            State::Through => bytes.len(),
        }
    }

    /// Where the head ends in `bytes`, counting what the tail holds of the end.
    fn head_end(&self, bytes: &[u8]) -> Option<usize> {
        let held = self.head.min(self.tail.len());
        let tail = &self.tail[self.tail.len() - held..];
        for split in 1..=held {
            let (before, after) = HEAD_END.split_at(split);
            if tail.ends_with(before) && bytes.starts_with(after) {
                return Some(after.len());
            }
        }
        HEAD_END_FINDER.find(bytes).map(|at| at + HEAD_END.len())
    }

    fn remember(&mut self, bytes: &[u8]) {
        for byte in &bytes[bytes.len().saturating_sub(self.tail.len())..] {
            self.tail.rotate_left(1);
            self.tail[2] = *byte;
        }
    }

    /// A request's head was parsed; its body follows.
    pub(crate) fn request_begins(&mut self, body: BodyLength) {
        self.head = 0;
        self.state = match (self.state, body) {
            (State::HeadWhole, BodyLength::Known(0)) => State::Head,
            (State::HeadWhole, BodyLength::Known(left)) => State::Body(left),
            (State::HeadWhole, BodyLength::Chunked) => State::Chunked(Chunk::Size(0)),
            (State::Head | State::Body(_) | State::Chunked(_) | State::Through, _) => {
                State::Through
            }
        };
    }

    /// Track is of no use any more: the connection becomes another protocol's.
    pub(crate) fn let_through(&mut self) {
        self.state = State::Through;
    }

    /// Whether anything of a next request was read, when `held` bytes are kept for later.
    pub(crate) fn has_more(&self, held: usize) -> bool {
        match self.state {
            State::Head => held > 0 || self.head > 0,
            State::HeadWhole => true,
            State::Body(left) => held as u64 > left,
            // What is held may all belong to the body.
            State::Chunked(_) | State::Through => false,
        }
    }

    /// Whether everything handed on belongs to whole messages, or to a next head: the connection may be moved, with
    /// what the parser gives back.
    pub(crate) fn is_between_messages(&self) -> bool {
        match self.state {
            State::Head | State::HeadWhole => true,
            State::Body(_) | State::Chunked(_) | State::Through => false,
        }
    }

    /// Whether a body was begun and has not come to its end.
    pub(crate) fn is_inside_body(&self) -> bool {
        match self.state {
            State::Body(left) => left > 0,
            State::Chunked(chunk) => !matches!(chunk, Chunk::End),
            State::Head | State::HeadWhole | State::Through => false,
        }
    }

    /// Whether a part of a head, or a whole one, was handed on whose request has not begun.
    pub(crate) fn is_inside_head(&self) -> bool {
        match self.state {
            State::Head => self.head > 0,
            State::HeadWhole => true,
            State::Body(_) | State::Chunked(_) | State::Through => false,
        }
    }

    /// Whether reading on could tell more about what is behind.
    pub(crate) fn keeps_track(&self) -> bool {
        self.state != State::Through
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in reads of `size` and splits it as the server would, with bodies of `bodies` bytes.
    fn split(input: &[u8], size: usize, bodies: &[u64]) -> (Vec<String>, Vec<bool>) {
        let mut framing = Framing::new();
        let mut held: Vec<u8> = Vec::new();
        let mut reads = input.chunks(size);
        let (mut heads, mut more) = (Vec::new(), Vec::new());
        for body in bodies {
            let mut head = Vec::new();
            while framing.state != State::HeadWhole {
                if held.is_empty() {
                    held = reads.next().expect("input ends inside a head").to_vec();
                }
                let n = framing.take(&held);
                head.extend(held.drain(..n));
            }
            heads.push(String::from_utf8(head).unwrap());
            framing.request_begins(BodyLength::Known(*body));
            let mut left = *body;
            while left > 0 {
                if held.is_empty() {
                    held = reads.next().expect("input ends inside a body").to_vec();
                }
                let n = framing.take(&held);
                held.drain(..n);
                left -= n as u64;
            }
            if held.is_empty() {
                held = reads.next().unwrap_or_default().to_vec();
            }
            more.push(framing.has_more(held.len()));
        }
        (heads, more)
    }

    #[test]
    fn requests_are_split_wherever_reads_fall() {
        let input = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 5\r\n\r\na\r\n\r\nGET /3 HTTP/1.1\r\n\r\n";
        for size in 1..=input.len() {
            let (heads, more) = split(input, size, &[0, 5, 0]);
            assert_eq!(heads.len(), 3, "reads of {size}");
            assert!(heads[0].starts_with("GET /1") && heads[0].ends_with("\r\n\r\n"));
            assert!(heads[1].starts_with("POST /2") && heads[1].ends_with("\r\n\r\n"));
            assert!(heads[2].starts_with("GET /3") && heads[2].ends_with("\r\n\r\n"));
            assert_eq!(more, [true, true, false], "reads of {size}");
        }
    }

    #[test]
    fn a_body_not_read_yet_is_not_a_next_request() {
        let mut framing = Framing::new();
        assert_eq!(framing.take(b"POST / HTTP/1.1\r\n\r\nbody"), 19);
        framing.request_begins(BodyLength::Known(10));
        assert!(!framing.has_more(4));
        assert!(!framing.has_more(10));
        assert!(framing.has_more(11));
    }

    #[test]
    fn a_chunked_body_ends_where_its_last_chunk_says() {
        let body: &[u8] = b"4;ext=1\r\nab\r\n\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
        let next: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
        let whole = [body, next].concat();
        for size in 1..=whole.len() {
            let mut framing = Framing::new();
            framing.take(b"POST / HTTP/1.1\r\n\r\n");
            framing.request_begins(BodyLength::Chunked);
            let (mut handed, mut held) = (0, Vec::new());
            for read in whole.chunks(size) {
                held.extend_from_slice(read);
                while !held.is_empty() && !framing.is_between_messages() {
                    let taken = framing.take(&held);
                    handed += taken;
                    held.drain(..taken);
                }
            }
            assert_eq!((handed, held.as_slice()), (body.len(), next), "reads of {size}");
            assert!(framing.has_more(held.len()));
        }
    }

    #[test]
    fn what_is_no_chunk_size_loses_track() {
        for broken in [&b"zz\r\n"[..], b"fffffffffffffffff\r\n", b"2\r\nabc\r\n"] {
            let mut framing = Framing::new();
            framing.take(b"POST / HTTP/1.1\r\n\r\n");
            framing.request_begins(BodyLength::Chunked);
            assert_eq!(framing.take(broken), broken.len());
            assert!(!framing.keeps_track(), "{broken:?}");
        }
    }

    #[test]
    fn losing_track_hands_everything_on() {
        let mut framing = Framing::new();
        assert_eq!(framing.take(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"), 4);
        assert_eq!(framing.take(b"GET / HTTP/1.1\r\n\r\n"), 18);
        framing.request_begins(BodyLength::Known(0));
        assert!(!framing.keeps_track());
        assert!(!framing.has_more(100));
    }
}
