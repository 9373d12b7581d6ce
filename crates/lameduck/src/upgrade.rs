//! Does what an upgrade takes: starts the successor, speaks with it and with the predecessor, gives and takes what goes
//! over, and tells who waits. What is to be done is decided by [`generation`](crate::generation) alone.
//!
//! Everything here runs on the control thread and never waits: what takes time is given to the runtime, and its end comes
//! back as a message.

mod before;
mod giving;
mod passing;
mod probe;
mod process;
mod sending;
mod telling;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::control::{self, Message as ToControl};
use crate::conversation::{Conversation, Heard, What};
use crate::driver::Gates;
use crate::error::plain;
use crate::generation::{Action, AttemptId, Heir, Input, LineId, Queue, Ticket};
use crate::generations::Place;
use crate::handover::Handover;
use crate::listener::Predecessor as Does;
use crate::log::Log;
use crate::phase;
use crate::respawn::Program;
use crate::states::States;
use crate::succeed::{Adopting, Succession};
use crate::takeover::channel::{AsyncChannel, Channel};
use crate::takeover::successor::Presence;
use crate::takeover::wire::{Hello, Message, Ready, Why};
use crate::takeover::{predecessor, successor};

pub(crate) use before::Before;
pub use before::CHECK_FIRST;
pub(crate) use giving::Found;
use process::{Exited, Processes};
pub use process::{LAST_WORDS, LEAVE_WITH_US};
pub(crate) use process::{Process, Started};
use sending::{Ended, Mover};
pub use sending::{SEEK, SEEK_PAUSE};
pub(crate) use telling::Outcome;

/// What came of a rollback.
pub(crate) type RolledBack = Result<(), String>;

/// What upgrades act on.
pub(crate) struct Parts {
    pub(crate) runtime: Handle,
    pub(crate) gates: Arc<Gates>,
    pub(crate) handover: Arc<Handover>,
    pub(crate) states: Arc<States>,
    pub(crate) log: Arc<Log>,
    pub(crate) place: Place,
    pub(crate) program: Program,
    pub(crate) own: u32,
    pub(crate) succession: Option<Arc<Succession>>,
    pub(crate) respawned: bool,
    pub(crate) before: Before,
    pub(crate) started: Started,
}

/// Conversations, processes and those who wait.
pub(crate) struct Upgrades {
    parts: Parts,
    control: Arc<control::Sender>,
    above: Option<Conversation>,
    /// It was shut, and its end is not heard yet.
    arriving: bool,
    /// Whether connections that the predecessor sends are served here, as the machine says.
    adopts: Arc<AtomicBool>,
    below: HashMap<LineId, Below>,
    next_line: LineId,
    moving: Option<Moving>,
    /// Who was handed the service last.
    heir: Option<AttemptId>,
    processes: Processes,
    next_ticket: Ticket,
    upgrades: HashMap<Ticket, oneshot::Sender<Outcome>>,
    rollbacks: HashMap<Ticket, oneshot::Sender<RolledBack>>,
}

/// Connections on their way to whoever serves.
struct Moving {
    /// Told when the service comes back.
    over: CancellationToken,
    /// Told when the successor has left.
    left: CancellationToken,
}

/// The conversation with a successor, or who would like to be one.
struct Below {
    conversation: Conversation,
    /// Its process, taken when it spoke first.
    process: std::io::Result<OwnedFd>,
    /// What the next offers name, in their order.
    offered: Vec<OwnedFd>,
}

impl Upgrades {
    /// Goes on with the predecessor's conversation, if there is one.
    pub(crate) fn new(
        parts: Parts,
        control: Arc<control::Sender>,
        above: Option<(AsyncChannel, Adopting)>,
    ) -> Upgrades {
        let adopts = Arc::new(AtomicBool::new(false));
        let above = above.map(|(channel, adopting)| {
            let (hears, adopts) = (Arc::clone(&control), Arc::clone(&adopts));
            let take = move |message, descriptors| match message {
                Message::Connection(connection) => {
                    if adopts.load(Ordering::Acquire) {
                        adopting.go_on_with(connection, descriptors);
                    }
                    None
                }
                Message::Probe => {
                    adopting.answer(descriptors);
                    None
                }
                message => Some(message),
            };
            let hear = move |heard| hears.send(ToControl::Above(heard));
            Conversation::new(&parts.runtime, channel, take, hear)
        });
        Upgrades {
            parts,
            control,
            above,
            arriving: false,
            adopts,
            below: HashMap::new(),
            next_line: 1,
            moving: None,
            heir: None,
            processes: Processes::default(),
            next_ticket: 1,
            upgrades: HashMap::new(),
            rollbacks: HashMap::new(),
        }
    }

    /// Whether connections may still come: the predecessor has sent some, or they are accepted where the successor does not.
    pub(crate) fn connections_come(&self) -> bool {
        self.arriving || self.parts.gates.is_aside()
    }

    /// What the predecessor's conversation means to the machine.
    pub(crate) fn above_heard(&mut self, heard: Heard) -> Option<Input> {
        let input = match heard.what {
            What::Said(message) => successor::Input::Received(message),
            What::Unreadable(error) => {
                let line = format!("What the predecessor sent could not be taken: {error}");
                self.parts.log.line("connection-lost", &line);
                successor::Input::Unreadable(error.to_string())
            }
            What::End => {
                self.above = None;
                if std::mem::take(&mut self.arriving) {
                    // Whatever was sent is here now, and may have found nothing to do.
                    self.control.send(phase::Input::Idle);
                }
                successor::Input::Gone
            }
            // It is gone, or never reads: its end of file or a timer says so.
            What::Unsent(_) => return None,
        };
        Some(Input::Above(input))
    }

    /// The same for a successor's.
    pub(crate) fn below_heard(&self, line: LineId, heard: Heard) -> Input {
        let input = match heard.what {
            What::Said(message) => predecessor::Input::Received(message),
            What::Unreadable(error) => predecessor::Input::Unreadable(error.to_string()),
            What::End => predecessor::Input::Gone,
            What::Unsent(error) => {
                predecessor::Input::Unsent(format!("it could not be sent what it needs: {error}"))
            }
        };
        Input::Below { line, input }
    }

    /// Begins the conversation with somebody who asks for the service.
    pub(crate) fn hello(&mut self, channel: Channel, hello: Hello) -> Option<Input> {
        let _runtime = self.parts.runtime.enter();
        let process = channel.process();
        let channel = match channel.into_async() {
            Ok(channel) => channel,
            Err(error) => {
                let line = format!("Not upgrading: the conversation with it failed: {error}");
                self.parts.log.line("upgrade-refused", &line);
                return None;
            }
        };
        let line = self.next_line;
        self.next_line += 1;
        let control = Arc::clone(&self.control);
        let hear = move |heard| control.send(ToControl::Below(line, heard));
        let take = |message, _| Some(message);
        let conversation = Conversation::new(&self.parts.runtime, channel, take, hear);
        self.below.insert(line, Below { conversation, process, offered: Vec::new() });
        Some(Input::Hello { line, hello })
    }

    pub(crate) fn upgrade(&mut self, queue: Queue, reply: oneshot::Sender<Outcome>) -> Input {
        let ticket = self.ticket();
        self.upgrades.insert(ticket, reply);
        Input::UpgradeAsked { ticket, queue }
    }

    pub(crate) fn roll_back(&mut self, reply: oneshot::Sender<RolledBack>) -> Input {
        let ticket = self.ticket();
        self.rollbacks.insert(ticket, reply);
        Input::RollbackAsked { ticket }
    }

    fn ticket(&mut self) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        ticket
    }

    pub(crate) fn started(&mut self, attempt: AttemptId, process: Process) -> Input {
        let (pid, path) = (process.pid(), self.parts.program.path().display());
        self.parts.log.line("upgrade", &format!("Upgrading: started {path} as pid {pid}"));
        self.parts.started.add(process.clone());
        self.processes.add(attempt, process);
        Input::Started { attempt, pid }
    }

    /// What a dead process left in the file system is taken away.
    pub(crate) fn exited(&self) {
        self.parts.place.sweep(self.parts.own);
    }

    /// What there is to give, found by the runtime, with its descriptors.
    pub(crate) fn found(&mut self, line: LineId, found: Result<Found, Why>) -> Input {
        let inventory = found.map(|Found { inventory, descriptors }| {
            if let Some(below) = self.below.get_mut(&line) {
                below.offered = descriptors;
            }
            inventory
        });
        Input::Inventory { line, inventory }
    }

    /// Whether the predecessor's connections are served here from now on.
    pub(crate) fn adopts(&self, adopts: bool) {
        self.adopts.store(adopts, Ordering::Release);
    }

    /// Its probation is over. Who is told so because everybody is to stop is none that the service died with.
    pub(crate) fn successor_keeps(&self) {
        if let Some(process) = self.heir.and_then(|attempt| self.processes.get(attempt)) {
            process.keeps();
        }
    }

    /// Does one action of an upgrade.
    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::TakeName => {
                // Best effort: without it operators are told by whoever answers where to ask.
                let _ = self.parts.place.point_to(self.parts.own);
            }
            Action::Start(attempt) => self.start(attempt),
            Action::End(attempt) => self.signal(attempt, Signal::TERM),
            Action::Kill(attempt) => self.signal(attempt, Signal::KILL),
            Action::KillPeer(line) => self.kill_peer(line),
            Action::CountDraining(line) => self.count_draining(line),
            Action::TakeInventory { line, generation } => self.take_inventory(line, generation),
            Action::Probe { line, path } => self.probe(line, path),
            Action::Send(line, message) => self.send(line, message),
            Action::Close(line) => drop(self.below.remove(&line)),
            Action::Progress(text) => {
                self.parts.log.line("upgrade", &format!("Upgrading: successor: {text}"));
            }
            Action::HandOn { attempt, line, heir, ready, took } => {
                self.heir = Some(attempt);
                self.hand_on(line, heir, ready, took);
            }
            Action::TakeBack { heir, why } => self.take_back(heir, &why),
            Action::SuccessorLeft => {
                if let Some(moving) = &self.moving {
                    moving.left.cancel();
                }
            }
            Action::UpgradeFailed { attempt, why, tickets } => {
                self.upgrade_failed(attempt, &why, tickets);
            }
            Action::UpgradeRefused { ticket, why } => {
                self.parts
                    .log
                    .line("upgrade-refused", &format!("Not upgrading: {}", why.in_words()));
                self.answer(Vec::from_iter(ticket), &Outcome::Failed(why));
            }
            Action::UpgradeFollows(why) => {
                let line = format!("Upgrading once more after this one: {why}");
                self.parts.log.line("upgrade-follows", &line);
            }
            Action::PassOn => self.pass_on(),
            Action::SuccessorRefused(why) => {
                let line = format!("Not upgrading to one that asks by itself: {why}");
                self.parts.log.line("upgrade-refused", &line);
            }
            Action::Upgraded { tickets, heir } => self.answer(tickets, &Outcome::Upgraded(heir)),
            Action::AskAgain { tickets } => self.answer(tickets, &Outcome::AskAgain),
            Action::RolledBack { tickets, done } => {
                for reply in tickets.iter().filter_map(|ticket| self.rollbacks.remove(ticket)) {
                    let _ = reply.send(done.clone());
                }
            }
            Action::Tell(message) => {
                if let Some(above) = &self.above {
                    above.say(message, Vec::new());
                }
            }
            Action::HangUp => self.above = None,
            Action::TakeOver(presence) => self.take_over(presence),
            Action::PredecessorLetGo => self.predecessor_does(Does::LetGo),
            Action::GiveBack(why) => {
                self.parts.log.line("rollback", &format!("Giving the service back: {why}"));
                self.parts.gates.hand_back();
                self.predecessor_does(Does::Resumed);
            }
            Action::NotTakingOver(why) => {
                self.parts
                    .log
                    .line("takeover-refused", &format!("Not taking over: {}", why.in_words()));
            }
            // The control thread's own, and what the start has done.
            Action::Life(_)
            | Action::Unfit(_)
            | Action::Initialise
            | Action::OpenGate
            | Action::CloseGate(_)
            | Action::LetGo
            | Action::UpgradeBegins(_) => {}
        }
    }

    fn start(&self, attempt: AttemptId) {
        let (program, control) = (self.parts.program.clone(), Arc::clone(&self.control));
        let (socket, log) = (self.parts.place.socket(self.parts.own), Arc::clone(&self.parts.log));
        let before = self.parts.before.clone();
        drop(self.parts.runtime.spawn(async move {
            if let Err(why) = before.allows(&program, &log).await {
                let input = Input::NotStarted { attempt, why };
                return control.send(ToControl::Input(input));
            }
            match program.start(&socket).await {
                Ok((child, stderr)) => {
                    let tells = Arc::clone(&control);
                    let (told, start_is_told) = std::sync::mpsc::channel::<()>();
                    let process =
                        Process::watch(child, stderr, &log, move |Exited { how, .. }| {
                            // One that exits at once: its last words are asked for at its exit, from the process told of.
                            let _ = start_is_told.recv();
                            tells.send(ToControl::Input(Input::Exited { attempt, how }));
                        });
                    control.send(ToControl::Started { attempt, process });
                    drop(told);
                }
                Err(error) => {
                    let path = program.path().display();
                    let why = format!("{path} could not be started: {}", plain(&error));
                    control.send(ToControl::Input(Input::NotStarted { attempt, why }));
                }
            }
        }));
    }

    fn signal(&self, attempt: AttemptId, signal: Signal) {
        if let Some(process) = self.processes.get(attempt) {
            process.signal(signal);
        }
    }

    /// Not by its number, which may be another's by now.
    fn kill_peer(&self, line: LineId) {
        let Some(below) = self.below.get(&line) else { return };
        let error = match &below.process {
            Ok(process) => match pidfd_send_signal(process, Signal::KILL) {
                // Gone by itself: whoever holds its end of the conversation is not it.
                Ok(()) | Err(rustix::io::Errno::SRCH) => return,
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        let line = format!("The successor that does not answer could not be killed: {error}");
        self.parts.log.line("upgrade-failed", &line);
    }

    fn send(&mut self, line: LineId, message: Message) {
        let Some(below) = self.below.get_mut(&line) else { return };
        let beside = message.descriptors().min(below.offered.len());
        let descriptors = below.offered.drain(..beside).collect();
        below.conversation.say(message, descriptors);
    }

    /// Asks the successor over a socket that nobody else can reach.
    fn probe(&self, line: LineId, path: String) {
        let Some(below) = self.below.get(&line) else { return };
        let control = Arc::clone(&self.control);
        let _runtime = self.parts.runtime.enter();
        let (ours, theirs) = match probe::sockets() {
            Ok(pair) => pair,
            Err(error) => {
                let input = predecessor::Input::Probed(Err(format!("could not be sent: {error}")));
                return control.send(ToControl::Input(Input::Below { line, input }));
            }
        };
        below.conversation.say(Message::Probe, vec![theirs]);
        drop(self.parts.runtime.spawn(async move {
            let input = predecessor::Input::Probed(probe::ask(ours, &path).await);
            control.send(ToControl::Input(Input::Below { line, input }));
        }));
    }

    fn hand_on(&mut self, line: LineId, heir: Heir, ready: Ready, took: Duration) {
        let Heir { generation, pid } = heir;
        let words = format!(
            "Handed over to generation {generation} (pid {pid}), {:.0} ms after the upgrade began",
            took.as_secs_f64() * 1000.0
        );
        self.parts.log.line("handed-over", &words);
        self.parts.gates.hand_on(ready.used);
        if let Some(above) = &self.above {
            // It is confirmed: whatever else it sends is for our successor.
            above.shut();
            self.arriving = true;
        }
        let moving = self.parts.handover.open(ready.sessions, ready.servers);
        let Some(below) = self.below.get(&line) else { return };
        let successor = below.conversation.channel();
        let (over, left) = (CancellationToken::new(), CancellationToken::new());
        let mover = Mover {
            handover: Arc::clone(&self.parts.handover),
            place: self.parts.place.clone(),
            own: self.parts.own,
            over: over.clone(),
        };
        self.moving = Some(Moving { over, left: left.clone() });
        let control = Arc::clone(&self.control);
        drop(self.parts.runtime.spawn(async move {
            match mover.run(successor, moving, left).await {
                Ended::Closed => {
                    let input = predecessor::Input::Drained;
                    control.send(ToControl::Input(Input::Below { line, input }));
                }
                Ended::Nowhere => control.send(ToControl::NowhereToMove),
            }
        }));
    }

    fn take_over(&self, presence: Presence) {
        if self.parts.respawned {
            crate::respawn::take_standard_error();
        }
        if presence == Presence::Lost {
            let words = "The predecessor went away before its commit: taking over all the same";
            self.parts.log.line("predecessor-lost", words);
        }
    }

    fn predecessor_does(&self, does: Does) {
        if let Some(succession) = &self.parts.succession {
            succession.predecessor_does(does);
        }
    }
}
