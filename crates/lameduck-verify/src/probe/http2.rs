//! HTTP/2 connections that stop halfway, and the frames that come back. Frames are written and read by hand,
//! so that a client can be as wrong as the case needs.

use super::{End, Speaks, Until, Wire, watch};
use crate::address::Place;
use std::io;
use std::time::Duration;

/// What a client sends first (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The last stream id of a GOAWAY that excludes nothing yet.
pub const NO_LAST_STREAM: u32 = 0x7fff_ffff;

const FRAME_HEAD: usize = 9;

/// The types of frames (RFC 9113, section 6).
pub mod kind {
    #![allow(missing_docs)] // The names are the document's own.
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames (RFC 9113, section 6).
pub mod flag {
    #![allow(missing_docs)] // The names are the document's own.
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type, see [`kind`].
    pub kind: u8,
    /// Its flags, see [`flag`].
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What follows its head.
    pub payload: Vec<u8>,
}

/// How far a client goes with an HTTP/2 connection before it falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpTo {
    /// Nine bytes of the preface.
    PartOfPreface,
    /// The preface, but no SETTINGS.
    Preface,
    /// The preface and SETTINGS; the server's SETTINGS are never acknowledged, nor are its PINGs.
    Settings,
    /// All that, and the server's SETTINGS acknowledged; its PINGs are not.
    SettingsAcknowledged,
}

/// A client on a bare wire.
#[derive(Debug)]
pub struct Client {
    /// The connection, to be watched.
    pub wire: Wire,
    /// Frames that were looked at by [`attend`](Client::attend).
    attended: usize,
}

impl Client {
    /// A client on a wire on which nothing was read yet.
    pub fn over(wire: Wire) -> Client {
        Client { wire, attended: 0 }
    }

    /// Connects and goes as far as said.
    ///
    /// # Errors
    /// When it cannot connect or write, or (for [`UpTo::SettingsAcknowledged`]) no SETTINGS came in `limit`.
    pub fn open(place: &Place, up_to: UpTo, limit: Duration) -> io::Result<Client> {
        let mut client = Client::over(Wire::open_to(place, Speaks::Http2)?);
        match up_to {
            UpTo::PartOfPreface => client.wire.send(&PREFACE[..9])?,
            UpTo::Preface => client.wire.send(PREFACE)?,
            UpTo::Settings | UpTo::SettingsAcknowledged => {
                client.wire.send(&[PREFACE, &settings().to_bytes()].concat())?;
            }
        }
        if up_to == UpTo::SettingsAcknowledged {
            let found = client.wait_frame(
                |frame| frame.kind == kind::SETTINGS && frame.flags == flag::NONE,
                limit,
            )?;
            if !found {
                return Err(io::Error::other(format!(
                    "no SETTINGS from {} in {limit:?}",
                    place.address
                )));
            }
            client.wire.send(&acknowledgement(kind::SETTINGS, &[]).to_bytes())?;
        }
        Ok(client)
    }

    /// As [`open`](Client::open) with [`UpTo::SettingsAcknowledged`], with settings of its own: pairs of an identifier and
    /// a value (RFC 9113, section 6.5.2).
    ///
    /// # Errors
    /// When it cannot connect or write, or no SETTINGS came in `limit`.
    pub fn open_with(place: &Place, chosen: &[(u16, u32)], limit: Duration) -> io::Result<Client> {
        let mut client = Client::over(Wire::open_to(place, Speaks::Http2)?);
        let payload = chosen.iter().flat_map(|(id, value)| {
            [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat()
        });
        let chosen = Frame { payload: payload.collect(), ..settings() };
        client.wire.send(&[PREFACE, &chosen.to_bytes()].concat())?;
        let is_settings = |frame: &Frame| frame.kind == kind::SETTINGS && frame.flags == flag::NONE;
        match client.attend(|client| client.frames().iter().any(is_settings), limit)? {
            true => Ok(client),
            false => {
                Err(io::Error::other(format!("no SETTINGS from {} in {limit:?}", place.address)))
            }
        }
    }

    /// Reads as a well-behaved client does, acknowledging SETTINGS and PINGs, until `is_over`, the connection ended or
    /// `limit` passed; says whether it is over.
    pub fn attend(
        &mut self,
        is_over: impl Fn(&Client) -> bool,
        limit: Duration,
    ) -> io::Result<bool> {
        let deadline = std::time::Instant::now() + limit;
        loop {
            let frames = self.frames();
            for frame in &frames[self.attended.min(frames.len())..] {
                let is_asked = matches!(frame.kind, kind::SETTINGS | kind::PING);
                if is_asked && frame.flags & flag::ACK == 0 {
                    let payload = if frame.kind == kind::PING { &frame.payload[..] } else { &[] };
                    // A peer that has closed needs no acknowledgement.
                    let _ = self.wire.send(&acknowledgement(frame.kind, payload).to_bytes());
                }
            }
            self.attended = frames.len();
            if is_over(self) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if self.wire.end() != End::Open || left.is_zero() || !self.wire.read_some(left)? {
                return Ok(is_over(self));
            }
        }
    }

    /// The bytes of DATA received on a stream, as text.
    pub fn data(&self, stream: u32) -> String {
        let frames = self.frames();
        let data = frames.iter().filter(|frame| frame.kind == kind::DATA && frame.stream == stream);
        let bytes: Vec<u8> = data.flat_map(|frame| frame.payload.clone()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether anything of an answer came on a stream.
    pub fn is_begun(&self, stream: u32) -> bool {
        self.frames().iter().any(|frame| frame.kind == kind::HEADERS && frame.stream == stream)
    }

    /// The error code of the RST_STREAM of a stream, if there is one.
    pub fn reset_code(&self, stream: u32) -> Option<u32> {
        let frames = self.frames();
        let reset = frames.iter().find(|it| it.kind == kind::RST_STREAM && it.stream == stream)?;
        Some(u32::from_be_bytes(reset.payload.get(..4)?.try_into().ok()?))
    }

    /// Opens a stream with a `GET`. Client streams have odd ids that grow.
    pub fn get(&mut self, place: &Place, stream: u32) -> io::Result<()> {
        self.wire.send(&get(place, stream).to_bytes())
    }

    /// Sends one frame.
    pub fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.wire.send(&frame.to_bytes())
    }

    /// The whole frames received so far.
    pub fn frames(&self) -> Vec<Frame> {
        frames(self.wire.received()).0
    }

    /// The last stream ids and error codes of the GOAWAYs received so far.
    pub fn go_aways(&self) -> Vec<(u32, u32)> {
        self.frames().iter().filter_map(Frame::go_away).collect()
    }

    /// Whether the stream was answered to its end.
    pub fn is_answered(&self, stream: u32) -> bool {
        self.frames().iter().any(|frame| frame.stream == stream && frame.ends_stream())
    }

    /// Reads until a frame like this has come, the connection ended or `limit` passed; says whether it came.
    pub fn wait_frame(
        &mut self,
        is_it: impl Fn(&Frame) -> bool,
        limit: Duration,
    ) -> io::Result<bool> {
        let deadline = std::time::Instant::now() + limit;
        while !self.frames().iter().any(&is_it) {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if self.wire.end() != End::Open || left.is_zero() || !self.wire.read_some(left)? {
                return Ok(self.frames().iter().any(&is_it));
            }
        }
        Ok(true)
    }

    /// Reads until the connection ended or `limit` passed; says how it ended.
    pub fn wait_end(&mut self, limit: Duration) -> io::Result<End> {
        watch(std::slice::from_mut(&mut self.wire), Until::Closed, limit)?;
        Ok(self.wire.end())
    }
}

impl Frame {
    /// The frame as it is on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a frame is short").to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The last stream id and the error code, of a GOAWAY.
    pub fn go_away(&self) -> Option<(u32, u32)> {
        let number =
            |at: usize| Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?));
        (self.kind == kind::GOAWAY).then_some(())?;
        Some((number(0)? & NO_LAST_STREAM, number(4)?))
    }

    fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & flag::END_STREAM != 0
    }
}

/// SETTINGS that change nothing.
pub fn settings() -> Frame {
    Frame { kind: kind::SETTINGS, flags: flag::NONE, stream: 0, payload: Vec::new() }
}

/// The acknowledgement of a SETTINGS (no payload) or a PING (its payload).
pub fn acknowledgement(kind: u8, payload: &[u8]) -> Frame {
    Frame { kind, flags: flag::ACK, stream: 0, payload: payload.to_vec() }
}

/// A GOAWAY.
pub fn go_away(last_stream: u32, code: u32) -> Frame {
    let payload = [last_stream.to_be_bytes(), code.to_be_bytes()].concat();
    Frame { kind: kind::GOAWAY, flags: flag::NONE, stream: 0, payload }
}

/// HEADERS of a `GET` without a body, each field in the simplest form that HPACK (RFC 7541) has.
pub fn get(place: &Place, stream: u32) -> Frame {
    // Of the static table: 2 is `:method: GET`, 6 is `:scheme: http`.
    let mut payload = vec![0x80 | 2, 0x80 | 6];
    // Literals that enter no table, with names of the static table: 4 is `:path`, 1 is `:authority`.
    for (name, value) in [(4, &place.path), (1, &place.host)] {
        payload.push(name);
        payload.extend(string(value));
    }
    Frame { kind: kind::HEADERS, flags: flag::END_HEADERS | flag::END_STREAM, stream, payload }
}

/// HEADERS of a `POST` whose body follows, with further fields.
pub fn post(place: &Place, stream: u32, fields: &[(&str, &str)]) -> Frame {
    // Of the static table: 3 is `:method: POST`, 6 is `:scheme: http`; the rest as in [`get`].
    let mut payload = vec![0x80 | 3, 0x80 | 6];
    for (name, value) in [(4, &place.path), (1, &place.host)] {
        payload.push(name);
        payload.extend(string(value));
    }
    for (name, value) in fields {
        // A literal with a literal name.
        payload.push(0);
        payload.extend(string(name));
        payload.extend(string(value));
    }
    Frame { kind: kind::HEADERS, flags: flag::END_HEADERS, stream, payload }
}

/// DATA.
pub fn data(stream: u32, payload: &[u8], flags: u8) -> Frame {
    Frame { kind: kind::DATA, flags, stream, payload: payload.to_vec() }
}

/// More room for the peer to send.
pub fn window_update(stream: u32, bytes: u32) -> Frame {
    Frame {
        kind: kind::WINDOW_UPDATE,
        flags: flag::NONE,
        stream,
        payload: bytes.to_be_bytes().to_vec(),
    }
}

/// A string without Huffman code: its length in the prefix form of RFC 7541, section 5.1, then its bytes.
fn string(value: &str) -> Vec<u8> {
    const PREFIX_MAX: usize = 0x7f;
    let mut bytes = Vec::new();
    match value.len().checked_sub(PREFIX_MAX) {
        None => bytes.push(value.len() as u8),
        Some(mut rest) => {
            bytes.push(PREFIX_MAX as u8);
            while rest >= 0x80 {
                bytes.push((rest % 0x80) as u8 | 0x80);
                rest /= 0x80;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend(value.as_bytes());
    bytes
}

/// The whole frames at the beginning of `bytes`, and how many bytes they take.
pub fn frames(bytes: &[u8]) -> (Vec<Frame>, usize) {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some((frame, length)) = frame(&bytes[at..]) {
        found.push(frame);
        at += length;
    }
    (found, at)
}

fn frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let head: [u8; FRAME_HEAD] = bytes.get(..FRAME_HEAD)?.try_into().ok()?;
    let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
    let end = FRAME_HEAD + u32::from_be_bytes([0, l0, l1, l2]) as usize;
    let payload = bytes.get(FRAME_HEAD..end)?.to_vec();
    let stream = u32::from_be_bytes([s0, s1, s2, s3]) & NO_LAST_STREAM;
    Some((Frame { kind, flags, stream, payload }, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_are_written() {
        let written = vec![settings(), go_away(5, 2), acknowledgement(kind::PING, b"12345678")];
        let mut bytes: Vec<u8> = written.iter().flat_map(Frame::to_bytes).collect();
        let whole = bytes.len();
        bytes.extend(&go_away(1, 0).to_bytes()[..12]);
        assert_eq!(frames(&bytes), (written, whole));
    }

    #[test]
    fn a_go_away_tells_its_last_stream_and_code() {
        assert_eq!(go_away(NO_LAST_STREAM, 0).go_away(), Some((NO_LAST_STREAM, 0)));
        assert_eq!(go_away(7, 11).go_away(), Some((7, 11)));
        assert_eq!(settings().go_away(), None);
    }

    #[test]
    fn lengths_of_strings_follow_the_prefix_form() {
        assert_eq!(string("ab"), b"\x02ab");
        assert_eq!(string(&"x".repeat(127))[..2], [0x7f, 0]);
        assert_eq!(string(&"x".repeat(1337))[..3], [0x7f, 0xba, 9]);
    }
}
