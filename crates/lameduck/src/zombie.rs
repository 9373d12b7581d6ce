//! The end of a child process, waited for without reaping it: until then its number stays its own.

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// A process id as the system calls take it.
pub(crate) fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Whether a child has ended and was not reaped.
pub(crate) fn has_exited(pid: u32) -> bool {
    let Some(pid) = number(pid) else { return false };
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::Pid(pid), how), Ok(Some(_)))
}

/// Waits for a child's end; it stays a zombie, so that its number stays its own.
pub(crate) fn await_exit(pid: u32) {
    let Some(pid) = number(pid) else { return };
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    // Any other error means that there is nothing to wait for.
    while matches!(waitid(WaitId::Pid(pid), how), Err(rustix::io::Errno::INTR)) {}
}
