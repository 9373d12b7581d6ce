//! Addresses of the loopback interface for servers that are about to be started.
//!
//! A port that the kernel gives out lies in the range that it also takes the ports of outgoing connections from. Until the
//! server has bound it, any client of the machine may get it, and whoever connects to it may meet nobody but himself. So
//! ports are taken from outside that range, and a name that only one process can have keeps other testers off them.

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports below are those of well-known services.
const FIRST: u16 = 10_000;

/// So many ports at least are a range to choose from.
const ENOUGH: u16 = 1_000;

/// So many ports in a row are tried.
const TRIES: usize = 500;

/// Where this process looks next: from a place of its own, so that two testers seldom try the same one.
static NEXT: LazyLock<AtomicU32> =
    LazyLock::new(|| AtomicU32::new(RandomState::new().hash_one(std::process::id()) as u32));

/// An address that no other tester uses for as long as this lives, and that was free a moment ago.
#[derive(Debug)]
pub(crate) struct Reserved {
    address: SocketAddr,
    /// Nobody else can have this name. The kernel takes it back however this process ends.
    _name: Option<UnixListener>,
}

impl Reserved {
    pub(crate) fn new() -> io::Result<Reserved> {
        let Some(range) = outside(&std::fs::read_to_string(RANGE).unwrap_or_default()) else {
            return Reserved::of_the_kernel();
        };
        let (first, count) = (u32::from(*range.start()), range.len() as u32);
        for _ in 0..TRIES {
            let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % count;
            if let Some(reserved) = u16::try_from(port).ok().and_then(Reserved::of) {
                return Ok(reserved);
            }
        }
        Reserved::of_the_kernel()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// This port, if nobody has it.
    fn of(port: u16) -> Option<Reserved> {
        let name = UnixAddress::from_abstract_name(format!("lameduck-verify-port-{port}")).ok()?;
        let name = UnixListener::bind_addr(&name).ok()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Without SO_REUSEADDR: a server that does not set it either must be able to bind it.
        let kind = SocketType::STREAM;
        let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None).ok()?;
        bind(&socket, &address).ok()?;
        Some(Reserved { address, _name: Some(name) })
    }

    /// Where no range is known, or all of it is taken.
    fn of_the_kernel() -> io::Result<Reserved> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        Ok(Reserved { address, _name: None })
    }
}

/// Where the kernel tells from which ports it gives out: the first and the last.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Ports that are not given out, if there are enough.
fn outside(given_out: &str) -> Option<RangeInclusive<u16>> {
    let mut ends = given_out.split_ascii_whitespace().map(str::parse::<u16>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    let below = FIRST..=first.saturating_sub(1);
    let above = last.checked_add(1)?.max(FIRST)..=u16::MAX;
    let is_enough = |range: &RangeInclusive<u16>| range.len() >= usize::from(ENOUGH);
    [below, above].into_iter().find(is_enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_taken_from_outside_of_what_the_kernel_gives_out() {
        assert_eq!(outside("32768\t60999\n"), Some(10_000..=32_767));
        assert_eq!(outside("1024\t60999\n"), Some(61_000..=65_535));
        assert_eq!(outside("1024\t65000\n"), None);
        assert_eq!(outside("1024\t65535\n"), None);
        assert_eq!(outside(""), None);
    }

    #[test]
    fn nobody_else_gets_a_port_that_is_reserved() {
        let reserved = Reserved::new().unwrap();
        assert!(Reserved::of(reserved.address().port()).is_none());
        // The server that it is for does.
        let server = TcpListener::bind(reserved.address()).unwrap();
        let port = reserved.address().port();
        drop(reserved);
        assert!(Reserved::of(port).is_none());
        drop(server);
    }
}
