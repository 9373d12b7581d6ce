//! Which TCP handshakes are under way: the question to the kernel and its answer, as bytes (`linux/inet_diag.h`).
//!
//! The kernel is asked for one state and one port, so that it lists none of the thousands of connections that a busy machine
//! is done with. What it answers is a run of messages, each with its own length, in one datagram or several.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A handshake is waited for until its SYN-ACK was sent again more often than this: without a word for 7 s (1 + 2 + 4), or
/// after as many SYNs. A client that lost one packet is still there then; one that never was (a scan, a forged address)
/// stays in the list for a minute.
const SENT_AGAIN: u8 = 2;

const NLMSG_HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const TCP_SYN_RECV: u8 = 3;
/// What the kernel calls a handshake whose connection it has not made yet. It tells of it as of `TCP_SYN_RECV`.
const TCP_NEW_SYN_RECV: u8 = 12;

/// How long the question is: a header and `struct inet_diag_req_v2`.
const QUESTION: usize = NLMSG_HEADER + 56;

/// What a datagram said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A handshake of this socket is under way.
    UnderWay,
    /// None so far.
    More,
    /// None, and that was all.
    End,
}

/// The question for the handshakes of the socket that listens at `at`.
///
/// An IPv4 client of a socket for both families is told with the socket's own family, so that one question does.
pub(super) fn question(at: SocketAddr) -> [u8; QUESTION] {
    let mut question = [0; QUESTION];
    let mut put = |offset: usize, bytes: &[u8]| {
        question[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &(QUESTION as u32).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    put(16, &[if at.is_ipv4() { AF_INET } else { AF_INET6 }, IPPROTO_TCP]);
    put(20, &(1u32 << TCP_SYN_RECV | 1 << TCP_NEW_SYN_RECV).to_ne_bytes());
    put(24, &at.port().to_be_bytes());
    // No cookie: every socket is meant.
    put(64, &[0xff; 8]);
    question
}

/// Reads one datagram of the answer.
///
/// # Errors
///
/// When the kernel refuses, or what it says cannot be understood.
pub(super) fn read(mut datagram: &[u8], at: SocketAddr) -> io::Result<Found> {
    while !datagram.is_empty() {
        let length = number(datagram, 0)? as usize;
        let message = datagram.get(..length).ok_or_else(|| malformed("a message is cut off"))?;
        let body =
            message.get(NLMSG_HEADER..).ok_or_else(|| malformed("a message has no header"))?;
        match u16::from_ne_bytes([message[4], message[5]]) {
            NLMSG_ERROR => {
                refusal(number(body, 0)?)?;
                return Err(malformed("an acknowledgement was not asked for"));
            }
            NLMSG_DONE => {
                refusal(number(body, 0).unwrap_or_default())?;
                return Ok(Found::End);
            }
            SOCK_DIAG_BY_FAMILY if is_under_way(body, at)? => return Ok(Found::UnderWay),
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Found::More)
}

/// Whether this `struct inet_diag_msg` tells of a handshake with whoever listens at `at` that may still complete.
fn is_under_way(body: &[u8], at: SocketAddr) -> io::Result<bool> {
    const SOCKET_ID: usize = 4;
    let short = || malformed("a socket's description is cut off");
    let (head, id) = body.split_first_chunk::<SOCKET_ID>().ok_or_else(short)?;
    let (port, id) = id.split_first_chunk::<2>().ok_or_else(short)?;
    let address = id.get(2..18).and_then(<[u8]>::first_chunk::<16>).ok_or_else(short)?;
    let [family, state, _timer, sent_again] = *head;
    let local = match (family, address) {
        (AF_INET, [a, b, c, d, ..]) => IpAddr::from(Ipv4Addr::new(*a, *b, *c, *d)),
        (_, address) => IpAddr::from(Ipv6Addr::from(*address)).to_canonical(),
    };
    let is_ours = at.ip().is_unspecified() || at.ip().to_canonical() == local;
    let is_handshake = state == TCP_SYN_RECV && sent_again <= SENT_AGAIN;
    Ok(is_handshake && is_ours && u16::from_be_bytes(*port) == at.port())
}

/// The four bytes there.
fn number(bytes: &[u8], offset: usize) -> io::Result<u32> {
    let found = bytes.get(offset..).and_then(<[u8]>::first_chunk::<4>);
    found.map(|found| u32::from_ne_bytes(*found)).ok_or_else(|| malformed("a message is too short"))
}

/// The kernel tells an error as its negative number, and zero where there was none.
fn refusal(code: u32) -> io::Result<()> {
    match code.cast_signed() {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
