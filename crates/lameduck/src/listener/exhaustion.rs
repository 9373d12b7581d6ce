//! Accept errors: they are survived and counted, and those that mean exhaustion make the accept loop pause.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first pause after an accept error that means exhaustion (no descriptor, no memory). Doubles up to
/// [`BACK_OFF_MOST`].
pub const BACK_OFF: Duration = Duration::from_millis(5);

/// The longest pause after an accept error.
pub const BACK_OFF_MOST: Duration = Duration::from_millis(500);

/// What went wrong and was survived, for reports and metrics.
#[derive(Debug, Default)]
pub(crate) struct AcceptErrors(AtomicU64);

impl AcceptErrors {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// No descriptor or no memory is left: trying again at once would only spin.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    let exhausted = [
        rustix::io::Errno::MFILE,
        rustix::io::Errno::NFILE,
        rustix::io::Errno::NOBUFS,
        rustix::io::Errno::NOMEM,
    ];
    let code = error.raw_os_error();
    exhausted.iter().any(|errno| code == Some(errno.raw_os_error()))
}
