//! Keeps what happened when, from every thread of a case.

use crate::fate::{Kind, Tally};
use crate::load;
use crate::probe::{End, Wire};
use crate::trace::{
    CONNECTIONS_KEPT, ConnectionEnd, ConnectionTrace, Mark, MarkKind, Micros, QueueSample,
    REQUESTS_KEPT, RequestTrace, SAMPLES_KEPT, Span, Trace,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The trace and the tally of one case. Clones share them.
#[derive(Clone, Debug)]
pub struct Recorder {
    begun: Instant,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    trace: Trace,
    tally: Tally,
    requests: usize,
}

impl Recorder {
    /// A trace that begins now.
    pub fn begin() -> Recorder {
        Recorder { begun: Instant::now(), kept: Arc::default() }
    }

    /// A moment, in the trace's time.
    pub fn at(&self, moment: Instant) -> Micros {
        u64::try_from(moment.saturating_duration_since(self.begun).as_micros()).unwrap_or(u64::MAX)
    }

    /// Marks this moment.
    pub fn mark(&self, kind: MarkKind, text: impl Into<String>) {
        self.mark_at(Instant::now(), kind, text);
    }

    /// Marks an earlier moment.
    pub fn mark_at(&self, moment: Instant, kind: MarkKind, text: impl Into<String>) {
        let mark = Mark { at: self.at(moment), kind, text: text.into() };
        self.kept().trace.marks.push(mark);
    }

    /// Names the time from `from` until now.
    pub fn span(&self, from: Instant, label: impl Into<String>) {
        let span = Span { from: self.at(from), to: self.at(Instant::now()), label: label.into() };
        self.kept().trace.spans.push(span);
    }

    /// How many waited in the listener's queue.
    pub fn queue(&self, waiting: u32, most: u32) {
        let sample = QueueSample { at: self.at(Instant::now()), waiting, most };
        let queue = &mut self.kept().trace.queue;
        if queue.len() < SAMPLES_KEPT {
            queue.push(sample);
        }
    }

    /// Keeps a connection, if there is room. One with a loss takes the room of one without.
    pub fn connection(&self, connection: ConnectionTrace) {
        self.kept().keep(connection);
    }

    /// Counts what a load did, and keeps its connections if it was recorded since [`begun`](Recorder::begun).
    pub fn load(&self, report: &load::Report) {
        self.count(report.tally());
        self.kept().pour(|trace| report.pour_into(trace));
    }

    /// As [`load`](Recorder::load), of an open loop.
    pub fn open_load(&self, report: &load::open::Report) {
        self.count(report.tally());
        self.kept().pour(|trace| report.pour_into(trace));
    }

    /// When the trace began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Counts fates.
    pub fn count(&self, tally: &Tally) {
        self.kept().tally.merge(tally);
    }

    /// Keeps a wire and counts its requests.
    pub fn wire(&self, label: &str, wire: &Wire) {
        let history = wire.history();
        let requests = history.iter().map(|exchange| RequestTrace {
            intended: None,
            sent: self.at(exchange.sent),
            first_byte: exchange.first_byte.map(|first| self.at(first)),
            ended: self.at(exchange.ended),
            fate: exchange.fate,
            status: exchange.status,
            generation: None,
        });
        let (end, closed) = match wire.end() {
            End::Open => (ConnectionEnd::ClosedByTester, Instant::now()),
            End::Eof => (ConnectionEnd::ClosedByServer, wire.ended().unwrap_or_else(Instant::now)),
            End::Reset => (ConnectionEnd::Reset, wire.ended().unwrap_or_else(Instant::now)),
        };
        let connection = ConnectionTrace {
            label: label.to_owned(),
            opened: self.at(wire.opened()),
            closed: Some(self.at(closed)),
            end,
            requests: requests.collect(),
        };
        self.count(&history.iter().map(|exchange| exchange.fate).collect());
        self.connection(connection);
    }

    /// What was recorded, with the time until now as its length.
    pub fn finish(&self) -> (Trace, Tally) {
        let kept = self.kept();
        let mut trace = kept.trace.clone();
        trace.length = self.at(Instant::now());
        trace.marks.sort_by_key(|mark| mark.at);
        trace.connections.sort_by_key(|connection| connection.opened);
        (trace, kept.tally.clone())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn pour(&mut self, pour: impl FnOnce(&mut Trace)) {
        pour(&mut self.trace);
        self.requests = self.trace.connections.iter().map(|it| it.requests.len()).sum();
    }

    fn keep(&mut self, mut connection: ConnectionTrace) {
        let room = REQUESTS_KEPT.saturating_sub(self.requests);
        if connection.requests.len() > room {
            // Losses first; what is left of the room goes to the latest, which are nearest to the action.
            let losses = connection.requests.iter().filter(|request| is_loss(request)).count();
            let mut answered = room.saturating_sub(losses);
            let before = connection.requests.len();
            let mut kept: Vec<RequestTrace> = Vec::new();
            for request in connection.requests.into_iter().rev() {
                if is_loss(&request) {
                    kept.push(request);
                } else if answered > 0 {
                    answered -= 1;
                    kept.push(request);
                }
            }
            kept.reverse();
            self.trace.requests_left_out += (before - kept.len()) as u64;
            connection.requests = kept;
        }
        if self.trace.connections.len() >= CONNECTIONS_KEPT {
            let has_loss = |it: &ConnectionTrace| it.requests.iter().any(is_loss);
            let replaced = self.trace.connections.iter().rposition(|it| !has_loss(it));
            self.trace.connections_left_out += 1;
            match replaced.filter(|_| has_loss(&connection)) {
                Some(place) => {
                    let old = self.trace.connections.swap_remove(place);
                    self.requests -= old.requests.len();
                    self.trace.requests_left_out += old.requests.len() as u64;
                }
                None => {
                    self.trace.requests_left_out += connection.requests.len() as u64;
                    return;
                }
            }
        }
        self.requests += connection.requests.len();
        self.trace.connections.push(connection);
    }
}

fn is_loss(request: &RequestTrace) -> bool {
    request.fate.kind() == Kind::Lost
}
