//! Follows the frames that an HTTP/2 client sends, for two things that the engine below hyper does not do. Pure: bytes in,
//! bytes and a fact out.
//!
//! * It does not tell whether the PING between the two GOAWAYs was answered, which is what tells a client that reads slowly
//!   from one that is dead.
//! * It ignores the streams that its last GOAWAY excludes (RFC 9113 §6.8), but not their WINDOW_UPDATEs: it takes those for
//!   a breach of the protocol and cuts every stream of the connection. grpcio sends one with each call. So these frames
//!   are taken out here.

/// What every connection begins with.
const PREFACE: usize = 24;
const HEADER: usize = 9;

const HEADERS: u8 = 0x1;
const PING: u8 = 0x6;
const WINDOW_UPDATE: u8 = 0x8;
const ACK: u8 = 0x1;

/// What the engine's PING between the two GOAWAYs says.
const SHUTDOWN: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

/// How far the end of the connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody was told to go.
    Open,
    /// The PING's answer is looked for.
    Pinged,
    /// It has come: from here on new streams are excluded.
    Acknowledged,
}

/// What becomes of the frame under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    Dropped,
    /// It passes, and so many bytes of it agree with [`SHUTDOWN`].
    Compared(usize),
}

#[derive(Debug)]
pub(crate) struct Inbound {
    header: [u8; HEADER],
    have: usize,
    /// How many bytes of that header have been handed on.
    handed: usize,
    /// Bytes of payload that are still to come.
    left: usize,
    fate: Fate,
    /// The last stream that was opened before the PING was answered.
    last: u32,
    stage: Stage,
}

impl Inbound {
    pub(crate) fn new() -> Inbound {
        Inbound {
            header: [0; HEADER],
            have: 0,
            handed: 0,
            left: PREFACE,
            fate: Fate::Passes,
            last: 0,
            stage: Stage::Open,
        }
    }

    /// The client is being told to go: from now on what it sends is [filtered](Inbound::filter).
    pub(crate) fn is_pinged(&mut self) {
        self.stage = Stage::Pinged;
        self.handed = self.have;
    }

    pub(crate) fn is_acknowledged(&self) -> bool {
        self.stage == Stage::Acknowledged
    }

    /// Whether bytes are only looked at.
    pub(crate) fn only_looks(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Notes what is handed on as it is.
    pub(crate) fn look(&mut self, bytes: &[u8]) {
        self.walk(bytes, |_| {});
    }

    /// What of these bytes is to be handed on. A header is kept until it is whole.
    pub(crate) fn filter(&mut self, bytes: &[u8], kept: &mut Vec<u8>) {
        self.walk(bytes, |part| kept.extend_from_slice(part));
    }

    fn walk(&mut self, mut bytes: &[u8], mut keep: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
                if self.fate != Fate::Dropped {
                    keep(part);
                }
                self.left -= part.len();
                self.compare(part);
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at((HEADER - self.have).min(bytes.len()));
            self.header[self.have..self.have + part.len()].copy_from_slice(part);
            self.have += part.len();
            bytes = rest;
            if self.have == HEADER {
                self.begins();
                if self.fate != Fate::Dropped {
                    keep(&self.header[self.handed..]);
                }
                (self.have, self.handed) = (0, 0);
            }
        }
    }

    /// A frame begins.
    fn begins(&mut self) {
        let [high, middle, low, kind, flags, stream @ ..] = self.header;
        self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
        let stream = u32::from_be_bytes(stream) & !(1 << 31);
        self.fate = Fate::Passes;
        match (kind, self.stage) {
            (HEADERS, Stage::Open | Stage::Pinged) => self.last = self.last.max(stream),
            (PING, Stage::Pinged) if flags & ACK != 0 => self.fate = Fate::Compared(0),
            (WINDOW_UPDATE, Stage::Acknowledged) if stream > self.last && self.handed == 0 => {
                self.fate = Fate::Dropped;
            }
            _ => {}
        }
    }

    fn compare(&mut self, part: &[u8]) {
        let Fate::Compared(agreed) = self.fate else { return };
        self.fate = match SHUTDOWN[agreed..].starts_with(part) {
            true => Fate::Compared(agreed + part.len()),
            false => Fate::Passes,
        };
        if self.fate == Fate::Compared(SHUTDOWN.len()) {
            self.stage = Stage::Acknowledged;
            self.fate = Fate::Passes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// What is kept of `before`, which comes before the client is told to go, and of `after`, in reads of `size` bytes.
    fn kept(before: &[u8], after: &[u8], size: usize) -> (Inbound, Vec<u8>) {
        let mut inbound = Inbound::new();
        before.chunks(size).for_each(|read| inbound.look(read));
        inbound.is_pinged();
        let mut kept = before.to_vec();
        after.chunks(size).for_each(|read| inbound.filter(read, &mut kept));
        (inbound, kept)
    }

    #[test]
    fn window_updates_of_excluded_streams_are_taken_out_wherever_reads_fall() {
        let window = |stream| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 1, 0]);
        let before = [&[b'x'; PREFACE][..], &frame(HEADERS, 4, 1, b"get"), &window(1)].concat();
        let open = [frame(HEADERS, 4, 3, b"get"), window(3), frame(0, 1, 1, b"body")].concat();
        let acknowledged = frame(PING, ACK, 0, &SHUTDOWN);
        let excluded = frame(HEADERS, 5, 5, b"get");
        let rest = [window(0), window(3), frame(0, 0, 5, b"body")].concat();
        let sent = [&*open, &acknowledged, &excluded, &window(5), &rest, &window(7)].concat();
        let expected = [&*before, &open, &acknowledged, &excluded, &rest].concat();
        for size in 1..=sent.len() {
            let (inbound, kept) = kept(&before, &sent, size);
            assert!(inbound.is_acknowledged(), "reads of {size}");
            assert_eq!(kept, expected, "reads of {size}");
        }
    }

    #[test]
    fn a_header_of_which_a_part_was_handed_on_before_is_not_handed_on_twice() {
        let update = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 1, 0]);
        for cut in 0..update.len() {
            let before = [&[b'x'; PREFACE][..], &update[..cut]].concat();
            let (_, kept) = kept(&before, &update[cut..], 1);
            assert_eq!(kept, [&[b'x'; PREFACE][..], &update].concat(), "cut at {cut}");
        }
    }

    #[test]
    fn only_the_answer_to_the_engines_own_ping_counts() {
        let preface = [b'x'; PREFACE];
        for (flags, payload) in [(0, SHUTDOWN), (ACK, *b"lameduck"), (ACK, [0x0b; 8])] {
            let (inbound, _) = kept(&preface, &frame(PING, flags, 0, &payload), 3);
            assert!(!inbound.is_acknowledged(), "{flags} {payload:?}");
        }
        // Nor the same bytes inside a body.
        let body = frame(0, 0, 1, &frame(PING, ACK, 0, &SHUTDOWN));
        assert!(!kept(&preface, &body, 1).0.is_acknowledged());
    }
}
