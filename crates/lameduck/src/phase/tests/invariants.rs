//! The invariants of the machine, checked from what went in and what came out. The witness keeps its own account of
//! the world (who accepts, what was acknowledged) and never looks into the machine's private state.

use std::time::{Duration, Instant};

use super::super::{Action, Cause, Config, Input, Machine, Outcome, Phase, Step};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sign {
    Red,
    Green,
}

/// What the witness knows of a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Successor {
    None,
    Starting,
    Probation { until: Instant },
    Confirmed,
}

/// An account of one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Witness {
    config: Config,
    phase: Phase,
    sign: Sign,
    /// Accept loops accept.
    accepting: bool,
    /// Connections may exist: the loops have accepted at some time.
    accepted: bool,
    /// Gates ordered to close that have not acknowledged.
    gates_awaited: usize,
    settle_began: Option<Instant>,
    settled: bool,
    told_to_finish: bool,
    deadline: Option<Instant>,
    successor: Successor,
    /// The predecessor accepts in our place again.
    relieved: bool,
    stop_asked: bool,
    /// Idle was reported after everything was told to finish.
    idle: bool,
    forced: Option<Instant>,
    closing: bool,
    closed: bool,
    outcome: Option<Outcome>,
}

macro_rules! law {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

impl Witness {
    pub(super) fn new(config: Config, _start: Instant) -> Witness {
        Witness {
            config,
            phase: Phase::Starting,
            sign: Sign::Red,
            accepting: false,
            accepted: false,
            gates_awaited: 0,
            settle_began: None,
            settled: false,
            told_to_finish: false,
            deadline: None,
            successor: Successor::None,
            relieved: false,
            stop_asked: false,
            idle: false,
            forced: None,
            closing: false,
            closed: false,
            outcome: None,
        }
    }

    /// Takes in one step and says which invariant it broke, if any.
    pub(super) fn check(
        &mut self,
        now: Instant,
        input: Input,
        actions: &[Action],
        machine: &Machine,
    ) -> Result<(), String> {
        let before = self.clone();
        self.hear(now, input, machine);
        for action in actions {
            self.see(now, input, *action, &before, machine)?;
        }
        self.probation_ends(now, input)?;
        self.phases_move_right(&before, actions, machine)?;
        self.deadline_only_comes_nearer(now, &before, actions, machine)?;
        self.every_wait_is_bounded(now, machine)?;
        self.a_failed_takeover_changes_nothing(input, &before, actions, machine)?;
        self.a_successor_lost_in_probation_gives_back(now, input, &before, actions)?;
        self.state_fits_phase(machine)?;
        self.phase = machine.phase();
        self.deadline = machine.deadline();
        Ok(())
    }

    fn hear(&mut self, now: Instant, input: Input, machine: &Machine) {
        match input {
            Input::Ready | Input::Tick | Input::TakeoverAsked { .. } => {}
            Input::Stop(_) | Input::Force(_) => self.stop_asked = true,
            Input::PredecessorResumed => self.relieved |= self.phase < Phase::Draining(Step::Gate),
            Input::SuccessorKeeps => {}
            Input::GateClosed => self.gates_awaited = self.gates_awaited.saturating_sub(1),
            Input::Settled => self.settled |= self.settle_began.is_some(),
            Input::Idle => self.idle |= self.told_to_finish,
            Input::Closed => self.closed |= self.closing,
            Input::TakeoverFailed => {
                if self.successor == Successor::Starting {
                    self.successor = Successor::None;
                }
            }
            Input::SuccessorAccepting => {
                if self.successor == Successor::Starting && machine.cause().is_some() {
                    self.successor =
                        Successor::Probation { until: after(now, self.config.probation) };
                }
            }
            Input::SuccessorLost => {
                if self.successor == Successor::Starting {
                    self.successor = Successor::None;
                }
            }
        }
    }

    fn see(
        &mut self,
        now: Instant,
        input: Input,
        action: Action,
        before: &Witness,
        machine: &Machine,
    ) -> Result<(), String> {
        law!(
            self.outcome.is_none() || matches!(action, Action::RefuseSuccessor(_)),
            "{action:?} after the end"
        );
        match action {
            Action::ShowReady => self.sign = Sign::Green,
            Action::ShowNotReady => self.sign = Sign::Red,
            Action::Accept => {
                law!(!self.stop_asked, "accepts after a stop");
                self.accepting = true;
                self.accepted = true;
            }
            Action::MarkAnswers => {}
            Action::CloseGate { shared } => {
                let successor = self.relieved
                    || matches!(self.successor, Successor::Probation { .. } | Successor::Confirmed);
                law!(self.accepting, "closes a gate that is closed");
                law!(
                    self.sign == Sign::Red || successor,
                    "3: the gate closes while readiness is green"
                );
                law!(
                    shared == successor,
                    "the gate is shared with nobody, or not shared with a successor"
                );
                self.accepting = false;
                self.gates_awaited += 1;
            }
            Action::Settle => {
                law!(self.gates_awaited == 0, "settles before the gate acknowledged");
                self.settle_began = Some(now);
            }
            Action::TellFinish => {
                law!(!self.told_to_finish, "tells to finish twice");
                law!(self.gates_awaited == 0, "2: told to finish before the gate acknowledged");
                let settle_over = self.settled
                    || self.settle_began.is_some_and(|at| after(at, self.config.settle) <= now);
                law!(!self.accepted || settle_over, "2: told to finish before settle ended");
                self.told_to_finish = true;
            }
            Action::Force => {
                law!(self.forced.is_none(), "forces twice");
                law!(
                    self.deadline_passed(now, before) || is_stop(input),
                    "forces without a reason"
                );
                law!(!before.idle || is_stop(input), "cuts work that has ended");
                self.forced = Some(now);
            }
            Action::CloseResources { until } => {
                law!(!self.closing, "closes resources twice");
                law!(self.idle || self.forced.is_some(), "closes resources under live work");
                law!(
                    self.successor_is_settled(now),
                    "closes resources while a successor may give the service back"
                );
                law!(
                    until.is_some() || self.config.grace.is_none() || !self.stop_asked,
                    "7: closing has no bound"
                );
                self.closing = true;
            }
            Action::Stop(outcome) => {
                self.ends(now, input, outcome, machine.deadline())?;
                self.outcome = Some(outcome);
            }
            Action::AdmitSuccessor
            | Action::RefuseSuccessor(_)
            | Action::ConfirmSuccessor
            | Action::Resume => self.see_of_successor(input, action)?,
        }
        Ok(())
    }

    fn see_of_successor(&mut self, input: Input, action: Action) -> Result<(), String> {
        match action {
            Action::AdmitSuccessor => {
                law!(self.successor == Successor::None, "6: admits a second successor");
                let Input::TakeoverAsked { draining } = input else {
                    return Err("6: admits a successor that did not ask".to_owned());
                };
                law!(draining < self.config.max_generations, "6: more generations than the cap");
                law!(self.phase == Phase::Serving, "admits a successor while not serving");
                self.successor = Successor::Starting;
            }
            Action::RefuseSuccessor(_) => {
                law!(
                    matches!(input, Input::TakeoverAsked { .. })
                        || (leaves(input) && self.successor == Successor::Starting),
                    "refuses nobody"
                );
                if leaves(input) {
                    self.successor = Successor::None;
                }
            }
            Action::ConfirmSuccessor => {
                let probation = matches!(self.successor, Successor::Probation { .. });
                law!(probation, "confirms {:?}", self.successor);
                self.successor = Successor::Confirmed;
            }
            Action::Resume => {
                self.successor = Successor::None;
                self.accepting = true;
                self.sign = Sign::Green;
                self.settle_began = None;
                self.settled = false;
                self.told_to_finish = false;
                self.idle = false;
            }
            other => return Err(format!("{other:?} is not about a successor")),
        }
        Ok(())
    }

    /// Probation ends on time, and with anything that leaves no way back.
    fn probation_ends(&self, now: Instant, input: Input) -> Result<(), String> {
        if let Successor::Probation { until } = self.successor {
            law!(now < until, "7: probation lasts longer than its bound");
            law!(!leaves(input) && input != Input::SuccessorKeeps, "{input:?} left a way back");
        }
        Ok(())
    }

    fn successor_is_settled(&self, now: Instant) -> bool {
        match self.successor {
            Successor::Probation { until } => until <= now,
            Successor::None | Successor::Starting | Successor::Confirmed => true,
        }
    }

    fn deadline_passed(&self, now: Instant, before: &Witness) -> bool {
        before.deadline.is_some_and(|at| at <= after(now, self.config.reserve))
            || self.config.grace.is_some_and(|grace| grace <= self.config.reserve)
    }

    /// 5. Stopped means: nothing live, or force was issued, and the outcome says which.
    fn ends(
        &self,
        now: Instant,
        input: Input,
        outcome: Outcome,
        deadline: Option<Instant>,
    ) -> Result<(), String> {
        law!(self.closing, "ends without closing its resources");
        law!(self.idle || self.forced.is_some(), "5: ends with live work that nobody cut");
        match outcome {
            Outcome::Finished => {
                law!(self.forced.is_none(), "5: finished, but work was cut");
                law!(self.closed, "5: finished, but resources are open");
            }
            Outcome::DeadlineExceeded => {
                let late = deadline.is_some_and(|at| at <= now);
                law!(self.forced.is_some() || late, "5: a deadline that nobody missed");
            }
            Outcome::Forced(cause) => {
                law!(self.stop_asked, "5: forced by nobody");
                law!(cause != Cause::Successor, "5: forced by a successor");
                let by_this = matches!(input, Input::Stop(by) | Input::Force(by) if by == cause);
                law!(self.forced.is_some() || by_this, "5: forced, but nothing was");
            }
        }
        Ok(())
    }

    /// 1. Phases move right; the one edge back is a successor lost in probation.
    fn phases_move_right(
        &self,
        before: &Witness,
        actions: &[Action],
        machine: &Machine,
    ) -> Result<(), String> {
        let phase = machine.phase();
        let back = actions.contains(&Action::Resume);
        law!(phase >= before.phase || back, "1: {} went back to {phase}", before.phase);
        law!(
            !back
                || (matches!(before.phase, Phase::Draining(_))
                    && phase == Phase::Serving
                    && matches!(before.successor, Successor::Probation { .. })),
            "1: resumed from {} with {:?}",
            before.phase,
            before.successor
        );
        Ok(())
    }

    /// 4. The deadline is fixed when Serving is left; a later stop can only bring it nearer.
    fn deadline_only_comes_nearer(
        &self,
        now: Instant,
        before: &Witness,
        actions: &[Action],
        machine: &Machine,
    ) -> Result<(), String> {
        let deadline = machine.deadline();
        if actions.contains(&Action::Resume) {
            law!(deadline.is_none(), "4: a deadline while serving");
            return Ok(());
        }
        match (before.deadline, deadline) {
            (Some(fixed), Some(now)) => law!(now <= fixed, "4: the deadline moved away"),
            (Some(_), None) => return Err("4: the deadline went away".to_owned()),
            (None, _) => {}
        }
        // A forced end is bounded by `after_force` instead, and has come already if nothing was live.
        let ended = self.forced.is_some() || machine.phase() == Phase::Stopped;
        if before.stop_asked || !self.stop_asked || ended {
            return Ok(());
        }
        if let Some(grace) = self.config.grace {
            let promised = deadline.is_some_and(|at| at <= after(now, grace));
            law!(promised, "4: the deadline of a stop is not within its grace period");
        }
        Ok(())
    }

    /// 7. Every wait has a bound.
    fn every_wait_is_bounded(&self, now: Instant, machine: &Machine) -> Result<(), String> {
        let due = machine.poll_timeout();
        law!(due.is_none_or(|at| at > now), "7: a timer that is due was not taken");
        law!(due.is_some() == machine.bound().is_some(), "7: a wait without the name of its bound");
        let bounded = match machine.phase() {
            Phase::Starting | Phase::Serving => true,
            Phase::Stopped => due.is_none(),
            Phase::LameDuck | Phase::Draining(Step::Settle) => due.is_some(),
            Phase::Draining(Step::Gate | Step::Finish) => {
                due.is_some() || machine.deadline().is_none()
            }
            Phase::Closing => {
                due.is_some() || (machine.deadline().is_none() && self.forced.is_none())
            }
        };
        law!(bounded, "7: {} waits without a bound (until {due:?})", machine.phase());
        if let (Some(due), Some(deadline)) = (due, machine.deadline()) {
            let last = match self.forced {
                Some(at) => deadline.max(after(at, self.config.after_force)),
                None => deadline,
            };
            law!(due <= last, "7: {} waits longer than the deadline", machine.phase());
        }
        Ok(())
    }

    /// 8. A failed takeover leaves Serving untouched.
    fn a_failed_takeover_changes_nothing(
        &self,
        input: Input,
        before: &Witness,
        actions: &[Action],
        machine: &Machine,
    ) -> Result<(), String> {
        let failed = matches!(input, Input::TakeoverFailed | Input::SuccessorLost)
            && before.successor == Successor::Starting;
        if failed && before.phase == Phase::Serving {
            law!(actions.is_empty(), "8: a failed takeover did {actions:?}");
            law!(machine.phase() == Phase::Serving, "8: a failed takeover ended Serving");
            law!(machine.poll_timeout().is_none(), "8: a failed takeover left a timer");
        }
        Ok(())
    }

    fn a_successor_lost_in_probation_gives_back(
        &self,
        now: Instant,
        input: Input,
        before: &Witness,
        actions: &[Action],
    ) -> Result<(), String> {
        let Successor::Probation { until } = before.successor else { return Ok(()) };
        if input == Input::SuccessorLost && now < until {
            law!(
                actions.contains(&Action::Resume),
                "a successor lost in probation is not replaced"
            );
        }
        Ok(())
    }

    fn state_fits_phase(&self, machine: &Machine) -> Result<(), String> {
        let phase = machine.phase();
        let accepting = match phase {
            Phase::Starting | Phase::Draining(_) | Phase::Closing | Phase::Stopped => false,
            Phase::Serving | Phase::LameDuck => true,
        };
        law!(self.accepting == accepting, "{phase}, but accepting is {}", self.accepting);
        let green = match phase {
            Phase::Serving => true,
            Phase::Starting | Phase::LameDuck => false,
            // The successor is ready in our place; the sign of this process is not looked at.
            Phase::Draining(_) | Phase::Closing | Phase::Stopped => return Ok(()),
        };
        law!((self.sign == Sign::Green) == green, "{phase}, but the sign is {:?}", self.sign);
        law!(
            (phase == Phase::Stopped) == self.outcome.is_some(),
            "{phase}, but the outcome is {:?}",
            self.outcome
        );
        Ok(())
    }
}

/// As far as the witness looks ahead.
const A_LIFETIME: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

fn after(at: Instant, wait: Duration) -> Instant {
    at + wait.min(A_LIFETIME)
}

/// After this, this generation does not serve again.
fn leaves(input: Input) -> bool {
    is_stop(input) || input == Input::PredecessorResumed
}

fn is_stop(input: Input) -> bool {
    matches!(input, Input::Stop(_) | Input::Force(_))
}
