//! Decides for the version in service, in one attempt of another to take over.
//!
//! | state | what happens | then | what to do |
//! |---|---|---|---|
//! | Greeting | Hello | Asking | ask to admit |
//! | Greeting | Hello without a common protocol, or [`HELLO_TIMEOUT`](super::HELLO_TIMEOUT) | Over | Refuse, close |
//! | Asking | turned away | Over | Refuse, close |
//! | Asking | admitted | Initialising | Offer … |
//! | Over, before it was admitted | admitted | Over | failed |
//! | Initialising | Status | Initialising | show progress; wait longer if asked |
//! | Initialising | Ready with a probe | Probing | Probe |
//! | Probing | answered well | Saving | save state |
//! | Probing | not answered well, or [`PROBE_TIMEOUT`](super::PROBE_TIMEOUT) | Over | Refuse, failed, close |
//! | Initialising | Ready | Saving | save state |
//! | Initialising | Ready with other names, or [`TAKEOVER_TIMEOUT`](super::TAKEOVER_TIMEOUT) | Over | Refuse, failed, close |
//! | Saving | states saved | Committed | Commit |
//! | Saving | states not saved, or [`STATE_TIMEOUT`](super::STATE_TIMEOUT) | Over | Refuse, failed, close |
//! | Initialising, Probing, Saving | turned away, a word out of place, or one that could not be sent | Over | Refuse, failed, close |
//! | Initialising, Probing, Saving, Committed | Refuse, or the successor is gone | Over | failed, close |
//! | Committed | Accepting | Probation | successor accepting |
//! | Committed | turned away | Dismissed | Rollback, failed |
//! | Committed | [`ACCEPTING_TIMEOUT`](super::ACCEPTING_TIMEOUT) | Doomed | Rollback, kill |
//! | Doomed | gone | Over | failed, close |
//! | Probation | gone | Over | successor lost, close |
//! | Probation | Resume, or a rollback is asked for | TakingBack | successor lost |
//! | Probation | Final | Kept | successor keeps |
//! | Probation | no way back | Kept | – |
//! | Probation, Kept, TakingBack | confirmed | Final | Final |
//! | Probation, Kept, Final | drained | the same | Drained |
//! | TakingBack | resumed | Dismissed | Rollback |
//! | TakingBack, Kept, Final, Dismissed | gone | Over | close |
//!
//! What is not in the table changes nothing.
//!
//! # Invariants
//!
//! 1. Until `Accepting` has come nothing is asked for that changes the service: a failed attempt is a no-op.
//! 2. An attempt that was admitted ends in exactly one [`Action::SuccessorAccepting`] or [`Action::Failed`].
//! 3. `Commit` is sent once at most, after `Ready`, after a good answer if there is a probe, and with all states. Before it an attempt is ended by `Refuse`, after
//!    it by `Rollback`: a successor without the commit never accepts, one with it may.
//! 4. As long as a successor that was sent the commit may accept, no [`Action::Failed`] lets another one in. It ends by
//!    accepting, by its own word, by going, or by being killed.
//! 5. `Rollback` is sent in probation only after this process accepts again.
//! 6. Each wait for the successor has a bound with a name, but for its end after a kill, which the kernel owes, and
//!    probation, which the machine of the phases bounds.

mod words;

use std::collections::VecDeque;
use std::time::Instant;

use super::wire::{
    Commit, Hello, Message, PROTOCOLS, Ready, Reason, State as SavedState, Status, Why,
};
use super::{Inventory, Limits, after};

pub use words::{Action, Bound, Input};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Greeting,
    Asking,
    Initialising { longest: Instant },
    Probing,
    Saving,
    Committed,
    Doomed,
    Probation,
    Kept,
    TakingBack,
    Final,
    Dismissed,
    Over,
}

/// The machine. See the [module](self) for what it does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Predecessor {
    limits: Limits,
    state: State,
    timer: Option<(Instant, Bound)>,
    protocol: u16,
    inventory: Inventory,
    ready: Ready,
    /// Why the successor is doomed or the service taken back.
    why: Option<Why>,
    actions: VecDeque<Action>,
}

impl Predecessor {
    /// A peer has connected, and may do so.
    pub fn new(now: Instant, limits: Limits) -> Predecessor {
        Predecessor {
            state: State::Greeting,
            timer: Some((after(now, limits.hello), Bound::Hello)),
            limits,
            protocol: PROTOCOLS.oldest,
            inventory: Inventory::default(),
            ready: Ready::default(),
            why: None,
            actions: VecDeque::new(),
        }
    }

    /// The protocol to write frames in.
    pub fn protocol(&self) -> u16 {
        self.protocol
    }

    /// Whether connections may move to the successor now.
    pub fn moves_connections(&self) -> bool {
        matches!(self.state, State::Probation | State::Kept | State::Final)
    }

    /// Whether the service can be taken back.
    pub fn has_way_back(&self) -> bool {
        self.state == State::Probation
    }

    /// Whether the service is on its way back. Until it is here, no other successor may be admitted: two would hold a
    /// commit.
    pub fn is_taking_back(&self) -> bool {
        self.state == State::TakingBack
    }

    /// Whether the successor was told to accept and has not said that it does, as far as is known here.
    pub fn is_committed(&self) -> bool {
        matches!(self.state, State::Committed | State::Doomed)
    }

    /// Whether the successor keeps the service, whatever becomes of it.
    pub fn is_final(&self) -> bool {
        self.state == State::Final
    }

    /// Whether nothing will ever happen here again.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`handle`](Predecessor::handle) with [`Input::Tick`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timer.map(|(at, _)| at)
    }

    /// What bounds the present wait.
    pub fn bound(&self) -> Option<Bound> {
        self.timer.map(|(_, bound)| bound)
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Received(message) => self.received(now, message),
            Input::Unreadable(text) => {
                self.out_of_place(format!("it said what cannot be understood: {text}"));
            }
            Input::Gone => self.gone(),
            Input::Unsent(text) => self.unsent(text),
            Input::Admitted(inventory) => self.admitted(now, inventory),
            Input::TurnedAway(why) => self.turned_away(why),
            Input::Probed(answered) => self.probed(now, answered),
            Input::StateSaved(states) => self.state_saved(now, states),
            Input::StateNotSaved(why) => {
                if self.state == State::Saving {
                    self.refuse(why);
                }
            }
            Input::Resumed => {
                if self.state == State::TakingBack {
                    let why = self.why.take().unwrap_or_else(|| Why::new(Reason::Operator, ""));
                    self.dismiss(why);
                }
            }
            Input::NoWayBack => {
                if self.state == State::Probation {
                    self.state = State::Kept;
                }
            }
            Input::Confirmed => self.confirmed(),
            Input::RollbackAsked(why) => self.take_back(why),
            Input::Drained => {
                if self.moves_connections() {
                    self.send(Message::Drained);
                }
            }
            Input::Tick => {}
        }
        self.time_passed(now);
    }

    /// It may be gone, or never read: then its end of file or a timer says so. Before the commit nothing is lost by
    /// giving it up.
    fn unsent(&mut self, text: String) {
        if let State::Initialising { .. } | State::Probing | State::Saving = self.state {
            self.refuse(Why::new(Reason::Limits, text));
        }
    }

    fn received(&mut self, now: Instant, message: Message) {
        match (self.state, message) {
            (State::Greeting, Message::Hello(hello)) => self.hello(hello),
            (State::Greeting | State::Asking, Message::Refuse(_)) => self.end(),
            (State::Initialising { longest }, Message::Status(status)) => {
                self.status(now, longest, status);
            }
            (State::Initialising { .. }, Message::Ready(ready)) => self.ready(now, ready),
            (
                State::Initialising { .. } | State::Probing | State::Saving | State::Committed,
                Message::Refuse(why),
            ) => {
                self.fail(of_the_other(why));
            }
            (State::Probing | State::Saving, Message::Status(status)) => {
                self.actions.push_back(Action::Progress(status.text));
            }
            (State::Committed, Message::Accepting) => {
                self.state = State::Probation;
                self.timer = None;
                let ready = std::mem::take(&mut self.ready);
                self.actions.push_back(Action::SuccessorAccepting(ready));
            }
            (State::Probation, Message::Resume(why)) => self.take_back(why),
            (State::Probation, Message::Final) => {
                self.state = State::Kept;
                self.actions.push_back(Action::SuccessorKeeps);
            }
            (_, message) => {
                let name = message.kind().name();
                self.out_of_place(format!("it said {name}, which does not belong here"));
            }
        }
    }

    fn hello(&mut self, hello: Hello) {
        match PROTOCOLS.agree(hello.protocols) {
            Some(protocol) => {
                self.protocol = protocol;
                self.state = State::Asking;
                self.actions.push_back(Action::AskToAdmit(hello));
            }
            None => {
                let (ours, theirs) = (PROTOCOLS, hello.protocols);
                let text = format!("this version speaks {ours}, the other {theirs}");
                self.send(Message::Refuse(Why::new(Reason::Protocol, text)));
                self.end();
            }
        }
    }

    fn admitted(&mut self, now: Instant, inventory: Inventory) {
        match self.state {
            State::Asking => {}
            // It left, or was sent away, before the answer: whoever admitted it has to hear.
            State::Over => {
                self.actions.push_back(Action::Failed(ended("before it was admitted")));
                return;
            }
            State::Greeting
            | State::Initialising { .. }
            | State::Probing
            | State::Saving
            | State::Committed
            | State::Doomed
            | State::Probation
            | State::Kept
            | State::TakingBack
            | State::Final
            | State::Dismissed => return,
        }
        if let Err(why) = inventory.check() {
            self.refuse(why);
            return;
        }
        for offer in inventory.offers() {
            self.send(Message::Offer(offer));
        }
        self.inventory = inventory;
        let longest = after(now, self.limits.longest);
        self.state = State::Initialising { longest };
        self.timer = Some((after(now, self.limits.takeover).min(longest), Bound::Takeover));
    }

    fn status(&mut self, now: Instant, longest: Instant, status: Status) {
        let asked = after(now, status.extend).min(longest);
        let at = self.poll_timeout().map_or(asked, |at| at.max(asked));
        self.timer = Some((at, Bound::Takeover));
        self.actions.push_back(Action::Progress(status.text));
    }

    fn ready(&mut self, now: Instant, ready: Ready) {
        match self.inventory.fits(&ready) {
            Ok(()) => {
                self.ready = ready;
                match self.ready.probe.clone() {
                    Some(path) => {
                        self.state = State::Probing;
                        self.timer = Some((after(now, self.limits.probe), Bound::Probe));
                        self.actions.push_back(Action::Probe { path });
                    }
                    None => self.save(now),
                }
            }
            Err(why) => self.refuse(why),
        }
    }

    fn probed(&mut self, now: Instant, answered: Result<(), String>) {
        match (self.state, answered) {
            (State::Probing, Ok(())) => self.save(now),
            (State::Probing, Err(what)) => self.probed_badly(Reason::Failed, &what),
            // Too late: it was sent away meanwhile.
            (_, _) => {}
        }
    }

    fn probed_badly(&mut self, reason: Reason, what: &str) {
        let path = self.ready.probe.take().unwrap_or_default();
        let generation = self.inventory.generation;
        self.refuse(Why::new(reason, format!("generation {generation} {what} to GET {path}")));
    }

    fn save(&mut self, now: Instant) {
        self.state = State::Saving;
        self.timer = Some((after(now, self.limits.state), Bound::State));
        self.actions.push_back(Action::SaveState);
    }

    fn state_saved(&mut self, now: Instant, states: Vec<SavedState>) {
        if self.state == State::Saving {
            self.state = State::Committed;
            self.timer = Some((after(now, self.limits.accepting), Bound::Accepting));
            self.send(Message::Commit(Commit { states }));
        }
    }

    fn gone(&mut self) {
        match self.state {
            State::Greeting | State::Asking => self.end(),
            State::Initialising { .. } => self.fail(ended("while it was initialising")),
            State::Probing => self.fail(ended("while it was probed")),
            State::Saving => self.fail(ended("before the commit")),
            State::Committed => self.fail(ended("before it accepted")),
            State::Doomed => {
                let why = self.why.take();
                self.fail(why.unwrap_or_else(|| ended("before it accepted")));
            }
            State::Probation => {
                self.actions.push_back(Action::SuccessorLost(ended("in its probation")));
                self.end();
            }
            State::Kept | State::TakingBack | State::Final | State::Dismissed => self.end(),
            State::Over => {}
        }
    }

    fn turned_away(&mut self, why: Why) {
        match self.state {
            // Not admitted, so nothing has failed.
            State::Greeting | State::Asking => {
                self.send(Message::Refuse(why));
                self.end();
            }
            State::Initialising { .. } | State::Probing | State::Saving => self.refuse(why),
            State::Committed => {
                self.actions.push_back(Action::Failed(why.clone()));
                self.dismiss(why);
            }
            State::Doomed
            | State::Probation
            | State::Kept
            | State::TakingBack
            | State::Final
            | State::Dismissed
            | State::Over => {}
        }
    }

    fn confirmed(&mut self) {
        if let State::Probation | State::Kept | State::TakingBack = self.state {
            self.state = State::Final;
            self.send(Message::Final);
        }
    }

    fn take_back(&mut self, why: Why) {
        if self.state == State::Probation {
            self.state = State::TakingBack;
            self.why = Some(why.clone());
            self.actions.push_back(Action::SuccessorLost(why));
        }
    }

    /// Before the commit a peer that does not keep to the protocol is sent away. After it, it accepts or soon will, and
    /// ending that for a wrong word would lose what it has in hand.
    fn out_of_place(&mut self, text: String) {
        let why = Why::new(Reason::Unexpected, text);
        match self.state {
            State::Greeting | State::Asking => {
                self.send(Message::Refuse(why));
                self.end();
            }
            State::Initialising { .. } | State::Probing | State::Saving => self.refuse(why),
            State::Committed
            | State::Doomed
            | State::Probation
            | State::Kept
            | State::TakingBack
            | State::Final
            | State::Dismissed
            | State::Over => {}
        }
    }

    fn time_passed(&mut self, now: Instant) {
        let Some((at, bound)) = self.timer else { return };
        if now < at {
            return;
        }
        match bound {
            Bound::Hello => {
                let text = match self.state {
                    State::Asking => "this generation did not decide in time",
                    _ => "it did not introduce itself in time",
                };
                self.send(Message::Refuse(Why::new(Reason::TimedOut, text)));
                self.end();
            }
            Bound::Takeover => {
                let text = "it did not become ready in time";
                self.refuse(Why::new(Reason::TimedOut, text));
            }
            Bound::Probe => {
                let what = format!("gave no answer in {:?}", self.limits.probe);
                self.probed_badly(Reason::TimedOut, &what);
            }
            Bound::State => {
                let text = "this generation did not save its state in time";
                self.refuse(Why::new(Reason::TimedOut, text));
            }
            Bound::Accepting => {
                let text = "it was told to accept and did not say that it does";
                let why = Why::new(Reason::TimedOut, text);
                self.state = State::Doomed;
                self.timer = None;
                self.send(Message::Rollback(why.clone()));
                self.why = Some(why.clone());
                self.actions.push_back(Action::Kill(why));
            }
        }
    }

    /// Ends an admitted attempt before the commit.
    fn refuse(&mut self, why: Why) {
        self.send(Message::Refuse(why.clone()));
        self.fail(why);
    }

    fn fail(&mut self, why: Why) {
        self.actions.push_back(Action::Failed(why));
        self.end();
    }

    /// Sends a successor away that has the commit. It finishes what it took; its end of file ends the attempt.
    fn dismiss(&mut self, why: Why) {
        self.state = State::Dismissed;
        self.timer = None;
        self.send(Message::Rollback(why));
    }

    fn end(&mut self) {
        self.state = State::Over;
        self.timer = None;
        self.actions.push_back(Action::Close);
    }

    fn send(&mut self, message: Message) {
        self.actions.push_back(Action::Send(message));
    }
}

/// What a successor gave up for. One that was told to stop means itself, and not this generation.
fn of_the_other(why: Why) -> Why {
    match why.reason {
        Reason::Stopping => ended("because it was told to stop"),
        _ => why,
    }
}

fn ended(when: &str) -> Why {
    Why::new(Reason::Failed, format!("it went away {when}"))
}
