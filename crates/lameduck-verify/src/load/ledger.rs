//! What the clients of one thread have seen.

use super::EXAMPLES;
use super::alarm::Alarm;
use crate::fate::{Fate, Kind, Tally};
use crate::trace::{ConnectionEnd, Number, Recording, RequestTrace};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The largest latency that the histogram holds, in microseconds: more than any request may take.
const LATENCY_MAX: u64 = 60_000_000;
/// Significant digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// The counts of one thread, or of all.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    begun: Instant,
    pub(super) tally: Tally,
    pub(super) latency: Histogram<u64>,
    pub(super) connections: Connections,
    pub(super) examples: Vec<Example>,
    pub(super) recording: Option<Recording>,
    alarm: Option<Arc<Alarm>>,
}

/// A request whose fate is known.
pub(super) struct Known {
    /// The connection in the recording, if there is one.
    pub(super) connection: Option<Number>,
    /// When it was due, if it was due at a time: its latency counts from there.
    pub(super) intended: Option<Instant>,
    pub(super) begun: Instant,
    /// When the first byte of its answer came; unknown means with its last.
    pub(super) first_byte: Option<Instant>,
    pub(super) fate: Fate,
    pub(super) status: Option<u16>,
}

impl Known {
    /// A request for which there was no connection.
    pub(super) fn unsent(connection: Option<Number>, begun: Instant, fate: Fate) -> Known {
        Known { connection, intended: None, begun, first_byte: None, fate, status: None }
    }
}

/// What became of connections, beside the requests on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) opened: u64,
    /// Closed after an answer that announced it (HTTP/2: after a GOAWAY).
    pub(super) told_to_close: u64,
    /// Found closed, in order, when the client looked before its next request.
    pub(super) found_closed: u64,
    /// TLS handshakes among them that resumed a session.
    pub(super) resumed: u64,
    /// Found closed without the word that TLS has for it.
    pub(super) found_truncated: u64,
    /// Found reset after a whole answer.
    pub(super) found_reset: u64,
    /// Found with bytes that nobody asked for.
    pub(super) found_unasked: u64,
}

/// A loss with its circumstances.
#[derive(Clone, Debug)]
pub(super) struct Example {
    pub(super) at: Duration,
    pub(super) fate: Fate,
    pub(super) client: usize,
    /// Its place among the requests of its connection, from 1.
    pub(super) ordinal: u64,
    pub(super) detail: String,
}

impl Example {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "at_ms": self.at.as_secs_f64() * 1000.0,
            "class": self.fate.name(),
            "client": self.client,
            "request_on_connection": self.ordinal,
            "detail": self.detail,
        })
    }
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Example { at, fate, client, ordinal, detail } = self;
        write!(
            f,
            "at {:.1} ms client {client}, request {ordinal} of its connection: {}: {detail}",
            at.as_secs_f64() * 1000.0,
            fate.name()
        )
    }
}

impl Ledger {
    pub(super) fn new(begun: Instant, recording: Option<Recording>) -> Ledger {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, LATENCY_DIGITS);
        Ledger {
            begun,
            tally: Tally::default(),
            latency: latency.expect("constant bounds are valid"),
            connections: Connections::default(),
            examples: Vec::new(),
            recording,
            alarm: None,
        }
    }

    /// Rings at each failure.
    pub(super) fn ringing(mut self, alarm: Arc<Alarm>) -> Ledger {
        self.alarm = Some(alarm);
        self
    }

    /// A connection begins (also one that is refused then).
    pub(super) fn open(&mut self, client: usize, opened: Instant) -> Option<Number> {
        self.recording.as_mut().map(|it| it.open(format!("client {client}"), opened))
    }

    /// A connection ends.
    pub(super) fn close(&mut self, connection: Option<Number>, end: ConnectionEnd) {
        if let (Some(recording), Some(number)) = (&mut self.recording, connection) {
            recording.close(number, end);
        }
    }

    pub(super) fn answered(&mut self, known: Known) {
        let now = Instant::now();
        let latency = now.saturating_duration_since(known.intended.unwrap_or(known.begun));
        self.tally.record(Fate::Answered);
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        self.record(&known, now);
    }

    fn record(&mut self, known: &Known, now: Instant) {
        let (Some(recording), Some(number)) = (&mut self.recording, known.connection) else {
            return;
        };
        let request = RequestTrace {
            intended: known.intended.map(|at| recording.at(at)),
            sent: recording.at(known.begun),
            first_byte: known.first_byte.map(|at| recording.at(at)),
            ended: recording.at(now),
            fate: known.fate,
            status: known.status,
            generation: None,
        };
        recording.request(number, request);
    }

    /// Counts a request that was not answered; `detail` is asked for only where it is kept.
    pub(super) fn failed(
        &mut self,
        known: Known,
        client: usize,
        ordinal: u64,
        detail: impl FnOnce() -> String,
    ) {
        let fate = known.fate;
        self.tally.record(fate);
        self.record(&known, Instant::now());
        if let Some(alarm) = self.alarm.as_ref().filter(|_| fate.is_failure()) {
            alarm.ring();
        }
        // A server that cannot be reached for this machine's own reasons must not look like one that refuses.
        let is_told = fate.kind() == Kind::Lost || fate == Fate::ConnectFailed;
        if is_told && self.examples.len() < EXAMPLES {
            let at = self.begun.elapsed();
            self.examples.push(Example { at, fate, client, ordinal, detail: detail() });
        }
    }

    pub(super) fn merge(&mut self, other: &Ledger) {
        self.tally.merge(&other.tally);
        self.latency.add(&other.latency).expect("both histograms have the same bounds");
        let (mine, theirs) = (&mut self.connections, other.connections);
        mine.opened += theirs.opened;
        mine.told_to_close += theirs.told_to_close;
        mine.found_closed += theirs.found_closed;
        mine.resumed += theirs.resumed;
        mine.found_truncated += theirs.found_truncated;
        mine.found_reset += theirs.found_reset;
        mine.found_unasked += theirs.found_unasked;
        self.examples.extend_from_slice(&other.examples);
        self.examples.sort_by_key(|example| example.at);
        self.examples.truncate(EXAMPLES);
        match (&mut self.recording, &other.recording) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
            (_, None) => {}
        }
    }
}
