//! The exit codes, in one place.
//!
//! | code | meaning |
//! |---|---|
//! | [`OK`] 0 | everything finished |
//! | [`FAILED`] 1 | could not start or run, or a check of its own failed; or it ended in time but a resource failed to close or a task panicked |
//! | [`USAGE`] 2 | the command line or the configuration cannot be used |
//! | [`DEADLINE`] 3 | the deadline, or a closing budget, cut something |
//! | 128 + n | forced by signal n ([`forced_by`]) |

use std::process::{ExitCode, Termination};

/// Everything finished.
pub const OK: u8 = 0;
/// Could not start or run, or something failed on the way out.
pub const FAILED: u8 = 1;
/// The command line or the configuration cannot be used.
pub const USAGE: u8 = 2;
/// The deadline, or a closing budget, cut something; the report names it.
pub const DEADLINE: u8 = 3;

/// The exit code of a stop that signal `n` forced: 128 + n.
///
/// ```
/// assert_eq!(lameduck::exit::forced_by(15), 143);
/// ```
pub const fn forced_by(signal: i32) -> u8 {
    128_u8.wrapping_add(signal as u8)
}

/// How a service ended, as a process exit code.
///
/// Returned by [`Lifecycle::run`](crate::Lifecycle::run); return it from `main`. The full story is in
/// [`Exit::report`].
#[must_use = "return it from main, so that the process ends with the documented exit code"]
#[derive(Debug, Clone)]
pub struct Exit {
    pub(crate) report: crate::Report,
}

impl Exit {
    /// The exit code, as in the [table](self).
    pub fn code(&self) -> u8 {
        self.report.exit_code()
    }

    /// What finished, what was cut, and how long each part took.
    pub fn report(&self) -> &crate::Report {
        &self.report
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}
