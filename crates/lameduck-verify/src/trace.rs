//! What happened when, in one case: the connections, their requests and fates, signals and phases, the listener's queue.
//!
//! All times are microseconds since the trace began. A trace is bounded: what does not fit is counted, not kept.

mod latency;
mod recording;

pub(crate) use recording::{Number, Recording, end_after};

use crate::fate::Fate;
use serde::Serialize;

/// Connections that a trace keeps; requests of others are in the tally only.
pub const CONNECTIONS_KEPT: usize = 400;

/// Requests that a trace keeps in all; those that were not answered are kept before those that were.
pub const REQUESTS_KEPT: usize = 20_000;

/// Samples of the listener's queue that a trace keeps.
pub const SAMPLES_KEPT: usize = 4_000;

/// Microseconds since the trace began.
pub type Micros = u64;

/// Everything that a timeline is drawn from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trace {
    /// How long it is.
    pub length: Micros,
    /// Each connection, in the order of opening.
    pub connections: Vec<ConnectionTrace>,
    /// Moments: signals, exits, a readiness that turned.
    pub marks: Vec<Mark>,
    /// Stretches of time with a name: `baseline`, `stop`, `after`.
    pub spans: Vec<Span>,
    /// Connections that waited in the listener's accept queue.
    pub queue: Vec<QueueSample>,
    /// The latency of everything that was answered, kept or not, by the time of the answer.
    pub latency: Vec<LatencySlot>,
    /// Connections that were not kept.
    pub connections_left_out: u64,
    /// Requests that were not kept.
    pub requests_left_out: u64,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectionTrace {
    /// What it is: `keep-alive 3`, `half a head`, `stream`.
    pub label: String,
    /// When it was established, or first tried.
    pub opened: Micros,
    /// When it ended, if it did.
    pub closed: Option<Micros>,
    /// How it ended.
    pub end: ConnectionEnd,
    /// Its requests, in the order of sending.
    pub requests: Vec<RequestTrace>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionEnd {
    /// It was open when the trace ended.
    Open,
    /// It was never established.
    Refused,
    /// The server closed it in order (an end of file).
    ClosedByServer,
    /// The server reset it.
    Reset,
    /// The tester closed it.
    ClosedByTester,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestTrace {
    /// When it was due, if it was sent on a schedule: latency counts from here.
    pub intended: Option<Micros>,
    /// When its first byte was written.
    pub sent: Micros,
    /// When the first byte of its answer came.
    pub first_byte: Option<Micros>,
    /// When its fate was known.
    pub ended: Micros,
    /// What became of it.
    #[serde(serialize_with = "fate")]
    pub fate: Fate,
    /// The status of its answer.
    pub status: Option<u16>,
    /// The generation or process that answered, where the target tells it.
    pub generation: Option<String>,
}

/// A moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// When.
    pub at: Micros,
    /// What kind of moment.
    pub kind: MarkKind,
    /// What happened, in a few words: `SIGTERM`, `exit code 0`, `not ready`.
    pub text: String,
}

/// What kind of moment a mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// The tester sent a signal or ran the stop's or the upgrade's command.
    Action,
    /// The target's process began, ended or changed.
    Process,
    /// Readiness turned, the listener closed, a generation answered first.
    Phase,
    /// Anything else worth seeing.
    Note,
}

/// A stretch of time with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// From here.
    pub from: Micros,
    /// To here.
    pub to: Micros,
    /// What it is.
    pub label: String,
}

/// How many connections waited to be accepted at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct QueueSample {
    /// When.
    pub at: Micros,
    /// So many waited.
    pub waiting: u32,
    /// So many may wait.
    pub most: u32,
}

/// The latencies of the requests that were answered in a stretch of time, in microseconds, counted from when each
/// was due where it was due, else from its first byte. A quantile is at most an eighth too high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LatencySlot {
    /// From here.
    pub from: Micros,
    /// To here.
    pub to: Micros,
    /// So many were answered.
    pub answered: u64,
    /// Half of them were at least as quick.
    pub p50: Micros,
    /// 99 of 100.
    pub p99: Micros,
    /// The slowest.
    pub slowest: Micros,
}

fn fate<S: serde::Serializer>(fate: &Fate, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(fate.name())
}
