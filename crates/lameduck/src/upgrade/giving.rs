//! What there is to give to a successor, and whether it may have it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Upgrades;
use crate::control::Message as ToControl;
use crate::driver::Gates;
use crate::generation::{Input, LineId};
use crate::operator::is_busy;
use crate::states::States;
use crate::takeover::Inventory;
use crate::takeover::wire::{Reason, Why};

impl Upgrades {
    /// One that only waits for the end of our own probation does not count: it ends with that.
    pub(super) fn count_draining(&self, line: LineId) {
        let (own, place) = (self.parts.own, self.parts.place.clone());
        let control = Arc::clone(&self.control);
        drop(self.parts.runtime.spawn(async move {
            let mut draining = 0;
            for (_, path) in place.others(own).into_iter().filter(|(n, _)| *n < own) {
                draining += usize::from(is_busy(&path).await);
            }
            control.send(ToControl::Input(Input::Counted { line, draining }));
        }));
    }

    pub(super) fn take_inventory(&self, line: LineId, generation: u32) {
        let (gates, states) = (Arc::clone(&self.parts.gates), Arc::clone(&self.parts.states));
        let control = Arc::clone(&self.control);
        drop(self.parts.runtime.spawn(async move {
            let found = find(&gates, &states, generation).await;
            let found = found
                .map_err(|error| Why::new(Reason::Limits, format!("the offer failed: {error}")));
            control.send(ToControl::Found(line, found));
        }));
    }
}

/// What there is to give, and the descriptors it names in its order: listeners, then states.
pub(crate) struct Found {
    pub(super) inventory: Inventory,
    pub(super) descriptors: Vec<OwnedFd>,
}

async fn find(gates: &Gates, states: &States, generation: u32) -> std::io::Result<Found> {
    let (listeners, mut descriptors) = gates.duplicates().await?;
    let (states, mut files) = states.offer()?;
    descriptors.append(&mut files);
    Ok(Found { inventory: Inventory { generation, listeners, states }, descriptors })
}
