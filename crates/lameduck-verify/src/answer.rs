//! Reads HTTP/1.1 answers from bytes as they come. No sockets, no clock, no copies of bodies.
//!
//! **Invariants**
//!
//! 1. Each byte fed is either consumed by this answer or left to the caller: nothing is swallowed.
//! 2. An answer is complete only by its own framing: its length, its last chunk, or the end of file where the
//!    head names neither.
//! 3. What is kept in memory is bounded by [`HEAD_LIMIT`].

/// The longest answer head, and the longest line between chunks, that is accepted.
pub const HEAD_LIMIT: usize = 64 * 1024;

/// One answer, read piece by piece.
#[derive(Debug, Default)]
pub struct Answer {
    state: State,
    /// Bytes of a head whose end has not come yet.
    partial: Vec<u8>,
    head: Option<Head>,
    body_bytes: u64,
    any: bool,
}

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Whether the connection ends after this answer.
    pub persistence: Persistence,
    framing: Framing,
}

/// Whether the server keeps the connection open after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// The connection may carry another request.
    Keep,
    /// The server announced that it closes (or speaks HTTP/1.0).
    Close,
}

/// What came is not an HTTP/1.x answer; says what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilEof,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Length(u64),
    UntilEof,
    ChunkSize(ChunkSize),
    ChunkData(u64),
    /// After a chunk's data: the line end that belongs to it.
    ChunkEnd,
    /// Lines after the last chunk; the number is the length of the line so far.
    Trailer(usize),
    Complete,
}

/// A chunk-size line so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ChunkSize {
    size: u64,
    digits: u8,
    /// Past the digits: an extension or the line end.
    extension: bool,
    length: usize,
}

impl Answer {
    /// Takes as much of `bytes` as belongs to this answer and says how much that was.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        self.any |= !bytes.is_empty();
        let mut used = 0;
        while used < bytes.len() && self.state != State::Complete {
            used += self.step(&bytes[used..])?;
        }
        Ok(used)
    }

    /// The end of file came: true if the answer is complete with it.
    pub fn end_of_file(&mut self) -> bool {
        if self.state == State::UntilEof {
            self.state = State::Complete;
        }
        self.is_complete()
    }

    /// The whole answer was read.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Whether any byte of an answer has come (interim answers count).
    pub fn has_begun(&self) -> bool {
        self.any
    }

    /// The final head, once it was read.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Bytes of the body (without chunk framing) so far.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Makes ready for the next answer, keeping the memory.
    pub fn clear(&mut self) {
        self.partial.clear();
        self.state = State::Head;
        self.head = None;
        self.body_bytes = 0;
        self.any = false;
    }

    fn step(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self.state {
            State::Head => self.read_head(bytes),
            State::Length(left) => {
                let (taken, left) = self.take_body(bytes, left);
                self.state = if left == 0 { State::Complete } else { State::Length(left) };
                Ok(taken)
            }
            State::UntilEof => {
                self.body_bytes += bytes.len() as u64;
                Ok(bytes.len())
            }
            State::ChunkSize(line) => self.read_chunk_size(line, bytes[0]),
            State::ChunkData(left) => {
                let (taken, left) = self.take_body(bytes, left);
                self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                Ok(taken)
            }
            State::ChunkEnd => {
                match bytes[0] {
                    b'\r' => {}
                    b'\n' => self.state = State::ChunkSize(ChunkSize::default()),
                    _ => return Err(Malformed("a chunk is longer than its size")),
                }
                Ok(1)
            }
            State::Trailer(length) => self.read_trailer(length, bytes[0]),
            State::Complete => Ok(0),
        }
    }

    fn take_body(&mut self, bytes: &[u8], left: u64) -> (usize, u64) {
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.body_bytes += taken as u64;
        (taken, left - taken as u64)
    }

    fn read_head(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        // The usual case: the whole head is here, and nothing is copied.
        if self.partial.is_empty() {
            if let Some((head, length)) = parse_head(bytes)? {
                self.begin_body(head);
                return Ok(length);
            }
            self.partial.extend_from_slice(bytes);
            return self.check_head_limit().map(|()| bytes.len());
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(bytes);
        match parse_head(&self.partial)? {
            Some((head, length)) => {
                self.partial.clear();
                self.begin_body(head);
                Ok(length - before)
            }
            None => self.check_head_limit().map(|()| bytes.len()),
        }
    }

    fn check_head_limit(&self) -> Result<(), Malformed> {
        if self.partial.len() > HEAD_LIMIT {
            return Err(Malformed("the head is longer than 64 KiB"));
        }
        Ok(())
    }

    fn begin_body(&mut self, head: Head) {
        // An interim answer: the final head is still to come.
        if (100..200).contains(&head.status) && head.status != 101 {
            return;
        }
        self.head = Some(head);
        self.state = match head.framing {
            Framing::Length(0) => State::Complete,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize(ChunkSize::default()),
            Framing::UntilEof => State::UntilEof,
        };
    }

    fn read_chunk_size(&mut self, mut line: ChunkSize, byte: u8) -> Result<usize, Malformed> {
        line.length += 1;
        if line.length > HEAD_LIMIT {
            return Err(Malformed("a chunk-size line is longer than 64 KiB"));
        }
        match (byte as char).to_digit(16) {
            Some(digit) if !line.extension => {
                line.digits += 1;
                if line.digits > 15 {
                    return Err(Malformed("a chunk size is too large"));
                }
                line.size = line.size * 16 + u64::from(digit);
            }
            _ if line.digits == 0 => return Err(Malformed("a chunk has no size")),
            _ if byte == b'\n' => {
                self.state = match line.size {
                    0 => State::Trailer(0),
                    size => State::ChunkData(size),
                };
                return Ok(1);
            }
            _ => line.extension = true,
        }
        self.state = State::ChunkSize(line);
        Ok(1)
    }

    fn read_trailer(&mut self, length: usize, byte: u8) -> Result<usize, Malformed> {
        self.state = match byte {
            b'\n' if length == 0 => State::Complete,
            b'\n' => State::Trailer(0),
            b'\r' => State::Trailer(length),
            _ if length >= HEAD_LIMIT => return Err(Malformed("a trailer is longer than 64 KiB")),
            _ => State::Trailer(length + 1),
        };
        Ok(1)
    }
}

/// The head and its length in bytes, if its end has come.
fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
    let mut lines = Lines { bytes, at: 0 };
    let Some(first) = lines.next() else {
        // Garbage without a line end must not wait for one.
        let prefix = b"HTTP/1.";
        let known = bytes.len().min(prefix.len());
        if bytes[..known] != prefix[..known] {
            return Err(Malformed("it does not begin with HTTP/1."));
        }
        return Ok(None);
    };
    let (minor, status) = parse_status_line(first)?;
    let mut fields = Fields::default();
    for line in lines.by_ref() {
        if line.is_empty() {
            return Ok(Some((fields.into_head(minor, status), lines.at)));
        }
        fields.read(line)?;
    }
    Ok(None)
}

fn parse_status_line(line: &[u8]) -> Result<(u8, u16), Malformed> {
    let Some(rest) = line.strip_prefix(b"HTTP/1.") else {
        return Err(Malformed("it does not begin with HTTP/1."));
    };
    let [minor, b' ', code @ ..] = rest else {
        return Err(Malformed("the status line has no status"));
    };
    match code.get(..3) {
        Some(digits)
            if digits.iter().all(u8::is_ascii_digit)
                && matches!(code.get(3), None | Some(b' ')) =>
        {
            let code = digits;
            Ok((*minor, code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))))
        }
        _ => Err(Malformed("the status line has no status")),
    }
}

/// Lines without their ends; stops before a line whose end has not come.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        self.at += end + 1;
        Some(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]))
    }
}

/// The header fields that decide where an answer ends and whether another can follow.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    /// There is a transfer coding, so a length says nothing (RFC 9112, section 6.3).
    encoded: bool,
    /// The last coding is `chunked`.
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Fields {
    fn read(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err(Malformed("a header field has no colon"));
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let text = std::str::from_utf8(value).ok().filter(|_| is_number);
                let length = text.and_then(|text| text.parse().ok());
                let length = length.ok_or(Malformed("content-length is not a number"))?;
                if self.length.is_some_and(|before| before != length) {
                    return Err(Malformed("two content-lengths differ"));
                }
                self.length = Some(length);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.encoded = true;
                self.chunked = ends_with_token(value, b"chunked");
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.close |= has_token(value, b"close");
                self.keep_alive |= has_token(value, b"keep-alive");
            }
            _ => {}
        }
        Ok(())
    }

    fn into_head(self, minor: u8, status: u16) -> Head {
        let framing = match (status, self.chunked, self.length) {
            (204 | 304, _, _) => Framing::Length(0),
            (101, _, _) => Framing::UntilEof,
            (100..200, _, _) => Framing::Length(0),
            (_, true, _) => Framing::Chunked,
            (_, false, Some(length)) if !self.encoded => Framing::Length(length),
            (_, false, _) => Framing::UntilEof,
        };
        let closes =
            self.close || (minor == b'0' && !self.keep_alive) || framing == Framing::UntilEof;
        let persistence = if closes { Persistence::Close } else { Persistence::Keep };
        Head { status, persistence, framing }
    }
}

fn ends_with_token(value: &[u8], token: &[u8]) -> bool {
    let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
    last.trim_ascii().eq_ignore_ascii_case(token)
}

fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests;
