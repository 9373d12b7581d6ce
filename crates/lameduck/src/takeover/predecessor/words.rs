//! What the predecessor's machine is told, what it says, and the names of its bounds.

use crate::takeover::Inventory;
#[cfg(doc)]
use crate::takeover::Limits;
use crate::takeover::wire::{Hello, Message, Ready, State as SavedState, Why};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// A message came.
    Received(Message),
    /// Something came that is no message; why, for people.
    Unreadable(String),
    /// End of file: the successor is gone.
    Gone,
    /// What was to be sent could not be; why, for people.
    Unsent(String),
    /// The answer to [`Action::AskToAdmit`]: yes, and this is what there is.
    Admitted(Inventory),
    /// The answer to [`Action::AskToAdmit`]: no. Later, until the successor accepts: this process stops.
    TurnedAway(Why),
    /// The answer to [`Action::Probe`]: it was answered with 2xx, or what happened instead, for people.
    Probed(Result<(), String>),
    /// The answer to [`Action::SaveState`]. The driver keeps the descriptors.
    StateSaved(Vec<SavedState>),
    /// The answer to [`Action::SaveState`]: it can't be done.
    StateNotSaved(Why),
    /// After [`Action::SuccessorLost`]: the accept loops run again.
    Resumed,
    /// There is no way back any more: probation is over, or this process was told to stop. `Confirmed` follows.
    NoWayBack,
    /// After [`Input::NoWayBack`]: the copies of the listeners are closed.
    Confirmed,
    /// The operator wants this version back.
    RollbackAsked(Why),
    /// No more connections will move.
    Drained,
    /// Time passed; nothing else did.
    Tick,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send this, with the descriptors it names beside it.
    Send(Message),
    /// Ask the machine of the phases whether this successor may start.
    AskToAdmit(Hello),
    /// Tell the operator what the successor does.
    Progress(String),
    /// Send a [`Message::Probe`] and ask over its socket.
    Probe {
        /// What for.
        path: String,
    },
    /// Write the states down.
    SaveState,
    /// The successor accepts: close the gate by hand-over. It serves these names and bound these addresses.
    SuccessorAccepting(Ready),
    /// The successor is gone or gives the service back: accept again if probation is not over.
    SuccessorLost(Why),
    /// The successor keeps the service: probation is over.
    SuccessorKeeps,
    /// An admitted successor will not take over. Nothing has changed.
    Failed(Why),
    /// The successor was told to accept and said nothing: it may accept or not. Kill it; nobody else is admitted until
    /// it is gone. The operator can be told at once.
    Kill(Why),
    /// Close the channel once everything is sent.
    Close,
}

/// The name of what bounds the present wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// [`Limits::hello`], which bounds the answer of the phases as well.
    Hello,
    /// [`Limits::takeover`], extended up to [`Limits::longest`].
    Takeover,
    /// [`Limits::probe`].
    Probe,
    /// [`Limits::state`].
    State,
    /// [`Limits::accepting`].
    Accepting,
}
