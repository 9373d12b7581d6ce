//! Every order of inputs up to a length, for each machine, with its invariants checked after each step.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::super::wire::{Message, Reason, Why};
use super::super::{predecessor, successor};
use super::{hello, inventory, limits, message, ready, state};

/// Something that is searched: a machine with an account of what it did.
trait Watched: Clone + Hash {
    type Input: Clone + std::fmt::Debug;

    /// Feeds one input and says which invariant it broke, if any. Nothing as input is the passing of time up to the
    /// next timer.
    fn step(&mut self, input: Option<&Self::Input>) -> Result<(), String>;
}

struct Search<'a, W: Watched> {
    inputs: &'a [W::Input],
    path: Vec<Option<W::Input>>,
    /// How many more inputs were tried after each state, by the state's hash.
    seen: HashMap<u64, usize>,
}

impl<W: Watched> Search<'_, W> {
    /// Tries each order of `left` inputs after `watched`. Orders that lead to the same state have the same future, so it
    /// is tried once.
    fn explore(&mut self, watched: &W, left: usize) {
        let mut hasher = DefaultHasher::new();
        watched.hash(&mut hasher);
        let tried = self.seen.entry(hasher.finish()).or_default();
        if left == 0 || *tried >= left {
            return;
        }
        *tried = left;
        let inputs = self.inputs;
        for input in inputs.iter().map(Some).chain([None]) {
            let mut next = watched.clone();
            self.path.push(input.cloned());
            if let Err(broken) = next.step(input) {
                panic!("{broken}\nafter {:?}", self.path);
            }
            self.explore(&next, left - 1);
            self.path.pop();
        }
    }
}

#[track_caller]
fn no_order_breaks<W: Watched>(watched: &W, inputs: &[W::Input], length: usize, at_least: usize) {
    let mut search = Search { inputs, path: Vec::new(), seen: HashMap::new() };
    search.explore(watched, length);
    let states = search.seen.len();
    assert!(states >= at_least, "only {states} states were reached");
}

macro_rules! law {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

/// Beyond the longest way to a state that no shorter way leads to: this is every order there is.
const LENGTH: usize = 16;

const MESSAGES: [&[&str]; 14] = [
    &["Hello"],
    &["Hello", "newer"],
    &["Refuse"],
    &["Offer"],
    &["Status"],
    &["Ready"],
    &["Ready", "wrong"],
    &["Ready", "probed"],
    &["Probe"],
    &["Accepting"],
    &["Commit"],
    &["Resume"],
    &["Rollback"],
    &["Final"],
];

fn messages() -> impl Iterator<Item = Message> {
    MESSAGES.iter().filter_map(|words| message(words))
}

fn why() -> Why {
    Why::new(Reason::Operator, "")
}

/// How far the driver is with what the predecessor asked for: it answers only what was asked.
#[derive(Clone, Default, Hash)]
struct Given {
    asked: bool,
    admitted: bool,
    probing: bool,
    answered: bool,
    saving: bool,
    ready: bool,
    committed: bool,
    accepting: bool,
    lost: bool,
    kept: bool,
    resumed: bool,
    rolled_back: bool,
    confirmed: bool,
    killed: bool,
    gone: bool,
    failed: bool,
    closed: bool,
    unexpected: bool,
}

#[derive(Clone, Hash)]
struct WatchedPredecessor {
    now: Instant,
    machine: predecessor::Predecessor,
    given: Given,
}

impl Watched for WatchedPredecessor {
    type Input = predecessor::Input;

    fn step(&mut self, input: Option<&predecessor::Input>) -> Result<(), String> {
        use predecessor::Input;
        let tick = Input::Tick;
        let input = match input {
            Some(input) => input,
            None => {
                self.now = self.machine.poll_timeout().unwrap_or(self.now);
                &tick
            }
        };
        let given = &mut self.given;
        let possible = match input {
            Input::Admitted(_) => given.asked && !given.admitted,
            Input::Probed(_) => given.probing && !given.answered,
            Input::StateSaved(_) | Input::StateNotSaved(_) => given.saving && !given.committed,
            Input::Resumed => given.lost && !given.resumed,
            Input::Confirmed | Input::NoWayBack => given.accepting,
            Input::Received(_) | Input::Unreadable(_) | Input::Unsent(_) => !given.gone,
            Input::Gone => !given.gone,
            Input::TurnedAway(_) | Input::RollbackAsked(_) | Input::Drained | Input::Tick => true,
        };
        if !possible {
            return Ok(());
        }
        match input {
            Input::Admitted(_) => given.admitted = true,
            Input::Probed(_) => given.answered = true,
            Input::Resumed => given.resumed = true,
            Input::Gone => given.gone = true,
            Input::Received(Message::Ready(_)) => given.ready = true,
            Input::TurnedAway(_) => given.unexpected = true,
            _ => {}
        }
        self.machine.handle(self.now, input.clone());
        while let Some(action) = self.machine.poll_action() {
            self.given.see(&action, input)?;
        }
        let due = self.machine.poll_timeout();
        law!(due.is_none_or(|at| at > self.now), "6: a timer that is due was not taken");
        law!(due.is_some() == self.machine.bound().is_some(), "6: a wait without its name");
        self.given.fits(&self.machine)
    }
}

impl Given {
    fn see(
        &mut self,
        action: &predecessor::Action,
        input: &predecessor::Input,
    ) -> Result<(), String> {
        use predecessor::{Action, Input};
        let late = matches!((action, input), (Action::Failed(_), Input::Admitted(_)));
        law!(!self.closed || late, "{action:?} after the end");
        match action {
            Action::Send(Message::Commit(_)) => {
                law!(self.ready && self.saving && !self.committed, "3: a commit out of place");
                self.committed = true;
            }
            Action::Send(Message::Refuse(_)) => {
                law!(!self.committed, "3: refused after the commit")
            }
            Action::Send(Message::Rollback(_)) => {
                law!(self.committed && !self.rolled_back, "3: a rollback out of place");
                let sent_away = self.unexpected || self.resumed || !self.accepting;
                law!(sent_away, "5: rolled back before anybody accepts again");
                self.rolled_back = true;
            }
            Action::Send(Message::Final) => {
                law!(*input == Input::Confirmed, "final without a confirmation");
                law!(!self.rolled_back && !self.confirmed, "final out of place");
                self.confirmed = true;
            }
            Action::Send(_) | Action::Progress(_) => law!(!self.gone, "speaks to nobody"),
            Action::AskToAdmit(_) => {
                law!(!self.asked, "asks twice");
                self.asked = true;
            }
            Action::Probe { .. } => {
                law!(self.admitted && !self.probing && !self.saving, "probes out of place");
                self.probing = true;
            }
            Action::SaveState => {
                law!(self.admitted && !self.saving, "saves out of place");
                let well = *input == Input::Probed(Ok(()));
                law!(!self.probing || well, "3: goes on without a good answer");
                self.saving = true;
            }
            Action::SuccessorAccepting(_) => {
                law!(
                    self.committed && !self.accepting && !self.failed,
                    "1: accepting out of place"
                );
                law!(*input == Input::Received(Message::Accepting), "1: nobody said so");
                self.accepting = true;
            }
            Action::SuccessorLost(_) => {
                law!(
                    self.accepting && !self.lost && !self.kept && !self.confirmed,
                    "lost out of place"
                );
                self.lost = true;
            }
            Action::SuccessorKeeps => {
                law!(self.accepting && !self.lost && !self.kept, "kept out of place");
                self.kept = true;
            }
            Action::Failed(_) => {
                law!(self.admitted, "2: an attempt failed that was never admitted");
                law!(!self.failed && !self.accepting, "2: failed out of place");
                let harmless = !self.committed
                    || self.gone
                    || self.unexpected
                    || matches!(input, Input::Received(Message::Refuse(_)));
                law!(harmless, "4: failed while the successor may accept");
                self.failed = true;
            }
            Action::Kill(_) => {
                law!(self.committed && !self.accepting && !self.killed, "kills out of place");
                self.killed = true;
            }
            Action::Close => self.closed = true,
        }
        Ok(())
    }

    fn fits(&self, machine: &predecessor::Predecessor) -> Result<(), String> {
        law!(machine.is_over() == self.closed, "over, but not closed");
        law!(!self.gone || self.closed, "the successor is gone, and the attempt is not over");
        let answered = self.failed || self.accepting;
        law!(!self.closed || !self.admitted || answered, "2: an admitted attempt ended unheard");
        let bounded = machine.poll_timeout().is_some()
            || self.closed
            || self.accepting
            || self.killed
            || self.rolled_back;
        law!(bounded, "6: a wait without a bound");
        law!(!machine.has_way_back() || (self.accepting && !self.lost), "a way back from nowhere");
        Ok(())
    }
}

#[test]
fn no_order_of_inputs_breaks_an_invariant_of_the_predecessor() {
    use predecessor::Input;
    let mut inputs: Vec<Input> = messages().map(Input::Received).collect();
    inputs.extend([
        Input::Unreadable("not a frame".to_owned()),
        Input::Gone,
        Input::Unsent("full".to_owned()),
        Input::Admitted(inventory()),
        Input::TurnedAway(why()),
        Input::Probed(Ok(())),
        Input::Probed(Err("answered 500".to_owned())),
        Input::StateSaved(vec![state("counter")]),
        Input::StateNotSaved(why()),
        Input::Resumed,
        Input::NoWayBack,
        Input::Confirmed,
        Input::RollbackAsked(why()),
        Input::Drained,
    ]);
    let now = Instant::now();
    let machine = predecessor::Predecessor::new(now, limits());
    let watched = WatchedPredecessor { now, machine, given: Given::default() };
    no_order_breaks(&watched, &inputs, LENGTH, 60);
}

/// What the successor was given and did.
#[derive(Clone, Default, Hash)]
struct Taken {
    offered: bool,
    ready: bool,
    committed: bool,
    gone: bool,
    accept: bool,
    accepting: bool,
    said_accepting: bool,
    given_back: bool,
    failed: bool,
    closed: bool,
}

#[derive(Clone, Hash)]
struct WatchedSuccessor {
    now: Instant,
    machine: successor::Successor,
    taken: Taken,
}

impl Watched for WatchedSuccessor {
    type Input = successor::Input;

    fn step(&mut self, input: Option<&successor::Input>) -> Result<(), String> {
        use successor::Input;
        let tick = Input::Tick;
        let input = match input {
            Some(input) => input,
            None => {
                self.now = self.machine.poll_timeout().unwrap_or(self.now);
                &tick
            }
        };
        let taken = &mut self.taken;
        let possible = match input {
            Input::Received(_) | Input::Unreadable(_) | Input::Gone => !taken.gone,
            Input::Ready(_) | Input::Status(_) => taken.offered,
            Input::Accepting => taken.accept && !taken.accepting,
            Input::CannotServe(_) | Input::Keep | Input::GiveBackAsked(_) | Input::Tick => true,
        };
        if !possible {
            return Ok(());
        }
        match input {
            Input::Gone => taken.gone = true,
            Input::Ready(_) => taken.ready = true,
            Input::Accepting => taken.accepting = true,
            Input::Received(Message::Commit(_)) => taken.committed = true,
            _ => {}
        }
        self.machine.handle(self.now, input.clone());
        while let Some(action) = self.machine.poll_action() {
            self.taken.see(&action, input)?;
        }
        let due = self.machine.poll_timeout();
        law!(due.is_none_or(|at| at > self.now), "5: a timer that is due was not taken");
        law!(due.is_some() == self.machine.bound().is_some(), "5: a wait without its name");
        Ok(())
    }
}

impl Taken {
    fn see(&mut self, action: &successor::Action, input: &successor::Input) -> Result<(), String> {
        use successor::{Action, Input, Presence};
        law!(!self.closed, "{action:?} after the end");
        let alive = !self.failed || matches!(action, Action::Close);
        law!(alive, "3: {action:?} after the failure");
        match action {
            Action::Send(Message::Accepting) => {
                law!(self.accept && self.accepting, "2: says that it accepts, and does not");
                law!(!self.said_accepting, "2: says it twice");
                self.said_accepting = true;
            }
            Action::Send(Message::Refuse(_)) => law!(!self.said_accepting, "refuses what it took"),
            Action::Send(Message::Resume(_) | Message::Final) => {
                law!(self.said_accepting && !self.given_back, "a last word out of place");
            }
            Action::Send(_) => law!(!self.gone, "speaks to nobody"),
            Action::Initialise(_) => {
                law!(!self.offered, "initialises twice");
                self.offered = true;
            }
            Action::Accept { predecessor, .. } => {
                law!(!self.accept && self.offered && self.ready, "1: accepts out of place");
                match predecessor {
                    Presence::Here => law!(self.committed && !self.gone, "1: accepts uncommitted"),
                    Presence::Lost => law!(self.gone, "1: accepts late beside a predecessor"),
                }
                self.accept = true;
            }
            Action::Answer => law!(self.ready && !self.accept, "answers a probe out of place"),
            Action::Adopt(_) => law!(self.said_accepting, "adopts before it accepts"),
            Action::PredecessorLost => law!(self.gone, "misses nobody"),
            Action::Confirmed => law!(self.said_accepting, "confirms nothing"),
            Action::GiveBack(_) => {
                let told = matches!(input, Input::Received(Message::Rollback(_)));
                law!(told && self.accept && !self.given_back, "4: gives back out of place");
                self.given_back = true;
            }
            Action::NotGivenBack(_) => {
                law!(*input == Input::Tick, "5: not given back, and not late")
            }
            Action::Failed(_) => {
                law!(!self.said_accepting, "fails after it took over");
                self.failed = true;
            }
            Action::Close => self.closed = true,
        }
        Ok(())
    }
}

#[test]
fn no_order_of_inputs_breaks_an_invariant_of_the_successor() {
    use successor::Input;
    let mut inputs: Vec<Input> = messages().map(Input::Received).collect();
    inputs.extend(
        [["Connection"], ["Drained"]]
            .iter()
            .filter_map(|words| message(words))
            .map(Input::Received),
    );
    inputs.extend([
        Input::Unreadable("not a frame".to_owned()),
        Input::Gone,
        Input::Ready(ready(&["http"], &["admin"])),
        Input::CannotServe(why()),
        Input::Accepting,
        Input::Keep,
        Input::GiveBackAsked(why()),
    ]);
    let now = Instant::now();
    let mut machine = successor::Successor::new(now, limits(), hello(1, 1));
    assert!(matches!(machine.poll_action(), Some(successor::Action::Send(Message::Hello(_)))));
    let taken = Taken::default();
    no_order_breaks(&WatchedSuccessor { now, machine, taken }, &inputs, LENGTH, 40);
}

/// Durations beyond the clock are long waits, not panics.
#[test]
fn no_limit_is_too_long() {
    let long = super::super::Limits {
        hello: Duration::MAX,
        offer: Duration::MAX,
        takeover: Duration::MAX,
        longest: Duration::MAX,
        probe: Duration::MAX,
        state: Duration::MAX,
        commit: Duration::MAX,
        accepting: Duration::MAX,
        returning: Duration::MAX,
    };
    let now = Instant::now();
    let mut machine = predecessor::Predecessor::new(now, long.clone());
    for input in [
        predecessor::Input::Received(Message::Hello(hello(1, 1))),
        predecessor::Input::Admitted(inventory()),
        predecessor::Input::Received(message(&["Ready", "probed"]).unwrap()),
        predecessor::Input::Probed(Ok(())),
        predecessor::Input::StateSaved(Vec::new()),
    ] {
        machine.handle(now, input);
        assert!(machine.poll_timeout() > Some(now + Duration::from_secs(1_000_000)));
    }
    let machine = successor::Successor::new(now, long, hello(1, 1));
    assert!(machine.poll_timeout() > Some(now + Duration::from_secs(1_000_000)));
}
