//! Says what happened: what finished, what was cut, and how long each part took.

use std::fmt;
use std::time::Duration;

use crate::closing::{ClosingEnd, ClosingReport};
use crate::duration::seconds;
use crate::exit;
use crate::json::{self, Object};
use crate::phase::{Cause, Outcome};
use crate::signals;
use crate::work::{Counts, Tally, WorkItem};

/// The account of a stop: what finished, what was cut, and how long each part took.
///
/// `Display` is for people, [`to_json`](Report::to_json) for machines. A service with the built-in signals writes it to
/// standard error by itself; [`Exit::report`](crate::Exit::report) hands it to the program.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// use std::time::Duration;
/// use lameduck::phase::Outcome;
///
/// let life = lameduck::Lifecycle::builder()
///     .without_signals()
///     .grace_period(Duration::from_millis(50))
///     .start()?;
/// life.task("stubborn", |_drain| std::future::pending());
/// life.stop();
/// let exit = life.run().await;
/// let report = exit.report();
/// assert_eq!(report.outcome, Outcome::DeadlineExceeded);
/// assert_eq!(report.exit_code(), lameduck::exit::DEADLINE);
/// assert_eq!(report.cut_work[0].name, "stubborn");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// How the stop ended.
    pub outcome: Outcome,
    /// What asked for the stop.
    pub cause: Option<Cause>,
    /// From the stop to the end.
    pub took: Duration,
    /// Each phase that was entered, in order, with its time.
    pub phases: Vec<(&'static str, Duration)>,
    /// How much finished between the stop and the end.
    pub finished: Counts,
    /// How much was cut.
    pub cut: Counts,
    /// What was cut, by name; [`NAMED_AT_MOST`](crate::work::NAMED_AT_MOST) at most.
    pub cut_work: Vec<WorkItem>,
    /// Each resource, in the order of registration.
    pub resources: Vec<ClosingReport>,
    /// What panicked since the start.
    pub panics: Vec<String>,
    /// Why the start came to nothing, when a [check](crate::Lifecycle::check) failed.
    pub unfit: Option<String>,
    /// Accept errors survived since the start.
    pub accept_errors: u64,
    /// What became of connections outside of the stop, since the start.
    pub tally: Tally,
    /// How long the async runtime had not answered when it ended; `None` if it answered.
    pub runtime_blocked: Option<Duration>,
}

impl Report {
    /// The exit code that belongs to it, as in the [table](crate::exit).
    pub fn exit_code(&self) -> u8 {
        let passed_over = |end: &ClosingEnd| match end {
            ClosingEnd::Cut | ClosingEnd::NotBegun => true,
            ClosingEnd::Closed | ClosingEnd::Failed(_) => false,
        };
        let failed = |end: &ClosingEnd| matches!(end, ClosingEnd::Failed(_));
        match self.outcome {
            Outcome::Forced(Cause::Signal(signal)) => exit::forced_by(signal),
            Outcome::Forced(Cause::Request | Cause::Successor | Cause::Predecessor)
            | Outcome::DeadlineExceeded => exit::DEADLINE,
            Outcome::Finished if self.resources.iter().any(|r| passed_over(&r.end)) => {
                exit::DEADLINE
            }
            Outcome::Finished if self.resources.iter().any(|r| failed(&r.end)) => exit::FAILED,
            Outcome::Finished if !self.panics.is_empty() => exit::FAILED,
            Outcome::Finished if self.unfit.is_some() => exit::FAILED,
            Outcome::Finished => exit::OK,
        }
    }

    /// The report as one JSON object in one line; `docs/signals.md` names its fields.
    pub fn to_json(&self) -> String {
        let phases = self
            .phases
            .iter()
            .map(|(name, took)| Object::new().string("name", name).millis("ms", *took).end());
        let cut = self.cut_work.iter().map(WorkItem::to_json);
        let resources = self.resources.iter().map(|resource| {
            let (end, error) = match &resource.end {
                ClosingEnd::Closed => ("closed", None),
                ClosingEnd::Failed(words) => ("failed", Some(words.as_str())),
                ClosingEnd::Cut => ("cut", None),
                ClosingEnd::NotBegun => ("not begun", None),
            };
            Object::new()
                .string("name", &resource.name)
                .string("end", end)
                .optional("error", error)
                .millis("ms", resource.took)
                .end()
        });
        Object::new()
            .string("event", "report")
            .string("outcome", outcome_word(self.outcome))
            .number("exit_code", u64::from(self.exit_code()))
            .optional("cause", self.cause.map(cause_word).as_deref())
            .millis("ms", self.took)
            .array("phases", phases)
            .raw("finished", &self.finished.to_json())
            .raw("cut", &self.cut.to_json())
            .array("cut_work", cut)
            .array("resources", resources)
            .array("panics", self.panics.iter().map(|words| json::quoted(words)))
            .optional("unfit", self.unfit.as_deref())
            .number("accept_errors", self.accept_errors)
            .raw("tally", &self.tally.to_json())
            .optional_millis("runtime_blocked_ms", self.runtime_blocked)
            .end()
    }
}

/// How it ended, in a few words.
pub(crate) fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Finished => "finished",
        Outcome::DeadlineExceeded => "deadline exceeded",
        Outcome::Forced(_) => "forced",
    }
}

/// What asked for a stop, in one word: `SIGTERM`, `request`, `successor`.
pub(crate) fn cause_word(cause: Cause) -> String {
    match cause {
        Cause::Signal(signal) => signals::name(signal),
        Cause::Request => "request".to_owned(),
        Cause::Successor => "successor".to_owned(),
        Cause::Predecessor => "rollback".to_owned(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Outcome::Finished => writeln!(f, "Server exiting")?,
            Outcome::DeadlineExceeded => {
                writeln!(f, "Server forced to shutdown: deadline exceeded")?;
            }
            Outcome::Forced(cause) => {
                writeln!(f, "Server forced to shutdown: {}", cause_word(cause))?;
            }
        }
        let cause = self.cause.map_or_else(|| "nothing".to_owned(), cause_word);
        write!(f, "  stopped by {cause} in {}:", seconds(self.took))?;
        for (index, (name, took)) in self.phases.iter().enumerate() {
            write!(f, "{} {name} {}", if index == 0 { "" } else { "," }, seconds(*took))?;
        }
        writeln!(f)?;
        writeln!(f, "  finished since then: {}", self.finished)?;
        if self.cut != Counts::default() {
            writeln!(f, "  cut: {}", self.cut)?;
            for item in self.cut_work.iter().take(SHOWN) {
                writeln!(f, "    {item}")?;
            }
            if self.cut_work.len() > SHOWN {
                writeln!(f, "    and {} more", self.cut_work.len() - SHOWN)?;
            }
        }
        for resource in &self.resources {
            let took = seconds(resource.took);
            match &resource.end {
                ClosingEnd::Closed => writeln!(f, "  closed {} in {took}", resource.name)?,
                ClosingEnd::Failed(words) => {
                    writeln!(f, "  failed to close {} after {took}: {words}", resource.name)?;
                }
                ClosingEnd::Cut => writeln!(f, "  cut closing {} after {took}", resource.name)?,
                ClosingEnd::NotBegun => writeln!(f, "  no time left to close {}", resource.name)?,
            }
        }
        for words in &self.panics {
            writeln!(f, "  panicked: {words}")?;
        }
        if let Some(why) = &self.unfit {
            writeln!(f, "  not fit to serve: {why}")?;
        }
        if self.accept_errors > 0 {
            writeln!(f, "  accept errors survived: {}", self.accept_errors)?;
        }
        let tally = &self.tally;
        let counts = [
            (tally.websockets_moved, "websockets moved to a successor"),
            (tally.websockets_told, "websockets told to go at an upgrade"),
            (tally.cut_for_age, "connections cut for their age"),
            (tally.requests_cut_for_age, "requests cut with them"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            writeln!(f, "  {what}: {count}")?;
        }
        if let Some(blocked) = self.runtime_blocked {
            writeln!(
                f,
                "  the async runtime was blocked: it had not answered for {}",
                seconds(blocked)
            )?;
        }
        Ok(())
    }
}

/// Pieces of cut work that the human report lists; the JSON report has more.
const SHOWN: usize = 20;
