//! Where WebSocket frames and messages begin and end in a byte stream (RFC 6455 §5.2). Pure: bytes in, places out.
//!
//! Nothing is checked that the ends of the connection check themselves: a stream that is no WebSocket is scanned to
//! nonsense, and its ends will say so.

/// The longest frame header: two bytes, eight of length, four of mask.
const HEADER_AT_MOST: usize = 14;

/// The longest payload of a control frame.
const CONTROL_AT_MOST: usize = 125;

/// A control frame's reason beside its code, in bytes.
pub(crate) const REASON_AT_MOST: usize = CONTROL_AT_MOST - 2;

const OPCODE_CLOSE: u8 = 0x8;
const CONTROL: u8 = 0x8;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// How far a close frame has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseFrame {
    None,
    /// Begun, and not whole.
    Begun,
    Whole,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    bytes: usize,
    payload: u64,
    first: u8,
}

impl Header {
    /// Reads the header that `bytes` begin with; `None` while it is not whole.
    fn read(bytes: &[u8]) -> Option<Header> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        let (length, payload) = match second & !MASKED {
            126 => (2, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
            127 => (8, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
            short => (0, u64::from(short)),
        };
        let header = Header { bytes: 2 + length + mask, payload, first };
        (bytes.len() >= header.bytes).then_some(header)
    }
}

/// The length of the frame that `bytes` begin with, header included; `None` while its header is not whole.
pub(crate) fn frame_length(bytes: &[u8]) -> Option<u64> {
    Header::read(bytes).map(|header| header.payload.saturating_add(header.bytes as u64))
}

/// One direction of a WebSocket.
#[derive(Debug)]
pub(crate) struct Frames {
    header: [u8; HEADER_AT_MOST],
    have: usize,
    /// Bytes of payload that are still to come, once the header is whole.
    left: u64,
    /// The first byte of the frame under way.
    first: u8,
    message: Message,
    close: CloseFrame,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Whole,
    /// A fragment with more to follow was the last data frame.
    Fragmented,
}

impl Frames {
    pub(crate) fn new() -> Frames {
        Frames {
            header: [0; HEADER_AT_MOST],
            have: 0,
            left: 0,
            first: 0,
            message: Message::Whole,
            close: CloseFrame::None,
        }
    }

    /// No frame is under way.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// No frame is under way, and no message that came in fragments either.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.is_between_frames() && self.message == Message::Whole
    }

    pub(crate) fn close(&self) -> CloseFrame {
        self.close
    }

    /// Goes through all of `bytes`.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.pass_frame(bytes)..];
        }
    }

    /// Goes on to the end of the frame under way, or of the next one, at most; returns how many bytes that were.
    pub(crate) fn pass_frame(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while self.left == 0 {
            let Some(byte) = bytes.get(passed) else { return passed };
            self.header[self.have] = *byte;
            self.have += 1;
            passed += 1;
            if let Some(header) = Header::read(&self.header[..self.have]) {
                self.have = 0;
                self.begins(header);
                if self.left == 0 {
                    self.ends();
                    return passed;
                }
            }
        }
        let rest = (bytes.len() - passed) as u64;
        let taken = self.left.min(rest);
        self.left -= taken;
        if self.left == 0 {
            self.ends();
        }
        // No more than the length of a slice.
        passed + taken as usize
    }

    /// How many of `bytes` belong to the frame under way; all, if it does not end in them.
    pub(crate) fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        let mut ahead = Frames { header: self.header, ..*self };
        ahead.pass_frame(bytes)
    }

    fn begins(&mut self, header: Header) {
        self.left = header.payload;
        self.first = header.first;
        if header.first & 0x0f == OPCODE_CLOSE && self.close == CloseFrame::None {
            self.close = CloseFrame::Begun;
        }
    }

    fn ends(&mut self) {
        if self.first & CONTROL == 0 {
            let whole = self.first & FIN != 0;
            self.message = if whole { Message::Whole } else { Message::Fragmented };
        } else if self.first & 0x0f == OPCODE_CLOSE {
            self.close = CloseFrame::Whole;
        }
    }
}

/// A server's close frame with this code; a reason that is too long is cut at a character.
pub(crate) fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut end = reason.len().min(REASON_AT_MOST);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut frame = vec![FIN | OPCODE_CLOSE, 2 + end as u8];
    frame.extend(code.to_be_bytes());
    frame.extend(&reason.as_bytes()[..end]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = vec![first];
        match length {
            0..=125 => frame.push(length as u8 | mask),
            126..=0xffff => {
                frame.push(126 | mask);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(127 | mask);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0x5a; length + if masked { 4 } else { 0 }]);
        frame
    }

    #[test]
    fn each_boundary_is_found_however_the_bytes_are_cut() {
        let lengths = [0, 1, 125, 126, 127, 0xffff, 0x1_0000];
        let frames: Vec<Vec<u8>> =
            lengths.iter().flat_map(|n| [frame(0x82, *n, true), frame(0x81, *n, false)]).collect();
        let ends: Vec<usize> = frames
            .iter()
            .scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            })
            .collect();
        let bytes = frames.concat();
        for step in [1, 2, 3, 7, 1000, bytes.len()] {
            let mut scan = Frames::new();
            let (mut at, mut found) = (0, Vec::new());
            while at < bytes.len() {
                let until = (at + step).min(bytes.len());
                let passed = scan.pass_frame(&bytes[at..until]);
                assert!(passed > 0);
                at += passed;
                if scan.is_between_frames() {
                    assert!(scan.is_between_messages());
                    found.push(at);
                }
            }
            assert_eq!(found, ends, "in steps of {step}");
        }
    }

    #[test]
    fn a_message_in_fragments_is_not_over_before_its_last_one_and_control_frames_do_not_end_it() {
        let mut scan = Frames::new();
        for (first, between) in [(0x01, false), (0x89, false), (0x00, false), (0x80, true)] {
            scan.pass(&frame(first, 3, true));
            assert!(scan.is_between_frames());
            assert_eq!(scan.is_between_messages(), between, "{first:#x}");
        }
    }

    #[test]
    fn a_close_frame_is_seen_when_it_is_whole() {
        let mut scan = Frames::new();
        let bytes = close_frame(1001, "going away");
        scan.pass(&frame(0x81, 300, false));
        assert_eq!(scan.close(), CloseFrame::None);
        scan.pass(&bytes[..2]);
        assert_eq!(scan.close(), CloseFrame::Begun);
        scan.pass(&bytes[2..]);
        assert_eq!(scan.close(), CloseFrame::Whole);
    }

    #[test]
    fn the_rest_of_a_frame_is_told_without_going_on() {
        let bytes = [frame(0x81, 200, false), frame(0x81, 9, false)].concat();
        let mut scan = Frames::new();
        scan.pass(&bytes[..50]);
        assert_eq!(scan.rest_of_frame(&bytes[50..]), 204 - 50);
        assert_eq!(scan.rest_of_frame(&bytes[50..60]), 10);
        assert_eq!(frame_length(&bytes), Some(204));
        assert_eq!(frame_length(&bytes[..3]), None);
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let frame = close_frame(1012, &"ö".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
