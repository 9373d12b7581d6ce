//! Signals to upgrade: whatever lies at the program's path when one comes is to serve, and nobody waits for it.
//!
//! While an upgrade is under way its program may have been started already, so one more follows it, however many signals
//! came: begun here if it fails, and by the successor if it succeeds. A signal to a generation that has handed the service on
//! is for whoever serves; a service manager knows no other process as long as the way back is open.

use std::time::Instant;

use super::attempt::Attempt;
use super::{Action, Generation};
use crate::phase::Cause;
use crate::takeover::successor::Successor;
use crate::takeover::wire::{Reason, Why};

/// What is still to be done for signals that came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Reloads {
    /// One more upgrade follows the one under way.
    follows: bool,
    passing: Passing,
}

/// Whether whoever serves is being told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Passing {
    #[default]
    No,
    Told,
    /// Another signal came meanwhile.
    ToldAndAgain,
}

impl Generation {
    pub(super) fn reload(&mut self, now: Instant) {
        let under_way = self.attempts.iter().find(|attempt| attempt.is_under_way());
        if let Some(why) = self.no_upgrade() {
            match self.life.cause() {
                Some(Cause::Successor | Cause::Predecessor) => self.pass_on(),
                Some(Cause::Signal(_) | Cause::Request) | None => self.refuse_upgrade(None, why),
            }
        } else if let Some(attempt) = under_way {
            let why = attempt.under_way(now).text;
            self.reloads.follows = true;
            self.actions.push_back(Action::UpgradeFollows(why));
        } else if self.is_between() {
            // Begun when the service is here.
            self.reloads.follows = true;
            self.actions
                .push_back(Action::UpgradeFollows("this generation begins to accept".to_owned()));
        } else {
            self.begin(now, Vec::new());
        }
    }

    /// Sees to what waits for the upgrade that was under way: it begins here, or it is told why not.
    pub(super) fn begin_what_waits(&mut self, now: Instant) {
        let under_way = self.attempts.iter().any(Attempt::is_under_way);
        // After a hand-over it is answered, and passed on, when accepting has ended here.
        let is_handing_over = self.life.cause() == Some(Cause::Successor);
        let waits = self.reloads.follows || !self.waiting.is_empty();
        if !waits || under_way || is_handing_over || self.is_between() {
            return;
        }
        let tickets = std::mem::take(&mut self.waiting);
        let follows = std::mem::take(&mut self.reloads.follows);
        match self.no_upgrade() {
            None => self.begin(now, tickets),
            Some(why) => {
                tickets.into_iter().for_each(|id| self.refuse_upgrade(Some(id), why.clone()));
                if follows {
                    self.reload(now);
                }
            }
        }
    }

    /// A successor accepts: what was to follow is for it to do.
    pub(super) fn pass_on_what_follows(&mut self) {
        if std::mem::take(&mut self.reloads.follows) {
            self.pass_on();
        }
    }

    /// Nothing follows any more.
    pub(super) fn forget_reloads(&mut self, why: &Why) {
        if std::mem::take(&mut self.reloads.follows) {
            self.refuse_upgrade(None, why.clone());
        }
    }

    fn pass_on(&mut self) {
        match self.reloads.passing {
            Passing::No => {
                self.reloads.passing = Passing::Told;
                self.actions.push_back(Action::PassOn);
            }
            Passing::Told | Passing::ToldAndAgain => self.reloads.passing = Passing::ToldAndAgain,
        }
    }

    /// When the service came back meanwhile, it is this generation's own to do after all.
    pub(super) fn passed_on(&mut self, now: Instant, done: Result<(), String>) {
        let again = std::mem::take(&mut self.reloads.passing) == Passing::ToldAndAgain;
        match (done, self.life.cause()) {
            (Err(_), None) => self.reload(now),
            (Err(why), Some(_)) => self.refuse_upgrade(None, Why::new(Reason::HandedOn, why)),
            (Ok(()), _) if again => self.reload(now),
            (Ok(()), _) => {}
        }
    }

    /// Whether the service is on its way here, from the predecessor or back from a successor.
    pub(super) fn is_between(&self) -> bool {
        self.attempts.iter().any(Attempt::is_taking_back) || self.is_beginning()
    }

    /// Whether accepting begins here and is not said yet: whoever took over now would have the name taken from it.
    pub(super) fn is_beginning(&self) -> bool {
        self.above.as_ref().is_some_and(Successor::is_starting)
    }
}
