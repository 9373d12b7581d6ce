//! How old a connection is, and when it is told to go for that.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::connection::Age;

/// A connection's own limit is off the common one by up to one part in so many.
const SPREAD: u32 = 10;

/// A connection's clock; without a limit it never goes off.
pub(crate) struct Clock {
    old: Option<Pin<Box<Sleep>>>,
    /// When what is left is cut.
    pub(crate) cut_at: Option<Instant>,
    is_old: bool,
}

impl Clock {
    pub(crate) fn start(age: Option<Age>) -> Clock {
        let limits = age.map(|age| {
            let old_at = Instant::now() + spread(age.most, RandomState::new().hash_one(()));
            (Box::pin(sleep_until(old_at)), old_at + age.grace)
        });
        let (old, cut_at) = limits.unzip();
        Clock { old, cut_at, is_old: false }
    }

    /// Whether the connection is too old; wakes the task when it becomes so.
    pub(crate) fn is_old(&mut self, cx: &mut Context<'_>) -> bool {
        if let (false, Some(old)) = (self.is_old, &mut self.old) {
            self.is_old = old.as_mut().poll(cx).is_ready();
        }
        self.is_old
    }
}

/// Between nine and eleven tenths, as the random number says.
fn spread(most: Duration, random: u64) -> Duration {
    let part = (random >> 32) as u32;
    let range = 2 * most / SPREAD;
    most - most / SPREAD + range.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_moment_do_not_go_in_one_moment() {
        let minute = Duration::from_secs(60);
        assert_eq!(spread(minute, 0), Duration::from_secs(54));
        assert_eq!(spread(minute, u64::MAX), Duration::from_secs(66));
        assert_eq!(spread(Duration::ZERO, u64::MAX), Duration::ZERO);
    }
}
