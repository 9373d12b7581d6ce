//! Latency before, during and after what the tester did, from the requests that were kept.

use crate::fate::Kind;
use crate::trace::{MarkKind, Micros, RequestTrace, Trace};
use maud::{Markup, html};

/// Fewer answers than this have no percentile worth a word.
const FEWEST: usize = 20;

pub(super) fn table(trace: &Trace) -> Markup {
    let parts = parts(trace);
    let is_worth = parts.iter().map(|part| part.latencies.len()).sum::<usize>() >= FEWEST;
    let from_due = requests(trace).any(|request| request.intended.is_some());
    html! {
        @if is_worth {
            table.latency {
                caption {
                    "Latency of answered requests, "
                    @if from_due { "from the time each was due" } @else { "from the first byte sent" }
                }
                thead { tr { th { "" } th { "drawn" } th { "p50" } th { "p99" } th { "p99.9" } th { "slowest" } } }
                tbody {
                    @for part in &parts {
                        tr {
                            th scope="row" { (part.name) }
                            td.number { (part.latencies.len()) }
                            @for quantile in [0.5, 0.99, 0.999, 1.0] {
                                td.number { (part.quantile(quantile)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

struct Part {
    name: &'static str,
    /// Sorted.
    latencies: Vec<Micros>,
}

impl Part {
    fn quantile(&self, quantile: f64) -> String {
        let last = self.latencies.len().saturating_sub(1);
        let place = (last as f64 * quantile).round() as usize;
        match self.latencies.get(place) {
            None => "–".to_owned(),
            Some(micros) if *micros >= 10_000 => format!("{:.0} ms", *micros as f64 / 1e3),
            Some(micros) => format!("{:.2} ms", *micros as f64 / 1e3),
        }
    }
}

/// Before the first action; from there to the last thing that happened; after that. A request belongs to where it ended.
fn parts(trace: &Trace) -> Vec<Part> {
    let of = |kind: fn(MarkKind) -> bool| trace.marks.iter().filter(move |mark| kind(mark.kind));
    let first = of(|kind| kind == MarkKind::Action).map(|mark| mark.at).min();
    let last = of(|kind| kind != MarkKind::Note).map(|mark| mark.at).max();
    let (first, last) = match (first, last) {
        (Some(first), Some(last)) => (first, last.max(first)),
        _ => return vec![part("all", trace, |_| true)],
    };
    vec![
        part("before", trace, |ended| ended < first),
        part("during", trace, |ended| (first..=last).contains(&ended)),
        part("after", trace, |ended| ended > last),
    ]
}

fn part(name: &'static str, trace: &Trace, holds: impl Fn(Micros) -> bool) -> Part {
    let is_in = |it: &&RequestTrace| it.fate.kind() == Kind::Answered && holds(it.ended);
    let latency = |it: &RequestTrace| it.ended.saturating_sub(it.intended.unwrap_or(it.sent));
    let mut latencies: Vec<Micros> = requests(trace).filter(is_in).map(latency).collect();
    latencies.sort_unstable();
    Part { name, latencies }
}

fn requests(trace: &Trace) -> impl Iterator<Item = &RequestTrace> {
    trace.connections.iter().flat_map(|connection| &connection.requests)
}
