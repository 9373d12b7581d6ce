//! Counts what became of connections apart from their own ends, since the start.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::json::Object;

/// What became of connections since the start, where it was not they or their clients that ended them.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// let life = lameduck::Lifecycle::builder().without_signals().start()?;
/// assert_eq!(life.snapshot().tally.cut_for_age, 0);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// WebSockets that were sent to a successor with their sessions.
    pub websockets_moved: u64,
    /// WebSockets that were told at an upgrade to go, because they do not move.
    pub websockets_told: u64,
    /// Connections that were cut because they had something in hand beyond their
    /// [age](crate::Builder::max_connection_age) and its grace.
    pub cut_for_age: u64,
    /// Requests that were cut with them.
    pub requests_cut_for_age: u64,
}

impl Tally {
    /// The tally as one JSON object.
    pub(crate) fn to_json(self) -> String {
        Object::new()
            .number("websockets_moved", self.websockets_moved)
            .number("websockets_told", self.websockets_told)
            .number("cut_for_age", self.cut_for_age)
            .number("requests_cut_for_age", self.requests_cut_for_age)
            .end()
    }
}

/// The same, being counted.
#[derive(Default)]
pub(crate) struct Counters {
    websockets_moved: AtomicU64,
    websockets_told: AtomicU64,
    cut_for_age: AtomicU64,
    requests_cut_for_age: AtomicU64,
}

impl Counters {
    pub(crate) fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            websockets_moved: read(&self.websockets_moved),
            websockets_told: read(&self.websockets_told),
            cut_for_age: read(&self.cut_for_age),
            requests_cut_for_age: read(&self.requests_cut_for_age),
        }
    }

    pub(crate) fn websocket_moved(&self) {
        self.websockets_moved.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "http")]
    pub(crate) fn websocket_told(&self) {
        self.websockets_told.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "http")]
    pub(super) fn connection_cut_for_age(&self, requests: usize) {
        self.cut_for_age.fetch_add(1, Ordering::Relaxed);
        self.requests_cut_for_age.fetch_add(requests as u64, Ordering::Relaxed);
    }

    pub(super) fn requests_cut_for_age(&self) -> u64 {
        self.requests_cut_for_age.load(Ordering::Relaxed)
    }
}
