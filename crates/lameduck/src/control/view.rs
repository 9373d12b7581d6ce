//! What others see of the machine.

use std::time::{Duration, Instant};

use crate::phase::{Asked, Phase};

/// The machine's state as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) asked: Asked,
    /// When the present cut was fixed.
    pub(crate) since: Instant,
    pub(crate) cut_at: Option<Instant>,
    pub(crate) deadline: Option<Instant>,
}

impl View {
    /// Before anything has happened.
    pub(crate) fn begin() -> View {
        View {
            phase: Phase::Starting,
            asked: Asked::Serve,
            since: Instant::now(),
            cut_at: None,
            deadline: None,
        }
    }

    /// The moment `ahead` of the cut, but not in the first half of the time there is.
    pub(crate) fn ahead_of_cut(&self, ahead: Duration) -> Option<Instant> {
        let cut_at = self.cut_at?;
        let whole = cut_at.saturating_duration_since(self.since);
        Some(cut_at - ahead.min(whole / 2))
    }
}
