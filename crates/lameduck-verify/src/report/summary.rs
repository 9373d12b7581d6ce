//! The counts of a run, and the one sentence that stands first in every report.

use crate::fate::{Fate, Kind, Tally};
use crate::trace::Trace;
use crate::verdict::{CaseResult, SuiteReport, Verdict};

/// How many cases ended how, and what became of their requests.
///
/// A case that ran several times counts once, with the worst of its verdicts.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    counts: [usize; Verdict::ALL.len()],
    runs: usize,
    sent: u64,
    lost: Tally,
    during: Vec<String>,
}

impl Summary {
    /// Of a whole run, or of some of its cases.
    pub fn of<'a>(results: impl IntoIterator<Item = &'a CaseResult>) -> Summary {
        let mut summary = Summary::default();
        let mut cases: Vec<(&str, Verdict)> = Vec::new();
        for result in results {
            summary.runs += 1;
            summary.sent += result.tally.sent();
            // What is lost in a case that passes was allowed to be: its criterion says so.
            if matches!(result.verdict, Verdict::Fail | Verdict::Warn) {
                summary.lost.merge(&result.tally);
                summary.note_places(result.trace.as_ref());
            }
            match cases.iter_mut().find(|(id, _)| *id == result.id) {
                Some((_, verdict)) => *verdict = worse(*verdict, result.verdict),
                None => cases.push((&result.id, result.verdict)),
            }
        }
        for (_, verdict) in cases {
            summary.counts[verdict as usize] += 1;
        }
        summary
    }

    /// So many cases ended this way.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.counts[verdict as usize]
    }

    /// Cases that were not skipped.
    pub fn judged(&self) -> usize {
        self.total() - self.count(Verdict::Skip)
    }

    /// All cases.
    pub fn total(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Runs of cases: more than cases when they were repeated.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// Requests that were sent in all cases together.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The fates of the requests of those cases that failed or warned.
    pub fn lost(&self) -> &Tally {
        &self.lost
    }

    /// The whole run in one sentence, as in `97 of 101 pass; 3 requests lost of 1.2 million: reset before the answer
    /// (stop)`.
    pub fn sentence(&self) -> String {
        let judged = self.judged();
        if judged == 0 {
            return match self.total() {
                0 => "No case was run".to_owned(),
                skipped => format!("No case could be run: {skipped} skipped"),
            };
        }
        let passed = self.count(Verdict::Pass);
        let mut sentence = match passed == judged {
            true if judged == 1 => "The one case passes".to_owned(),
            true => format!("All {judged} pass"),
            false => format!("{passed} of {judged} pass"),
        };
        for (verdict, one, many) in [
            (Verdict::Fail, "fails", "fail"),
            (Verdict::Warn, "warns", "warn"),
            (Verdict::Inconclusive, "is inconclusive", "are inconclusive"),
        ] {
            match self.count(verdict) {
                0 => {}
                1 => sentence.push_str(&format!(", 1 {one}")),
                count => sentence.push_str(&format!(", {count} {many}")),
            }
        }
        sentence.push_str(&self.losses());
        sentence
    }

    fn losses(&self) -> String {
        let lost = self.lost.lost();
        match (lost, self.sent) {
            (0, 0) => String::new(),
            (0, sent) => format!("; no request lost of {}", amount(sent)),
            (lost, sent) => {
                let noun = if lost == 1 { "request" } else { "requests" };
                let of = amount(sent);
                let mut met: Vec<(Fate, u64)> = self.lost.met(Kind::Lost).collect();
                met.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
                let words: Vec<&str> = met.iter().map(|(fate, _)| fate.words()).collect();
                let place = match self.during.as_slice() {
                    [] => String::new(),
                    places => format!(" ({})", places.join(", ")),
                };
                format!("; {} {noun} lost of {of}: {}{place}", amount(lost), list(&words))
            }
        }
    }

    /// Where in time the losses lie, by the names of the stretches.
    fn note_places(&mut self, trace: Option<&Trace>) {
        let Some(trace) = trace else { return };
        let requests = trace.connections.iter().flat_map(|connection| &connection.requests);
        let mut lost: Vec<_> = requests.filter(|it| it.fate.kind() == Kind::Lost).collect();
        lost.sort_by_key(|request| request.ended);
        for request in lost {
            let around =
                |span: &&crate::trace::Span| (span.from..=span.to).contains(&request.ended);
            // The innermost stretch says most.
            let inner = trace.spans.iter().filter(around).min_by_key(|span| span.to - span.from);
            if let Some(span) = inner
                && !self.during.contains(&span.label)
            {
                self.during.push(span.label.clone());
            }
        }
    }
}

impl From<&SuiteReport> for Summary {
    fn from(report: &SuiteReport) -> Summary {
        Summary::of(&report.results)
    }
}

/// The verdict of a case whose runs ended differently.
fn worse(one: Verdict, other: Verdict) -> Verdict {
    let rank = |verdict: Verdict| match verdict {
        Verdict::Fail => 4,
        Verdict::Inconclusive => 3,
        Verdict::Warn => 2,
        Verdict::Pass => 1,
        Verdict::Skip => 0,
    };
    if rank(other) > rank(one) { other } else { one }
}

/// `a`, `a and b`, `a, b and c`.
fn list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// 950, 12,345, 1.2 million: as many digits as a reader needs.
pub(crate) fn amount(count: u64) -> String {
    const MILLION: u64 = 1_000_000;
    if count >= MILLION {
        return format!("{:.1} million", count as f64 / MILLION as f64);
    }
    match (count / 1000, count % 1000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}

/// `12 ms`, `3.4 s`, `2 min 5 s`.
pub(crate) fn short(time: std::time::Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..0.9995 => format!("{:.0} ms", seconds * 1000.0),
        ..99.95 => format!("{seconds:.1} s"),
        _ => format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Level;
    use std::time::Duration;

    fn result(id: &str, verdict: Verdict, fates: &[(Fate, u64)]) -> CaseResult {
        let mut tally = Tally::default();
        for (fate, count) in fates {
            (0..*count).for_each(|_| tally.record(*fate));
        }
        CaseResult {
            id: id.to_owned(),
            group: "SIG".to_owned(),
            level: Level::Must,
            title: String::new(),
            verdict,
            reason: String::new(),
            hint: None,
            took: Duration::ZERO,
            tally,
            figures: Vec::new(),
            said: None,
            trace: None,
        }
    }

    fn sentence(results: &[CaseResult]) -> String {
        Summary::of(results).sentence()
    }

    #[test]
    fn the_sentence_says_what_passed_and_what_was_lost() {
        let answered = |count| [(Fate::Answered, count)];
        let pass = result("SIG/1", Verdict::Pass, &answered(1500));
        assert_eq!(sentence(&[]), "No case was run");
        assert_eq!(
            sentence(&[result("H3/1", Verdict::Skip, &[])]),
            "No case could be run: 1 skipped"
        );
        assert_eq!(
            sentence(std::slice::from_ref(&pass)),
            "The one case passes; no request lost of 1,500"
        );
        let fail = result(
            "ACC/1",
            Verdict::Fail,
            &[(Fate::Answered, 47), (Fate::Truncated, 1), (Fate::ResetBeforeResponse, 2)],
        );
        let warn = result("ACC/4", Verdict::Warn, &[]);
        let skip = result("H3/1", Verdict::Skip, &[]);
        assert_eq!(
            sentence(&[pass, fail, warn, skip]),
            "1 of 3 pass, 1 fails, 1 warns; 3 requests lost of 1,550: \
             reset before the answer and answer cut short"
        );
    }

    #[test]
    fn what_is_lost_in_a_case_that_passes_is_no_loss() {
        let allowed = result("SIG/3", Verdict::Pass, &[(Fate::Truncated, 1)]);
        assert_eq!(sentence(&[allowed]), "The one case passes; no request lost of 1");
    }

    #[test]
    fn a_repeated_case_counts_once_with_its_worst_verdict() {
        let runs = [Verdict::Pass, Verdict::Inconclusive, Verdict::Fail, Verdict::Pass]
            .map(|verdict| result("SIG/1", verdict, &[]));
        let summary = Summary::of(&runs);
        assert_eq!((summary.total(), summary.runs(), summary.count(Verdict::Fail)), (1, 4, 1));
    }

    #[test]
    fn amounts_and_times_are_short() {
        let amounts = [0, 999, 1_000, 999_999, 1_234_567].map(amount);
        assert_eq!(amounts, ["0", "999", "1,000", "999,999", "1.2 million"]);
        let times = [12, 999, 3_449, 125_000].map(|ms| short(Duration::from_millis(ms)));
        assert_eq!(times, ["12 ms", "999 ms", "3.4 s", "2 min 5 s"]);
    }
}
