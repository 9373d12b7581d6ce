//! What happened on a wire, request by request, with the times.

use super::{End, Wire};
use crate::fate::Fate;
use std::time::{Duration, Instant};

/// One request and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// When it was written.
    pub sent: Instant,
    /// When the first byte of its answer came.
    pub first_byte: Option<Instant>,
    /// When its fate was known: its last byte, the end of the connection, or when nothing was awaited any more.
    pub ended: Instant,
    /// What became of it.
    pub fate: Fate,
    /// The status of its whole answer.
    pub status: Option<u16>,
}

impl Wire {
    /// When the connection was begun.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Each request on this wire, in their order.
    pub fn history(&self) -> Vec<Exchange> {
        let now = self.ended.unwrap_or_else(Instant::now);
        let each = self.requests.iter().enumerate();
        let exchange = each.map(|(place, (used, sent))| {
            let fate = self.fate(place, *used);
            let status = self.heads.get(place).map(|head| head.status);
            let (first_byte, ended) = match self.times.get(place) {
                Some((first, last)) => (Some(*first), *last),
                None if place == self.heads.len() => (self.begun, now),
                None => (None, now),
            };
            Exchange { sent: *sent, first_byte, ended, fate, status }
        });
        exchange.collect()
    }

    /// What in the bytes that came is not HTTP/1.1, if it is not.
    pub fn malformed(&self) -> Option<&'static str> {
        self.malformed
    }

    /// The port on this side, of a TCP connection.
    pub fn local_port(&self) -> std::io::Result<Option<u16>> {
        Ok(self.socket.local_addr()?.as_socket().map(|address| address.port()))
    }

    /// Whether the connection ended with bytes of this side that the peer had not read: its kernel answers those with a
    /// reset, also after the end of file. A peer that resets what it has read looks the same.
    pub fn was_left_unread(&self) -> bool {
        self.end == End::Reset || self.socket.take_error().is_ok_and(|error| error.is_some())
    }

    /// Whether the peer has closed or reset the connection by now, without waiting. Plain bytes are left where they are;
    /// those of TLS are read, since a ticket or a `close_notify` may lie before the end.
    pub fn has_closed(&mut self) -> bool {
        use rustix::net::{RecvFlags, recv};
        while self.tls.is_some()
            && self.end == End::Open
            && self.read_some(Duration::ZERO).unwrap_or(false)
        {}
        if self.end != End::Open || self.tls.as_ref().is_some_and(|tls| tls.is_notified()) {
            return true;
        }
        let mut byte = [0u8; 1];
        match recv(&self.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((count, _)) => count == 0,
            Err(error) => !matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
        }
    }
}
