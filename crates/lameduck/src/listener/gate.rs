//! The gate: closes a listener without losing a connection that was under way.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::errors::{AcceptErrors, BACK_OFF, lasts};
use super::{Bound, Family, Listener, QUEUE};
use crate::connection::Socket;
use crate::sys::{self, MinTtl};
use crate::work::Peer;

/// How long handshakes under way have to complete once new ones are kept out: a round trip in one data centre,
/// many times over. Waited again, at most [`HANDSHAKE_ROUNDS`] times, as long as connections keep completing.
pub const HANDSHAKE: Duration = Duration::from_millis(20);

/// How often [`HANDSHAKE`] is waited at most.
pub const HANDSHAKE_ROUNDS: u32 = 5;

/// The most that a gated close takes, all in all: a full queue and as many handshakes under way. Only clients whose
/// packets carry the largest TTL, which the gate lets in, can make it so many.
pub const SHUT: u32 = 2 * QUEUE;

/// How long the gate goes on trying to empty the queue while descriptors are exhausted or the socket accepts nothing, all in
/// all.
pub const STARVED_GATE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Shut,
}

impl Listener {
    /// Keeps new connections out; says whether that is to be had here.
    fn shut_out(&mut self) -> Gate {
        match &mut self.socket {
            Bound::Tcp(socket, family) => {
                let v4 = sys::set_min_ttl_v4(socket.as_fd(), MinTtl::Largest);
                let v6 = match family {
                    Family::V4 => Ok(()),
                    Family::V6 => sys::set_min_ttl_v6(socket.as_fd(), MinTtl::Largest),
                };
                if v4.is_ok() && v6.is_ok() { Gate::Shut } else { Gate::Open }
            }
            Bound::Unix(_, own) => match own.take() {
                Some(own) => {
                    own.remove();
                    Gate::Shut
                }
                None => Gate::Open,
            },
        }
    }

    /// What an accepted socket inherited from the gate is taken off again, also where only one of two options took effect.
    fn let_through(&self, socket: &Socket) {
        if let (Bound::Tcp(_, family), Socket::Tcp(stream)) = (&self.socket, socket) {
            // The socket was just accepted and the option was just set on its listener: no reason to fail.
            let _ = sys::set_min_ttl_v4(stream.as_fd(), MinTtl::Any);
            if *family == Family::V6 {
                let _ = sys::set_min_ttl_v6(stream.as_fd(), MinTtl::Any);
            }
        }
    }
}

/// Keeps new connections out, accepts those under way, and gives each to `hand_on`; the listener may be closed then.
pub(super) async fn close(
    listener: &mut Listener,
    errors: &AcceptErrors,
    hand_on: impl Fn(Socket, Peer),
) {
    let mut closing = GateClosing::new(listener.shut_out());
    closing.empty_queue(listener, errors, &hand_on).await;
    for _ in 0..HANDSHAKE_ROUNDS {
        tokio::time::sleep(HANDSHAKE).await;
        if closing.empty_queue(listener, errors, &hand_on).await == 0 {
            break;
        }
    }
}

/// What bounds one closing of a gate, over all its passes.
struct GateClosing {
    gate: Gate,
    taken: u32,
    starved_at: tokio::time::Instant,
}

impl GateClosing {
    fn new(gate: Gate) -> GateClosing {
        let starved_at = tokio::time::Instant::now() + STARVED_GATE;
        GateClosing { gate, taken: 0, starved_at }
    }

    fn most_of_a_pass(&self) -> u32 {
        match self.gate {
            Gate::Open => QUEUE,
            Gate::Shut => SHUT.saturating_sub(self.taken),
        }
    }

    /// Accepts until the queue is empty, or a bound of the closing is reached, and returns how many came.
    async fn empty_queue(
        &mut self,
        listener: &Listener,
        errors: &AcceptErrors,
        hand_on: &impl Fn(Socket, Peer),
    ) -> u32 {
        let most = self.most_of_a_pass();
        let mut taken = 0;
        while taken < most {
            let next = listener.accept_now();
            match next {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok((socket, peer)) => {
                    taken += 1;
                    listener.let_through(&socket);
                    hand_on(socket, peer);
                }
                Err(error) => {
                    errors.add();
                    if lasts(&error) {
                        if tokio::time::Instant::now() >= self.starved_at {
                            break;
                        }
                        tokio::time::sleep(BACK_OFF).await;
                    }
                }
            }
        }
        self.taken += taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What comes at once comes within this, on a busy machine.
    const LIMIT: Duration = Duration::from_secs(20);

    /// A system may know one of the two options and not the other, as an IPv4 socket does.
    #[tokio::test]
    async fn who_is_accepted_through_a_gate_that_shut_in_half_is_heard() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut listener = Listener::from_tcp(socket).unwrap();
        let Bound::Tcp(_, family) = &mut listener.socket else { panic!("it is TCP") };
        *family = Family::V6;
        let gate = listener.shut_out();
        assert_eq!(gate, Gate::Open);

        // From a neighbour, so that it is let in and inherits the minimum; from further away after that.
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let client = client.unwrap();
        client.set_ttl_v4(255).unwrap();
        client.connect(&address.into()).unwrap();
        client.set_ttl_v4(64).unwrap();
        let accepted = RefCell::new(None);
        let take = |socket, _| *accepted.borrow_mut() = Some(socket);
        let (mut closing, errors) = (GateClosing::new(gate), AcceptErrors::default());
        assert_eq!(closing.empty_queue(&listener, &errors, &take).await, 1);
        client.send(b"x").unwrap();
        let mut accepted = accepted.into_inner().unwrap();
        let heard = tokio::time::timeout(LIMIT, accepted.read_u8()).await;
        assert_eq!(heard.expect("it is heard").unwrap(), b'x');
    }
}
