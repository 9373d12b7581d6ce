//! What the clients of one thread have seen.

use super::EXAMPLES;
use crate::fate::{Fate, Kind, Tally};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fmt;
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
}

/// What became of connections, beside the requests on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) opened: u64,
    /// Closed after an answer that announced it (HTTP/2: after a GOAWAY).
    pub(super) told_to_close: u64,
    /// Found closed, in order, when the client looked before its next request.
    pub(super) found_closed: u64,
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
    pub(super) fn new(begun: Instant) -> Ledger {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, LATENCY_DIGITS);
        Ledger {
            begun,
            tally: Tally::default(),
            latency: latency.expect("constant bounds are valid"),
            connections: Connections::default(),
            examples: Vec::new(),
        }
    }

    pub(super) fn answered(&mut self, latency: Duration) {
        self.tally.record(Fate::Answered);
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts a request that was not answered; `detail` is asked for only where it is kept.
    pub(super) fn failed(
        &mut self,
        fate: Fate,
        client: usize,
        ordinal: u64,
        detail: impl FnOnce() -> String,
    ) {
        self.tally.record(fate);
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
        mine.found_reset += theirs.found_reset;
        mine.found_unasked += theirs.found_unasked;
        self.examples.extend_from_slice(&other.examples);
        self.examples.sort_by_key(|example| example.at);
        self.examples.truncate(EXAMPLES);
    }
}
