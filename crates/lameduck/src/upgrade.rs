//! The predecessor's side of an upgrade: starts the successor, gives it what it asks for, and takes the service back
//! if it dies on probation.
//!
//! One task owns all of it and takes one event after the other: from operators, from the successor, from its
//! process, from the machine. Nothing here waits for another party without a bound.

mod event;
mod process;
mod sending;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::control::{self, Message as ToControl};
use crate::driver::Gates;
use crate::generations::Place;
use crate::handover::Handover;
use crate::log::Log;
use crate::operator::is_busy;
use crate::phase::{Input, Refusal};
use crate::respawn::Program;
use crate::states::States;
use crate::succeed::Succession;
use crate::takeover::channel::{AsyncChannel, Came, Channel, borrow};
use crate::takeover::wire::{
    self, Commit, Hello, MAX_DESCRIPTORS, Message, Offer, PROTOCOLS, Ready, Reason, Why,
};
use crate::takeover::{ACCEPTING_TIMEOUT, HELLO_TIMEOUT, TAKEOVER_LONGEST};

pub(crate) use event::{Decision, EVENTS, Event, FromControl, Outcome, Queue, Successor, forward};
use process::Process;
pub use process::{EXIT, KILL_AFTER, LAST_WORDS, LEAVE_WITH_US};
use sending::send_connections;

/// How long a send to it may take: it reads, or it is given up.
pub const SEND: Duration = Duration::from_secs(5);

/// What stands between the reason of a failure and the successor's last words.
pub(crate) const LAST_WORDS_FOLLOW: &str = "; its last words: ";

/// Why there is no upgrade any more.
const STOPPING: &str = "this generation is stopping";

/// Upgrades that may wait for the one under way.
pub const QUEUED: usize = 16;

/// What the task acts on.
pub(crate) struct Parts {
    pub(crate) control: Arc<control::Sender>,
    pub(crate) gates: Arc<Gates>,
    pub(crate) handover: Arc<Handover>,
    pub(crate) states: Arc<States>,
    pub(crate) log: Arc<Log>,
    pub(crate) place: Place,
    pub(crate) program: Program,
    pub(crate) own: u32,
    pub(crate) succession: Option<Arc<Succession>>,
    pub(crate) takeover_timeout: Duration,
}

/// The task.
pub(crate) struct Upgrader {
    parts: Parts,
    /// The newest generation that ever was, as far as is known here.
    newest: u32,
    events: mpsc::Receiver<Event>,
    again: mpsc::WeakSender<Event>,
    attempts: u64,
    starting: Option<Starting>,
    handed: Option<Handed>,
    waiting: VecDeque<oneshot::Sender<Outcome>>,
    /// Successors that failed and were told to leave.
    unwanted: Vec<Process>,
    /// Whether upgrades may begin.
    admission: Admission,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Open,
    /// This generation is stopping.
    Closed,
}

/// A successor that does not accept yet.
pub(crate) struct Starting {
    attempt: u64,
    began: Instant,
    until: Instant,
    stage: Stage,
    process: Option<Process>,
    conversation: Option<Conversation>,
    used: Vec<String>,
    sessions: Vec<wire::Readable>,
    replies: Vec<oneshot::Sender<Outcome>>,
}

/// What is awaited of it, or of this generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Hello,
    Decision,
    Ready,
    Accepting,
    /// It ended its conversation: its exit will say more.
    Exit,
}

impl Stage {
    fn bound(self) -> &'static str {
        match self {
            Stage::Hello => {
                "it did not ask to take over (is it built with lameduck, with --control?)"
            }
            Stage::Decision => "this generation did not decide",
            Stage::Ready => "it did not become ready",
            Stage::Accepting => "it was told to accept and did not say that it does",
            Stage::Exit => "it ended its conversation before it accepted, and did not exit",
        }
    }
}

struct Conversation {
    channel: Arc<AsyncChannel>,
    hello: Hello,
    generation: u32,
}

/// A successor that accepts.
pub(crate) struct Handed {
    attempt: u64,
    channel: Arc<AsyncChannel>,
    successor: Successor,
    certainty: Certainty,
    process: Option<Process>,
    replies: Vec<oneshot::Sender<Outcome>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    Probation,
    Final,
}

impl Upgrader {
    pub(crate) fn new(
        parts: Parts,
        events: mpsc::Receiver<Event>,
        again: mpsc::WeakSender<Event>,
    ) -> Upgrader {
        Upgrader {
            newest: parts.own,
            parts,
            events,
            again,
            attempts: 0,
            starting: None,
            handed: None,
            waiting: VecDeque::new(),
            unwanted: Vec::new(),
            admission: Admission::Open,
        }
    }

    pub(crate) async fn run(mut self) {
        while let Some(event) = self.events.recv().await {
            self.handle(event).await;
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Upgrade { queue, reply } => self.upgrade(queue, reply).await,
            Event::Hello { channel, hello } => self.hello(channel, hello).await,
            Event::Said { attempt, came } => self.said(attempt, came).await,
            Event::Exited { attempt, status } => self.exited(attempt, status).await,
            Event::Due { attempt } => self.due(attempt).await,
            Event::Decided(decision) => self.decided(decision).await,
            Event::Leaving { until, gone } => self.leave(until, gone).await,
            Event::NothingLeft { attempt } => self.nothing_left(attempt).await,
        }
    }

    async fn upgrade(&mut self, queue: Queue, reply: oneshot::Sender<Outcome>) {
        let refusal = match (&self.starting, &self.handed) {
            _ if self.admission == Admission::Closed => Some(STOPPING.to_owned()),
            (Some(_), _) if queue == Queue::Wait && self.waiting.len() < QUEUED => {
                self.waiting.push_back(reply);
                return;
            }
            (Some(starting), _) => Some(format!(
                "an upgrade is under way for {:.1} s{}",
                starting.began.elapsed().as_secs_f64(),
                match &starting.process {
                    Some(process) => format!(" (pid {})", process.pid()),
                    None => String::new(),
                }
            )),
            (None, Some(handed)) => Some(format!(
                "generation {} (pid {}) has taken over: ask it",
                handed.successor.generation, handed.successor.pid
            )),
            (None, None) => None,
        };
        if let Some(refusal) = refusal {
            self.parts.log.line("upgrade-refused", &format!("Not upgrading: {refusal}"));
            let _ = reply.send(Err(refusal));
            return;
        }
        let starting = self.begin(Stage::Hello, HELLO_TIMEOUT, Some(reply));
        match self.parts.program.start(&self.parts.place.socket(self.parts.own)).await {
            Ok((child, stderr)) => {
                let again = self.again.clone();
                let process = Process::watch(child, stderr, &self.parts.log, move |status| {
                    if let Some(again) = again.upgrade() {
                        let _ = again.blocking_send(Event::Exited { attempt: starting, status });
                    }
                });
                self.parts.log.line(
                    "upgrade",
                    &format!(
                        "Upgrading: started {} as pid {}",
                        self.parts.program.path().display(),
                        process.pid()
                    ),
                );
                if let Some(starting) = &mut self.starting {
                    starting.process = Some(process);
                }
            }
            Err(error) => {
                let path = self.parts.program.path().display();
                let why = format!("{path} could not be started: {error}");
                self.fail(Reason::Unexpected, &why).await;
            }
        }
    }

    fn begin(
        &mut self,
        stage: Stage,
        bound: Duration,
        reply: Option<oneshot::Sender<Outcome>>,
    ) -> u64 {
        self.attempts += 1;
        let now = Instant::now();
        self.starting = Some(Starting {
            attempt: self.attempts,
            began: now,
            until: now + bound,
            stage,
            process: None,
            conversation: None,
            used: Vec::new(),
            sessions: Vec::new(),
            replies: reply.into_iter().collect(),
        });
        self.parts.control.send(ToControl::UpgradeBegins);
        self.alarm(self.attempts, bound);
        self.attempts
    }

    /// Looks again after `bound`.
    fn alarm(&self, attempt: u64, bound: Duration) {
        let again = self.again.clone();
        drop(tokio::spawn(async move {
            tokio::time::sleep(bound).await;
            if let Some(again) = again.upgrade() {
                let _ = again.send(Event::Due { attempt }).await;
            }
        }));
    }

    async fn hello(&mut self, channel: Channel, hello: Hello) {
        let attempt = match &mut self.starting {
            // The process we started, or any other while none was started.
            Some(starting) if starting.stage == Stage::Hello => {
                let ours =
                    starting.process.as_ref().is_none_or(|process| process.pid() == hello.pid);
                ours.then_some(starting.attempt)
            }
            Some(_) => None,
            None if self.handed.is_some() => None,
            None => Some(self.begin(Stage::Hello, HELLO_TIMEOUT, None)),
        };
        let Some(attempt) = attempt else {
            let (reason, text) = match &self.handed {
                Some(handed) => (
                    Reason::NotServing,
                    format!("generation {} has taken over", handed.successor.generation),
                ),
                None => (Reason::AnotherStarting, "another successor is starting".to_owned()),
            };
            return refuse(channel, reason, text);
        };
        if PROTOCOLS.agree(hello.protocols).is_none() {
            let why =
                format!("it speaks protocols {}, this generation {PROTOCOLS}", hello.protocols);
            refuse(channel, Reason::Protocol, why.clone());
            return self.fail(Reason::Protocol, &why).await;
        }
        let channel = match channel.into_async() {
            Ok(channel) => Arc::new(channel),
            Err(error) => {
                let why = format!("its conversation failed: {error}");
                return self.fail(Reason::Unexpected, &why).await;
            }
        };
        self.listen_to(attempt, &channel);
        self.newest += 1;
        let generation = self.newest;
        if let Some(starting) = &mut self.starting {
            starting.stage = Stage::Decision;
            starting.conversation = Some(Conversation { channel, hello, generation });
        }
        let draining = self.draining().await;
        self.parts.control.send(ToControl::Input(Input::TakeoverAsked { draining }));
    }

    /// How many older generations still have work in hand. One that only waits for the end of our probation does not
    /// count: another upgrade ends it.
    async fn draining(&self) -> usize {
        let own = self.parts.own;
        let mut draining = 0;
        for (_, path) in self.parts.place.others(own).into_iter().filter(|(n, _)| *n < own) {
            draining += usize::from(is_busy(&path).await);
        }
        draining
    }

    /// Passes on what the successor says.
    fn listen_to(&self, attempt: u64, channel: &Arc<AsyncChannel>) {
        let (channel, again) = (Arc::clone(channel), self.again.clone());
        drop(tokio::spawn(async move {
            loop {
                let came = channel.receive().await;
                let over = !matches!(came, Ok(Came::Message(..)));
                let Some(again) = again.upgrade() else { return };
                if again.send(Event::Said { attempt, came }).await.is_err() || over {
                    return;
                }
            }
        }));
    }

    async fn decided(&mut self, decision: Decision) {
        match decision {
            Decision::Admit => {
                if let Some(succession) = &self.parts.succession {
                    // From here on the successor serves if we die: the generation before us must not as well.
                    succession.keep().await;
                }
                if let Err(error) = self.offer().await {
                    self.lost(&format!("the offer failed: {error}")).await;
                }
            }
            Decision::Refuse(refusal) => {
                let (reason, text) = match refusal {
                    Refusal::NotServing => (Reason::NotServing, "this generation is not serving"),
                    Refusal::AnotherStarting => {
                        (Reason::AnotherStarting, "another successor is starting")
                    }
                    Refusal::TooManyGenerations => {
                        (Reason::TooManyGenerations, "as many older generations drain as may")
                    }
                };
                match self.starting {
                    Some(_) => self.fail(reason, text).await,
                    None => self.undo(reason, text).await,
                }
            }
            Decision::HandedOver => self.handed_over(),
            Decision::Resumed => self.resumed().await,
            Decision::Confirmed => self.confirmed().await,
            Decision::Stopping => self.stopping().await,
        }
    }

    /// The stop wins over an upgrade under way, also over one whose successor has not said a word.
    async fn stopping(&mut self) {
        self.admission = Admission::Closed;
        for reply in self.waiting.drain(..) {
            let _ = reply.send(Err(STOPPING.to_owned()));
        }
        self.fail(Reason::Stopping, STOPPING).await;
    }

    /// Nobody is left to kill a successor that will not go once this process is gone.
    async fn leave(&mut self, until: Instant, gone: oneshot::Sender<()>) {
        self.stopping().await;
        let unwanted = std::mem::take(&mut self.unwanted);
        drop(tokio::spawn(async move {
            for process in unwanted {
                process.kill_at(until).await;
            }
            let _ = gone.send(());
        }));
    }

    /// The stop came first, though the successor accepts already.
    ///
    /// ```text
    /// control thread: stop, refuses the successor that it knows to be starting
    /// here:                    the successor says that it accepts
    /// here:                                    the refusal comes
    /// ```
    async fn undo(&mut self, reason: Reason, text: &str) {
        let Some(handed) = self.handed.take() else { return };
        self.parts.handover.close();
        let line = format!(
            "Upgrade undone, a stop came first: generation {} (pid {}) is told to stop",
            handed.successor.generation, handed.successor.pid
        );
        self.parts.log.line("upgrade-undone", &line);
        for reply in handed.replies {
            let _ = reply.send(Err(text.to_owned()));
        }
        let refusal = Message::Refuse(Why::new(reason, text));
        let _ = handed.channel.send_within(SEND, &refusal, &[]).await;
        if let Some(process) = handed.process {
            // Not one to be killed when this process leaves: it accepted, and finishes what it has in hand.
            process.end();
        }
    }

    async fn turn_away(&self, reason: Reason, text: &str) {
        let conversation = self.starting.as_ref().and_then(|s| s.conversation.as_ref());
        if let Some(conversation) = conversation {
            let message = Message::Refuse(Why::new(reason, text));
            let _ = conversation.channel.send_within(SEND, &message, &[]).await;
        }
    }

    async fn offer(&mut self) -> io::Result<()> {
        let Some(starting) = &mut self.starting else { return Ok(()) };
        let Some(conversation) = &starting.conversation else { return Ok(()) };
        let (channel, generation) = (Arc::clone(&conversation.channel), conversation.generation);
        starting.stage = Stage::Ready;
        let bound = self.parts.takeover_timeout.min(TAKEOVER_LONGEST);
        starting.until = Instant::now() + bound;
        let attempt = starting.attempt;
        self.alarm(attempt, bound);
        let (listeners, sockets) = self.parts.gates.duplicates().await?;
        let (states, files) = self.parts.states.offer()?;
        let mut listeners = listeners.into_iter().zip(sockets).peekable();
        while listeners.peek().is_some() {
            let part: Vec<(wire::Listener, OwnedFd)> =
                listeners.by_ref().take(MAX_DESCRIPTORS).collect();
            let (part, sockets): (Vec<_>, Vec<_>) = part.into_iter().unzip();
            let offer = Message::Offer(Offer {
                generation,
                listeners: part,
                states: Vec::new(),
                last: false,
            });
            channel.send_within(SEND, &offer, &borrow(&sockets)).await?;
        }
        let offer = Message::Offer(Offer { generation, listeners: Vec::new(), states, last: true });
        channel.send_within(SEND, &offer, &borrow(&files)).await
    }

    async fn said(&mut self, attempt: u64, came: io::Result<Came>) {
        let starting = self.starting.as_ref().is_some_and(|s| s.attempt == attempt);
        let handed = self.handed.as_ref().is_some_and(|h| h.attempt == attempt);
        match came {
            Ok(Came::Message(message, _)) if starting => self.starting_said(message).await,
            Ok(Came::Message(message, _)) if handed => self.successor_said(message).await,
            Ok(Came::Message(..)) => {}
            Ok(Came::End) if starting => self.lost("it went away before it accepted").await,
            Ok(Came::End) if handed => self.successor_gone(),
            Err(error) if starting => {
                let why = format!("it said what cannot be understood: {error}");
                self.fail(Reason::Unexpected, &why).await;
            }
            Err(_) if handed => self.successor_gone(),
            Ok(Came::End) | Err(_) => {}
        }
    }

    async fn starting_said(&mut self, message: Message) {
        let Some(starting) = &mut self.starting else { return };
        match (message, starting.stage) {
            (Message::Status(status), Stage::Ready) => {
                let most = starting.began + TAKEOVER_LONGEST;
                let asked = Instant::now() + status.extend;
                starting.until = starting.until.max(asked.min(most));
                let (attempt, left) = (starting.attempt, starting.until - Instant::now());
                self.alarm(attempt, left);
                self.parts.log.line("upgrade", &format!("Upgrading: successor: {}", status.text));
            }
            (Message::Ready(ready), Stage::Ready) => self.commit(ready).await,
            (Message::Accepting, Stage::Accepting) => self.accepting().await,
            (Message::Refuse(why), _) => {
                self.fail(why.reason, &format!("it refused: {why}")).await;
            }
            (message, stage) => {
                let why = format!("it said {} where {stage:?} was awaited", message.kind().name());
                self.fail(Reason::Unexpected, &why).await;
            }
        }
    }

    async fn commit(&mut self, ready: Ready) {
        let Some(starting) = &mut self.starting else { return };
        starting.used = ready.used;
        starting.sessions = ready.sessions;
        starting.stage = Stage::Accepting;
        starting.until = Instant::now() + ACCEPTING_TIMEOUT;
        let attempt = starting.attempt;
        let Some(conversation) = &starting.conversation else { return };
        let channel = Arc::clone(&conversation.channel);
        self.alarm(attempt, ACCEPTING_TIMEOUT);
        let commit = Message::Commit(Commit::default());
        if let Err(error) = channel.send_within(SEND, &commit, &[]).await {
            self.lost(&format!("it did not take the commit: {error}")).await;
        }
    }

    async fn accepting(&mut self) {
        let Some(starting) = self.starting.take() else { return };
        let Some(conversation) = starting.conversation else { return };
        let successor =
            Successor { pid: conversation.hello.pid, generation: conversation.generation };
        self.parts.log.line(
            "handed-over",
            &format!(
                "Handed over to generation {} (pid {}), {:.0} ms after the upgrade began",
                successor.generation,
                successor.pid,
                starting.began.elapsed().as_secs_f64() * 1000.0
            ),
        );
        self.handed = Some(Handed {
            attempt: starting.attempt,
            channel: Arc::clone(&conversation.channel),
            successor,
            certainty: Certainty::Probation,
            process: starting.process,
            replies: starting.replies.into_iter().chain(self.waiting.drain(..)).collect(),
        });
        self.parts.gates.hand_on(starting.used);
        let moving = self.parts.handover.open(starting.sessions);
        drop(tokio::spawn(send_connections(
            starting.attempt,
            conversation.channel,
            moving,
            Arc::clone(&self.parts.handover),
            self.again.clone(),
        )));
        self.parts.control.send(ToControl::UpgradeDone { successor: Some(successor.pid) });
        self.parts.control.send(ToControl::Input(Input::SuccessorAccepting));
    }

    /// Told only now: whoever asked for the upgrade meets the new version from here on.
    fn handed_over(&mut self) {
        if let Some(handed) = &mut self.handed {
            for reply in handed.replies.drain(..) {
                let _ = reply.send(Ok(handed.successor));
            }
        }
    }

    async fn successor_said(&mut self, message: Message) {
        match message {
            Message::Final => {
                self.parts.control.send(ToControl::Input(Input::SuccessorKeeps));
            }
            Message::Resume(why) => {
                self.parts
                    .log
                    .line("rollback", &format!("The successor gives the service back: {why}"));
                self.parts.control.send(ToControl::Input(Input::SuccessorLost));
            }
            // Whatever else it says changes nothing any more.
            _ => {}
        }
    }

    fn successor_gone(&mut self) {
        let Some(handed) = &self.handed else { return };
        if handed.certainty == Certainty::Probation {
            self.parts.log.line(
                "successor-lost",
                &format!(
                    "Generation {} (pid {}) died on probation: serving again",
                    handed.successor.generation, handed.successor.pid
                ),
            );
            self.parts.control.send(ToControl::Input(Input::SuccessorLost));
        } else {
            // It has handed on itself, or stopped: connections that become idle have nowhere to move to.
            self.parts.handover.close();
            self.parts.control.send(ToControl::SuccessorLeft);
        }
    }

    async fn resumed(&mut self) {
        self.parts.handover.close();
        // Best effort: the name leads to whoever serves.
        let _ = self.parts.place.point_to(self.parts.own);
        if let Some(handed) = self.handed.take() {
            for reply in handed.replies {
                let _ = reply.send(Err("the successor gave the service back".to_owned()));
            }
            let why = Why::new(Reason::Operator, "the predecessor serves again");
            let rollback = Message::Rollback(why);
            let _ = handed.channel.send_within(SEND, &rollback, &[]).await;
        }
    }

    async fn confirmed(&mut self) {
        self.parts.gates.let_go();
        if let Some(handed) = &mut self.handed {
            handed.certainty = Certainty::Final;
            let _ = handed.channel.send_within(SEND, &Message::Final, &[]).await;
        }
    }

    async fn nothing_left(&mut self, attempt: u64) {
        if let Some(handed) = self.handed.as_ref().filter(|handed| handed.attempt == attempt) {
            let _ = handed.channel.send_within(SEND, &Message::Drained, &[]).await;
        }
    }

    async fn exited(&mut self, attempt: u64, status: io::Result<ExitStatus>) {
        let told = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("it exited with code {code}"),
                (None, Some(signal)) => {
                    format!("it was killed by {}", crate::signals::name(signal))
                }
                (None, None) => "it ended".to_owned(),
            },
            Err(error) => format!("it could not be waited for: {error}"),
        };
        // It may not have had the time to tidy up, nor to say that it accepts once the name led to it.
        self.parts.place.sweep(self.parts.own);
        if self.admission == Admission::Open && !self.parts.place.is_answered() {
            // Best effort, as everywhere; one that stops gives the name up and must not bring it back.
            let _ = self.parts.place.point_to(self.parts.own);
        }
        if self.starting.as_ref().is_some_and(|s| s.attempt == attempt) {
            self.fail(Reason::Failed, &told).await;
        }
    }

    /// The conversation is over. If it was our child's, its exit and its last words tell more: they are waited for.
    async fn lost(&mut self, why: &str) {
        match &mut self.starting {
            Some(starting) if starting.process.is_some() => {
                starting.stage = Stage::Exit;
                starting.until = Instant::now() + EXIT;
                let attempt = starting.attempt;
                self.alarm(attempt, EXIT);
            }
            Some(_) | None => self.fail(Reason::Failed, why).await,
        }
    }

    async fn due(&mut self, attempt: u64) {
        let now = Instant::now();
        let Some(starting) = self.starting.as_ref().filter(|s| s.attempt == attempt) else {
            return;
        };
        if now < starting.until {
            return;
        }
        let why = format!(
            "{} within {:.0} s",
            starting.stage.bound(),
            starting.began.elapsed().as_secs_f64()
        );
        if starting.stage == Stage::Accepting
            && let Some(process) = &starting.process
        {
            // It may accept already, and what it accepted is lost: the only such moment, and it must not last.
            process.signal(Signal::KILL);
        }
        self.fail(Reason::TimedOut, &why).await;
    }

    /// The successor will not be: everything stays as it was.
    async fn fail(&mut self, reason: Reason, why: &str) {
        // It must not take our silence, or our end, for a reason to serve.
        self.turn_away(reason, why).await;
        let Some(starting) = self.starting.take() else { return };
        let mut told = why.to_owned();
        if let Some(process) = &starting.process {
            process.end();
            self.unwanted.retain(|process| !process.is_gone());
            self.unwanted.push(process.clone());
            let words = process.last_words();
            if !words.is_empty() {
                told = format!("{told}{LAST_WORDS_FOLLOW}{words}");
            }
        }
        self.parts.control.send(ToControl::Input(Input::TakeoverFailed));
        self.parts.control.send(ToControl::UpgradeDone { successor: None });
        // Its last words stand there already.
        self.parts.log.line("upgrade-failed", &format!("Upgrade failed, serving on: {why}"));
        for reply in starting.replies {
            let _ = reply.send(Err(told.clone()));
        }
        if let Some(next) = self.waiting.pop_front() {
            Box::pin(self.upgrade(Queue::Refuse, next)).await;
        }
    }
}

fn refuse(channel: Channel, reason: Reason, text: String) {
    let message = Message::Refuse(Why::new(reason, text));
    // A few bytes into an empty queue: sent at once, or to nobody.
    let _ = channel.send_by(std::time::Instant::now(), &message, &[]);
}
