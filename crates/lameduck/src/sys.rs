//! What no safe crate offers, some socket options, inherited descriptors, shared memory and a leash for children: the only
//! file that may use `unsafe`.
//!
//! A filter (`SO_ATTACH_FILTER`, socket(7)) that drops SYNs and nothing else keeps new connections out of a listening socket,
//! while handshakes already begun complete. Accepted sockets inherit it, and it does them no harm.
//!
//! Where filters are refused, `IP_MINTTL` (ip(7)) and `IPV6_MINHOPCOUNT` (RFC 5082, `linux/in6.h`) make the kernel drop packets whose TTL is below a
//! minimum. On a listening socket that keeps new SYNs out, while handshakes already begun complete: the request
//! socket is past the check (`tcp_v4_rcv`). Accepted sockets inherit the value and must have it set back to 0; what comes
//! before that is dropped, and their clients send it again.
//!
//! A descriptor that came through exec(2) has a number and no owner; [`take_inherited`] makes it owned.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;
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

/// Whether a listening socket hears SYNs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syns {
    /// As ever.
    Heard,
    /// The kernel drops each.
    Dropped,
}

/// Has the kernel drop what would begin a connection, or hear it again.
#[cfg(target_os = "linux")]
pub(crate) fn set_syns(socket: BorrowedFd<'_>, syns: Syns) -> io::Result<()> {
    const SOL_SOCKET: i32 = 1;
    const SO_ATTACH_FILTER: i32 = 26;
    const SO_DETACH_FILTER: i32 = 27;
    /// `struct sock_filter`: what to do, where to go on if it is so and if it is not, and with what value.
    #[repr(C)]
    struct Step(u16, u8, u8, u32);
    /// `struct sock_fprog`
    #[repr(C)]
    struct Program {
        length: u16,
        steps: *const Step,
    }
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const IS_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Where the flags are in a TCP header, with which a packet begins for a filter.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    static STEPS: [Step; 5] = [
        Step(LOAD_BYTE, 0, 0, FLAGS),
        Step(AND, 0, 0, SYN | ACK),
        Step(IS_EQUAL, 0, 1, SYN),
        // None of it is let through, or all.
        Step(RETURN, 0, 0, 0),
        Step(RETURN, 0, 0, u32::MAX),
    ];
    if syns == Syns::Heard {
        return set_int(socket, SOL_SOCKET, SO_DETACH_FILTER, 0);
    }
    let program = Program { length: STEPS.len() as u16, steps: STEPS.as_ptr() };
    // SAFETY: it is what this option takes; it leads to as many steps as it says, which live for ever, and the kernel copies
    // what it keeps.
    unsafe { set(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program) }
}

/// Not to be had here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_syns(_: BorrowedFd<'_>, _: Syns) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
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
    // SAFETY: an option that takes an int; nothing is behind it.
    unsafe { set(socket, level, name, &value) }
}

/// Sets a socket option.
///
/// # Safety
///
/// `value` is what the option takes, and so is all that it leads to.
#[cfg(target_os = "linux")]
unsafe fn set<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` lives across the call and its true size is passed; the descriptor is borrowed, so it is open; the kernel
    // only reads, and what it reads is the caller's promise.
    let result = unsafe {
        let value = std::ptr::from_ref(value).cast();
        setsockopt(socket.as_raw_fd(), level, name, value, size_of::<T>() as u32)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Who is at the other end of a Unix socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// Zero for a process of another namespace.
    pub(crate) process: u32,
    pub(crate) user: u32,
}

/// Who is at the other end of a Unix socket (`SO_PEERCRED`, unix(7)).
///
/// Asked here and not through a crate: a peer in another namespace of processes, a container say, has process id 0,
/// which the safe wrapper's type does not allow.
#[cfg(target_os = "linux")]
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    const SOL_SOCKET: i32 = 1;
    const SO_PEERCRED: i32 = 17;
    /// `struct ucred`: process, user, group.
    const FIELDS: usize = 3;
    let mut credentials = [0u32; FIELDS];
    let mut length = size_of_val(&credentials) as u32;
    // SAFETY: the memory is writable and as long as `length` says; three integers of four bytes have no invalid value;
    // the descriptor is borrowed, so it is open.
    let result = unsafe {
        getsockopt(
            socket.as_raw_fd(),
            SOL_SOCKET,
            SO_PEERCRED,
            credentials.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let [process, user, _] = credentials;
    if result == 0 { Ok(Peer { process, user }) } else { Err(io::Error::last_os_error()) }
}

/// The process at the other end of a Unix socket, whatever its number means by now (`SO_PEERPIDFD`, since Linux 6.5).
#[cfg(target_os = "linux")]
pub(crate) fn peer_process(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SOL_SOCKET: i32 = 1;
    const SO_PEERPIDFD: i32 = 77;
    let mut descriptor = -1i32;
    let mut length = size_of_val(&descriptor) as u32;
    // SAFETY: the memory is writable and as long as `length` says; an integer has no invalid value; the descriptor is
    // borrowed, so it is open.
    let result = unsafe {
        getsockopt(
            socket.as_raw_fd(),
            SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut descriptor).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for this call, close-on-exec, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The process at the other end of a Unix socket; not to be had here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn peer_process(_: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Who is at the other end of a Unix socket; not to be had here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn peer(_: BorrowedFd<'_>) -> io::Result<Peer> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
unsafe extern "C" {
    fn getsockopt(
        socket: i32,
        level: i32,
        name: i32,
        value: *mut std::ffi::c_void,
        length: *mut u32,
    ) -> i32;

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

/// A file in memory that can neither grow nor shrink, so that a mapping of it cannot fault; `None` where there is no
/// such thing.
#[cfg(target_os = "linux")]
pub(crate) fn memory_file(name: &str, size: u64) -> io::Result<Option<OwnedFd>> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(name, flags)?;
    rustix::fs::ftruncate(&file, size)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(Some(file))
}

/// A file in memory; there is no such thing here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn memory_file(_: &str, _: u64) -> io::Result<Option<OwnedFd>> {
    Ok(None)
}

/// Counters in shared memory, or in plain memory where there is no file.
#[derive(Debug)]
pub(crate) struct Mapping {
    cells: std::ptr::NonNull<AtomicU64>,
    count: usize,
    home: Home,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    #[cfg(target_os = "linux")]
    File,
    Heap,
}

// SAFETY: all access goes through shared references to atomics, whose memory lives as long as the mapping.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&AtomicU64` may be used from any thread.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn new(file: Option<&OwnedFd>, count: usize) -> io::Result<Mapping> {
        match file {
            #[cfg(target_os = "linux")]
            Some(file) => Mapping::of_file(file, count),
            #[cfg(not(target_os = "linux"))]
            Some(_) => Err(io::ErrorKind::Unsupported.into()),
            None => {
                let cells: Box<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(0)).collect();
                let cells = std::ptr::NonNull::from(Box::leak(cells)).cast();
                Ok(Mapping { cells, count, home: Home::Heap })
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn of_file(file: &OwnedFd, count: usize) -> io::Result<Mapping> {
        use rustix::fs::SealFlags;
        use rustix::mm::{MapFlags, ProtFlags};
        let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let size = rustix::fs::fstat(file)?.st_size;
        if usize::try_from(size) != Ok(count * 8) {
            return refuse(format!("it has {size} bytes, not {}", count * 8));
        }
        let seals = rustix::fs::fcntl_get_seals(file)?;
        if !seals.contains(SealFlags::SHRINK) {
            return refuse("it could shrink under a mapping".to_owned());
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory. The file is sealed
        // against shrinking and as long as the mapping, so no access faults.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                count * 8,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        match std::ptr::NonNull::new(address.cast()) {
            Some(cells) => Ok(Mapping { cells, count, home: Home::File }),
            None => refuse("it was mapped at address zero".to_owned()),
        }
    }

    pub(crate) fn cells(&self) -> &[AtomicU64] {
        // SAFETY: the memory holds `count` aligned 64-bit values (a page or a boxed slice), lives as long as
        // `self`, and is only ever accessed atomically, by this process and by others that map the file.
        unsafe { std::slice::from_raw_parts(self.cells.as_ptr(), self.count) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        match self.home {
            #[cfg(target_os = "linux")]
            // SAFETY: mapped by `of_file` with this length; no reference outlives `self`.
            Home::File => {
                let _ = unsafe { rustix::mm::munmap(self.cells.as_ptr().cast(), self.count * 8) };
            }
            // SAFETY: leaked by `new` from a boxed slice of this length; no reference outlives `self`.
            Home::Heap => drop(unsafe {
                Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.cells.as_ptr(), self.count))
            }),
        }
    }
}

/// Registers a descriptor with the runtime's reactor.
pub(crate) fn async_fd(descriptor: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same descriptor whenever it is asked, and keeps it open until the `AsyncFd`
    // that owns it has left the reactor.
    unsafe { tokio::io::unix::AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

/// Has the kernel kill the group that `command` will lead as soon as the other end of the pipe `leash` is closed, which
/// the end of this process does, whatever ends it.
///
/// The pipe's readable end goes to the child, which asks for SIGKILL to its whole group when something happens to it
/// (`F_SETOWN`, `F_SETSIG`, `O_ASYNC`: fcntl(2)), and nothing ever happens to it but that nobody can write any more. The
/// request lasts as long as anybody holds that end, and whoever a child starts holds it too. The kernel remembers the
/// group itself, not its number.
///
/// `PR_SET_PDEATHSIG` would not do: it is about the one child and not its group, and comes when the *thread* that started it
/// ends.
#[cfg(target_os = "linux")]
pub(crate) fn kill_group_when_closed(command: &mut std::process::Command, leash: OwnedFd) {
    use std::os::unix::process::CommandExt;
    const F_SETFD: i32 = 2;
    const F_SETFL: i32 = 4;
    const F_SETOWN: i32 = 8;
    const F_SETSIG: i32 = 10;
    const O_ASYNC: i32 = 0o20_000;
    const SIGKILL: i32 = 9;
    let take = move || {
        // The group is there already, and has this process's number: the standard library makes it before it calls this.
        let group = rustix::process::getpid().as_raw_nonzero().get();
        // The last one lets it through exec(2), without which everything here would end with this function.
        for (what, value) in
            [(F_SETOWN, -group), (F_SETSIG, SIGKILL), (F_SETFL, O_ASYNC), (F_SETFD, 0)]
        {
            // SAFETY: each of these commands takes one integer and touches no memory.
            if unsafe { fcntl(leash.as_raw_fd(), what, value) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork(2) and exec(2) this calls getpid(2) and fcntl(2) and reads errno, which is allowed there, and
    // neither allocates nor takes a lock.
    unsafe { command.pre_exec(take) };
}
