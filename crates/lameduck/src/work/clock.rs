//! Ages of work, from a clock that costs next to nothing to read.

use std::time::Duration;

/// The kernel's coarse monotonic clock: milliseconds are enough for an age, and reading it is nearly free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Clock(pub(super) u64);

impl Clock {
    pub(crate) fn now() -> Clock {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::MonotonicCoarse;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(clock);
        Clock(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    pub(super) fn age(self, now: Clock) -> Duration {
        Duration::from_nanos(now.0.saturating_sub(self.0))
    }
}
