//! Decides what happens next in a service's life, and nothing else.
//!
//! [`Machine`] is told what happened ([`Machine::handle`]), says what to do ([`Machine::poll_action`])
//! and when it wants to be told the time ([`Machine::poll_timeout`]). It owns no task, no socket and no
//! clock: this module imports `std` alone and never asks for the time.
//!
//! # Invariants
//!
//! 1. Phases move right; the one edge back is a successor lost in probation.
//! 2. No connection is told to finish before the gate acknowledged and settle ended.
//! 3. Readiness goes red before the gate closes, unless another generation is ready.
//! 4. The deadline is fixed when Serving is left; a later stop can only bring it nearer.
//! 5. Stopped means: nothing live, or force was issued, and the outcome says which.
//! 6. One starting successor at most; draining generations are bounded by a named cap.
//! 7. Every wait has a bound, and the bound has a name (see [`Bound`]); only the operator's own
//!    "no deadline" leaves a wait to the work itself, and a second stop ends it.
//! 8. A failed takeover leaves Serving untouched.

mod words;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use words::{
    Action, Asked, Bound, Cause, Config, Input, LONGEST, Outcome, Phase, Refusal, Step,
};

/// The instant `wait` after `now`, or [`LONGEST`] after it if that is sooner.
fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(LONGEST)
}

/// The two instants that bound a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Limits {
    /// When work is cut: the deadline less what closing has reserved, but never before the stop itself.
    force: Instant,
    /// The deadline: when the process is to be gone.
    gone: Instant,
}

impl Limits {
    fn new(now: Instant, grace: Duration, reserve: Duration) -> Limits {
        Limits { force: after(now, grace.saturating_sub(reserve)), gone: after(now, grace) }
    }

    fn nearer(self, other: Limits) -> Limits {
        Limits { force: self.force.min(other.force), gone: self.gone.min(other.gone) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Successor {
    None,
    Starting,
    Accepting { probation_until: Instant },
    Confirmed,
}

/// The machine. See the [module](self) for how to drive it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    config: Config,
    phase: Phase,
    /// When the present phase must end at the latest, and what bounds it.
    timer: Option<(Instant, Bound)>,
    /// Fixed when Serving is left.
    limits: Option<Limits>,
    cause: Option<Cause>,
    forced: Option<Outcome>,
    successor: Successor,
    /// Nothing is live, but a successor is still in its probation.
    idle_in_probation: bool,
    /// Gates ordered to close that have not acknowledged. After a rollback and another takeover there can be
    /// two: the acknowledgement of the first says nothing of the second.
    gates_awaited: usize,
    actions: VecDeque<Action>,
}

impl Machine {
    /// A machine in [`Phase::Starting`].
    pub fn new(config: Config) -> Machine {
        Machine {
            config,
            phase: Phase::Starting,
            timer: None,
            limits: None,
            cause: None,
            forced: None,
            successor: Successor::None,
            idle_in_probation: false,
            gates_awaited: 0,
            actions: VecDeque::new(),
        }
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When the process is to be gone, once a stop has begun and unless there is no deadline.
    pub fn deadline(&self) -> Option<Instant> {
        self.limits.map(|limits| limits.gone)
    }

    /// When work that is left is cut, once a stop has begun and unless there is no deadline.
    pub fn cut_at(&self) -> Option<Instant> {
        self.limits.map(|limits| limits.force)
    }

    /// What long-lived work is asked for now.
    pub fn asked(&self) -> Asked {
        match (self.phase, self.cause) {
            (Phase::Starting | Phase::Serving, _) => Asked::Serve,
            (Phase::LameDuck, _) => Asked::LameDuck,
            (_, Some(Cause::Successor)) => Asked::HandedOver,
            (Phase::Draining(Step::Gate | Step::Settle), _) => Asked::LameDuck,
            (Phase::Draining(Step::Finish) | Phase::Closing | Phase::Stopped, _) => Asked::Finish,
        }
    }

    /// What asked for the stop, once something has.
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Raises the part of the grace period that belongs to closing. Only before a stop has begun.
    pub fn set_reserve(&mut self, reserve: Duration) {
        self.config.reserve = reserve;
    }

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`handle`](Machine::handle) with [`Input::Tick`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_timer().map(|(at, _)| at)
    }

    /// What bounds the present wait.
    pub fn bound(&self) -> Option<Bound> {
        self.next_timer().map(|(_, bound)| bound)
    }

    fn next_timer(&self) -> Option<(Instant, Bound)> {
        let probation = match self.successor {
            Successor::Accepting { probation_until } => Some((probation_until, Bound::Probation)),
            Successor::None | Successor::Starting | Successor::Confirmed => None,
        };
        [probation, self.timer].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Ready => self.ready(),
            Input::Stop(cause) => self.stop(now, cause),
            Input::Force(cause) => self.force(now, Outcome::Forced(cause)),
            Input::GateClosed => self.gate_closed(now),
            Input::Settled => self.settled(),
            Input::Idle => self.idle(now),
            Input::Closed => self.closed(),
            Input::Tick => {}
            Input::TakeoverAsked { draining } => self.takeover_asked(draining),
            Input::TakeoverFailed => self.takeover_failed(),
            Input::SuccessorAccepting => self.successor_accepting(now),
            Input::SuccessorLost => self.successor_lost(),
            Input::SuccessorKeeps => self.confirm_successor(now),
            Input::PredecessorResumed => self.predecessor_resumed(now),
        }
        self.time_passed(now);
    }

    fn ready(&mut self) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Serving;
            self.actions.push_back(Action::Accept);
            self.actions.push_back(Action::ShowReady);
        }
    }

    fn stop(&mut self, now: Instant, cause: Cause) {
        match self.phase {
            Phase::Starting => {
                // Nothing was accepted, so there is no gate to close: tasks finish, resources close.
                self.fix_deadline(now, cause, self.config.grace);
                self.finish();
            }
            Phase::Serving => {
                self.abandon_starting_successor();
                self.fix_deadline(now, cause, self.config.grace);
                self.actions.push_back(Action::ShowNotReady);
                self.actions.push_back(Action::MarkAnswers);
                self.phase = Phase::LameDuck;
                self.timer = Some((after(now, self.config.lame_duck), Bound::LameDuck));
                self.clip_timer();
            }
            Phase::LameDuck => self.gate(false),
            // The service moved on to another generation; this stop is the first this one hears.
            Phase::Draining(_) | Phase::Closing
                if matches!(self.cause, Some(Cause::Successor | Cause::Predecessor)) =>
            {
                self.bring_deadline_nearer(now);
                self.cause = Some(cause);
                self.confirm_successor(now);
            }
            Phase::Draining(_) | Phase::Closing => self.force(now, Outcome::Forced(cause)),
            Phase::Stopped => {}
        }
    }

    fn fix_deadline(&mut self, now: Instant, cause: Cause, grace: Option<Duration>) {
        self.cause = Some(cause);
        self.limits = grace.map(|grace| Limits::new(now, grace, self.config.reserve));
    }

    fn bring_deadline_nearer(&mut self, now: Instant) {
        let asked = self.config.grace.map(|grace| Limits::new(now, grace, self.config.reserve));
        self.limits = match (self.limits, asked) {
            (Some(fixed), Some(asked)) => Some(fixed.nearer(asked)),
            (fixed, asked) => fixed.or(asked),
        };
        match self.phase {
            Phase::Draining(_) => {
                self.timer = self.timer.filter(|(_, bound)| *bound == Bound::Settle);
                self.wait_until_deadline();
                self.clip_timer();
            }
            Phase::Closing => {
                let closing = self.deadline().map(|at| (at, Bound::ClosingDeadline));
                self.timer = [self.timer, closing].into_iter().flatten().min_by_key(|(at, _)| *at);
            }
            Phase::Starting | Phase::Serving | Phase::LameDuck | Phase::Stopped => {}
        }
    }

    /// No wait lasts longer than the work's deadline.
    fn clip_timer(&mut self) {
        if let (Some((at, _)), Some(limits)) = (self.timer, self.limits)
            && limits.force < at
        {
            self.timer = Some((limits.force, Bound::Deadline));
        }
    }

    fn wait_until_deadline(&mut self) {
        if self.timer.is_none() {
            self.timer = self.limits.map(|limits| (limits.force, Bound::Deadline));
        }
    }

    fn gate(&mut self, shared: bool) {
        self.phase = Phase::Draining(Step::Gate);
        self.timer = None;
        self.wait_until_deadline();
        self.close_gate(shared);
    }

    fn close_gate(&mut self, shared: bool) {
        self.gates_awaited += 1;
        self.actions.push_back(Action::CloseGate { shared });
    }

    fn gate_closed(&mut self, now: Instant) {
        let asked = self.gates_awaited > 0;
        self.gates_awaited = self.gates_awaited.saturating_sub(1);
        if asked && self.gates_awaited == 0 && self.phase == Phase::Draining(Step::Gate) {
            self.phase = Phase::Draining(Step::Settle);
            self.timer = Some((after(now, self.config.settle), Bound::Settle));
            self.clip_timer();
            self.actions.push_back(Action::Settle);
        }
    }

    fn settled(&mut self) {
        if self.phase == Phase::Draining(Step::Settle) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.phase = Phase::Draining(Step::Finish);
        self.timer = None;
        self.wait_until_deadline();
        self.actions.push_back(Action::TellFinish);
    }

    fn idle(&mut self, now: Instant) {
        if self.phase != Phase::Draining(Step::Finish) {
            return;
        }
        match self.successor {
            Successor::Accepting { .. } => self.idle_in_probation = true,
            Successor::None | Successor::Starting | Successor::Confirmed => self.close(now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.phase = Phase::Closing;
        self.idle_in_probation = false;
        let until = match self.forced {
            Some(_) => Some((after(now, self.config.after_force), Bound::AfterForce)),
            None => self.deadline().map(|at| (at, Bound::ClosingDeadline)),
        };
        // A cut at the deadline less the reserve leaves the reserve to closing.
        let until = match (self.forced, self.deadline(), until) {
            (Some(Outcome::DeadlineExceeded), Some(deadline), Some((at, bound))) => {
                Some((at.max(deadline), bound))
            }
            (_, _, until) => until,
        };
        self.timer = until;
        self.actions.push_back(Action::CloseResources { until: until.map(|(at, _)| at) });
    }

    fn closed(&mut self) {
        if self.phase == Phase::Closing {
            self.end(self.forced.unwrap_or(Outcome::Finished));
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.phase = Phase::Stopped;
        self.timer = None;
        self.actions.push_back(Action::Stop(outcome));
    }

    fn force(&mut self, now: Instant, outcome: Outcome) {
        match self.phase {
            Phase::Stopped => {}
            // A force while closing: what is still open has had its chance.
            Phase::Closing => self.end(self.forced.unwrap_or(outcome)),
            Phase::Starting | Phase::Serving | Phase::LameDuck | Phase::Draining(_) => {
                self.abandon_starting_successor();
                if self.cause.is_none() {
                    let cause = match outcome {
                        Outcome::Forced(cause) => cause,
                        Outcome::Finished | Outcome::DeadlineExceeded => Cause::Request,
                    };
                    self.fix_deadline(now, cause, self.config.grace);
                    self.actions.push_back(Action::ShowNotReady);
                }
                if let Phase::Serving | Phase::LameDuck = self.phase {
                    // Who comes now would be cut unheard: let the kernel tell them so.
                    self.close_gate(false);
                }
                self.forced = Some(outcome);
                self.actions.push_back(Action::Force);
                self.idle_in_probation = false;
                self.confirm_successor(now);
                self.close(now);
            }
        }
    }

    fn time_passed(&mut self, now: Instant) {
        if let Successor::Accepting { probation_until } = self.successor
            && probation_until <= now
        {
            self.confirm_successor(now);
        }
        // A zero lame duck or an old deadline can expire several waits at one instant.
        while let Some((at, bound)) = self.timer {
            if now < at {
                break;
            }
            self.timer = None;
            match bound {
                Bound::LameDuck => self.gate(false),
                Bound::Settle => self.settled(),
                Bound::Deadline => self.force(now, Outcome::DeadlineExceeded),
                Bound::ClosingDeadline => {
                    self.end(self.forced.unwrap_or(Outcome::DeadlineExceeded));
                }
                Bound::AfterForce => self.end(self.forced.unwrap_or(Outcome::DeadlineExceeded)),
                Bound::Probation => {}
            }
        }
    }

    fn takeover_asked(&mut self, draining: usize) {
        let refusal = if self.phase != Phase::Serving {
            Some(Refusal::NotServing)
        } else if self.successor != Successor::None {
            Some(Refusal::AnotherStarting)
        } else if draining >= self.config.max_generations {
            Some(Refusal::TooManyGenerations)
        } else {
            None
        };
        match refusal {
            Some(refusal) => self.actions.push_back(Action::RefuseSuccessor(refusal)),
            None => {
                self.successor = Successor::Starting;
                self.actions.push_back(Action::AdmitSuccessor);
            }
        }
    }

    /// From here on there is no way back, and nothing to wait for if all work has ended.
    fn confirm_successor(&mut self, now: Instant) {
        if let Successor::Accepting { .. } = self.successor {
            self.successor = Successor::Confirmed;
            self.actions.push_back(Action::ConfirmSuccessor);
            if self.idle_in_probation {
                self.close(now);
            }
        }
    }

    fn predecessor_resumed(&mut self, now: Instant) {
        match self.phase {
            Phase::Starting => {
                self.fix_deadline(now, Cause::Predecessor, self.config.upgrade_grace);
                self.finish();
            }
            Phase::Serving => {
                self.abandon_starting_successor();
                self.fix_deadline(now, Cause::Predecessor, self.config.upgrade_grace);
                self.gate(true);
            }
            // A stop came first. What it still accepts, the predecessor accepts as well.
            Phase::LameDuck => self.gate(true),
            // A successor of our own is sent away by whoever drives this: it has no way back to us.
            Phase::Draining(_) => self.confirm_successor(now),
            Phase::Closing | Phase::Stopped => {}
        }
    }

    fn takeover_failed(&mut self) {
        if self.successor == Successor::Starting {
            self.successor = Successor::None;
        }
    }

    /// A stop wins over an upgrade under way: the successor is turned away.
    fn abandon_starting_successor(&mut self) {
        if self.successor == Successor::Starting {
            self.successor = Successor::None;
            self.actions.push_back(Action::RefuseSuccessor(Refusal::NotServing));
        }
    }

    fn successor_accepting(&mut self, now: Instant) {
        if self.phase == Phase::Serving && self.successor == Successor::Starting {
            let probation_until = after(now, self.config.probation);
            self.successor = Successor::Accepting { probation_until };
            let at_least = self.until_closed_after_probation();
            let grace = self.config.upgrade_grace.map(|grace| grace.max(at_least));
            self.fix_deadline(now, Cause::Successor, grace);
            self.gate(true);
        }
    }

    /// A deadline within probation would take the service with it if the successor died after that.
    fn until_closed_after_probation(&self) -> Duration {
        let closing = self.config.reserve.saturating_add(self.config.after_force);
        self.config.probation.saturating_add(closing)
    }

    fn successor_lost(&mut self) {
        match (self.successor, self.phase) {
            (Successor::Starting, _) => self.takeover_failed(),
            (Successor::Accepting { .. }, Phase::Draining(_)) => {
                self.successor = Successor::None;
                self.idle_in_probation = false;
                self.phase = Phase::Serving;
                self.timer = None;
                self.limits = None;
                self.cause = None;
                self.actions.push_back(Action::Resume);
            }
            (Successor::None | Successor::Accepting { .. } | Successor::Confirmed, _) => {}
        }
    }
}

#[cfg(test)]
mod tests;
