//! How a running service is replaced by its next version: both ends as pure machines.
//!
//! The successor asks, the predecessor gives:
//!
//! ```text
//! successor                     predecessor
//!   Hello          ─▶                          Refuse: another successor, no common protocol, not serving …
//!                  ◀─ Offer (+ fds) …
//!   Status …       ─▶                          initialising may take as long as it says, within a bound
//!   Ready          ─▶                          nothing has changed yet: any failure up to here is a no-op
//!                  ◀─ Probe (+ fd)              if Ready names a path: it is asked for, and has to be answered with 2xx
//!                  ◀─ Commit (+ fds)
//!   Accepting      ─▶                          only now the predecessor's accept loops stop
//!                  ◀─ Connection (+ fd) …
//!                  ◀─ Drained
//!                  ◀─ Final                    probation is over
//! ```
//!
//! In probation there is a way back: the successor dies, or says `Resume`, or the operator asks the predecessor. The
//! predecessor accepts again first and says `Rollback` then, so that somebody accepts at any time. `Final` closes the
//! way back: from the predecessor when probation is over, from the successor when it was told to stop or is asked to hand
//! the service on. The predecessor answers that with a `Final` of its own once it has given up its copies of the
//! listeners, so whoever received one holds them alone.
//!
//! An end of file on either side means that the process is gone. A side that only gives up says so first.
//!
//! [`predecessor`] and [`successor`] each decide for one attempt. They own no task, no socket and no clock: they are
//! told what happened (`handle`), say what to do (`poll_action`) and when to wake them (`poll_timeout`). [`wire`] is what
//! they say to each other.
//!
//! # Rules for whoever drives them
//!
//! With these rules the machines, together with [`phase`](crate::phase), keep the promises that
//! `tests/takeover_model.rs` checks in every order of messages, timers, deaths, stops and rollbacks; most of them are
//! there with a driver that breaks them.
//!
//! 1. An action is done before the next input. What it makes the machine of the phases say is passed on at once:
//!    `AskToAdmit` asks `TakeoverAsked`, whose answer is `Admitted` or `TurnedAway`; `SuccessorAccepting`,
//!    `SuccessorLost`, `SuccessorKeeps` and `Failed` are its inputs of like names; its `RefuseSuccessor` is `TurnedAway`,
//!    its `ConfirmSuccessor` is `Confirmed`, once the copies of the listeners are closed. On the other side `Accept` is
//!    its `Ready`, and `GiveBack` its `PredecessorResumed`.
//! 2. `Resumed` and the successor's `Accepting` are told when the accept loops run and no order to close waits for them.
//! 3. The control socket of a version takes its place when it [has taken over](successor::Successor::has_taken_over).
//! 4. A version admits nobody while [it takes the service back](predecessor::Predecessor::is_taking_back), and nobody
//!    before it [holds the listeners alone](successor::Successor::holds_alone): it says `Keep`, and answers who asks when
//!    that is confirmed.
//! 5. On a stop each attempt is told `Confirmed`, and the version's own takeover `CannotServe` and `Keep`; each takes
//!    what concerns it.
//! 6. Whoever is to be killed is killed by SIGKILL, and no end of file is made up for it.

pub(crate) mod channel;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use wire::{
    Listener, MAX_DESCRIPTORS, MAX_INHERITED_LISTENERS, MAX_LISTENERS, MAX_STATES, Offer, Ready,
    Reason, State, Why,
};

pub mod predecessor;
pub mod successor;
pub mod wire;

/// How long a peer may take to its `Hello` once it is connected or started. A successor that is started here may take no
/// longer than to be ready ([`Builder::takeover_timeout`](crate::Builder::takeover_timeout)).
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a successor waits for the whole offer.
pub const OFFER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a successor may initialise, from the offer on, unless it asks for more.
pub const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a successor may initialise whatever it asks for.
pub const TAKEOVER_LONGEST: Duration = Duration::from_secs(600);

/// How long a successor may take to answer the predecessor's probe.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the predecessor may take to write its states down.
pub const STATE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a successor waits for the commit once it is ready. Longer than [`PROBE_TIMEOUT`] and [`STATE_TIMEOUT`]
/// together, so that a predecessor that is alive decides first.
pub const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a successor may take from the commit to its first accept.
pub const ACCEPTING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a predecessor may take to serve again once it is asked to.
pub const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

/// No wait is longer than this: an [`Instant`] further away need not exist.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The durations that bound each wait of a takeover.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Predecessor: from the connection to the `Hello`.
    pub hello: Duration,
    /// Successor: from its `Hello` to the last `Offer`.
    pub offer: Duration,
    /// Predecessor: from the offer to `Ready`, unless the successor asks for more.
    pub takeover: Duration,
    /// Predecessor: from the offer to `Ready`, whatever the successor asks for.
    pub longest: Duration,
    /// Predecessor: from `Ready` to the answer of its probe.
    pub probe: Duration,
    /// Predecessor: from there to its states.
    pub state: Duration,
    /// Successor: from `Ready` to `Commit`.
    pub commit: Duration,
    /// Predecessor: from `Commit` to `Accepting`.
    pub accepting: Duration,
    /// Successor: from `Resume` to `Rollback`.
    pub returning: Duration,
}

impl Limits {
    /// How long a process that was started as a successor may take to its `Hello`: never longer than it may take to be
    /// ready.
    pub fn first_word(&self) -> Duration {
        self.hello.min(self.takeover)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            hello: HELLO_TIMEOUT,
            offer: OFFER_TIMEOUT,
            takeover: TAKEOVER_TIMEOUT,
            longest: TAKEOVER_LONGEST,
            probe: PROBE_TIMEOUT,
            state: STATE_TIMEOUT,
            commit: COMMIT_TIMEOUT,
            accepting: ACCEPTING_TIMEOUT,
            returning: RETURN_TIMEOUT,
        }
    }
}

/// What the predecessor has to give. Descriptors are kept by whoever drives the machines, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Inventory {
    /// The generation the successor will be.
    pub generation: u32,
    /// The listening sockets, each with a name of its own.
    pub listeners: Vec<Listener>,
    /// The states, each with a key of its own.
    pub states: Vec<State>,
}

impl Inventory {
    /// Whether it can be offered: nothing is there twice, and nothing beyond its limit. Checked at both ends.
    ///
    /// # Errors
    ///
    /// The reason, naming the listener or state.
    pub fn check(&self) -> Result<(), Why> {
        let listeners = self.listeners.len();
        if listeners > MAX_LISTENERS {
            let text = format!("{listeners} listeners, {MAX_LISTENERS} are the most");
            return Err(Why::new(Reason::Limits, text));
        }
        let states = self.states.len();
        if states > MAX_STATES {
            let text = format!("{states} states, {MAX_STATES} are the most");
            return Err(Why::new(Reason::Limits, text));
        }
        if let Some(name) = repeated(self.listeners.iter().map(|listener| &listener.name)) {
            return Err(Why::new(Reason::Names, format!("two listeners are named {name}")));
        }
        if let Some(key) = repeated(self.states.iter().map(|state| &state.key)) {
            return Err(Why::new(Reason::State, format!("two states are named {key}")));
        }
        Ok(())
    }

    /// The messages that offer it, none with more descriptors than fit beside a frame.
    pub fn offers(&self) -> Vec<Offer> {
        let mut listeners = self.listeners.iter().cloned();
        let mut states = self.states.iter().cloned();
        let mut left = self.listeners.len() + self.states.len();
        // Long names need room in a frame.
        let is_named = |listener: &Listener| listener.inherited.is_some();
        let most = match self.listeners.iter().any(is_named) {
            true => MAX_INHERITED_LISTENERS,
            false => MAX_DESCRIPTORS,
        };
        let mut offers = Vec::new();
        loop {
            let some: Vec<Listener> = listeners.by_ref().take(most).collect();
            let room = most - some.len();
            let rest: Vec<State> = states.by_ref().take(room).collect();
            left -= some.len() + rest.len();
            let last = left == 0;
            offers.push(Offer { generation: self.generation, listeners: some, states: rest, last });
            if last {
                return offers;
            }
        }
    }

    /// Takes one more part of an offer.
    fn add(&mut self, offer: Offer) -> Result<(), Why> {
        let first = self.listeners.is_empty() && self.states.is_empty();
        if !first && offer.generation != self.generation {
            let text = format!("generation {} became {}", self.generation, offer.generation);
            return Err(Why::new(Reason::Unexpected, text));
        }
        self.generation = offer.generation;
        self.listeners.extend(offer.listeners);
        self.states.extend(offer.states);
        self.check()
    }

    /// Whether `ready` makes something of each listener, once, and of no other.
    ///
    /// # Errors
    ///
    /// The reason, naming the listener.
    pub fn fits(&self, ready: &Ready) -> Result<(), Why> {
        let said: Vec<&String> = ready.used.iter().chain(&ready.dropped).collect();
        if let Some(name) = repeated(said.iter().copied()) {
            return Err(Why::new(Reason::Names, format!("{name} is used or dropped twice")));
        }
        let offered: HashSet<&String> =
            self.listeners.iter().map(|listener| &listener.name).collect();
        if let Some(name) = said.iter().find(|name| !offered.contains(**name)) {
            return Err(Why::new(Reason::Names, format!("{name} was never offered")));
        }
        let said: HashSet<&String> = said.into_iter().collect();
        match self.listeners.iter().find(|listener| !said.contains(&listener.name)) {
            Some(Listener { name, .. }) => {
                Err(Why::new(Reason::Names, format!("{name} is neither used nor dropped")))
            }
            None => Ok(()),
        }
    }
}

fn repeated<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

/// The instant `wait` after `now`, or [`LONGEST`] after it if that is sooner.
fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(LONGEST)
}

#[cfg(test)]
mod tests;
