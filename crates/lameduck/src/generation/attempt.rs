//! One attempt to succeed this generation: its process, if it was started here, and its conversation.

use std::time::Instant;

use super::{AttemptId, EXIT, Heir, LineId, Ticket};
use crate::takeover::Limits;
use crate::takeover::predecessor::Predecessor;
use crate::takeover::wire::{Hello, Reason, Why};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    pub(super) began: Instant,
    pub(super) process: Process,
    /// The number of the process that was started here.
    pub(super) pid: Option<u32>,
    pub(super) talk: Option<(LineId, Predecessor)>,
    /// The number of the process that talks, as it says.
    speaks: u32,
    pub(super) generation: u32,
    pub(super) stage: Stage,
    /// Who waits for it.
    pub(super) tickets: Vec<Ticket>,
    /// Bounds what is awaited of the process.
    pub(super) timer: Option<Instant>,
    /// Its conversation has ended.
    pub(super) is_gone: bool,
    /// How it exited.
    pub(super) exit: Option<Why>,
    /// What it was sent away with.
    pub(super) refused: Option<Why>,
    /// It is an upgrade, and not only somebody who asks.
    pub(super) has_begun: bool,
    /// Whoever waits for it has been told.
    pub(super) is_told: bool,
    /// It was told to accept, and may have taken the control name.
    pub(super) may_have_the_name: bool,
    /// It is not wanted, and its process was asked to leave.
    pub(super) is_asked_to_leave: bool,
}

/// The process of a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Process {
    /// Somebody else started it.
    NotOurs,
    BeingStarted,
    Runs,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// It was started and has not said a word.
    Silent,
    Talks,
    /// Its conversation is over: its exit will say more.
    Exit,
    Accepts,
    Over,
}

impl Attempt {
    fn new(id: AttemptId, now: Instant, process: Process, stage: Stage) -> Attempt {
        Attempt {
            id,
            began: now,
            process,
            pid: None,
            talk: None,
            speaks: 0,
            generation: 0,
            stage,
            tickets: Vec::new(),
            timer: None,
            is_gone: false,
            exit: None,
            refused: None,
            has_begun: process == Process::BeingStarted,
            is_told: false,
            may_have_the_name: false,
            is_asked_to_leave: false,
        }
    }

    /// One whose process is about to be started.
    pub(super) fn started_here(
        id: AttemptId,
        now: Instant,
        tickets: Vec<Ticket>,
        limits: &Limits,
    ) -> Attempt {
        let timer = Some(now + limits.first_word());
        let attempt = Attempt::new(id, now, Process::BeingStarted, Stage::Silent);
        Attempt { tickets, timer, ..attempt }
    }

    /// One that somebody else started.
    pub(super) fn by_hand(id: AttemptId, now: Instant) -> Attempt {
        Attempt::new(id, now, Process::NotOurs, Stage::Talks)
    }

    pub(super) fn started(&mut self, now: Instant, pid: u32, limits: &Limits) {
        if self.process == Process::BeingStarted {
            self.process = Process::Runs;
            self.pid = Some(pid);
            if self.stage == Stage::Silent {
                // The system may have taken its time.
                self.timer = Some(now + limits.first_word());
            }
        }
    }

    pub(super) fn talks(&mut self, line: LineId, talk: Predecessor, hello: &Hello) {
        self.talk = Some((line, talk));
        self.speaks = hello.pid;
        self.stage = Stage::Talks;
        self.timer = None;
    }

    pub(super) fn line(&self) -> Option<LineId> {
        self.talk.as_ref().map(|(line, _)| *line)
    }

    fn has_talked(&self) -> bool {
        self.talk.as_ref().is_none_or(|(_, talk)| talk.is_over())
    }

    pub(super) fn heir(&self) -> Heir {
        Heir { pid: self.speaks, generation: self.generation }
    }

    /// Whether the service is on its way back from it.
    pub(super) fn is_taking_back(&self) -> bool {
        self.talk.as_ref().is_some_and(|(_, talk)| talk.is_taking_back())
    }

    /// Who has taken over, if it has and keeps it as far as is known.
    pub(super) fn handed(&self) -> Option<Heir> {
        let (_, talk) = self.talk.as_ref()?;
        (self.stage == Stage::Accepts && talk.moves_connections()).then(|| self.heir())
    }

    /// Whether nobody knows yet what comes of it.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::Silent | Stage::Talks | Stage::Exit)
    }

    /// Says so.
    pub(super) fn under_way(&self, now: Instant) -> Why {
        let seconds = now.saturating_duration_since(self.began).as_secs_f64();
        let text = match self.pid.or((self.speaks > 0).then_some(self.speaks)) {
            Some(pid) => format!("an upgrade is under way for {seconds:.1} s (pid {pid})"),
            None => format!("an upgrade is under way for {seconds:.1} s"),
        };
        Why::new(Reason::AnotherStarting, text)
    }

    /// Why it failed; nothing as long as its exit will say more.
    pub(super) fn failure(&mut self, now: Instant, why: Why) -> Option<Why> {
        match (self.is_gone, self.process, self.exit.take()) {
            (true, Process::Runs, None) => {
                self.stage = Stage::Exit;
                self.timer = Some(now + EXIT);
                None
            }
            (true, _, Some(exit)) => Some(exit),
            (_, _, _) => Some(why),
        }
    }

    /// Whether its process was told to leave, or is to be, and has not.
    pub(super) fn is_unwanted(&self) -> bool {
        let runs = matches!(self.process, Process::BeingStarted | Process::Runs);
        self.stage == Stage::Over && runs
    }

    /// Whether it was told why it is not wanted, and leaves by itself when it has heard: a signal could come first, and
    /// it would take that for the reason.
    pub(super) fn leaves_by_itself(&self) -> bool {
        let is_told = |why: &Why| why.reason != Reason::Stopping;
        !self.is_gone && self.refused.as_ref().is_some_and(is_told)
    }

    /// Whether nothing will ever happen here again.
    pub(super) fn is_forgotten(&self) -> bool {
        match self.stage {
            Stage::Silent | Stage::Talks | Stage::Exit => false,
            Stage::Accepts => self.has_talked(),
            Stage::Over => self.has_talked() && !self.is_unwanted(),
        }
    }
}
