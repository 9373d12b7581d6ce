//! What the service manager is told, and when. The control thread owns it and says what happened.
//!
//! # Invariants
//!
//! 1. The manager hears [`State::Ready`] once the service serves and [`State::Stopping`] once it is on its way
//!    out, in this order, also when its queue was full meanwhile.
//! 2. [`State::Watchdog`] is said only upon a fresh answer of the async runtime, so a blocked one is noticed.
//! 3. A successor becomes the main process when the upgrade is final, not before: a manager ends the service with its
//!    main process, and one that dies on probation must not end it. From then on this process is silent.
//! 4. The first failure is logged, and only that: a lost message never ends the service.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Notifier, State, render};
use crate::log::Log;

/// How much time a stop asks for with each sign of progress: enough that several may be late, and short enough
/// that a service that has come to a halt is killed soon after the manager's own limit.
pub const EXTEND: Duration = Duration::from_secs(5);

/// How far past the deadline the manager is asked to wait: the process leaves by itself at the deadline.
pub const EXTEND_PAST_DEADLINE: Duration = Duration::from_secs(1);

/// When a manager whose queue was full is told again.
pub const RETRY: Duration = Duration::from_millis(50);

/// Messages that wait for a full queue; the oldest is given up for a newer one.
pub const OWED_MOST: usize = 8;

/// How long a generation that has handed on waits at its end for the manager to have read so.
pub const BARRIER: Duration = Duration::from_millis(500);

/// The runtime is not asked more often than this, however impatient the watchdog.
pub const WATCHDOG_LEAST: Duration = Duration::from_millis(1);

/// Tells the manager.
pub(crate) struct Teller {
    notifier: Notifier,
    log: Arc<Log>,
    voice: Voice,
    /// The process that accepts in our place and is not the main one yet.
    successor: Option<u32>,
    /// What the manager must hear and had no room for.
    owed: VecDeque<String>,
    retry_at: Option<Instant>,
    watchdog: Option<Watchdog>,
    complained: bool,
}

/// Who speaks for the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    Ours,
    Successors,
}

/// Whether a message may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// The manager acts on it: it is kept until there is room.
    Kept,
    /// The next one says it again.
    Passing,
}

struct Watchdog {
    /// Half of what the manager allows.
    interval: Duration,
    ask_at: Instant,
    question: Question,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Answered,
    Open,
}

impl Teller {
    pub(crate) fn new(notifier: Notifier, log: Arc<Log>, now: Instant) -> Teller {
        for problem in notifier.problems() {
            log.line("notify", &format!("the service manager's {problem}: ignored"));
        }
        let watchdog = notifier.watchdog().map(|allowed| Watchdog {
            interval: (allowed / 2).max(WATCHDOG_LEAST),
            ask_at: now,
            question: Question::Answered,
        });
        Teller {
            notifier,
            log,
            voice: Voice::Ours,
            successor: None,
            owed: VecDeque::new(),
            retry_at: None,
            watchdog,
            complained: false,
        }
    }

    /// When to call [`retry`](Teller::retry) and [`asks_runtime`](Teller::asks_runtime) at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        let ask_at = self.watchdog.as_ref().and_then(|watchdog| match watchdog.question {
            Question::Answered => Some(watchdog.ask_at),
            Question::Open => None,
        });
        [ask_at, self.retry_at].into_iter().flatten().min()
    }

    /// Says again what the manager had no room for.
    pub(crate) fn retry(&mut self, now: Instant) {
        if self.retry_at.is_none_or(|at| now < at) {
            return;
        }
        self.retry_at = None;
        while let Some(text) = self.owed.front() {
            match self.notifier.send_text(text) {
                Err(error) if is_full(&error) => {
                    self.retry_at = Some(now + RETRY);
                    return;
                }
                Ok(()) => {}
                Err(error) => self.complain(&error),
            }
            self.owed.pop_front();
        }
    }

    /// Whether the runtime is to be asked for a sign of life now; [`runtime_answered`](Teller::runtime_answered) is
    /// its answer. While one question is open no other is asked.
    pub(crate) fn asks_runtime(&mut self, now: Instant) -> bool {
        let Some(watchdog) = &mut self.watchdog else { return false };
        if watchdog.question == Question::Open || now < watchdog.ask_at {
            return false;
        }
        watchdog.question = Question::Open;
        watchdog.ask_at = now + watchdog.interval;
        true
    }

    pub(crate) fn runtime_answered(&mut self, now: Instant) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.question = Question::Answered;
            self.tell(now, Weight::Passing, &[State::Watchdog]);
        }
    }

    /// The service serves.
    pub(crate) fn ready(&mut self, now: Instant) {
        self.tell(now, Weight::Kept, &[State::Ready, State::Status("serving")]);
    }

    /// A stop begins that ends the service, not just this generation of it.
    pub(crate) fn stopping(&mut self, now: Instant, status: &str, deadline: Option<Instant>) {
        let extend = State::ExtendTimeout(extension(now, deadline));
        self.tell(now, Weight::Kept, &[State::Stopping, State::Status(status), extend]);
    }

    /// A stop goes on.
    pub(crate) fn progress(&mut self, now: Instant, status: &str, deadline: Option<Instant>) {
        let extend = State::ExtendTimeout(extension(now, deadline));
        self.tell(now, Weight::Passing, &[State::Status(status), extend]);
    }

    /// The stop is over; the process leaves by itself, at `leave_at` at the latest.
    pub(crate) fn stopped(&mut self, now: Instant, status: &str, leave_at: Option<Instant>) {
        // The runtime is about to end and answers no more.
        self.watchdog = None;
        if self.voice == Voice::Successors && self.notifier.is_heard() {
            // A manager that comes to our last message after our end cannot tell any more who sent it, and ignores it:
            // it would go on believing in this process.
            if let Err(error) = self.notifier.barrier(BARRIER) {
                self.complain(&error);
            }
        }
        let status = State::Status(status);
        match leave_at {
            Some(at) => {
                let time = at.saturating_duration_since(now) + EXTEND_PAST_DEADLINE;
                self.tell(now, Weight::Passing, &[status, State::ExtendTimeout(time)]);
            }
            None => self.tell(now, Weight::Passing, &[status]),
        }
    }

    /// A reload or an upgrade begins. [`reloaded`](Teller::reloaded) or [`upgraded`](Teller::upgraded) must follow:
    /// the manager waits for it.
    pub(crate) fn reloading(&mut self, now: Instant) {
        self.tell(now, Weight::Kept, &[State::Reloading]);
    }

    /// The reload is over and this process still is the service's. The manager knows no failed reload: `status`
    /// says how it went.
    pub(crate) fn reloaded(&mut self, now: Instant, status: &str) {
        self.tell(now, Weight::Kept, &[State::Ready, State::Status(status)]);
    }

    /// The upgrade is over, and `successor` accepts. This process stays the main one as long as the service may come
    /// back to it.
    pub(crate) fn upgraded(&mut self, now: Instant, successor: u32) {
        self.successor = Some(successor);
        let status = format!("upgraded: process {successor} serves, on probation");
        self.tell(now, Weight::Kept, &[State::Ready, State::Status(&status)]);
    }

    /// The upgrade is final: the successor is the service's main process. This one is silent from here on.
    pub(crate) fn handed_over(&mut self, now: Instant) {
        let Some(successor) = self.successor.take() else { return };
        let states = [State::MainPid(successor), State::Ready, State::Status("serving")];
        self.tell(now, Weight::Kept, &states);
        self.voice = Voice::Successors;
    }

    /// The successor is lost: this process, the main one still, serves again.
    pub(crate) fn taken_back(&mut self, now: Instant) {
        self.successor = None;
        let status = State::Status("serving again: the successor is lost");
        self.tell(now, Weight::Kept, &[State::Ready, status]);
    }

    fn tell(&mut self, now: Instant, weight: Weight, states: &[State<'_>]) {
        if self.voice == Voice::Successors || !self.notifier.is_heard() {
            return;
        }
        let text = render(states);
        let sent = if self.owed.is_empty() {
            self.notifier.send_text(&text)
        } else {
            // What was said before must be heard before.
            Err(io::ErrorKind::WouldBlock.into())
        };
        match sent {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                if weight == Weight::Kept {
                    self.owe(now, text);
                }
            }
            Err(error) => self.complain(&error),
        }
    }

    fn owe(&mut self, now: Instant, text: String) {
        if self.owed.len() == OWED_MOST {
            self.owed.pop_front();
        }
        self.owed.push_back(text);
        self.retry_at.get_or_insert(now + RETRY);
    }

    fn complain(&mut self, error: &io::Error) {
        if !self.complained {
            self.complained = true;
            let name = self.notifier.name();
            self.log
                .line("notify", &format!("failed to tell the service manager at {name}: {error}"));
        }
    }
}

/// The receiver, or the sender's own buffer, has no room now.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

/// Never more than the deadline needs.
fn extension(now: Instant, deadline: Option<Instant>) -> Duration {
    let needed = deadline.map(|at| at.saturating_duration_since(now) + EXTEND_PAST_DEADLINE);
    needed.map_or(EXTEND, |needed| needed.min(EXTEND))
}
