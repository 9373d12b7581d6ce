//! Those who come after: upgrades that are asked for, processes that are started, and who takes over.

use std::time::Instant;

use super::attempt::{Attempt, Process, Stage};
use super::{
    Action, AttemptId, EXIT, Generation, KILL_AFTER, LineId, QUEUED, Queue, Ticket, refused,
    starting, stopping,
};
use crate::phase::{self, Cause, Phase, Refusal};
use crate::takeover::Inventory;
use crate::takeover::predecessor::{self, Predecessor};
use crate::takeover::successor::{self, Successor};
use crate::takeover::wire::{Hello, Message, Reason, Why};

impl Generation {
    pub(super) fn upgrade_asked(&mut self, now: Instant, ticket: Ticket, queue: Queue) {
        if let Some(why) = self.no_upgrade() {
            return self.refuse_upgrade(Some(ticket), why);
        }
        if self.is_beginning() {
            return self.refuse_upgrade(Some(ticket), starting());
        }
        let waits = self.waiting.len();
        let under_way = self.attempts.iter_mut().find(|attempt| attempt.is_under_way());
        let Some(attempt) = under_way else { return self.begin(now, vec![ticket]) };
        match queue {
            Queue::Join if attempt.tickets.len() < QUEUED => attempt.tickets.push(ticket),
            Queue::Wait if waits < QUEUED => {
                let why = attempt.under_way(now).text;
                self.waiting.push(ticket);
                self.actions.push_back(Action::UpgradeFollows(why));
            }
            Queue::Wait | Queue::Join | Queue::Refuse => {
                let why = attempt.under_way(now);
                self.refuse_upgrade(Some(ticket), why);
            }
        }
    }

    /// Why no upgrade can begin here, if none can.
    pub(super) fn no_upgrade(&self) -> Option<Why> {
        let handed_on = |text: String| Some(Why::new(Reason::HandedOn, text));
        let handed = self.attempts.iter().find_map(Attempt::handed);
        match (self.life.phase(), self.life.cause(), handed) {
            (_, Some(Cause::Successor), Some(heir)) => handed_on(format!(
                "generation {} (pid {}) has taken over: ask it",
                heir.generation, heir.pid
            )),
            (_, Some(Cause::Successor | Cause::Predecessor), _) => {
                handed_on("this generation has handed the service on and is finishing".to_owned())
            }
            (_, Some(Cause::Signal(_) | Cause::Request), _) => Some(stopping()),
            (Phase::Starting, None, _) => Some(starting()),
            (_, None, _) => None,
        }
    }

    pub(super) fn refuse_upgrade(&mut self, ticket: Option<Ticket>, why: Why) {
        self.actions.push_back(Action::UpgradeRefused { ticket, why });
    }

    /// Starts a successor.
    pub(super) fn begin(&mut self, now: Instant, tickets: Vec<Ticket>) {
        let id = self.new_attempt();
        self.attempts.push(Attempt::started_here(id, now, tickets, &self.limits));
        self.actions.push_back(Action::UpgradeBegins(id));
        self.actions.push_back(Action::Start(id));
    }

    pub(super) fn new_attempt(&mut self) -> AttemptId {
        let id = self.next_attempt;
        self.next_attempt += 1;
        id
    }

    /// Whether a process is being started whose number is not known yet.
    fn starts(&self) -> bool {
        let starts = |attempt: &Attempt| attempt.stage == Stage::Silent && attempt.pid.is_none();
        self.attempts.iter().any(starts)
    }

    pub(super) fn hear_the_early(&mut self, now: Instant) {
        if !self.starts() {
            for (line, hello) in std::mem::take(&mut self.early) {
                self.hello(now, line, hello);
            }
        }
    }

    /// The process we started introduces itself, or anybody else.
    pub(super) fn hello(&mut self, now: Instant, line: LineId, hello: Hello) {
        if self.starts() && self.early.len() < QUEUED {
            return self.early.push((line, hello));
        }
        let talk = Predecessor::new(now, self.limits.clone());
        let unwanted = |attempt: &Attempt| attempt.is_unwanted() && attempt.pid == Some(hello.pid);
        let is_unwanted = self.attempts.iter().any(unwanted);
        let silent = self.attempts.iter_mut().find(|attempt| attempt.stage == Stage::Silent);
        let (id, why) = match silent {
            Some(attempt) if !is_unwanted && attempt.pid == Some(hello.pid) => {
                attempt.talks(line, talk, &hello);
                (attempt.id, None)
            }
            other => {
                let is_awaited = other.is_some();
                let id = self.new_attempt();
                let mut attempt = Attempt::by_hand(id, now);
                attempt.talks(line, talk, &hello);
                self.attempts.push(attempt);
                let why = match (is_unwanted, is_awaited) {
                    // It was told to leave, and would take the service with it.
                    (true, _) => {
                        Some(Why::new(Reason::TimedOut, "it asks too late: it was given up"))
                    }
                    (false, true) => Some(refused(Refusal::AnotherStarting)),
                    (false, false) => None,
                };
                (id, why)
            }
        };
        let input = match why {
            // Not even asked for: that would have an effect on the predecessor's way back.
            Some(why) => predecessor::Input::TurnedAway(why),
            None => predecessor::Input::Received(Message::Hello(hello)),
        };
        self.below_does(now, id, input);
    }

    pub(super) fn said(&mut self, now: Instant, line: LineId, input: predecessor::Input) {
        if input == predecessor::Input::Gone && self.early.iter().any(|(early, _)| *early == line) {
            self.early.retain(|(early, _)| *early != line);
            return self.actions.push_back(Action::Close(line));
        }
        let Some(id) = self.on(line) else { return };
        if input == predecessor::Input::Gone {
            self.gone(now, id);
        } else {
            self.below_does(now, id, input);
        }
    }

    /// It takes the name with it, if it had it.
    pub(super) fn gone(&mut self, now: Instant, id: AttemptId) {
        if let Some(attempt) = self.attempt(id) {
            attempt.is_gone = true;
        }
        let gave_back = self.taking_back(id);
        self.below_does(now, id, predecessor::Input::Gone);
        if gave_back {
            self.take_the_name();
        }
        // Nothing came of it: what waited for it is this generation's to do.
        self.begin_what_waits(now);
    }

    pub(super) fn take_the_name(&mut self) {
        if self.life.phase() == Phase::Serving {
            self.actions.push_back(Action::TakeName);
        }
    }

    pub(super) fn below_does(&mut self, now: Instant, id: AttemptId, input: predecessor::Input) {
        let Some((_, talk)) = self.attempt(id).and_then(|attempt| attempt.talk.as_mut()) else {
            return;
        };
        talk.handle(now, input);
        while let Some(action) = self.poll_below(id) {
            self.below_action(now, id, action);
        }
        // One that was never admitted does not fail, it just ends.
        let ended = self.attempt(id).filter(|attempt| {
            attempt.stage == Stage::Talks
                && attempt.talk.as_ref().is_some_and(|(_, talk)| talk.is_over())
        });
        if let Some(attempt) = ended {
            let gone = || Why::new(Reason::Failed, "it went away before it was admitted");
            let why = attempt.refused.take().unwrap_or_else(gone);
            self.attempt_failed(now, id, why);
        }
    }

    pub(super) fn poll_below(&mut self, id: AttemptId) -> Option<predecessor::Action> {
        self.attempt(id)?.talk.as_mut()?.1.poll_action()
    }

    pub(super) fn below_action(
        &mut self,
        now: Instant,
        id: AttemptId,
        action: predecessor::Action,
    ) {
        use predecessor::Action as Does;
        let Some(attempt) = self.attempt(id) else { return };
        let Some(line) = attempt.line() else { return };
        match action {
            Does::Send(message) => {
                match &message {
                    Message::Refuse(why) => attempt.refused = Some(why.clone()),
                    Message::Commit(_) => attempt.may_have_the_name = true,
                    _ => {}
                }
                self.actions.push_back(Action::Send(line, message));
            }
            Does::AskToAdmit(_) => self.asked_to_admit(now, id),
            Does::Progress(text) => self.actions.push_back(Action::Progress(text)),
            Does::Probe { path } => self.actions.push_back(Action::Probe { line, path }),
            // What is offered is not written anew: cells are shared, blobs are read while the successor starts.
            Does::SaveState => {
                self.below_does(now, id, predecessor::Input::StateSaved(Vec::new()));
            }
            Does::SuccessorAccepting(ready) => {
                attempt.stage = Stage::Accepts;
                let (heir, took) = (attempt.heir(), now.saturating_duration_since(attempt.began));
                self.actions.push_back(Action::HandOn { attempt: id, line, heir, ready, took });
                self.live(now, phase::Input::SuccessorAccepting);
            }
            Does::SuccessorLost(why) => {
                let is_gone = attempt.is_gone;
                let (heir, tickets) = (attempt.heir(), std::mem::take(&mut attempt.tickets));
                self.actions.push_back(Action::TakeBack { heir, why: why.clone() });
                if !tickets.is_empty() {
                    self.actions.push_back(Action::UpgradeFailed { attempt: id, why, tickets });
                }
                self.live(now, phase::Input::SuccessorLost);
                if is_gone {
                    self.take_the_name();
                }
            }
            Does::SuccessorKeeps => self.live(now, phase::Input::SuccessorKeeps),
            Does::Failed(why) => self.attempt_failed(now, id, why),
            Does::Kill(why) => {
                attempt.is_told = true;
                let ours = attempt.process == Process::Runs;
                let tickets = std::mem::take(&mut attempt.tickets);
                self.actions.push_back(Action::UpgradeFailed { attempt: id, why, tickets });
                let kill = match ours {
                    true => Action::Kill(id),
                    false => Action::KillPeer(line),
                };
                self.actions.push_back(kill);
            }
            Does::Close => {
                let left = attempt.stage == Stage::Accepts;
                self.actions.push_back(Action::Close(line));
                if left && self.life.cause() == Some(Cause::Successor) {
                    self.actions.push_back(Action::SuccessorLeft);
                }
            }
        }
    }

    /// Whether another may start is for the life to say, unless this generation may not be its own yet.
    pub(super) fn asked_to_admit(&mut self, now: Instant, id: AttemptId) {
        if self.ids().into_iter().any(|other| self.taking_back(other)) {
            let why = refused(Refusal::AnotherStarting);
            return self.below_does(now, id, predecessor::Input::TurnedAway(why));
        }
        if self.is_beginning() {
            let why = refused(Refusal::NotServing);
            return self.below_does(now, id, predecessor::Input::TurnedAway(why));
        }
        if self.above.as_ref().is_some_and(|above| !above.holds_alone()) {
            // If both had a way back, the death of this one between them would leave two in service.
            self.asking.push(id);
            return self.above_does(now, successor::Input::Keep);
        }
        if let Some(line) = self.attempt(id).and_then(|attempt| attempt.line()) {
            self.actions.push_back(Action::CountDraining(line));
        }
    }

    pub(super) fn counted(&mut self, now: Instant, line: LineId, draining: usize) {
        let Some(id) = self.on(line) else { return };
        let asks = |attempt: &mut Attempt| attempt.stage == Stage::Talks;
        if !self.attempt(id).is_some_and(asks) {
            return;
        }
        if self.ids().into_iter().any(|other| self.taking_back(other)) {
            let why = refused(Refusal::AnotherStarting);
            return self.below_does(now, id, predecessor::Input::TurnedAway(why));
        }
        let before = self.admitted.replace(id);
        self.life.handle(now, phase::Input::TakeoverAsked { draining });
        let refuses = |action: &phase::Action| matches!(action, phase::Action::RefuseSuccessor(_));
        while let Some(action) = self.life.poll_action() {
            let refused = refuses(&action);
            self.life_action(now, action);
            if refused {
                self.admitted = before;
            }
        }
        let began = self.admitted == Some(id)
            && self.attempt(id).is_some_and(|attempt| attempt.process == Process::NotOurs);
        if began && let Some(attempt) = self.attempt(id) {
            attempt.has_begun = true;
            self.actions.push_back(Action::UpgradeBegins(id));
        }
    }

    pub(super) fn inventory(
        &mut self,
        now: Instant,
        line: LineId,
        inventory: Result<Inventory, Why>,
    ) {
        let Some(id) = self.on(line) else { return };
        let input = match inventory {
            Ok(inventory) => predecessor::Input::Admitted(inventory),
            Err(why) => predecessor::Input::TurnedAway(why),
        };
        self.below_does(now, id, input);
    }

    /// An attempt will come to nothing, whether or not it was admitted.
    pub(super) fn attempt_failed(&mut self, now: Instant, id: AttemptId, why: Why) {
        if self.admitted == Some(id) {
            self.admitted = None;
            self.live(now, phase::Input::TakeoverFailed);
        }
        self.asking.retain(|asking| *asking != id);
        let Some(attempt) = self.attempt(id) else { return };
        if let Some(why) = attempt.failure(now, why) {
            self.conclude(now, id, why);
        }
    }

    /// Tells what became of it, ends its process, and begins the next.
    pub(super) fn conclude(&mut self, now: Instant, id: AttemptId, why: Why) {
        let Some(attempt) = self.attempt(id) else { return };
        if !attempt.is_under_way() {
            return;
        }
        attempt.stage = Stage::Over;
        attempt.timer = None;
        let tickets = std::mem::take(&mut attempt.tickets);
        let (told, has_begun) = (attempt.is_told, attempt.has_begun);
        let may_have_the_name = attempt.may_have_the_name;
        match (told, has_begun) {
            (true, _) => {}
            (false, true) => {
                self.actions.push_back(Action::UpgradeFailed { attempt: id, why, tickets });
            }
            (false, false) => self.actions.push_back(Action::SuccessorRefused(why)),
        }
        if may_have_the_name {
            self.take_the_name();
        }
        self.end_unwanted(now, id);
        self.begin_what_waits(now);
    }

    /// A process that runs on after its attempt is over is told to leave.
    pub(super) fn end_unwanted(&mut self, now: Instant, id: AttemptId) {
        let Some(attempt) = self.attempt(id).filter(|attempt| attempt.is_unwanted()) else {
            return;
        };
        if attempt.process == Process::Runs && attempt.timer.is_none() {
            match attempt.leaves_by_itself() {
                true => attempt.timer = Some(now + EXIT),
                false => self.ask_to_leave(now, id),
            }
        }
    }

    fn ask_to_leave(&mut self, now: Instant, id: AttemptId) {
        if let Some(attempt) = self.attempt(id) {
            attempt.is_asked_to_leave = true;
            attempt.timer = Some(now + KILL_AFTER);
            self.actions.push_back(Action::End(id));
        }
    }

    /// Nobody has time any more for those who were to leave by themselves.
    pub(super) fn hurry_the_unwanted(&mut self, now: Instant) {
        let waits = |attempt: &&Attempt| {
            let runs = attempt.process == Process::Runs;
            attempt.stage == Stage::Over && runs && !attempt.is_asked_to_leave
        };
        let waiting: Vec<_> =
            self.attempts.iter().filter(waits).map(|attempt| attempt.id).collect();
        waiting.into_iter().for_each(|id| self.ask_to_leave(now, id));
    }

    pub(super) fn exited(&mut self, now: Instant, id: AttemptId, how: String) {
        let Some(attempt) = self.attempt(id) else { return };
        attempt.process = Process::Gone;
        attempt.timer = None;
        let why = Why::new(Reason::Failed, how);
        match attempt.stage {
            Stage::Silent | Stage::Exit => self.conclude(now, id, why),
            // Its end of file follows, behind whatever it still said.
            Stage::Talks | Stage::Accepts => {
                attempt.exit = Some(why);
                attempt.timer = Some(now + EXIT);
            }
            Stage::Over => {}
        }
    }

    pub(super) fn process_is_late(&mut self, now: Instant, id: AttemptId) {
        let Some(attempt) = self.attempt(id) else { return };
        attempt.timer = None;
        match (attempt.stage, attempt.process) {
            (Stage::Silent, _) => {
                let text =
                    "it did not ask to take over (is it built with lameduck, with --control?)";
                self.conclude(now, id, Why::new(Reason::TimedOut, text));
            }
            (Stage::Exit, _) => {
                let text = "it ended its conversation before it accepted, and did not exit";
                self.conclude(now, id, Why::new(Reason::TimedOut, text));
            }
            // Something that it started holds its end of the conversation.
            (Stage::Talks | Stage::Accepts, Process::Gone) => {
                self.gone(now, id);
            }
            (Stage::Over, Process::Runs) if !attempt.is_asked_to_leave => {
                self.ask_to_leave(now, id);
            }
            (Stage::Over, Process::Runs) => self.actions.push_back(Action::Kill(id)),
            (Stage::Talks | Stage::Accepts | Stage::Over, _) => {}
        }
    }

    pub(super) fn leaving(&mut self, now: Instant, until: Instant) {
        self.hurry_the_unwanted(now);
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.is_unwanted()) {
            attempt.timer = attempt.timer.map(|at| at.min(until));
        }
    }

    /// Told only when accepting has ended here: whoever asked for the upgrade meets the new version from then on.
    pub(super) fn answer_the_upgraded(&mut self) {
        if self.life.cause() != Some(Cause::Successor) {
            return;
        }
        self.pass_on_what_follows();
        if let Some(attempt) = self.admitted.and_then(|id| self.attempt(id)) {
            let (heir, tickets) = (attempt.heir(), std::mem::take(&mut attempt.tickets));
            if !tickets.is_empty() {
                self.actions.push_back(Action::Upgraded { tickets, heir });
            }
        }
        let tickets = std::mem::take(&mut self.waiting);
        if !tickets.is_empty() {
            self.actions.push_back(Action::AskAgain { tickets });
        }
    }

    pub(super) fn rollback_asked(&mut self, now: Instant, ticket: Ticket) {
        let gives = |above: &Successor| above.has_way_back() || above.is_returning();
        let takes =
            |attempt: &&Attempt| attempt.talk.as_ref().is_some_and(|(_, talk)| talk.has_way_back());
        let why = Why::new(Reason::Operator, "");
        if self.above.as_ref().is_some_and(gives) {
            self.returning.push(ticket);
            self.above_does(now, successor::Input::GiveBackAsked(why));
        } else if let Some(id) = self.attempts.iter().find(takes).map(|attempt| attempt.id) {
            self.returning.push(ticket);
            self.below_does(now, id, predecessor::Input::RollbackAsked(why));
        } else {
            let done = Err(self.no_way_back.to_owned());
            self.actions.push_back(Action::RolledBack { tickets: vec![ticket], done });
        }
    }

    pub(super) fn answer_rollbacks(&mut self, done: Result<(), String>) {
        let tickets = std::mem::take(&mut self.returning);
        if !tickets.is_empty() {
            self.actions.push_back(Action::RolledBack { tickets, done });
        }
    }
}
