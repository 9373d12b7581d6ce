//! Tells whoever waits for it that a load has met its first failure.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Rung by the first failure, and silent never after.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    is_rung: Mutex<bool>,
    rung: Condvar,
}

impl Alarm {
    pub(super) fn ring(&self) {
        *self.is_rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.rung.notify_all();
    }

    /// Waits until it has been rung, or `limit`; says whether it has.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let is_rung = self.is_rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.rung.wait_timeout_while(is_rung, limit, |is_rung| !*is_rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
