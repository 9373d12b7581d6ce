//! Decides for one generation of a service: its life, its takeover from the generation before, and the takeovers of
//! those that come after.
//!
//! It joins three pure machines: [`phase`] for the life, [`successor`] for the takeover
//! that made this generation, and one [`predecessor`] for each attempt to succeed it. What an action of one makes
//! another say is passed on here, at once, before anything else happens; what is left are actions for whoever drives it.
//! It owns no task, no socket and no clock, and no decision is left to the driver.
//!
//! # Rules for the driver
//!
//! `tests/takeover_model.rs` checks in every order of messages, timers, deaths, stops and rollbacks what these
//! machines promise together; for most of these rules it has a driver that breaks it and is caught.
//!
//! 1. Actions are done in order, and before the next input; what takes time is begun, and its end is an input.
//! 2. [`Input::GateOpened`] and [`GateClosed`](crate::phase::Input::GateClosed) come once for each order to
//!    open and to close, in their order, when the accept loops have done it.
//! 3. What is sent arrives in the order in which it was sent, or not at all.
//! 4. Whoever is to be killed is killed by SIGKILL, and no end of file is made up for it.
//! 5. An end of file means that the process is gone.
//!
//! # Invariants
//!
//! 1. One attempt at most is under way; whoever asks meanwhile is refused or waits, and everybody is answered. A signal is
//!    followed by an upgrade that began after it, here or where the service is by then, or a line says why not.
//! 2. A generation admits nobody while it takes the service back, and nobody before it holds the listeners alone.
//! 3. The control name is taken when this generation is about to say that it accepts, and taken back whenever the
//!    service comes back or a successor fails that may have taken it.
//! 4. A process that was started and is not wanted is told why and leaves, or is told to leave, at once or [`EXIT`] later,
//!    and killed [`KILL_AFTER`] after that.

mod above;
mod attempt;
mod below;
mod reload;
#[cfg(test)]
mod tests;
mod words;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::phase::{self, Cause, Machine, Phase, Refusal};
use crate::takeover::Limits;
use crate::takeover::predecessor::{self, Predecessor};
use crate::takeover::successor::{self, Successor};
use crate::takeover::wire::{Hello, Ready, Reason, Why};

use attempt::{Attempt, Process};
use reload::Reloads;
pub use words::{Action, AttemptId, Closing, Heir, Input, LineId, Queue, Ticket};

/// After TERM, how long an unwanted successor may take to leave before it is killed.
pub const KILL_AFTER: Duration = Duration::from_secs(5);

/// How long one that ended its conversation may take to exit, one that was told why it is not wanted before it is told to
/// leave as well, or one that exited to its end of file.
pub const EXIT: Duration = Duration::from_secs(1);

/// Upgrades that may wait for the one under way.
pub const QUEUED: usize = 16;

/// Why there is no upgrade any more.
const STOPPING: &str = "this generation is stopping";

/// Why there is none yet.
const STARTING: &str = "this generation is still starting";

/// Whose timer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Timer {
    /// The life's.
    Life,
    /// The takeover from the predecessor.
    Above,
    /// The conversation with a successor.
    Below(AttemptId),
    /// The process of a successor.
    Process(AttemptId),
}

/// The machine. See the [module](self) for how to drive it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Generation {
    life: Machine,
    above: Option<Successor>,
    attempts: Vec<Attempt>,
    limits: Limits,
    /// The attempt that the life speaks of.
    admitted: Option<AttemptId>,
    /// Who asks to take over while a predecessor may still take the service back.
    asking: Vec<AttemptId>,
    /// Who spoke while a process was being started, whose number is not known yet.
    early: Vec<(LineId, Hello)>,
    /// The newest generation that ever was, as far as is known here.
    newest: u32,
    next_attempt: AttemptId,
    /// Upgrades that wait for the one under way.
    waiting: Vec<Ticket>,
    reloads: Reloads,
    /// Rollbacks that wait for it.
    returning: Vec<Ticket>,
    /// Why there is no way back to a predecessor.
    no_way_back: &'static str,
    gate: Gate,
    actions: VecDeque<Action>,
}

/// What the accept loops were told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Gate {
    told: Told,
    /// Orders to open that were not answered.
    opens_awaited: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Told {
    Nothing,
    Open,
    Close,
}

impl Generation {
    /// A generation that starts: `own` is its number, `above` its takeover if it takes over from another. `limits` are
    /// those for its successors.
    pub fn new(life: Machine, own: u32, above: Option<Successor>, limits: Limits) -> Generation {
        Generation {
            life,
            above,
            attempts: Vec::new(),
            limits,
            admitted: None,
            asking: Vec::new(),
            early: Vec::new(),
            newest: own,
            next_attempt: 1,
            waiting: Vec::new(),
            reloads: Reloads::default(),
            returning: Vec::new(),
            no_way_back: "this generation took over from nobody",
            gate: Gate { told: Told::Nothing, opens_awaited: 0 },
            actions: VecDeque::new(),
        }
    }

    /// The life.
    pub fn life(&self) -> &Machine {
        &self.life
    }

    /// The takeover from the predecessor.
    pub fn above(&self) -> Option<&Successor> {
        self.above.as_ref()
    }

    /// The conversations with successors that are not over.
    pub fn below(&self) -> impl Iterator<Item = (LineId, &Predecessor)> {
        self.attempts.iter().filter_map(|attempt| {
            let (line, talk) = attempt.talk.as_ref()?;
            (!talk.is_over()).then_some((*line, talk))
        })
    }

    /// Raises the part of the grace period that belongs to closing. Only before a stop has begun.
    pub fn set_reserve(&mut self, reserve: Duration) {
        self.life.set_reserve(reserve);
    }

    /// How many processes were told to leave and have not.
    pub fn unwanted(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.is_unwanted()).count()
    }

    /// Whether connections that the predecessor sends are served here.
    pub fn adopts(&self) -> bool {
        self.above.as_ref().is_some_and(Successor::adopts)
    }

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`handle`](Generation::handle) with [`Input::Tick`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers().map(|(_, at)| at).min()
    }

    /// Every timer that runs.
    pub fn timers(&self) -> impl Iterator<Item = (Timer, Instant)> {
        let life = self.life.poll_timeout().map(|at| (Timer::Life, at));
        let above = self.above.as_ref().and_then(Successor::poll_timeout);
        let above = above.map(|at| (Timer::Above, at));
        let below = self.attempts.iter().flat_map(|attempt| {
            let talk = attempt.talk.as_ref().and_then(|(_, talk)| talk.poll_timeout());
            let talk = talk.map(|at| (Timer::Below(attempt.id), at));
            let process = attempt.timer.map(|at| (Timer::Process(attempt.id), at));
            [talk, process].into_iter().flatten()
        });
        life.into_iter().chain(above).chain(below)
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Life(input @ (phase::Input::Stop(_) | phase::Input::Force(_))) => {
                self.stop(now, input);
            }
            Input::Life(input) => self.live(now, input),
            Input::Ready(ready) => self.ready(now, ready),
            Input::Unfit(why) => self.unfit(now, why),
            Input::GateOpened => self.gate_opened(now),
            Input::CopiesClosed => {
                if let Some(admitted) = self.admitted {
                    self.below_does(now, admitted, predecessor::Input::Confirmed);
                }
            }
            Input::UpgradeAsked { ticket, queue } => self.upgrade_asked(now, ticket, queue),
            Input::Reload => self.reload(now),
            Input::PassedOn(done) => self.passed_on(now, done),
            Input::RollbackAsked { ticket } => self.rollback_asked(now, ticket),
            Input::Started { attempt, pid } => {
                let found = self.attempts.iter_mut().find(|other| other.id == attempt);
                if let Some(found) = found {
                    found.started(now, pid, &self.limits);
                }
                self.end_unwanted(now, attempt);
            }
            Input::NotStarted { attempt, why } => {
                if let Some(attempt) = self.attempt(attempt) {
                    attempt.process = Process::Gone;
                }
                self.conclude(now, attempt, Why::new(Reason::Failed, why));
            }
            Input::Exited { attempt, how } => self.exited(now, attempt, how),
            Input::Hello { line, hello } => self.hello(now, line, hello),
            Input::Below { line, input } => self.said(now, line, input),
            Input::Counted { line, draining } => self.counted(now, line, draining),
            Input::Inventory { line, inventory } => self.inventory(now, line, inventory),
            Input::Above(input) => self.above_does(now, input),
            Input::Leaving { until } => self.leaving(now, until),
            Input::Tick => {
                let due: Vec<Timer> =
                    self.timers().filter(|(_, at)| *at <= now).map(|(timer, _)| timer).collect();
                due.into_iter().for_each(|timer| self.fire(now, timer));
            }
        }
        self.hear_the_early(now);
        self.attempts.retain(|attempt| !attempt.is_forgotten());
    }

    /// Takes in that one timer came due, as [`Input::Tick`] does for all that are.
    pub fn fire(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Life => self.live(now, phase::Input::Tick),
            Timer::Above => self.above_does(now, successor::Input::Tick),
            Timer::Below(attempt) => self.below_does(now, attempt, predecessor::Input::Tick),
            Timer::Process(attempt) => self.process_is_late(now, attempt),
        }
        self.hear_the_early(now);
        self.attempts.retain(|attempt| !attempt.is_forgotten());
    }

    fn attempt(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|attempt| attempt.id == id)
    }

    fn on(&self, line: LineId) -> Option<AttemptId> {
        let of_line = |attempt: &&Attempt| attempt.line() == Some(line);
        self.attempts.iter().find(of_line).map(|attempt| attempt.id)
    }

    // The life.

    fn live(&mut self, now: Instant, input: phase::Input) {
        self.life.handle(now, input);
        self.life_acts(now);
    }

    fn life_acts(&mut self, now: Instant) {
        while let Some(action) = self.life.poll_action() {
            self.life_action(now, action);
        }
    }

    fn life_action(&mut self, now: Instant, action: phase::Action) {
        use phase::Action as Does;
        match action {
            Does::Accept => self.open_gate(),
            Does::Resume => {
                self.admitted = None;
                self.actions.push_back(Action::Life(Does::Resume));
                self.open_gate();
            }
            Does::CloseGate { shared } => {
                self.gate.told = Told::Close;
                self.actions.push_back(Action::CloseGate(self.closing(shared)));
            }
            Does::AdmitSuccessor => {
                self.newest += 1;
                let generation = self.newest;
                let Some(attempt) = self.admitted.and_then(|id| self.attempt(id)) else { return };
                attempt.generation = generation;
                if let Some(line) = attempt.line() {
                    self.actions.push_back(Action::TakeInventory { line, generation });
                }
            }
            Does::RefuseSuccessor(refusal) => {
                if let Some(admitted) = self.admitted.take() {
                    let why = match self.life.cause() {
                        Some(Cause::Signal(_) | Cause::Request) => stopping(),
                        Some(Cause::Successor | Cause::Predecessor) | None => refused(refusal),
                    };
                    self.below_does(now, admitted, predecessor::Input::TurnedAway(why));
                }
            }
            Does::ConfirmSuccessor => {
                self.actions.push_back(Action::Life(Does::ConfirmSuccessor));
                if let Some(admitted) = self.admitted {
                    self.below_does(now, admitted, predecessor::Input::NoWayBack);
                }
                self.actions.push_back(Action::LetGo);
            }
            Does::TellFinish => {
                self.actions.push_back(Action::Life(Does::TellFinish));
                self.answer_the_upgraded();
            }
            action => self.actions.push_back(Action::Life(action)),
        }
    }

    fn open_gate(&mut self) {
        self.gate.told = Told::Open;
        self.gate.opens_awaited += 1;
        self.actions.push_back(Action::OpenGate);
    }

    /// A successor that keeps the service accepts from the same sockets, whatever this life believes.
    fn closing(&self, shared: bool) -> Closing {
        let kept = |attempt: &Attempt| {
            attempt.talk.as_ref().is_some_and(|(_, talk)| talk.is_taking_back() || talk.is_final())
        };
        match shared {
            true => Closing::HandedOver,
            false if self.attempts.iter().any(kept) => Closing::GivenAway,
            false => Closing::Sole,
        }
    }

    /// An order to close that followed makes the report of an order to open out of date.
    fn gate_opened(&mut self, now: Instant) {
        self.gate.opens_awaited = self.gate.opens_awaited.saturating_sub(1);
        if self.gate.told != Told::Open || self.gate.opens_awaited > 0 {
            return;
        }
        for id in self.ids() {
            if self.taking_back(id) {
                self.actions.push_back(Action::TakeName);
                self.below_does(now, id, predecessor::Input::Resumed);
                self.answer_rollbacks(Ok(()));
                self.begin_what_waits(now);
            }
        }
        if self.above.as_ref().is_some_and(Successor::is_starting) {
            // Before it is said: whoever hears that this generation accepts is led to it.
            self.actions.push_back(Action::TakeName);
            self.above_does(now, successor::Input::Accepting);
            self.begin_what_waits(now);
        }
    }

    fn ids(&self) -> Vec<AttemptId> {
        self.attempts.iter().map(|attempt| attempt.id).collect()
    }

    fn taking_back(&mut self, id: AttemptId) -> bool {
        self.attempt(id).is_some_and(|attempt| attempt.is_taking_back())
    }

    /// A stop wins over whatever is under way, also over a successor that has not said a word.
    fn stop(&mut self, now: Instant, input: phase::Input) {
        self.live(now, input);
        for id in self.ids() {
            // A service that is on its way back stays where it is.
            if self.taking_back(id) {
                self.below_does(now, id, predecessor::Input::Confirmed);
            }
        }
        self.turn_everybody_away(now, &stopping());
        self.hurry_the_unwanted(now);
        self.asking.clear();
        self.forget_reloads(&stopping());
        for ticket in std::mem::take(&mut self.waiting) {
            self.refuse_upgrade(Some(ticket), stopping());
        }
        self.above_does(now, successor::Input::CannotServe(stopping()));
        self.above_does(now, successor::Input::Keep);
    }

    /// Whoever would succeed this generation and has not done so, also one that has not said a word.
    fn turn_everybody_away(&mut self, now: Instant, why: &Why) {
        for id in self.ids() {
            let talks = self.attempt(id).is_some_and(|attempt| attempt.talk.is_some());
            match talks {
                true => self.below_does(now, id, predecessor::Input::TurnedAway(why.clone())),
                false => self.conclude(now, id, why.clone()),
            }
        }
    }

    fn ready(&mut self, now: Instant, ready: Ready) {
        match self.above {
            Some(_) => self.above_does(now, successor::Input::Ready(ready)),
            None => self.live(now, phase::Input::Ready),
        }
    }

    /// It is no stop of its own: what began already comes first.
    fn unfit(&mut self, now: Instant, why: Why) {
        if self.life.phase() == Phase::Starting && self.life.cause().is_none() {
            self.actions.push_back(Action::Unfit(why.clone()));
            self.above_does(now, successor::Input::CannotServe(why));
            if self.life.cause().is_none() {
                self.stop(now, phase::Input::Stop(Cause::Request));
            }
        }
    }
}

fn starting() -> Why {
    Why::new(Reason::NotServing, STARTING)
}

fn stopping() -> Why {
    Why::new(Reason::Stopping, STOPPING)
}

fn refused(refusal: Refusal) -> Why {
    match refusal {
        Refusal::NotServing => Why::new(Reason::NotServing, "this generation is not serving"),
        Refusal::AnotherStarting => Why::new(Reason::AnotherStarting, "one upgrade at a time"),
        Refusal::TooManyGenerations => {
            Why::new(Reason::TooManyGenerations, "as many older generations drain as may")
        }
    }
}
