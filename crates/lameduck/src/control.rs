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
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::closing::Resources;
use crate::exit;
use crate::generations::Place;
use crate::handover::Handover;
use crate::json::Object;
use crate::listener::AcceptErrors;
use crate::log::Log;
use crate::notify::teller::Teller;
use crate::phase::{Action, Asked, Cause, Input, Machine, Outcome, Phase, Step};
use crate::readiness::{Sign, State};
use crate::report::{Report, cause_word, counts_json, outcome_word, seconds, work_json};
use crate::signals::{self, SignalAction, Signals};
use crate::upgrade::{Decision, FromControl};
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
    /// Let the accept loops accept.
    Accept,
    /// Close the listeners; answer with [`Input::GateClosed`].
    CloseGate { shared: bool },
    /// Close the resources by then; answer with [`Input::Closed`].
    CloseResources { until: Option<Instant> },
    /// Give a sign of life; answer with [`Message::Alive`].
    Answer,
}

/// What happened, on its way to the thread.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Message {
    Input(Input),
    /// A successor is being started.
    UpgradeBegins,
    /// It accepts, or failed.
    UpgradeDone {
        /// Its process, if it accepts.
        successor: Option<u32>,
    },
    /// The successor has come and gone: what is left here ends here.
    SuccessorLeft,
    /// Closing needs this much of the grace period.
    Reserve(Duration),
    /// The runtime answers.
    Alive,
    /// The last handle is gone before a stop began: nobody is interested any more.
    Abandon,
}

/// Sends messages to the thread, from anywhere, without waiting.
pub(crate) struct Sender {
    queue: Mutex<VecDeque<Message>>,
    wake: OwnedFd,
}

impl Sender {
    pub(crate) fn send(&self, message: Message) {
        self.lock().push_back(message);
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
    /// The task that upgrades, when there is a control socket.
    pub(crate) upgrades: Option<mpsc::UnboundedSender<FromControl>>,
    /// What this generation has in the file system, to be removed at the end.
    pub(crate) place: Option<(Place, u32)>,
    /// The phase, for snapshots.
    pub(crate) view: watch::Sender<View>,
    pub(crate) ended: watch::Sender<Option<Report>>,
}

/// The machine's state as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) asked: Asked,
    /// When the present cut was fixed.
    pub(crate) since: Instant,
    pub(crate) cut_at: Option<Instant>,
    pub(crate) deadline: Option<Instant>,
}

impl View {
    /// Before anything has happened.
    pub(crate) fn begin() -> View {
        View {
            phase: Phase::Starting,
            asked: Asked::Serve,
            since: Instant::now(),
            cut_at: None,
            deadline: None,
        }
    }

    /// The moment `ahead` of the cut, but not in the first half of the time there is.
    pub(crate) fn ahead_of_cut(&self, ahead: Duration) -> Option<Instant> {
        let cut_at = self.cut_at?;
        let whole = cut_at.saturating_duration_since(self.since);
        Some(cut_at - ahead.min(whole / 2))
    }
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
    machine: Machine,
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
        notices.send(Message::Input(match notice {
            Notice::Idle => Input::Idle,
            Notice::Settled => Input::Settled,
        }));
    }));
    let thread = Control {
        machine,
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
    machine: Machine,
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
            self.feed(now, Input::Tick);
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
            End::Abandoned | End::Reported { .. } => self.scope == Scope::Library,
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
        let dues = [self.machine.poll_timeout(), progress_at, leave_at, self.hands.teller.due()];
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
                if let Some(upgrades) = &self.hands.upgrades {
                    let _ = upgrades.send(FromControl::Upgrade);
                }
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
                self.feed(now, input);
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
        if number == signals::HUP && self.machine.phase() == Phase::Serving {
            self.hands.teller.reloading(now);
            self.hands.teller.reloaded(now, line);
        }
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Input(Input::Idle) if !self.hands.registry.is_idle() => {}
            Message::Input(input) => self.feed(Instant::now(), input),
            Message::Reserve(reserve) => self.machine.set_reserve(reserve),
            Message::UpgradeBegins => self.hands.teller.reloading(Instant::now()),
            Message::UpgradeDone { successor: Some(pid) } => {
                self.hands.teller.handed_over(Instant::now(), pid);
            }
            Message::UpgradeDone { successor: None } => {
                self.hands.teller.reloaded(Instant::now(), "the upgrade failed, serving on");
            }
            Message::SuccessorLeft => self.hands.registry.tell(Told::Finish),
            Message::Alive => self.hands.teller.runtime_answered(Instant::now()),
            Message::Abandon => match self.end {
                // A stop under way is seen through, and a process that is to leave is made to leave.
                End::NotYet if self.stop.is_none() => self.end = End::Abandoned,
                End::NotYet | End::Reported { .. } | End::Abandoned => {}
            },
        }
        self.act();
    }

    fn feed(&mut self, now: Instant, input: Input) {
        let before = self.machine.phase();
        self.machine.handle(now, input);
        let after = self.machine.phase();
        if before < Phase::LameDuck && self.machine.cause().is_some() && self.stop.is_none() {
            self.stop_begins(now);
        } else if before != after {
            self.phase_changes(now, after);
        }
        self.show(now);
    }

    /// Shows the machine's state to whoever looks at it, or waits for it to change.
    fn show(&self, now: Instant) {
        self.hands.view.send_if_modified(|view| {
            let cut_at = self.machine.cut_at();
            let next = View {
                phase: self.machine.phase(),
                asked: self.machine.asked(),
                since: if cut_at == view.cut_at { view.since } else { now },
                cut_at,
                deadline: self.machine.deadline(),
            };
            let changed = *view != next;
            *view = next;
            changed
        });
    }

    fn stop_begins(&mut self, now: Instant) {
        let totals = self.totals();
        let phase = self.machine.phase();
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
        let cause = self.machine.cause().map_or_else(String::new, cause_word);
        match self.machine.cause() {
            Some(Cause::Successor) => {
                let line = "A successor accepts: finishing what is in hand";
                self.hands.log.line("handing-over", line);
            }
            _ => {
                self.hands.log.line("stop", &format!("Shutting down server... {cause}"));
                self.decide(Decision::Stopping);
            }
        }
        let live = self.hands.registry.counts();
        let bound = match self.machine.deadline() {
            Some(at) => format!("{} left", seconds(at.saturating_duration_since(now))),
            None => "no deadline".to_owned(),
        };
        let waiting = format!("waiting for {live} ({bound})");
        if live != Counts::default() {
            self.hands.log.line("waiting", &waiting);
        }
        if self.machine.cause() != Some(Cause::Successor) {
            let deadline = self.machine.deadline();
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
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::ShowReady => {
                    self.hands.sign.show(State::Ready);
                    self.hands.teller.ready(Instant::now());
                }
                Action::ShowNotReady => self.hands.sign.show(State::NotReady),
                Action::Accept => self.command(Command::Accept),
                Action::MarkAnswers => self.hands.registry.tell(Told::MarkAnswers),
                Action::CloseGate { shared } => self.command(Command::CloseGate { shared }),
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
                    self.decide(Decision::Resumed);
                    self.command(Command::Accept);
                }
                Action::AdmitSuccessor => self.decide(Decision::Admit),
                Action::RefuseSuccessor(refusal) => self.decide(Decision::Refuse(refusal)),
                Action::ConfirmSuccessor => {
                    // Until now background tasks went on, in case the service came back.
                    self.hands.drain.cancel();
                    self.decide(Decision::Confirmed);
                }
            }
        }
    }

    fn tell_finish(&self) {
        match self.machine.cause() {
            Some(Cause::Successor) => {
                self.hands.registry.tell(Told::Move);
                self.decide(Decision::HandedOver);
            }
            Some(Cause::Signal(_) | Cause::Request | Cause::Predecessor) | None => {
                self.hands.drain.cancel();
                self.hands.registry.tell(Told::Finish);
            }
        }
    }

    fn decide(&self, decision: Decision) {
        if let Some(upgrades) = &self.hands.upgrades {
            // Closed when the runtime is gone: then there is nobody to be told.
            let _ = upgrades.send(FromControl::Decided(decision));
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
            cause: self.machine.cause(),
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
            Outcome::Finished => self.machine.deadline(),
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
        let left = match self.machine.deadline() {
            Some(at) => format!("{} left", seconds(at.saturating_duration_since(now))),
            None => "no deadline".to_owned(),
        };
        let waiting = match self.machine.phase() {
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
        self.hands.teller.progress(now, &waiting, self.machine.deadline());
        if let Some(blocked) = self.runtime_blocked(now) {
            let line = format!("the async runtime has not answered for {}", seconds(blocked));
            self.hands.log.line("blocked", &line);
        }
    }

    fn print_work(&self, now: Instant) {
        let counts = self.hands.registry.counts();
        let items = self.hands.registry.items();
        let mut text = format!("{}: live work: {counts}\n", self.machine.phase());
        for item in &items {
            text.push_str(&format!("  {item}\n"));
        }
        let left = self.machine.deadline().map(|at| at.saturating_duration_since(now));
        self.hands.log.block(&text, || {
            Object::new()
                .string("event", "work")
                .string("phase", &self.machine.phase().to_string())
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
