//! What the control thread tells of a life: how a stop goes on and how it ended, and what is live when somebody asks.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{BLOCKED_AFTER, Control, End, LEAVE, PROGRESS, PROGRESS_NAMES, Scope};
use crate::duration::seconds;
use crate::json::Object;
use crate::phase::{Cause, Outcome, Phase, Step};
use crate::report::{Report, cause_word, outcome_word};
use crate::work::{Counts, WorkItem};

/// What is remembered of the stop under way.
pub(super) struct Stop {
    pub(super) began: Instant,
    pub(super) phase: Phase,
    pub(super) phase_began: Instant,
    pub(super) phases: Vec<(&'static str, Duration)>,
    pub(super) before: Totals,
    /// What had left when the force came: nothing finishes after it.
    pub(super) at_force: Option<Totals>,
    pub(super) cut: Counts,
    pub(super) cut_work: Vec<WorkItem>,
    pub(super) progress_at: Instant,
}

pub(super) struct Totals {
    pub(super) left: Counts,
    pub(super) served: u64,
}

impl Control {
    pub(super) fn stop_begins(&mut self, now: Instant) {
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

    pub(super) fn phase_changes(&mut self, now: Instant, to: Phase) {
        if let Some(stop) = &mut self.stop {
            stop.phases.push((phase_word(stop.phase), now - stop.phase_began));
            stop.phase = to;
            stop.phase_began = now;
        }
    }

    pub(super) fn totals(&self) -> Totals {
        Totals { left: self.hands.registry.left(), served: self.hands.registry.served() }
    }

    /// How long the runtime has left a command lying, if it has.
    pub(super) fn runtime_blocked(&self, now: Instant) -> Option<Duration> {
        let waiting = self.hands.picked_up.load(Ordering::Acquire) < self.commands_sent;
        let since = now.saturating_duration_since(self.command_sent_at?);
        (waiting && since >= BLOCKED_AFTER).then_some(since)
    }

    pub(super) fn report(&mut self, outcome: Outcome) {
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
            unfit: self.unfit.take(),
            accept_errors: self.hands.accept_errors.count(),
            tally: self.hands.registry.counters.tally(),
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
        self.release_place();
        self.end = End::Reported { leave_at, code };
        self.hands.ended.send_replace(Some(report));
    }

    pub(super) fn progress(&mut self, now: Instant) {
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

    pub(super) fn print_work(&self, now: Instant) {
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
                .raw("live", &counts.to_json())
                .array("work", items.iter().map(WorkItem::to_json))
                .end()
        });
    }
}

fn finished_between(before: &Totals, after: &Totals) -> Counts {
    Counts {
        requests: after.served.saturating_sub(before.served) as usize,
        connections: after.left.connections - before.left.connections,
        websockets: after.left.websockets - before.left.websockets,
        tasks: after.left.tasks - before.left.tasks,
        blocking: after.left.blocking - before.left.blocking,
        // They are among the requests.
        streams: 0,
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
