//! The one OS thread that drives a life: it takes signals, keeps the deadline, asks the pure machine what to do
//! and does it, whether or not the async runtime still answers.
//!
//! # Invariants
//!
//! 1. Nothing here waits for the runtime: what only the runtime can do is sent to it as a [`Command`], and the
//!    machine's own deadline bounds the answer.
//! 2. Nothing here runs user code, so user code cannot hold the deadline.
//! 3. With the built-in signals, the process is gone at the latest [`LEAVE`] after a forced end, even if every
//!    worker thread is blocked; and at the deadline after a clean one, if something unknown still holds it.

mod account;
mod acting;
mod message;
mod view;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use account::Stop;

use crate::closing::Resources;
use crate::exit;
use crate::generation::{Generation, Input as GenerationInput};
use crate::generations::Place;
use crate::handover::Handover;
use crate::listener::AcceptErrors;
use crate::log::Log;
use crate::notify::teller::Teller;
use crate::phase::{Cause, Input, Machine, Phase};
use crate::readiness::Sign;
use crate::report::Report;
use crate::signals::{self, SignalAction, Signals};
use crate::upgrade::Upgrades;
use crate::work::{Notice, Registry, Told};

pub(crate) use message::{Command, Message, Sender};
pub(crate) use view::View;

/// How long a process that was forced may still take to leave `main` by itself.
pub const LEAVE: Duration = Duration::from_millis(30);

/// How often a drain that lasts says what it waits for.
pub const PROGRESS: Duration = Duration::from_secs(1);

/// Live work a progress line names.
const PROGRESS_NAMES: usize = 3;

/// A command not picked up for this long means that the runtime is blocked.
const BLOCKED_AFTER: Duration = Duration::from_millis(100);

/// What the thread acts on.
pub(crate) struct Hands {
    pub(crate) registry: Arc<Registry>,
    pub(crate) sign: Sign,
    pub(crate) resources: Arc<Resources>,
    pub(crate) accept_errors: Arc<AcceptErrors>,
    pub(crate) drain: CancellationToken,
    pub(crate) log: Arc<Log>,
    /// Speaks to the service manager.
    pub(crate) teller: Teller,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    /// Commands the runtime has picked up; compared with those sent.
    pub(crate) picked_up: Arc<AtomicU64>,
    pub(crate) handover: Arc<Handover>,
    /// What upgrades take, when there is a control socket.
    pub(crate) upgrades: Option<Upgrades>,
    /// Successors that were told to leave and have not.
    pub(crate) unwanted: watch::Sender<usize>,
    /// What this generation has in the file system, to be removed at the end.
    pub(crate) place: Option<(Place, u32)>,
    /// The phase, for snapshots.
    pub(crate) view: watch::Sender<View>,
    pub(crate) ended: watch::Sender<Option<Report>>,
}

/// Whether the end of the life is also the end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Built-in signals: the process leaves on time, whatever holds it.
    Process,
    /// Signals are the program's business, and so is leaving.
    Library,
}

struct Signal {
    number: i32,
    pipe: UnixStream,
    id: signal_hook::SigId,
}

impl Drop for Signal {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.id);
    }
}

/// Arms the signals and starts the thread.
pub(crate) fn start(
    generation: Generation,
    map: Signals,
    scope: Scope,
    make_hands: impl FnOnce(&Arc<Sender>) -> Hands,
) -> std::io::Result<Arc<Sender>> {
    let (wake_read, wake) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let sender = Arc::new(Sender::new(wake));
    let mut pipes = Vec::new();
    for number in map.numbers() {
        // One pipe a signal: each delivery is one byte, so repeated signals are counted.
        let (pipe, write) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let id = signal_hook::low_level::pipe::register(number, write)?;
        pipes.push(Signal { number, pipe, id });
    }
    let hands = make_hands(&sender);
    let notices = Arc::clone(&sender);
    hands.registry.listen(Box::new(move |notice| {
        notices.send(match notice {
            Notice::Idle => Input::Idle,
            Notice::Settled => Input::Settled,
        });
    }));
    let thread = Control {
        generation,
        map,
        scope,
        signals: pipes,
        wake: wake_read,
        sender: Arc::clone(&sender),
        hands,
        stop: None,
        unfit: None,
        commands_sent: 0,
        command_sent_at: None,
        end: End::NotYet,
    };
    std::thread::Builder::new().name("lameduck-control".to_owned()).spawn(|| thread.run())?;
    Ok(sender)
}

enum End {
    NotYet,
    /// The report is out. The process is made to leave at this instant, if there is one.
    Reported {
        leave_at: Option<Instant>,
        code: u8,
    },
    Abandoned,
}

struct Control {
    generation: Generation,
    map: Signals,
    scope: Scope,
    signals: Vec<Signal>,
    wake: OwnedFd,
    sender: Arc<Sender>,
    hands: Hands,
    stop: Option<Stop>,
    /// Why this start came to nothing.
    unfit: Option<String>,
    commands_sent: u64,
    command_sent_at: Option<Instant>,
    end: End,
}

impl Control {
    fn run(mut self) {
        loop {
            self.act();
            if self.is_over() {
                return;
            }
            self.wait();
            self.take_signals();
            while let Some(message) = self.sender.take() {
                self.take_message(message);
            }
            let now = Instant::now();
            if self.life().cut_at().is_some_and(|cut_at| cut_at <= now) {
                // What ended at the last moment was not cut, though word of it is still on its way.
                self.take_message(Message::Input(GenerationInput::Life(Input::Idle)));
            }
            self.feed(now, GenerationInput::Tick);
            self.progress(now);
            self.hands.teller.retry(now);
            if self.hands.teller.asks_runtime(now) {
                self.command(Command::Answer);
            }
            self.leave_in_time(now);
        }
    }

    fn is_over(&self) -> bool {
        match self.end {
            End::NotYet => false,
            // In a process of ours the thread stays: it alone can make the process leave, and take a signal.
            // Nobody else kills a successor that will not leave.
            End::Abandoned | End::Reported { .. } => {
                self.scope == Scope::Library && self.generation.unwanted() == 0
            }
        }
    }

    /// Waits for a signal, a message, or the next instant anything is due.
    fn wait(&self) {
        let leave_at = match self.end {
            End::Reported { leave_at, .. } => leave_at,
            End::NotYet | End::Abandoned => None,
        };
        let progress_at = self.stop.as_ref().and_then(|stop| match self.end {
            End::NotYet => Some(stop.progress_at),
            End::Reported { .. } | End::Abandoned => None,
        });
        let dues = [self.generation.poll_timeout(), progress_at, leave_at, self.hands.teller.due()];
        let due = dues.into_iter().flatten().min();
        let timeout = due.map(|due| {
            let left = due.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let mut fds = Vec::with_capacity(self.signals.len() + 1);
        fds.push(PollFd::new(&self.wake, PollFlags::IN));
        fds.extend(self.signals.iter().map(|signal| PollFd::new(&signal.pipe, PollFlags::IN)));
        // An interrupted or failed wait is followed by another look at everything.
        let _ = poll(&mut fds, timeout.as_ref());
        let mut bytes = [0; 64];
        while rustix::io::read(&self.wake, &mut bytes).is_ok_and(|n| n == bytes.len()) {}
    }

    fn take_signals(&mut self) {
        let mut came = Vec::new();
        for signal in &self.signals {
            let mut bytes = [0; 16];
            while let Ok(n) = (&signal.pipe).read(&mut bytes) {
                came.extend(std::iter::repeat_n(signal.number, n));
                if n < bytes.len() {
                    break;
                }
            }
        }
        for number in came {
            self.take_signal(number);
        }
    }

    fn take_signal(&mut self, number: i32) {
        let now = Instant::now();
        let stops = match self.map.action(number) {
            SignalAction::Stop => Some(Input::Stop(Cause::Signal(number))),
            SignalAction::Force => Some(Input::Force(Cause::Signal(number))),
            SignalAction::PrintWork => {
                self.print_work(now);
                None
            }
            SignalAction::Upgrade if self.hands.upgrades.is_some() => {
                // Nobody waits for it: the log tells what came of it.
                self.feed(now, GenerationInput::Reload);
                self.act();
                None
            }
            SignalAction::Ignore | SignalAction::Upgrade => {
                let line = format!("{} noted and ignored", signals::name(number));
                self.hands.log.line("signal", &line);
                self.answer_reload(now, number, &line);
                None
            }
        };
        match (stops, &self.end) {
            (None, _) => {}
            (Some(input), End::NotYet) => {
                self.feed(now, GenerationInput::Life(input));
                self.act();
            }
            // The report is out and something still holds the process: this is the operator's last word.
            // Nobody holds a handle any more: the signal does what it does to a program without lameduck.
            (Some(_), End::Abandoned) => {
                let _ = signal_hook::low_level::emulate_default_handler(number);
            }
            (Some(_), End::Reported { .. }) => {
                signal_hook::low_level::exit(i32::from(exit::forced_by(number)));
            }
        }
    }

    /// A manager that reloads by SIGHUP waits for an answer, even if there is nothing to reload.
    fn answer_reload(&mut self, now: Instant, number: i32, line: &str) {
        if number == signals::HUP && self.life().phase() == Phase::Serving {
            self.hands.teller.reloading(now);
            self.hands.teller.reloaded(now, line);
        }
    }

    fn take_message(&mut self, message: Message) {
        let upgrades = self.hands.upgrades.as_mut();
        let input = match message {
            Message::Input(GenerationInput::Life(Input::Idle)) => {
                let come = upgrades.is_some_and(|upgrades| upgrades.connections_come());
                let idle = self.hands.registry.is_idle() && !come;
                idle.then_some(GenerationInput::Life(Input::Idle))
            }
            Message::Input(input) => {
                if let (GenerationInput::Exited { .. }, Some(upgrades)) = (&input, upgrades) {
                    upgrades.exited();
                }
                Some(input)
            }
            Message::Above(heard) => upgrades.and_then(|upgrades| upgrades.above_heard(heard)),
            Message::Below(line, heard) => {
                upgrades.map(|upgrades| upgrades.below_heard(line, heard))
            }
            Message::Hello { channel, hello } => {
                upgrades.and_then(|upgrades| upgrades.hello(channel, hello))
            }
            Message::Upgrade { queue, reply } => {
                upgrades.map(|upgrades| upgrades.upgrade(queue, reply))
            }
            Message::End => {
                let cause = self.generation.life().cause();
                let goes_on = matches!(cause, None | Some(Cause::Successor | Cause::Predecessor));
                goes_on.then_some(GenerationInput::Life(Input::Stop(Cause::Request)))
            }
            Message::RollBack { reply } => upgrades.map(|upgrades| upgrades.roll_back(reply)),
            Message::Started { attempt, process } => {
                upgrades.map(|upgrades| upgrades.started(attempt, process))
            }
            Message::Found(line, found) => upgrades.map(|upgrades| upgrades.found(line, found)),
            message => {
                self.take_other(message);
                None
            }
        };
        if let Some(input) = input {
            self.feed(Instant::now(), input);
        }
        self.act();
    }

    fn take_other(&mut self, message: Message) {
        match message {
            // Also when it was told to stop since: what it has could have moved until now.
            Message::NowhereToMove if self.life().cause().is_some() => {
                self.hands.registry.tell(Told::Finish);
            }
            Message::Reserve(reserve) => self.generation.set_reserve(reserve),
            Message::Alive => self.hands.teller.runtime_answered(Instant::now()),
            Message::Abandon => match self.end {
                // A stop under way is seen through, and a process that is to leave is made to leave.
                End::NotYet if self.stop.is_none() => {
                    self.release_place();
                    self.end = End::Abandoned;
                }
                End::NotYet | End::Reported { .. } | End::Abandoned => {}
            },
            _ => {}
        }
    }

    fn feed(&mut self, now: Instant, input: GenerationInput) {
        let before = self.life().phase();
        self.generation.handle(now, input);
        let after = self.life().phase();
        if let Some(upgrades) = &self.hands.upgrades {
            upgrades.adopts(self.generation.adopts());
        }
        if before < Phase::LameDuck && self.life().cause().is_some() && self.stop.is_none() {
            self.stop_begins(now);
        } else if before != after {
            self.phase_changes(now, after);
        }
        self.show(now);
        let unwanted = self.generation.unwanted();
        self.hands.unwanted.send_if_modified(|told| std::mem::replace(told, unwanted) != unwanted);
    }

    /// Nobody is to find this generation any more.
    fn release_place(&self) {
        if let Some((place, generation)) = &self.hands.place {
            place.release(*generation);
        }
    }

    fn life(&self) -> &Machine {
        self.generation.life()
    }

    /// Shows the machine's state to whoever looks at it, or waits for it to change.
    fn show(&self, now: Instant) {
        let life = self.generation.life();
        self.hands.view.send_if_modified(|view| {
            let cut_at = life.cut_at();
            let next = View {
                phase: life.phase(),
                asked: life.asked(),
                since: if cut_at == view.cut_at { view.since } else { now },
                cut_at,
                deadline: life.deadline(),
            };
            let changed = *view != next;
            *view = next;
            changed
        });
    }

    fn leave_in_time(&self, now: Instant) {
        let End::Reported { leave_at: Some(leave_at), code } = self.end else { return };
        if now < leave_at || self.scope == Scope::Library {
            return;
        }
        let code = match code {
            exit::OK | exit::FAILED => {
                self.hands.log.line(
                    "held",
                    "Server forced to shutdown: deadline exceeded: all known work had finished, but \
                     something unknown still held the process (a blocking call, a thread of the runtime)",
                );
                exit::DEADLINE
            }
            code => code,
        };
        signal_hook::low_level::exit(i32::from(code));
    }
}
