//! What a case of the suite found, and what all of them found together: the one model that every report is made from.

use crate::fate::Tally;
use crate::trace::Trace;
use serde::Serialize;
use std::time::Duration;

/// Whether a case is a duty or good conduct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// Not met: the verdict is [`Verdict::Fail`].
    Must,
    /// Not met: the verdict is [`Verdict::Warn`], or [`Verdict::Fail`] when the run is strict.
    Should,
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// The criterion was met.
    Pass,
    /// A SHOULD was not met.
    Warn,
    /// A MUST was not met.
    Fail,
    /// The target does not declare what the case needs.
    Skip,
    /// The case could not be judged: the state that it needs never was, or the tester could not have seen a loss.
    Inconclusive,
}

impl Level {
    /// As reports write it: `MUST`, `SHOULD`.
    pub fn word(self) -> &'static str {
        match self {
            Level::Must => "MUST",
            Level::Should => "SHOULD",
        }
    }
}

impl Verdict {
    /// All of them, in the order of the declaration.
    pub const ALL: [Verdict; 5] =
        [Verdict::Pass, Verdict::Warn, Verdict::Fail, Verdict::Skip, Verdict::Inconclusive];

    /// As reports write it: `PASS`, `WARN`, `FAIL`, `SKIP`, `INCONCLUSIVE`.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
            Verdict::Skip => "SKIP",
            Verdict::Inconclusive => "INCONCLUSIVE",
        }
    }
}

/// A number that a case measured, for the report: never judged by itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured, as in `exit after the last answer`.
    pub name: String,
    /// How much.
    pub value: f64,
    /// In which unit: `ms`, `requests`, `bytes`.
    pub unit: &'static str,
}

/// One run of one case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// As in `SIG/1`.
    pub id: String,
    /// As in `SIG`.
    pub group: String,
    /// Duty or good conduct.
    pub level: Level,
    /// What the case is about, in a few words.
    pub title: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen, in one sentence; for a skip, what the target does not declare.
    pub reason: String,
    /// What the server's authors may look at, when the case was not passed.
    pub hint: Option<String>,
    /// How long it took.
    #[serde(serialize_with = "seconds")]
    pub took: Duration,
    /// The fate of each request that the case sent.
    #[serde(serialize_with = "tally")]
    pub tally: Tally,
    /// What was measured besides.
    pub figures: Vec<Figure>,
    /// The target's last words on standard error, when the case was not passed.
    pub said: Option<String>,
    /// What happened when, for the timeline; a case without connections has none.
    pub trace: Option<Trace>,
}

/// What was tested, where and with what.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Subject {
    /// The adapter's name, or the program's.
    pub name: String,
    /// The command that starts it, or the address it was found at.
    pub command: String,
    /// The version that it told of itself, if the adapter says how to ask.
    pub version: Option<String>,
}

/// The machine and the tester.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Environment {
    /// `uname -sr`.
    pub kernel: String,
    /// Processors that the tester may use.
    pub processors: usize,
    /// `net.ipv4.tcp_migrate_req`, which decides what a re-bound listener loses.
    pub tcp_migrate_req: Option<u32>,
    /// This tool's version.
    pub tester: String,
    /// What the run's random choices were made from.
    pub seed: u64,
    /// When it began, in seconds since 1970 (UTC).
    pub began: u64,
}

/// A whole run of the suite.
#[derive(Clone, Debug, Serialize)]
pub struct SuiteReport {
    /// What was tested.
    pub subject: Subject,
    /// With what.
    pub environment: Environment,
    /// Each case in the order of the list; with `--repeat`, each run of it.
    pub results: Vec<CaseResult>,
    /// How long the run took.
    #[serde(serialize_with = "seconds")]
    pub took: Duration,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

fn tally<S: serde::Serializer>(tally: &Tally, serializer: S) -> Result<S::Ok, S::Error> {
    tally.to_json().serialize(serializer)
}
