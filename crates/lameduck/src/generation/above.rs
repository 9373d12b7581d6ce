//! The one before: what it says, and what is said to it.

use std::time::Instant;

use super::attempt::{Attempt, Stage};
use super::{Action, Generation, refused};
use crate::phase::{self, Cause, Refusal};
use crate::takeover::successor::{self, Presence, Successor};

impl Generation {
    pub(super) fn above_does(&mut self, now: Instant, input: successor::Input) {
        let Some(above) = &mut self.above else { return };
        above.handle(now, input);
        while let Some(action) = self.above.as_mut().and_then(Successor::poll_action) {
            self.above_action(now, action);
        }
    }

    pub(super) fn above_action(&mut self, now: Instant, action: successor::Action) {
        use successor::Action as Does;
        match action {
            Does::Send(message) => self.actions.push_back(Action::Tell(message)),
            Does::Initialise(_) => self.actions.push_back(Action::Initialise),
            Does::Accept { predecessor, .. } => {
                self.actions.push_back(Action::TakeOver(predecessor));
                if predecessor == Presence::Lost {
                    // It leads to nobody any more.
                    self.actions.push_back(Action::TakeName);
                }
                self.live(now, phase::Input::Ready);
            }
            // Done where it is received; a connection as long as `adopts` says so.
            Does::Adopt(_) | Does::Answer => {}
            Does::PredecessorLost => {
                self.alone(now, "the predecessor is gone: the upgrade is final");
            }
            Does::Confirmed => self.alone(now, "probation is over: the upgrade is final"),
            Does::GiveBack(why) => {
                self.actions.push_back(Action::GiveBack(why));
                self.live(now, phase::Input::PredecessorResumed);
                self.asking.clear();
                self.turn_everybody_away(now, &refused(Refusal::NotServing));
                self.no_way_back = "the service went back to the predecessor already";
                self.answer_rollbacks(Ok(()));
                self.begin_what_waits(now);
            }
            Does::NotGivenBack(why) => self.answer_rollbacks(Err(why.text)),
            Does::Failed(why) => {
                self.actions.push_back(Action::NotTakingOver(why));
                if self.life.cause().is_none() {
                    self.live(now, phase::Input::Stop(Cause::Request));
                }
            }
            Does::Close => self.actions.push_back(Action::HangUp),
        }
    }

    /// There is no way back any more: who asked meanwhile is answered.
    pub(super) fn alone(&mut self, now: Instant, no_way_back: &'static str) {
        self.no_way_back = no_way_back;
        self.actions.push_back(Action::PredecessorLetGo);
        self.answer_rollbacks(Err(no_way_back.to_owned()));
        for id in std::mem::take(&mut self.asking) {
            let talks = |attempt: &mut Attempt| attempt.stage == Stage::Talks;
            if self.attempt(id).is_some_and(talks) {
                self.asked_to_admit(now, id);
            }
        }
    }
}
