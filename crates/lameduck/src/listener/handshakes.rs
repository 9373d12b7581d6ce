//! Asks the kernel whether TCP handshakes with a listening socket are under way.

use std::io;
use std::net::SocketAddr;

use tokio::sync::oneshot;

/// Asks now, and gives what will tell whether any is; nothing where the kernel does not say: another system, a sandbox without
/// netlink, no descriptor left.
///
/// The kernel takes a while on a machine with many connections (20 ms for 80,000 of them), so a thread of its own asks:
/// neither the runtime nor its pool for blocking calls, which may be full, has anything to do with it.
pub(super) fn are_under_way(at: SocketAddr) -> Option<oneshot::Receiver<bool>> {
    let (tell, told) = oneshot::channel();
    let asking = std::thread::Builder::new().name("lameduck-gate".to_owned());
    let asked = asking.spawn(move || {
        if let Ok(any) = ask(at) {
            // Nobody may be there to hear it any more.
            let _ = tell.send(any);
        }
    });
    asked.ok().map(|_| told)
}

/// Asks once. Nothing in it waits: the kernel writes the list while it is asked and read.
#[cfg(target_os = "linux")]
fn ask(at: SocketAddr) -> io::Result<bool> {
    use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
    };

    use super::diag::{self, Found};

    /// The kernel writes no longer datagrams than this into a list.
    const DATAGRAM: usize = 32 * 1024;
    /// Datagrams that are looked through: more handshakes than one socket can have under way.
    const DATAGRAMS: usize = 4096;

    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(SOCK_DIAG))?;
    sendto(&socket, &diag::question(at), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut datagram = vec![0; DATAGRAM];
    for _ in 0..DATAGRAMS {
        let (length, _) = recv(&socket, &mut datagram[..], RecvFlags::empty())?;
        match diag::read(&datagram[..length], at)? {
            Found::UnderWay => return Ok(true),
            Found::More => {}
            Found::End => return Ok(false),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the list of handshakes does not end"))
}

/// Not to be had here.
#[cfg(not(target_os = "linux"))]
fn ask(_: SocketAddr) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}
