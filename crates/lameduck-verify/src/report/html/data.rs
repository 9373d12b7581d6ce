//! A trace as the script reads it: short, because a report may hold a hundred of them.

use crate::fate::{Fate, Kind};
use crate::trace::{ConnectionEnd, MarkKind, RequestTrace, Trace};
use crate::verdict::{CaseResult, SuiteReport, Verdict};
use serde_json::{Value, json};

/// So many requests are drawn in a whole report, about 20 bytes each.
const REQUESTS_IN_REPORT: usize = 150_000;

/// So many are drawn of a case that passed, when all together would be more.
const REQUESTS_OF_PASSED: usize = 2_000;

/// How many requests of each case are drawn.
pub(super) struct Budget {
    of_passed: usize,
}

impl Budget {
    pub(super) fn of(report: &SuiteReport) -> Budget {
        let traces = report.results.iter().filter_map(|result| result.trace.as_ref());
        let connections = traces.flat_map(|trace| &trace.connections);
        let requests: usize = connections.map(|connection| connection.requests.len()).sum();
        let is_much = requests > REQUESTS_IN_REPORT;
        Budget { of_passed: if is_much { REQUESTS_OF_PASSED } else { usize::MAX } }
    }

    pub(super) fn of_case(&self, result: &CaseResult) -> usize {
        if result.verdict == Verdict::Pass { self.of_passed } else { usize::MAX }
    }
}

/// The trace, in which at most about so many answered requests are kept, evenly.
///
/// A request is seven numbers: microseconds since the one before it on its connection was sent, to its first byte
/// (−1: none), to its end, the place of its fate, its status (0: none), the place of its generation (−1: none), and by
/// how much it was sent after it was due (−1: it was not due at a time).
pub(super) fn json(trace: &Trace, most: usize) -> String {
    let requests = trace.connections.iter().flat_map(|connection| &connection.requests);
    let answered = requests.clone().filter(|it| it.fate.kind() == Kind::Answered).count();
    let one_of = answered.div_ceil(most.max(1)).max(1);
    let mut generations: Vec<&str> = Vec::new();
    for name in requests.filter_map(|request| request.generation.as_deref()) {
        if !generations.contains(&name) {
            generations.push(name);
        }
    }
    let mut seen = 0;
    let mut connections = Vec::new();
    for connection in &trace.connections {
        let mut numbers: Vec<i64> = Vec::new();
        let mut before = connection.opened;
        for request in &connection.requests {
            if request.fate.kind() == Kind::Answered {
                seen += 1;
                if seen % one_of != 0 {
                    continue;
                }
            }
            numbers.extend(request_numbers(request, before, &generations));
            before = request.sent;
        }
        let closed = connection.closed.map_or(-1, signed);
        let end = end(connection.end);
        connections.push(json!([connection.label, connection.opened, closed, end, numbers]));
    }
    let value = json!({
        "length": trace.length,
        "spans": trace.spans.iter().map(|it| json!([it.from, it.to, it.label])).collect::<Value>(),
        "marks": trace.marks.iter().map(|it| json!([it.at, kind(it.kind), it.text])).collect::<Value>(),
        "queue": trace.queue.iter().map(|it| json!([it.at, it.waiting, it.most])).collect::<Value>(),
        "latency": trace
            .latency
            .iter()
            .map(|it| json!([it.from, it.to, it.answered, it.p50, it.p99, it.slowest]))
            .collect::<Value>(),
        "connections": connections,
        "generations": generations,
    });
    // Within a script element nothing but its end tag is looked for.
    value.to_string().replace('<', "\\u003c")
}

fn request_numbers(request: &RequestTrace, before: u64, generations: &[&str]) -> [i64; 7] {
    let since = |from: u64, to: u64| signed(to) - signed(from);
    let place = Fate::ALL.iter().position(|fate| *fate == request.fate).unwrap_or_default();
    let generation = request.generation.as_deref();
    let of = generation.and_then(|name| generations.iter().position(|known| *known == name));
    [
        since(before, request.sent),
        request.first_byte.map_or(-1, |at| since(request.sent, at)),
        since(request.sent, request.ended),
        place as i64,
        request.status.unwrap_or(0).into(),
        of.map_or(-1, |place| place as i64),
        request.intended.map_or(-1, |due| since(due, request.sent).max(0)),
    ]
}

fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

fn kind(kind: MarkKind) -> &'static str {
    match kind {
        MarkKind::Action => "action",
        MarkKind::Process => "process",
        MarkKind::Phase => "phase",
        MarkKind::Note => "note",
    }
}

fn end(end: ConnectionEnd) -> &'static str {
    match end {
        ConnectionEnd::Open => "open",
        ConnectionEnd::Refused => "refused",
        ConnectionEnd::ClosedByServer => "server",
        ConnectionEnd::Reset => "reset",
        ConnectionEnd::ClosedByTester => "tester",
    }
}
