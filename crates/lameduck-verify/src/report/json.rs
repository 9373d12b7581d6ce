//! A run as one JSON object.
//!
//! | member | what it is |
//! |---|---|
//! | `schema` | the version of this form, [`SCHEMA`]; members may be added without a new one |
//! | `sentence` | the run in one sentence |
//! | `counts` | cases by verdict: `PASS`, `WARN`, `FAIL`, `SKIP`, `INCONCLUSIVE` |
//! | `subject` | `name`, `command`, `version` (or `null`) of what was tested |
//! | `environment` | `kernel`, `processors`, `tcp_migrate_req` (or `null`), `tester`, `seed`, `began` (seconds since 1970) |
//! | `took` | seconds |
//! | `results` | one object for each run of a case, in their order |
//!
//! A result has `id`, `group`, `level` (`MUST`, `SHOULD`), `title`, `verdict`, `reason`, `hint` (or `null`), `took` in
//! seconds, `tally` (`sent`, `answered`, `not_sent`, `not_sent_why`, `lost`, `lost_total`; the classes by their names),
//! `figures` (`name`, `value`, `unit`), `said` (the target's last words, or `null`) and, where it was asked for, `trace`:
//! every connection and request with times in microseconds.

use super::summary::Summary;
use crate::verdict::{SuiteReport, Verdict};
use serde_json::{Map, Value, json};

/// The version of the form. A reader should refuse one it does not know.
pub const SCHEMA: &str = "lameduck-verify/1";

/// Whether the traces are wanted: they are most of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traces {
    /// Verdicts and counts alone.
    Left,
    /// Every connection and request that was kept.
    Kept,
}

/// The run as one line.
pub fn text(report: &SuiteReport, traces: Traces) -> String {
    value(report, traces).to_string()
}

/// The run as a value.
pub fn value(report: &SuiteReport, traces: Traces) -> Value {
    let summary = Summary::from(report);
    let counts = Verdict::ALL.map(|it| (it.word().to_owned(), json!(summary.count(it))));
    let results = report.results.iter().map(|result| {
        // Nothing in a result can fail to be written: its keys are text and its numbers finite or null.
        let mut value = serde_json::to_value(result).unwrap_or_default();
        if let (Traces::Left, Value::Object(members)) = (traces, &mut value) {
            members.remove("trace");
        }
        value
    });
    json!({
        "schema": SCHEMA,
        "sentence": summary.sentence(),
        "counts": Map::from_iter(counts),
        "subject": report.subject,
        "environment": report.environment,
        "took": report.took.as_secs_f64(),
        "results": results.collect::<Vec<Value>>(),
    })
}
