//! The gate: closes a listener without losing a connection that was under way.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::errors::{AcceptErrors, BACK_OFF, lasts};
use super::handshakes::are_under_way;
use super::{Bound, Family, Listener, QUEUE};
use crate::connection::Socket;
use crate::sys::{self, MinTtl, Syns};
use crate::work::{Peer, Registry, Told};

/// How long handshakes under way have to complete once new ones are kept out: a round trip in one data centre,
/// many times over. Waited again as long as the kernel says that one is under way, at most [`HANDSHAKE_LONGEST`], and at
/// most [`HANDSHAKE_ROUNDS`] times as long as connections keep completing.
pub const HANDSHAKE: Duration = Duration::from_millis(20);

/// How long a handshake that the kernel says is under way is waited for, or half of what is left until work is cut if that
/// is shorter. A client answers within its round trip, and a packet that was lost is sent again after this long.
pub const HANDSHAKE_LONGEST: Duration = Duration::from_secs(1);

/// How often [`HANDSHAKE`] is waited at most where the kernel does not say whether a handshake is under way.
pub const HANDSHAKE_ROUNDS: u32 = 5;

/// The most that a gated close takes, all in all: a full queue and as many handshakes under way. Where the kernel refuses the
/// filter, only clients whose packets carry the largest TTL, which the gate lets in, can make it so many.
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
                if sys::set_syns(socket.as_fd(), Syns::Dropped).is_ok() {
                    return Gate::Shut;
                }
                shut_by_ttl(socket, *family)
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

    /// Where handshakes of its clients are under way; a Unix socket's complete at once.
    fn handshakes_at(&self) -> Option<SocketAddr> {
        match &self.socket {
            Bound::Tcp(socket, _) => socket.local_addr().ok(),
            Bound::Unix(..) => None,
        }
    }

    /// What an accepted socket inherited from the gate is taken off again, also where only one of two options took effect.
    fn let_through(&self, socket: &Socket) {
        if let (Bound::Tcp(_, family), Socket::Tcp(stream)) = (&self.socket, socket) {
            // The socket was just accepted and one of the options was just set on its listener: no other reason to fail than
            // that it was the other.
            let _ = sys::set_syns(stream.as_fd(), Syns::Heard);
            let _ = sys::set_min_ttl_v4(stream.as_fd(), MinTtl::Any);
            if *family == Family::V6 {
                let _ = sys::set_min_ttl_v6(stream.as_fd(), MinTtl::Any);
            }
        }
    }
}

/// Keeps new connections out where the kernel refuses a filter.
fn shut_by_ttl(socket: &TcpListener, family: Family) -> Gate {
    let v4 = sys::set_min_ttl_v4(socket.as_fd(), MinTtl::Largest);
    let v6 = match family {
        Family::V4 => Ok(()),
        Family::V6 => sys::set_min_ttl_v6(socket.as_fd(), MinTtl::Largest),
    };
    if v4.is_ok() && v6.is_ok() { Gate::Shut } else { Gate::Open }
}

/// What a closing of the gate goes by besides its listener.
pub(super) struct Terms<'life> {
    pub(super) errors: &'life AcceptErrors,
    pub(super) registry: &'life Registry,
    /// When work is cut.
    pub(super) cut_at: Option<std::time::Instant>,
}

/// Keeps new connections out, accepts those under way, and gives each to `hand_on`; the listener may be closed then.
pub(super) async fn close(
    listener: &mut Listener,
    terms: Terms<'_>,
    hand_on: impl Fn(Socket, Peer),
) {
    let gate = listener.shut_out();
    // Through an open gate new ones come, and there always is one under way.
    let watched = listener.handshakes_at().filter(|_| gate == Gate::Shut);
    let mut closing = GateClosing::new(gate);
    let mut patience = Patience::new(Instant::now(), terms.cut_at.map(Instant::from_std));
    closing.empty_queue(listener, terms.errors, &hand_on).await;
    loop {
        // Beside the wait, which is not longer for it then; and answered before the queue is emptied: what was not under way
        // any more is in the queue by now, or gone.
        let asked = watched.and_then(are_under_way);
        tokio::time::sleep(HANDSHAKE).await;
        let under_way = match asked {
            Some(told) => tokio::time::timeout_at(patience.until, told).await.ok(),
            None => None,
        };
        let taken = closing.empty_queue(listener, terms.errors, &hand_on).await;
        let is_forced = terms.registry.told() == Told::Force;
        if is_forced || !patience.goes_on(Instant::now(), under_way.and_then(Result::ok), taken) {
            break;
        }
    }
}

/// Decides how long handshakes under way are waited for.
struct Patience {
    rounds: u32,
    until: Instant,
}

impl Patience {
    fn new(now: Instant, cut_at: Option<Instant>) -> Patience {
        // The other half is for whoever was accepted.
        let left = cut_at.map(|at| at.saturating_duration_since(now) / 2);
        let longest = left.map_or(HANDSHAKE_LONGEST, |left| left.min(HANDSHAKE_LONGEST));
        Patience { rounds: 0, until: now + longest }
    }

    /// Whether [`HANDSHAKE`] is waited once more, after a wait and a pass that took so many.
    fn goes_on(&mut self, now: Instant, under_way: Option<bool>, taken: u32) -> bool {
        self.rounds += 1;
        let completing = taken > 0 && self.rounds < HANDSHAKE_ROUNDS;
        completing || (under_way == Some(true) && now + HANDSHAKE <= self.until)
    }
}

/// What bounds one closing of a gate, over all its passes.
struct GateClosing {
    gate: Gate,
    taken: u32,
    starved_at: Instant,
}

impl GateClosing {
    fn new(gate: Gate) -> GateClosing {
        let starved_at = Instant::now() + STARVED_GATE;
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
                        if Instant::now() >= self.starved_at {
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

    use super::*;

    /// What comes at once comes within this, on a busy machine.
    const LIMIT: Duration = Duration::from_secs(20);

    /// A system may know one of the two options and not the other, as an IPv4 socket does.
    #[tokio::test]
    async fn who_is_accepted_through_a_gate_that_shut_in_half_is_heard() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut listener = Listener::from_tcp(socket).unwrap();
        let Bound::Tcp(socket, family) = &mut listener.socket else { panic!("it is TCP") };
        *family = Family::V6;
        let gate = shut_by_ttl(socket, Family::V6);
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

    /// How often the kernel is asked, and how long that takes, when it always says this and each pass takes as many.
    fn waited(under_way: Option<bool>, taken: u32, left: Option<Duration>) -> (u32, Duration) {
        let began = Instant::now();
        let mut patience = Patience::new(began, left.map(|left| began + left));
        let mut now = began + HANDSHAKE;
        while patience.goes_on(now, under_way, taken) {
            now += HANDSHAKE;
        }
        (patience.rounds, now - began)
    }

    #[test]
    fn a_gate_without_handshakes_waits_once() {
        assert_eq!(waited(Some(false), 0, None), (1, HANDSHAKE));
        assert_eq!(waited(None, 0, None), (1, HANDSHAKE));
    }

    #[test]
    fn connections_that_keep_completing_are_waited_for_a_few_times() {
        let few = (HANDSHAKE_ROUNDS, HANDSHAKE * HANDSHAKE_ROUNDS);
        assert_eq!(waited(Some(false), 1, None), few);
        assert_eq!(waited(None, 1, None), few);
    }

    #[test]
    fn a_handshake_that_never_completes_costs_the_bound() {
        let (_, took) = waited(Some(true), 0, None);
        assert_eq!(took, HANDSHAKE_LONGEST);
        let (_, took) = waited(Some(true), 1, Some(Duration::from_secs(60)));
        assert_eq!(took, HANDSHAKE_LONGEST);
    }

    #[test]
    fn a_handshake_takes_no_more_than_half_of_what_is_left() {
        for left in [0, 1, 39, 40, 500, 1_999].map(Duration::from_millis) {
            let (_, took) = waited(Some(true), 0, Some(left));
            assert!(took <= HANDSHAKE.max(left / 2), "{took:?} of {left:?}");
        }
    }
}
