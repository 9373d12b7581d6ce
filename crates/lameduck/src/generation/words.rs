//! What a generation is told, and what it has to be done.

use std::time::{Duration, Instant};

use crate::phase;
use crate::takeover::Inventory;
use crate::takeover::successor::Presence;
use crate::takeover::wire::{Hello, Message, Ready, Why};
use crate::takeover::{predecessor, successor};

/// One attempt to succeed this generation, from the process that was started or from its first word on.
pub type AttemptId = u64;

/// A conversation with a successor.
pub type LineId = u64;

/// Somebody who waits to hear what comes of something.
pub type Ticket = u64;

/// A successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Heir {
    /// Its process, as it says.
    pub pid: u32,
    /// The generation it is.
    pub generation: u32,
}

/// What to do with an upgrade while another is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Queue {
    /// It waits, and one more follows the one under way.
    Wait,
    /// It is answered with what comes of the one under way.
    Join,
    /// It is refused.
    Refuse,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// Something in the life of the service. What concerns takeovers is told by this machine itself.
    Life(phase::Input),
    /// The program can serve now, and makes this of what a predecessor offered, if there is one.
    Ready(Ready),
    /// The program finds that it can't serve, before it was ready.
    Unfit(Why),
    /// Every accept loop accepts: the end of one order to do so.
    GateOpened,
    /// The copies of the listeners that were kept for a way back are closed.
    CopiesClosed,
    /// Somebody wants the next version.
    UpgradeAsked {
        /// Who waits for the answer.
        ticket: Ticket,
        /// Whether it may wait.
        queue: Queue,
    },
    /// The newest version is to serve, and nobody waits for the answer.
    Reload,
    /// The generation that serves was told to reload, or why not: the answer to [`Action::PassOn`].
    PassedOn(Result<(), String>),
    /// Somebody wants the version before.
    RollbackAsked {
        /// Who waits for the answer.
        ticket: Ticket,
    },
    /// The process runs.
    Started {
        /// Which.
        attempt: AttemptId,
        /// Its number.
        pid: u32,
    },
    /// The process could not be started.
    NotStarted {
        /// Which.
        attempt: AttemptId,
        /// Why, for people.
        why: String,
    },
    /// The process is gone.
    Exited {
        /// Which.
        attempt: AttemptId,
        /// How, for people.
        how: String,
    },
    /// Somebody asks for the service.
    Hello {
        /// Where.
        line: LineId,
        /// Who.
        hello: Hello,
    },
    /// A successor, or who would like to be one, did something.
    Below {
        /// Where.
        line: LineId,
        /// What: never an answer of the phases, which this machine gives itself.
        input: predecessor::Input,
    },
    /// So many older generations still have work: the answer to [`Action::CountDraining`].
    Counted {
        /// For whom.
        line: LineId,
        /// How many, this one not counted.
        draining: usize,
    },
    /// What there is to give: the answer to [`Action::TakeInventory`].
    Inventory {
        /// For whom.
        line: LineId,
        /// It, or why it can't be given.
        inventory: Result<Inventory, Why>,
    },
    /// The predecessor did something, or the program did on the way to being ready.
    Above(successor::Input),
    /// This process is about to end: unwanted successors must be gone by then.
    Leaving {
        /// When they are killed at the latest.
        until: Instant,
    },
    /// Time passed; nothing else did.
    Tick,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Something in the life of the service, but what concerns its gate and its successor.
    Life(phase::Action),
    /// This start comes to nothing: the program can't serve, and stops.
    Unfit(Why),
    /// Accept, and tell with one [`Input::GateOpened`] when each loop does.
    OpenGate,
    /// Stop accepting, and tell with one [`phase::Input::GateClosed`] when each loop has.
    CloseGate(Closing),
    /// Close the copies of the listeners; tell with [`Input::CopiesClosed`].
    LetGo,
    /// Everybody who asks for the service is to be led here.
    TakeName,
    /// Start the program anew.
    Start(AttemptId),
    /// Ask the process to leave.
    End(AttemptId),
    /// Kill the process that was started.
    Kill(AttemptId),
    /// Kill the process at the other end, whoever started it.
    KillPeer(LineId),
    /// Count the older generations that still have work.
    CountDraining(LineId),
    /// See what there is to give.
    TakeInventory {
        /// For whom.
        line: LineId,
        /// The generation it will be.
        generation: u32,
    },
    /// Send a successor a [`Message::Probe`], ask for the path over its socket, and tell with
    /// [`Probed`](predecessor::Input::Probed).
    Probe {
        /// Where.
        line: LineId,
        /// What for.
        path: String,
    },
    /// Send this to a successor, with the descriptors it names beside it.
    Send(LineId, Message),
    /// Close the conversation once everything is sent.
    Close(LineId),
    /// An upgrade begins: the process of that number was started, or somebody asks by itself.
    UpgradeBegins(AttemptId),
    /// What the successor does while it starts, for people.
    Progress(String),
    /// The successor accepts from these listeners; connections move to it from now on.
    HandOn {
        /// Whose process it is, if it was started here.
        attempt: AttemptId,
        /// Where.
        line: LineId,
        /// Who.
        heir: Heir,
        /// What it makes of the listeners.
        ready: Ready,
        /// How long it took since the upgrade began.
        took: Duration,
    },
    /// The successor is lost, or gives the service back: no connection moves to it any more.
    TakeBack {
        /// Who.
        heir: Heir,
        /// Why.
        why: Why,
    },
    /// The successor that kept the service has ended: it handed it on, or stopped.
    SuccessorLeft,
    /// An upgrade came to nothing; nothing has changed.
    UpgradeFailed {
        /// Whose last words tell more.
        attempt: AttemptId,
        /// Why.
        why: Why,
        /// Who waited for it.
        tickets: Vec<Ticket>,
    },
    /// An upgrade is not even begun.
    UpgradeRefused {
        /// Who asked, if somebody waits for the answer.
        ticket: Option<Ticket>,
        /// Why.
        why: Why,
    },
    /// The upgrade under way may have begun before the newest version was there: one more follows.
    UpgradeFollows(String),
    /// Tell the generation that serves to reload; tell with [`Input::PassedOn`] when it has heard.
    PassOn,
    /// Somebody asked for the service by itself and was turned away.
    SuccessorRefused(Why),
    /// These upgrades are done.
    Upgraded {
        /// Who waited for it.
        tickets: Vec<Ticket>,
        /// What they got.
        heir: Heir,
    },
    /// These upgrades waited for one that succeeded: the successor is to be asked for one more.
    AskAgain {
        /// Who waited.
        tickets: Vec<Ticket>,
    },
    /// What became of these rollbacks.
    RolledBack {
        /// Who waited for it.
        tickets: Vec<Ticket>,
        /// Done, or why not.
        done: Result<(), String>,
    },
    /// The whole offer is here: the program may initialise. A driver that waited for the offer before it made this
    /// machine never sees it.
    Initialise,
    /// Send this to the predecessor.
    Tell(Message),
    /// Close the conversation with the predecessor once everything is sent.
    HangUp,
    /// This generation takes over now.
    TakeOver(Presence),
    /// The predecessor let go of its listeners for good, or is gone.
    PredecessorLetGo,
    /// The predecessor accepts again: this generation goes.
    GiveBack(Why),
    /// There will be no takeover, and nothing to serve with.
    NotTakingOver(Why),
}

/// What becomes of the listeners when accepting ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Closing {
    /// Nobody else has them: they are closed through the gate.
    Sole,
    /// Somebody else accepts from them; copies are kept for a way back.
    HandedOver,
    /// Somebody else accepts from them and keeps them: they are closed as they are.
    GivenAway,
}
