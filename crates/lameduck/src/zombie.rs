//! The end of a child process, waited for without reaping it: until then its number stays its own.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};

/// A process id as the system calls take it.
pub(crate) fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Whether a child has ended and was not reaped.
pub(crate) fn has_exited(pid: u32) -> bool {
    look(pid).is_some()
}

/// How a child has ended that was not reaped, and still is not; nothing while it runs.
pub(crate) fn ended(pid: u32) -> Option<ExitStatus> {
    let status = look(pid)?;
    match (status.exit_status(), status.terminating_signal()) {
        // As wait(2) would tell it.
        (Some(code), _) => Some(ExitStatus::from_raw((code & 0xff) << 8)),
        (None, Some(signal)) => Some(ExitStatus::from_raw(signal)),
        (None, None) => None,
    }
}

fn look(pid: u32) -> Option<WaitIdStatus> {
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    waitid(WaitId::Pid(number(pid)?), how).ok()?
}

/// Waits for a child's end; it stays a zombie, so that its number stays its own.
pub(crate) fn await_exit(pid: u32) {
    let Some(pid) = number(pid) else { return };
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    // Any other error means that there is nothing to wait for.
    while matches!(waitid(WaitId::Pid(pid), how), Err(rustix::io::Errno::INTR)) {}
}
