//! What a service is doing at one moment.

use std::fmt;
use std::time::Duration;

use crate::duration::seconds;
use crate::json::Object;
use crate::phase::Phase;
use crate::work::{Counts, Tally, WorkItem};

/// A service at one moment: its phase and its live work.
///
/// Made by [`Lifecycle::snapshot`](crate::Lifecycle::snapshot). It is taken part by part while the service works, so its
/// counts may differ by what began or ended meanwhile.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it asks for new work.
    pub ready: bool,
    /// Its place in the chain of upgrades; the first is 1.
    pub generation: u32,
    /// The process id.
    pub pid: u32,
    /// The program's version, as given to the builder.
    pub version: String,
    /// The time since the start.
    pub uptime: Duration,
    /// The time until the deadline, when a stop is under way and has one.
    pub left: Option<Duration>,
    /// How much is live.
    pub live: Counts,
    /// What is live, by name; [`NAMED_AT_MOST`](crate::work::NAMED_AT_MOST) at most.
    pub work: Vec<WorkItem>,
    /// Requests answered since the start.
    pub served: u64,
    /// Accept errors survived since the start.
    pub accept_errors: u64,
    /// What became of connections apart from their own ends, since the start.
    pub tally: Tally,
}

impl Snapshot {
    /// The snapshot as one JSON object in one line.
    pub fn to_json(&self) -> String {
        Object::new()
            .number("generation", u64::from(self.generation))
            .string("phase", &self.phase.to_string())
            .flag("ready", self.ready)
            .number("pid", u64::from(self.pid))
            .string("version", &self.version)
            .millis("uptime_ms", self.uptime)
            .optional_millis("left_ms", self.left)
            .raw("live", &self.live.to_json())
            .number("served", self.served)
            .number("accept_errors", self.accept_errors)
            .raw("tally", &self.tally.to_json())
            .array("work", self.work.iter().map(WorkItem::to_json))
            .end()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: live work: {}", self.phase, self.live)?;
        if let Some(left) = self.left {
            write!(f, " ({} left)", seconds(left))?;
        }
        writeln!(f)?;
        for item in &self.work {
            writeln!(f, "  {item}")?;
        }
        Ok(())
    }
}
