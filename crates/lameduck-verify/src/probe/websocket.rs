//! WebSockets (RFC 6455) by hand: a client can leave a close frame unanswered, and sees how each connection ends.

use super::{End, Wire};
use crate::address::Place;
use std::io;
use std::time::{Duration, Instant};

/// The key of every opening handshake: nothing here depends on it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What masks every frame to the server.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The kinds of frames (RFC 6455, section 5.2).
pub mod opcode {
    #![allow(missing_docs)] // The names are the document's own.
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its kind, see [`opcode`].
    pub code: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// An open WebSocket on a bare wire.
#[derive(Debug)]
pub struct WebSocket {
    /// The connection, to be watched.
    pub wire: Wire,
}

impl WebSocket {
    /// Connects and does the opening handshake.
    ///
    /// # Errors
    /// When it cannot connect, or the server does not switch protocols within `limit`.
    pub fn open(place: &Place, limit: Duration) -> io::Result<WebSocket> {
        let mut socket = WebSocket { wire: Wire::open(place)? };
        let more = format!(
            "upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n"
        );
        socket.wire.send(&place.get(&more))?;
        let is_switched = socket.wait(|socket| socket.head_end().is_some(), limit)?
            && socket.wire.received().starts_with(b"HTTP/1.1 101");
        match is_switched {
            true => Ok(socket),
            false => {
                let said = String::from_utf8_lossy(socket.wire.received())
                    .lines()
                    .next()
                    .map(str::to_owned);
                Err(io::Error::other(format!(
                    "{place} did not become a WebSocket: {}",
                    said.unwrap_or_default()
                )))
            }
        }
    }

    /// Sends a text.
    pub fn send_text(&mut self, text: &str) -> io::Result<()> {
        self.wire.send(&masked(opcode::TEXT, text.as_bytes()))
    }

    /// Answers a close frame with the same code.
    pub fn answer_close(&mut self, payload: &[u8]) -> io::Result<()> {
        self.wire.send(&masked(opcode::CLOSE, payload))
    }

    /// The whole frames received so far.
    pub fn frames(&self) -> Vec<Frame> {
        let from = self.head_end().unwrap_or(usize::MAX);
        let mut rest = self.wire.received().get(from..).unwrap_or_default();
        let mut found = Vec::new();
        while let Some((frame, length)) = frame(rest) {
            found.push(frame);
            rest = &rest[length..];
        }
        found
    }

    /// The code of the close frame, if one came; 1005 for one without a code (RFC 6455, section 7.4.1).
    pub fn close_code(&self) -> Option<u16> {
        let close = self.frames().into_iter().find(|frame| frame.code == opcode::CLOSE)?;
        let code = close.payload.get(..2).and_then(|code| code.try_into().ok());
        Some(code.map_or(1005, u16::from_be_bytes))
    }

    /// Whether this text came.
    pub fn has_text(&self, text: &str) -> bool {
        let is_it = |frame: &Frame| {
            matches!(frame.code, opcode::TEXT | opcode::BINARY)
                && String::from_utf8_lossy(&frame.payload).contains(text)
        };
        self.frames().iter().any(is_it)
    }

    /// Whether any message came.
    pub fn has_message(&self) -> bool {
        self.frames().iter().any(|frame| matches!(frame.code, opcode::TEXT | opcode::BINARY))
    }

    /// Sends a text and waits until it comes back.
    pub fn echoes(&mut self, text: &str, limit: Duration) -> io::Result<bool> {
        if self.send_text(text).is_err() {
            return Ok(false);
        }
        self.wait(|socket| socket.has_text(text), limit)
    }

    /// Reads until `is_over`, the connection ended or `limit` passed; says whether it is over.
    pub fn wait(
        &mut self,
        is_over: impl Fn(&WebSocket) -> bool,
        limit: Duration,
    ) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        while !is_over(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.wire.end() != End::Open || left.is_zero() || !self.wire.read_some(left)? {
                return Ok(is_over(self));
            }
        }
        Ok(true)
    }

    fn head_end(&self) -> Option<usize> {
        let at = self.wire.received().windows(4).position(|four| four == b"\r\n\r\n");
        at.map(|at| at + 4)
    }
}

fn masked(code: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | code];
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => bytes.push(0x80 | length as u8),
        Ok(length) => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The frame at the beginning, and how many bytes it takes.
fn frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let [first, second] = bytes.get(..2)?.try_into().ok()?;
    let (length, from): (usize, usize) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let end = from.checked_add(length)?;
    let payload = bytes.get(from..end)?.to_vec();
    Some((Frame { code: first & 0x0f, payload }, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_in_all_three_lengths() {
        let short = [0x81, 2, b'h', b'i'];
        assert_eq!(frame(&short), Some((Frame { code: opcode::TEXT, payload: b"hi".to_vec() }, 4)));
        assert_eq!(frame(&short[..3]), None);
        let long = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        assert_eq!(frame(&long).unwrap().1, 260);
        let longest = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65536]].concat();
        assert_eq!(frame(&longest).unwrap().1, 65546);
    }

    #[test]
    fn what_is_sent_is_masked() {
        let bytes = masked(opcode::TEXT, b"abcde");
        assert_eq!(bytes[..2], [0x81, 0x85]);
        let plain: Vec<u8> =
            bytes[6..].iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m).collect();
        assert_eq!(plain, b"abcde");
        for length in [125, 126, 65535, 65536] {
            let bytes = masked(opcode::TEXT, &vec![b'x'; length]);
            // As a server would read it, but for the mask that lies before the payload.
            let (read, used) = frame(&[&bytes[..], &[0; 4]].concat()).unwrap();
            assert_eq!((read.payload.len(), used + MASK.len()), (length, bytes.len()));
        }
    }
}
