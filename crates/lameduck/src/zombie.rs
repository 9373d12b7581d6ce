//! The end of a child process, waited for without reaping it: until then its number stays its own.

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// A process id as the system calls take it.
pub(crate) fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Waits for a child's end; it stays a zombie, so that its number stays its own.
pub(crate) fn await_exit(pid: u32) {
    let Some(pid) = number(pid) else { return };
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    // Any other error means that there is nothing to wait for.
    while matches!(waitid(WaitId::Pid(pid), how), Err(rustix::io::Errno::INTR)) {}
}
