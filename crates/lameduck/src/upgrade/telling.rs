//! Tells what came of upgrades: those who wait for one, and the log.

use super::{Process, Upgrades};
use crate::generation::{AttemptId, Heir, Ticket};
use crate::operate::LAST_WORDS_FOLLOW;
use crate::takeover::wire::{Reason, Why};

/// What came of an upgrade.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Upgraded(Heir),
    /// The successor is to be asked for one more.
    AskAgain,
    Failed(Why),
}

impl Upgrades {
    pub(super) fn take_back(&mut self, heir: Heir, why: &Why) {
        if let Some(moving) = self.moving.take() {
            moving.over.cancel();
        }
        self.parts.handover.close();
        let Heir { generation, pid } = heir;
        let (event, words) = match why.reason {
            Reason::Failed => (
                "successor-lost",
                format!("Generation {generation} (pid {pid}) died on probation: serving again"),
            ),
            _ => ("rollback", format!("The successor gives the service back: {why}")),
        };
        self.parts.log.line(event, &words);
    }

    pub(super) fn upgrade_failed(&mut self, attempt: AttemptId, why: &Why, tickets: Vec<Ticket>) {
        let text = why.in_words();
        // Its last words stand in the log already.
        self.parts.log.line("upgrade-failed", &format!("Upgrade failed, serving on: {text}"));
        let words = self.processes.get(attempt).map(Process::last_words).unwrap_or_default();
        let told = match words.as_str() {
            "" => text,
            words => format!("{text}{LAST_WORDS_FOLLOW}{words}"),
        };
        self.answer(tickets, &Outcome::Failed(Why::new(why.reason, told)));
    }

    pub(super) fn answer(&mut self, tickets: Vec<Ticket>, outcome: &Outcome) {
        for reply in tickets.iter().filter_map(|ticket| self.upgrades.remove(ticket)) {
            // Whoever asked has left meanwhile; the log tells.
            let _ = reply.send(outcome.clone());
        }
    }
}
