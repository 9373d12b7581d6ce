//! Decides for the version that takes over.
//!
//! | state | what happens | then | what to do |
//! |---|---|---|---|
//! | – | connected | Waiting | Hello |
//! | Waiting | Offer, more to come | Waiting | – |
//! | Waiting | the last Offer | Initialising | initialise |
//! | Waiting | Refuse, or the predecessor is gone | Over | failed, close |
//! | Waiting | [`OFFER_TIMEOUT`](super::OFFER_TIMEOUT) | Over | Refuse, failed, close |
//! | Initialising | status | Initialising | Status |
//! | Initialising | ready | Willing | Ready |
//! | Initialising | gone | Orphaned | predecessor lost |
//! | Orphaned | ready | Starting | accept |
//! | Willing | Probe | Willing | answer |
//! | Willing | Commit | Starting | accept |
//! | Willing | gone | Starting | predecessor lost, accept |
//! | Willing | [`COMMIT_TIMEOUT`](super::COMMIT_TIMEOUT) | Over | Refuse, failed, close |
//! | Initialising, Willing | Refuse | Over | failed, close |
//! | Waiting, Initialising, Orphaned, Willing, Starting | can't serve | Over | Refuse, failed, close |
//! | Starting | accepting | Probation, or Alone if the predecessor is lost | Accepting |
//! | Starting, Probation | gone | Starting, Alone | predecessor lost |
//! | Probation | Connection | Probation | adopt |
//! | Probation | give back asked for | Returning | Resume |
//! | Returning | [`RETURN_TIMEOUT`](super::RETURN_TIMEOUT) | Probation | not given back |
//! | Probation, Returning | keep | Confirmed | Final |
//! | Probation, Returning, Confirmed | Final | Alone | confirmed |
//! | Starting, Probation, Returning, Confirmed | Rollback | GivenBack | give back |
//! | Returning, Confirmed | gone | Alone | predecessor lost |
//! | GivenBack | gone | Over | close |
//!
//! In Returning, Confirmed and Alone connections are still adopted. What is not in the table changes nothing, but for a
//! word out of place before the accept, which ends the attempt.
//!
//! # Invariants
//!
//! 1. [`Action::Accept`] is asked for once at most: after `Commit`, or after the predecessor's end with the whole offer
//!    in hand. A predecessor that gives up says `Refuse` before it closes, so an end of file alone means its end.
//! 2. `Accepting` is sent only once the accept loops run.
//! 3. After [`Action::Failed`] nothing is accepted.
//! 4. [`Action::GiveBack`] comes once at most, and only when the predecessor says that it accepts.
//! 5. Each wait for the predecessor has a bound with a name. Initialising is bounded by the predecessor while there is
//!    one, the commit's own wait for accept loops likewise.

use std::collections::VecDeque;
use std::time::Instant;

use super::wire::{
    Commit, Connection, Hello, Message, Offer, Ready, Reason, State as SavedState, Status, Why,
};
use super::{Inventory, Limits, after};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// A message came.
    Received(Message),
    /// Something came that is no message; why, for people.
    Unreadable(String),
    /// End of file: the predecessor is gone.
    Gone,
    /// The program could serve now, and makes this of the listeners.
    Ready(Ready),
    /// The program goes on initialising.
    Status(Status),
    /// The program can't serve, or was told to stop before it accepted.
    CannotServe(Why),
    /// After [`Action::Accept`]: the accept loops run.
    Accepting,
    /// This version keeps the service: it was told to stop, or another version asks to take over from it. That one is
    /// answered once this one [holds the listeners alone](Successor::holds_alone): if both had a way back, the death of
    /// the one between them would leave two in service.
    Keep,
    /// The service is to go back to the predecessor.
    GiveBackAsked(Why),
    /// Time passed; nothing else did.
    Tick,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send this, if there still is somebody to send it to.
    Send(Message),
    /// Initialise with this. The driver keeps the descriptors.
    Initialise(Inventory),
    /// Accept.
    Accept {
        /// The states at the hand-over; they replace those offered. None if the predecessor is lost.
        states: Vec<SavedState>,
        /// Whether it is there to move its connections.
        predecessor: Presence,
    },
    /// Answer the request on the socket that came beside it.
    Answer,
    /// Serve this connection, whose socket came beside it.
    Adopt(Connection),
    /// The predecessor is gone. There is no way back, and no more connections come. Whoever waited for this version to
    /// hold the listeners alone can be answered.
    PredecessorLost,
    /// The predecessor gave up its listeners for good. Whoever waited for that can be answered.
    Confirmed,
    /// The predecessor accepts again: close the gate by hand-over, finish, and go. Whoever asks to take over from this
    /// version is turned away.
    GiveBack(Why),
    /// The predecessor was asked to take the service back and did not: it stays here.
    NotGivenBack(Why),
    /// There will be no takeover.
    Failed(Why),
    /// Close the channel once everything is sent.
    Close,
}

/// Whether the predecessor is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// It is there.
    Here,
    /// It is gone: this version takes over late, with what it was offered.
    Lost,
}

/// The name of what bounds the present wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// [`Limits::offer`].
    Offer,
    /// [`Limits::commit`].
    Commit,
    /// [`Limits::returning`].
    Returning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Waiting,
    Initialising,
    Orphaned,
    Willing,
    Starting { predecessor: Presence },
    Probation,
    Returning,
    Confirmed,
    Alone,
    GivenBack,
    Over,
}

/// The machine. See the [module](self) for what it does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Successor {
    limits: Limits,
    state: State,
    timer: Option<(Instant, Bound)>,
    inventory: Inventory,
    actions: VecDeque<Action>,
}

impl Successor {
    /// The channel is open; this version introduces itself.
    pub fn new(now: Instant, limits: Limits, hello: Hello) -> Successor {
        Successor {
            state: State::Waiting,
            timer: Some((after(now, limits.offer), Bound::Offer)),
            limits,
            inventory: Inventory::default(),
            actions: VecDeque::from([Action::Send(Message::Hello(hello))]),
        }
    }

    /// Whether no other process holds the listeners of this one any more, so that they may be closed for good.
    pub fn holds_alone(&self) -> bool {
        match self.state {
            State::Alone | State::Orphaned | State::Starting { predecessor: Presence::Lost } => {
                true
            }
            State::Waiting
            | State::Initialising
            | State::Willing
            | State::Starting { predecessor: Presence::Here }
            | State::Probation
            | State::Returning
            | State::Confirmed
            | State::GivenBack
            | State::Over => false,
        }
    }

    /// Whether this version accepts and has said so. Its control socket takes its place no sooner: before that nobody
    /// can ask it to hand the service on.
    pub fn has_taken_over(&self) -> bool {
        match self.state {
            State::Probation | State::Returning | State::Confirmed | State::Alone => true,
            State::Waiting
            | State::Initialising
            | State::Orphaned
            | State::Willing
            | State::Starting { .. }
            | State::GivenBack
            | State::Over => false,
        }
    }

    /// Whether this version was told to accept and its accept loops do not run yet.
    pub fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    /// Whether connections that the predecessor sends are served here.
    pub fn adopts(&self) -> bool {
        self.has_taken_over()
    }

    /// Whether the service is asked to go back and nothing has come of it yet.
    pub fn is_returning(&self) -> bool {
        self.state == State::Returning
    }

    /// Whether the service can be given back to the predecessor.
    pub fn has_way_back(&self) -> bool {
        self.state == State::Probation
    }

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`handle`](Successor::handle) with [`Input::Tick`] at the latest.
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
            Input::Received(message) => self.received(message),
            Input::Unreadable(text) => self.out_of_place(text),
            Input::Gone => self.gone(),
            Input::Ready(ready) => self.ready(now, ready),
            Input::Status(status) => {
                if self.state == State::Initialising {
                    self.send(Message::Status(status));
                }
            }
            Input::CannotServe(why) => self.cannot_serve(why),
            Input::Accepting => self.accepting(),
            Input::Keep => self.keep(),
            Input::GiveBackAsked(why) => {
                if self.state == State::Probation {
                    self.state = State::Returning;
                    self.timer = Some((after(now, self.limits.returning), Bound::Returning));
                    self.send(Message::Resume(why));
                }
            }
            Input::Tick => {}
        }
        self.time_passed(now);
    }

    fn received(&mut self, message: Message) {
        match (self.state, message) {
            (State::Waiting, Message::Offer(offer)) => self.offered(offer),
            (State::Waiting | State::Initialising | State::Willing, Message::Refuse(why)) => {
                self.fail(why);
            }
            (State::Willing, Message::Probe) => self.actions.push_back(Action::Answer),
            (State::Willing, Message::Commit(Commit { states })) => {
                self.accept(states, Presence::Here);
            }
            (
                State::Starting { .. } | State::Probation | State::Returning | State::Confirmed,
                Message::Rollback(why),
            ) => {
                self.state = State::GivenBack;
                self.timer = None;
                self.actions.push_back(Action::GiveBack(why));
            }
            (State::Probation | State::Returning | State::Confirmed, Message::Final) => {
                self.state = State::Alone;
                self.timer = None;
                self.actions.push_back(Action::Confirmed);
            }
            (
                State::Probation | State::Returning | State::Confirmed | State::Alone,
                Message::Connection(connection),
            ) => self.actions.push_back(Action::Adopt(connection)),
            (State::Waiting | State::Initialising | State::Willing, message) => {
                let name = message.kind().name();
                self.out_of_place(format!("{name} does not belong here"));
            }
            // After the accept a wrong word is no reason to end what is in hand.
            (_, _) => {}
        }
    }

    fn offered(&mut self, offer: Offer) {
        let last = offer.last;
        match self.inventory.add(offer) {
            Err(why) => self.refuse(why),
            Ok(()) if last => {
                self.state = State::Initialising;
                self.timer = None;
                self.actions.push_back(Action::Initialise(self.inventory.clone()));
            }
            Ok(()) => {}
        }
    }

    fn ready(&mut self, now: Instant, ready: Ready) {
        if !matches!(self.state, State::Initialising | State::Orphaned) {
            return;
        }
        if let Err(why) = self.inventory.fits(&ready) {
            self.cannot_serve(why);
        } else if self.state == State::Orphaned {
            self.accept(Vec::new(), Presence::Lost);
        } else {
            self.state = State::Willing;
            self.timer = Some((after(now, self.limits.commit), Bound::Commit));
            self.send(Message::Ready(ready));
        }
    }

    fn accept(&mut self, states: Vec<SavedState>, predecessor: Presence) {
        self.state = State::Starting { predecessor };
        self.timer = None;
        self.actions.push_back(Action::Accept { states, predecessor });
    }

    fn accepting(&mut self) {
        let State::Starting { predecessor } = self.state else { return };
        match predecessor {
            Presence::Here => {
                self.state = State::Probation;
                self.send(Message::Accepting);
            }
            Presence::Lost => self.state = State::Alone,
        }
    }

    fn keep(&mut self) {
        match self.state {
            State::Probation | State::Returning => {
                self.state = State::Confirmed;
                self.timer = None;
                self.send(Message::Final);
            }
            State::Waiting
            | State::Initialising
            | State::Orphaned
            | State::Willing
            | State::Starting { .. }
            | State::Confirmed
            | State::Alone
            | State::GivenBack
            | State::Over => {}
        }
    }

    fn gone(&mut self) {
        match self.state {
            State::Waiting => {
                let text = "the predecessor ended before it had offered everything";
                self.fail(Why::new(Reason::Failed, text));
            }
            State::Initialising => {
                self.state = State::Orphaned;
                self.actions.push_back(Action::PredecessorLost);
            }
            State::Willing => {
                self.actions.push_back(Action::PredecessorLost);
                self.accept(Vec::new(), Presence::Lost);
            }
            State::Starting { predecessor: Presence::Here } => {
                self.state = State::Starting { predecessor: Presence::Lost };
                self.actions.push_back(Action::PredecessorLost);
            }
            State::Probation | State::Returning | State::Confirmed => {
                self.state = State::Alone;
                self.timer = None;
                self.actions.push_back(Action::PredecessorLost);
            }
            State::GivenBack => self.end(),
            State::Orphaned
            | State::Starting { predecessor: Presence::Lost }
            | State::Alone
            | State::Over => {}
        }
    }

    fn cannot_serve(&mut self, why: Why) {
        match self.state {
            State::Waiting
            | State::Initialising
            | State::Willing
            | State::Starting { predecessor: Presence::Here } => self.refuse(why),
            State::Orphaned | State::Starting { predecessor: Presence::Lost } => self.fail(why),
            State::Probation
            | State::Returning
            | State::Confirmed
            | State::Alone
            | State::GivenBack
            | State::Over => {}
        }
    }

    fn out_of_place(&mut self, text: String) {
        if let State::Waiting | State::Initialising | State::Willing = self.state {
            self.refuse(Why::new(Reason::Unexpected, text));
        }
    }

    fn time_passed(&mut self, now: Instant) {
        let Some((at, bound)) = self.timer else { return };
        if now < at {
            return;
        }
        let late = |what: &str| {
            let text = format!("the predecessor took too long for {what}");
            Why::new(Reason::TimedOut, text)
        };
        match bound {
            Bound::Offer => self.refuse(late("its offer")),
            Bound::Commit => self.refuse(late("the commit")),
            Bound::Returning => {
                self.state = State::Probation;
                self.timer = None;
                self.actions.push_back(Action::NotGivenBack(late("taking the service back")));
            }
        }
    }

    fn refuse(&mut self, why: Why) {
        self.send(Message::Refuse(why.clone()));
        self.fail(why);
    }

    fn fail(&mut self, why: Why) {
        self.actions.push_back(Action::Failed(why));
        self.end();
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
