//! What a load saw, for people and for programs.

use super::ledger::{Connections, Example, Ledger};
use super::{Load, Mode};
use crate::fate::{Fate, Kind, Tally};
use crate::trace::{Recording, Trace};
use serde_json::{Map, Value, json};
use std::fmt;
use std::io;
use std::time::Duration;

/// What a load saw. `Display` is for people.
#[must_use]
pub struct Report {
    target: String,
    mode: Mode,
    clients: usize,
    tally: Tally,
    elapsed: Duration,
    latency: Latency,
    connections: Connections,
    examples: Vec<Example>,
    unwritten: Option<io::Error>,
    recording: Option<Recording>,
}

/// From the first byte written to the last byte of the answer, of answered requests, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Half of the answers were at least as quick.
    pub p50: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1000.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

impl Report {
    pub(super) fn new(
        load: &Load,
        sum: Ledger,
        elapsed: Duration,
        unwritten: Option<io::Error>,
    ) -> Report {
        let at = |quantile| sum.latency.value_at_quantile(quantile);
        Report {
            target: load.place.to_string(),
            mode: load.mode,
            clients: load.connections,
            latency: Latency {
                p50: at(0.5),
                p99: at(0.99),
                p999: at(0.999),
                max: sum.latency.max(),
            },
            tally: sum.tally,
            connections: sum.connections,
            examples: sum.examples,
            elapsed,
            unwritten,
            recording: sum.recording,
        }
    }

    /// Adds the connections of a [recorded](super::Load::recorded) load to a trace, as many as fit its bounds; of
    /// another load there is nothing to add.
    pub fn pour_into(&self, trace: &mut Trace) {
        if let Some(recording) = &self.recording {
            recording.clone().pour_into(trace);
        }
    }

    /// The count of each fate.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Everything that was sent and not answered in full with 2xx.
    pub fn lost(&self) -> u64 {
        self.tally.lost()
    }

    /// How many requests met this fate.
    pub fn count(&self, fate: Fate) -> u64 {
        self.tally.count(fate)
    }

    /// Latency of what was answered.
    pub fn latency(&self) -> Latency {
        self.latency
    }

    /// From the start of the clients to the end of the last.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Answers a second, over all of [`elapsed`](Report::elapsed).
    pub fn rate(&self) -> f64 {
        self.tally.answered() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Connections that were established.
    pub fn connections_opened(&self) -> u64 {
        self.connections.opened
    }

    /// Connections whose TLS session was resumed.
    pub fn resumed(&self) -> u64 {
        self.connections.resumed
    }

    /// Connections that the server closed without close_notify, as found before a reuse.
    pub fn truncated(&self) -> u64 {
        self.connections.found_truncated
    }

    /// Connections that the server said it would close.
    pub fn told_to_close(&self) -> u64 {
        self.connections.told_to_close
    }

    /// Why the file of acknowledged ids is incomplete, if it is.
    pub fn unwritten(&self) -> Option<&io::Error> {
        self.unwritten.as_ref()
    }

    /// One object: the tally's members, and target, mode, clients, elapsed, rate, latency, connections and
    /// the first losses.
    pub fn to_json(&self) -> Value {
        let mut json = match self.tally.to_json() {
            Value::Object(members) => members,
            other => Map::from_iter([("tally".to_owned(), other)]),
        };
        let Latency { p50, p99, p999, max } = self.latency;
        let Connections {
            opened,
            told_to_close,
            found_closed,
            resumed,
            found_truncated,
            found_reset,
            found_unasked,
        } = self.connections;
        let more = [
            ("target", json!(self.target)),
            ("mode", json!(self.mode.name())),
            ("clients", json!(self.clients)),
            ("elapsed_ms", json!(self.elapsed.as_secs_f64() * 1000.0)),
            ("rate", json!(self.rate())),
            ("latency_us", json!({"p50": p50, "p99": p99, "p999": p999, "max": max})),
            (
                "connections",
                json!({
                    "opened": opened,
                    "told_to_close": told_to_close,
                    "resumed": resumed,
                    "found_closed": found_closed,
                    "found_truncated": found_truncated,
                    "found_reset": found_reset,
                    "found_unasked": found_unasked,
                }),
            ),
            ("first_losses", self.examples.iter().map(Example::to_json).collect()),
        ];
        json.extend(more.map(|(name, value)| (name.to_owned(), value)));
        json.into()
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        writeln!(
            f,
            "{} of {} requests lost ({}, {} clients, {})",
            tally.lost(),
            tally.sent(),
            self.mode.name(),
            self.clients,
            self.target
        )?;
        for (fate, count) in tally.met(Kind::Lost) {
            writeln!(f, "  {count:>8} {}", fate.name())?;
        }
        for example in &self.examples {
            writeln!(f, "  {example}")?;
        }
        let Latency { p50, p99, p999, max } = self.latency;
        writeln!(f, "{:.0} answers/s over {:.2} s", self.rate(), self.elapsed.as_secs_f64())?;
        writeln!(f, "latency in us: p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")?;
        write!(
            f,
            "{} connections opened, {} told to close; {} attempts not sent",
            self.connections.opened,
            self.connections.told_to_close,
            tally.not_sent()
        )
    }
}
