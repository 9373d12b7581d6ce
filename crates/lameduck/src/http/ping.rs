//! Finds the answer to a PING in what an HTTP/2 client sends.
//!
//! hyper does not tell whether the PING between the two GOAWAYs was answered, and that is what tells a client that
//! reads slowly from one that is dead. Pure: bytes in, a fact out. It does not follow frames, so the same nine bytes inside
//! a body count as well: that costs a client its bound, not its answer.

use memchr::memmem;

/// The head of a PING frame with the flag ACK: eight bytes on stream 0 (RFC 9113, section 6.7).
const ACK: [u8; 9] = [0, 0, 8, 6, 1, 0, 0, 0, 0];

/// What falls on the near side of two reads at most.
const TAIL: usize = ACK.len() - 1;

#[derive(Debug, Default)]
pub(crate) struct PingAck {
    /// The last bytes read, as many as may begin the frame.
    tail: Vec<u8>,
    has_come: bool,
}

impl PingAck {
    pub(crate) fn read(&mut self, bytes: &[u8]) {
        if self.has_come || bytes.is_empty() {
            return;
        }
        self.tail.extend_from_slice(&bytes[..bytes.len().min(TAIL)]);
        self.has_come =
            memmem::find(&self.tail, &ACK).is_some() || memmem::find(bytes, &ACK).is_some();
        if bytes.len() > TAIL {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - TAIL..]);
        }
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    pub(crate) fn has_come(&self) -> bool {
        self.has_come
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_found_wherever_reads_fall() {
        let frame = [&b"some frame before"[..], &ACK, b"lameduck", b"after"].concat();
        for size in 1..=frame.len() {
            let mut ack = PingAck::default();
            frame.chunks(size).for_each(|read| ack.read(read));
            assert!(ack.has_come(), "reads of {size}");
            assert!(ack.tail.len() <= 2 * TAIL);
        }
    }

    #[test]
    fn a_ping_of_the_clients_own_is_not_an_acknowledgement() {
        let mut ping = ACK.to_vec();
        ping[4] = 0;
        for size in 1..=ping.len() {
            let mut ack = PingAck::default();
            ping.chunks(size).for_each(|read| ack.read(read));
            assert!(!ack.has_come(), "reads of {size}");
        }
    }
}
