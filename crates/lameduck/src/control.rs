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

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::closing::Resources;
use crate::conversation::Heard;
use crate::exit;
use crate::generation::{
    Action as GenerationAction, AttemptId, Closing, Generation, Input as GenerationInput, LineId,
    Queue,
};
use crate::generations::Place;
use crate::handover::Handover;
use crate::json::Object;
use crate::listener::AcceptErrors;
use crate::log::Log;
use crate::notify::teller::Teller;
use crate::phase::{Action, Cause, Input, Machine, Outcome, Phase, Step};
use crate::readiness::{Sign, State};
use crate::report::{Report, cause_word, counts_json, outcome_word, seconds, work_json};
use crate::signals::{self, SignalAction, Signals};
use crate::takeover::channel::Channel;
use crate::takeover::wire::{Hello, Why};
use crate::upgrade::{self, Upgrades};
use crate::work::{Counts, Notice, Registry, Told, WorkItem};

/// How long a process that was forced may still take to leave `main` by itself.
pub const LEAVE: Duration = Duration::from_millis(30);

/// How often a drain that lasts says what it waits for.
pub const PROGRESS: Duration = Duration::from_secs(1);

/// Live work a progress line names.
const PROGRESS_NAMES: usize = 3;

/// A command not picked up for this long means that the runtime is blocked.
const BLOCKED_AFTER: Duration = Duration::from_millis(100);

/// What only the async runtime can do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Command {
    /// Let the accept loops accept; answer with [`GenerationInput::GateOpened`].
    OpenGate,
    /// Close the listeners; answer with [`Input::GateClosed`].
    CloseGate(Closing),
    /// Close the copies kept for a way back; answer with [`GenerationInput::CopiesClosed`].
    LetGo,
    /// Close the resources by then; answer with [`Input::Closed`].
    CloseResources { until: Option<Instant> },
    /// Give a sign of life; answer with [`Message::Alive`].
    Answer,
}

/// What happened, on its way to the thread.
pub(crate) enum Message {
    Input(GenerationInput),
    /// The predecessor said something.
    Above(Heard),
    /// A successor did.
    Below(LineId, Heard),
    /// Somebody asks for the service.
    Hello {
        channel: Channel,
        hello: Hello,
    },
    /// Somebody wants an upgrade.
    Upgrade {
        queue: Queue,
        reply: oneshot::Sender<upgrade::Outcome>,
    },
    /// Somebody wants the previous version back.
    RollBack {
        reply: oneshot::Sender<upgrade::RolledBack>,
    },
    /// The process of a successor was started.
    Started {
        attempt: AttemptId,
        process: upgrade::Process,
    },
    /// This is what there is to give to a successor.
    Found(LineId, Result<upgrade::Found, Why>),
    /// Closing needs this much of the grace period.
    Reserve(Duration),
    /// The runtime answers.
    Alive,
    /// The last handle is gone before a stop began: nobody is interested any more.
    Abandon,
}

impl From<Input> for Message {
    fn from(input: Input) -> Message {
        Message::Input(GenerationInput::Life(input))
    }
}

/// Sends messages to the thread, from anywhere, without waiting.
pub(crate) struct Sender {
    queue: Mutex<VecDeque<Message>>,
    wake: OwnedFd,
}

impl Sender {
    pub(crate) fn send(&self, message: impl Into<Message>) {
        self.lock().push_back(message.into());
        // A full pipe wakes the thread just as well.
        let _ = rustix::io::write(&self.wake, &[0]);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Message>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Message> {
        self.lock().pop_front()
    }
}

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

/// The machine's state as others see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) deadline: Option<Instant>,
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
    let sender = Arc::new(Sender { queue: Mutex::default(), wake });
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
        commands_sent: 0,
        command_sent_at: None,
        end: End::NotYet,
    };
    std::thread::Builder::new().name("lameduck-control".to_owned()).spawn(|| thread.run())?;
    Ok(sender)
}

/// What is remembered of the stop under way.
struct Stop {
    began: Instant,
    phase: Phase,
    phase_began: Instant,
    phases: Vec<(&'static str, Duration)>,
    before: Totals,
    /// What had left when the force came: nothing finishes after it.
    at_force: Option<Totals>,
    cut: Counts,
    cut_work: Vec<WorkItem>,
    progress_at: Instant,
}

struct Totals {
    left: Counts,
    served: u64,
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
                let (reply, _) = oneshot::channel();
                self.take_message(Message::Upgrade { queue: Queue::Refuse, reply });
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
                self.hands.registry.is_idle().then_some(GenerationInput::Life(Input::Idle))
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
            Message::Reserve(reserve) => self.generation.set_reserve(reserve),
            Message::Alive => self.hands.teller.runtime_answered(Instant::now()),
            Message::Abandon => match self.end {
                // A stop under way is seen through, and a process that is to leave is made to leave.
                End::NotYet if self.stop.is_none() => self.end = End::Abandoned,
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
        let deadline = self.life().deadline();
        self.hands.view.send_replace(View { phase: after, deadline });
        let unwanted = self.generation.unwanted();
        self.hands.unwanted.send_if_modified(|told| std::mem::replace(told, unwanted) != unwanted);
    }

    fn life(&self) -> &Machine {
        self.generation.life()
    }

    fn stop_begins(&mut self, now: Instant) {
        let totals = self.totals();
        let phase = self.life().phase();
        self.stop = Some(Stop {
            began: now,
            phase,
            phase_began: now,
            phases: Vec::new(),
            before: totals,
            at_force: None,
            cut: Counts::default(),
            cut_work: Vec::new(),
            progress_at: now + PROGRESS,
        });
        let cause = self.life().cause().map_or_else(String::new, cause_word);
        match self.life().cause() {
            Some(Cause::Successor) => {
                let line = "A successor accepts: finishing what is in hand";
                self.hands.log.line("handing-over", line);
            }
            _ => {
                self.hands.log.line("stop", &format!("Shutting down server... {cause}"));
            }
        }
        let live = self.hands.registry.counts();
        let bound = match self.life().deadline() {
            Some(at) => format!("{} left", seconds(at.saturating_duration_since(now))),
            None => "no deadline".to_owned(),
        };
        let waiting = format!("waiting for {live} ({bound})");
        if live != Counts::default() {
            self.hands.log.line("waiting", &waiting);
        }
        if self.life().cause() != Some(Cause::Successor) {
            let deadline = self.life().deadline();
            self.hands.teller.stopping(now, &format!("stopping ({cause}): {waiting}"), deadline);
        }
    }

    fn phase_changes(&mut self, now: Instant, to: Phase) {
        if let Some(stop) = &mut self.stop {
            stop.phases.push((phase_word(stop.phase), now - stop.phase_began));
            stop.phase = to;
            stop.phase_began = now;
        }
    }

    fn totals(&self) -> Totals {
        Totals { left: self.hands.registry.left(), served: self.hands.registry.served() }
    }

    fn act(&mut self) {
        while let Some(action) = self.generation.poll_action() {
            self.announce(&action);
            match action {
                GenerationAction::Life(action) => self.live(action),
                GenerationAction::OpenGate => self.command(Command::OpenGate),
                GenerationAction::CloseGate(closing) => self.command(Command::CloseGate(closing)),
                GenerationAction::LetGo => self.command(Command::LetGo),
                GenerationAction::SuccessorLeft => {
                    self.hands.registry.tell(Told::Finish);
                    self.upgrade_acts(GenerationAction::SuccessorLeft);
                }
                action => self.upgrade_acts(action),
            }
        }
    }

    fn upgrade_acts(&mut self, action: GenerationAction) {
        if let Some(upgrades) = &mut self.hands.upgrades {
            upgrades.act(action);
        }
    }

    /// What the service manager hears of an upgrade.
    fn announce(&mut self, action: &GenerationAction) {
        let now = Instant::now();
        match action {
            GenerationAction::UpgradeBegins(_) => self.hands.teller.reloading(now),
            GenerationAction::UpgradeFailed { .. } => {
                self.hands.teller.reloaded(now, "the upgrade failed, serving on");
            }
            GenerationAction::HandOn { heir, .. } => self.hands.teller.handed_over(now, heir.pid),
            _ => {}
        }
    }

    fn live(&mut self, action: Action) {
        match action {
            Action::ShowReady => {
                self.hands.sign.show(State::Ready);
                self.hands.teller.ready(Instant::now());
            }
            Action::ShowNotReady => self.hands.sign.show(State::NotReady),
            Action::MarkAnswers => self.hands.registry.tell(Told::MarkAnswers),
            Action::Settle => self.hands.registry.settle(),
            Action::TellFinish => self.tell_finish(),
            Action::Force => self.force(),
            Action::CloseResources { until } => {
                self.hands.handover.close();
                self.command(Command::CloseResources { until });
            }
            Action::Stop(outcome) => self.report(outcome),
            Action::Resume => {
                // Whatever stop comes next is a new one, with an account of its own.
                self.stop = None;
                self.hands.registry.tell(Told::Serve);
                self.hands.sign.show(State::Ready);
                self.hands.teller.taken_back(Instant::now());
            }
            // Until now background tasks went on, in case the service came back.
            Action::ConfirmSuccessor => self.hands.drain.cancel(),
            // The generation's own.
            Action::Accept
            | Action::CloseGate { .. }
            | Action::AdmitSuccessor
            | Action::RefuseSuccessor(_) => {}
        }
    }

    fn tell_finish(&self) {
        match self.life().cause() {
            Some(Cause::Successor) => {
                self.hands.registry.tell(Told::Move);
            }
            Some(Cause::Signal(_) | Cause::Request | Cause::Predecessor) | None => {
                self.hands.drain.cancel();
                self.hands.registry.tell(Told::Finish);
            }
        }
    }

    fn command(&mut self, command: Command) {
        // The time counts from the oldest command that still lies there.
        if self.hands.picked_up.load(Ordering::Acquire) >= self.commands_sent {
            self.command_sent_at = Some(Instant::now());
        }
        self.commands_sent += 1;
        // A closed channel means that the runtime is gone; the deadline sees to the rest.
        let _ = self.hands.commands.send(command);
    }

    fn force(&mut self) {
        let totals = self.totals();
        let registry = &self.hands.registry;
        if let Some(stop) = &mut self.stop {
            stop.at_force = Some(totals);
            stop.cut = registry.counts();
            stop.cut_work = registry.items();
        }
        self.hands.drain.cancel();
        registry.tell(Told::Force);
        registry.abort_tasks();
    }

    /// How long the runtime has left a command lying, if it has.
    fn runtime_blocked(&self, now: Instant) -> Option<Duration> {
        let waiting = self.hands.picked_up.load(Ordering::Acquire) < self.commands_sent;
        let since = now.saturating_duration_since(self.command_sent_at?);
        (waiting && since >= BLOCKED_AFTER).then_some(since)
    }

    fn report(&mut self, outcome: Outcome) {
        let now = Instant::now();
        let runtime_blocked = self.runtime_blocked(now);
        let mut report = Report {
            outcome,
            cause: self.life().cause(),
            took: Duration::ZERO,
            phases: Vec::new(),
            finished: Counts::default(),
            cut: Counts::default(),
            cut_work: Vec::new(),
            resources: self.hands.resources.reports(),
            panics: self.hands.registry.panics(),
            accept_errors: self.hands.accept_errors.count(),
            runtime_blocked,
        };
        if let Some(stop) = self.stop.take() {
            report.took = now - stop.began;
            report.phases = stop.phases;
            let until = stop.at_force.unwrap_or_else(|| self.totals());
            report.finished = finished_between(&stop.before, &until);
            report.cut = stop.cut;
            report.cut_work = stop.cut_work;
        }
        self.hands.log.block(&report.to_string(), || report.to_json());
        let code = report.exit_code();
        let leave_at = match outcome {
            Outcome::Finished => self.life().deadline(),
            Outcome::DeadlineExceeded | Outcome::Forced(_) => Some(now + LEAVE),
        };
        let cut = &report.cut;
        let (how, done) = (outcome_word(outcome), &report.finished);
        let status = format!("{how}: {done} completed, {cut} cut");
        self.hands.teller.stopped(now, &status, leave_at.filter(|_| self.scope == Scope::Process));
        if let Some((place, generation)) = &self.hands.place {
            place.release(*generation);
        }
        self.end = End::Reported { leave_at, code };
        self.hands.ended.send_replace(Some(report));
    }

    fn progress(&mut self, now: Instant) {
        let Some(stop) = &mut self.stop else { return };
        if now < stop.progress_at {
            return;
        }
        stop.progress_at = now + PROGRESS;
        let left = match self.life().deadline() {
            Some(at) => format!("{} left", seconds(at.saturating_duration_since(now))),
            None => "no deadline".to_owned(),
        };
        let waiting = match self.life().phase() {
            Phase::Closing => {
                let open = self.hands.resources.open_names();
                format!("closing {}", open.join(", ")).trim_end().to_owned()
            }
            Phase::LameDuck => "lame duck: not ready, still accepting".to_owned(),
            Phase::Draining(Step::Gate | Step::Settle) => "closing the listeners".to_owned(),
            Phase::Starting | Phase::Serving | Phase::Draining(Step::Finish) | Phase::Stopped => {
                let live = self.hands.registry.counts();
                if live == Counts::default() {
                    // Only a successor's probation is waited for: not worth a line each second.
                    return;
                }
                let items = self.hands.registry.items();
                let names: Vec<String> =
                    items.iter().take(PROGRESS_NAMES).map(ToString::to_string).collect();
                format!("waiting for {live}: {}", names.join("; "))
            }
        };
        let waiting = format!("{waiting} ({left})");
        self.hands.log.line("waiting", &waiting);
        self.hands.teller.progress(now, &waiting, self.life().deadline());
        if let Some(blocked) = self.runtime_blocked(now) {
            let line = format!("the async runtime has not answered for {}", seconds(blocked));
            self.hands.log.line("blocked", &line);
        }
    }

    fn print_work(&self, now: Instant) {
        let counts = self.hands.registry.counts();
        let items = self.hands.registry.items();
        let mut text = format!("{}: live work: {counts}\n", self.life().phase());
        for item in &items {
            text.push_str(&format!("  {item}\n"));
        }
        let left = self.life().deadline().map(|at| at.saturating_duration_since(now));
        self.hands.log.block(&text, || {
            Object::new()
                .string("event", "work")
                .string("phase", &self.life().phase().to_string())
                .optional_millis("left_ms", left)
                .raw("live", &counts_json(&counts))
                .array("work", items.iter().map(work_json))
                .end()
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

fn finished_between(before: &Totals, after: &Totals) -> Counts {
    Counts {
        requests: after.served.saturating_sub(before.served) as usize,
        connections: after.left.connections - before.left.connections,
        tasks: after.left.tasks - before.left.tasks,
        blocking: after.left.blocking - before.left.blocking,
    }
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::LameDuck => "lame duck",
        Phase::Draining(Step::Gate) => "gate",
        Phase::Draining(Step::Settle) => "settle",
        Phase::Draining(Step::Finish) => "finish",
        Phase::Closing => "closing",
        Phase::Stopped => "stopped",
    }
}
