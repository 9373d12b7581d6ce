//! What no safe crate offers, two socket options and inherited descriptors: the only file that may use `unsafe`.
//!
//! `IP_MINTTL` (ip(7)) and `IPV6_MINHOPCOUNT` (RFC 5082, `linux/in6.h`) make the kernel drop packets whose TTL is below a
//! minimum. On a listening socket that keeps new SYNs out, while handshakes already begun complete: the request
//! socket is past the check (`tcp_v4_rcv`). Accepted sockets inherit the value and must have it set back to 0.
//!
//! A descriptor that came through exec(2) has a number and no owner; [`take_inherited`] makes it owned.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// The numbers [`take_inherited`] has given an owner.
static TAKEN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Takes a descriptor that this process was started with, once.
///
/// What this process opened itself is refused, whatever the environment says: everything that opens descriptors in
/// a Rust program asks for close-on-exec, and what came through exec(2) does not have it.
pub(crate) fn take_inherited(number: i32) -> io::Result<OwnedFd> {
    const F_GETFD: i32 = 1;
    const FD_CLOEXEC: i32 = 1;
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.contains(&number) {
        return refuse("it was taken before");
    }
    // SAFETY: F_GETFD takes no third argument, touches no memory and fails on a number that is not open.
    let flags = unsafe { fcntl(number, F_GETFD) };
    match flags {
        -1 => return Err(io::Error::last_os_error()),
        flags if flags & FD_CLOEXEC != 0 => return refuse("this process opened it itself"),
        _ => {}
    }
    // SAFETY: the number is open. It has no owner: it came through exec(2), since it lacks close-on-exec, and
    // the lock and the set above let nobody take the same number twice. Whoever set `LISTEN_PID` to this process
    // guarantees that it was passed for this purpose.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    taken.insert(number);
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

unsafe extern "C" {
    fn fcntl(descriptor: i32, command: i32, ...) -> i32;
}

/// The smallest TTL that a packet must carry to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MinTtl {
    /// Each packet is let in.
    Any,
    /// Only packets from a neighbour that sends with the largest TTL.
    Largest,
}

impl MinTtl {
    #[cfg(target_os = "linux")]
    fn value(self) -> i32 {
        match self {
            MinTtl::Any => 0,
            MinTtl::Largest => 255,
        }
    }
}

/// Sets `IP_MINTTL`. Works on IPv6 sockets too, where it holds for IPv4-mapped peers.
#[cfg(target_os = "linux")]
pub(crate) fn set_min_ttl_v4(socket: BorrowedFd<'_>, min: MinTtl) -> io::Result<()> {
    const IP_MINTTL: i32 = 21;
    set_int(socket, 0 /* IPPROTO_IP */, IP_MINTTL, min.value())
}

/// Sets `IPV6_MINHOPCOUNT`.
#[cfg(target_os = "linux")]
pub(crate) fn set_min_ttl_v6(socket: BorrowedFd<'_>, min: MinTtl) -> io::Result<()> {
    const IPPROTO_IPV6: i32 = 41;
    const IPV6_MINHOPCOUNT: i32 = 73;
    set_int(socket, IPPROTO_IPV6, IPV6_MINHOPCOUNT, min.value())
}

#[cfg(target_os = "linux")]
fn set_int(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` is an i32 that lives across the call and its true size is passed; the descriptor is
    // borrowed, so it is open; the kernel only reads the value.
    let result = unsafe {
        setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(target_os = "linux")]
unsafe extern "C" {
    fn setsockopt(
        socket: i32,
        level: i32,
        name: i32,
        value: *const std::ffi::c_void,
        length: u32,
    ) -> i32;
}

/// Not to be had here: the gate falls back to emptying the queue once more before it closes.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_min_ttl_v4(_: BorrowedFd<'_>, _: MinTtl) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not to be had here: the gate falls back to emptying the queue once more before it closes.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_min_ttl_v6(_: BorrowedFd<'_>, _: MinTtl) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
