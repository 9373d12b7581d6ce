//! The counter: a number in memory that survives stops and upgrades.
//!
//! Its home is a [cell](Cells) that all generations of the service map. A number that were copied at the hand-over
//! would be counted on in two places, since the old version still answers what it has in hand.
//!
//! Invariants:
//!
//! 1. Each [`Counter::next`] gives a number that no other call gave, in this generation or another that runs, with no
//!    lock and no wait.
//! 2. The value is stored [each second](FLUSH_EVERY) when it changed, also while the service drains, and at the
//!    close. So after an ordinary stop it continues exactly where it was; after a crash or a forced stop at most
//!    one second of counts is given out again.
//! 3. Neither the cell nor the stored value ever goes down, so a late flush of an old generation does not undo a
//!    newer one's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lameduck::shared::Cells;
use tokio::time::MissedTickBehavior;

use crate::background::{Background, Stop};
use crate::store::{Store, StoreError};

/// How often a changed value is stored: the bound on what a crash can take back.
pub const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// The row of the stored value, and the name under which its home moves to a successor.
pub const NAME: &str = "requests";
/// The meaning of the cells: one, the last number given out.
pub const VERSION: u32 = 1;
/// How many cells the counter lives in.
pub const CELLS: usize = 1;

/// Counts in memory, remembers in the store.
#[derive(Debug)]
pub struct Counter {
    shared: Arc<Shared>,
    flusher: Background,
}

#[derive(Debug)]
struct Shared {
    home: Cells,
    failed_flushes: AtomicU64,
}

impl Shared {
    fn value(&self) -> &AtomicU64 {
        self.home.get(0)
    }
}

impl Counter {
    /// The value that an earlier run left in the store.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn stored(store: &Store) -> Result<u64, StoreError> {
        store.counter(NAME).await
    }

    /// Counts on in `home`, never below `stored`.
    ///
    /// A fresh home so begins at the stored value. A predecessor's holds at least as much, and goes on being counted in
    /// by it meanwhile: the value is raised in one step, never read and written back.
    #[must_use]
    pub fn continue_in(home: Cells, stored: u64, store: Store) -> Self {
        home.get(0).fetch_max(stored, Ordering::Relaxed);
        let shared = Arc::new(Shared { home, failed_flushes: AtomicU64::new(0) });
        let flusher = Background::start("counter", |stop| flush(Arc::clone(&shared), store, stop));
        Self { shared, flusher }
    }

    /// Counts one and returns the new value.
    #[must_use]
    pub fn next(&self) -> u64 {
        // Relaxed: the number is the only thing that is shared.
        self.shared.value().fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last value given out.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.shared.value().load(Ordering::Relaxed)
    }

    /// How often the store did not take the value; each was or will be tried again.
    #[must_use]
    pub fn failed_flushes(&self) -> u64 {
        self.shared.failed_flushes.load(Ordering::Relaxed)
    }

    /// Stores the value for the last time.
    ///
    /// # Errors
    ///
    /// When the store did not take it.
    pub async fn close(&self) -> Result<(), String> {
        self.flusher.close().await
    }
}

async fn flush(shared: Arc<Shared>, store: Store, mut stop: Stop) -> Result<(), StoreError> {
    // Zero is stored by an empty row; anything else may come from a predecessor and not be stored yet.
    let mut stored = 0;
    let mut ticks = tokio::time::interval(FLUSH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopping = tokio::select! {
            _ = ticks.tick() => false,
            _ = &mut stop => true,
        };
        let current = shared.value().load(Ordering::Relaxed);
        let result =
            if current == stored { Ok(()) } else { store.raise_counter(NAME, current).await };
        match &result {
            Ok(()) => stored = current,
            // Tried again with the next tick; only the last one has nobody after it.
            Err(_) => drop(shared.failed_flushes.fetch_add(1, Ordering::Relaxed)),
        }
        if stopping {
            return result;
        }
    }
}
