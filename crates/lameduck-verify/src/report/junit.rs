//! A run as JUnit XML, which build servers show: a suite for each group, a case for each run of a case.
//!
//! `FAIL` is a failure, `INCONCLUSIVE` an error, `SKIP` skipped; `WARN` passes, with the warning in its output.

use super::summary::Summary;
use crate::verdict::{CaseResult, SuiteReport, Verdict};
use std::fmt::Write;

/// The whole document.
pub fn text(report: &SuiteReport) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all: Vec<&CaseResult> = report.results.iter().collect();
    let _ = writeln!(
        xml,
        "<testsuites name=\"{}\" {} time=\"{:.3}\">",
        escaped(&format!("lameduck verify: {}", report.subject.name)),
        counts(&all),
        report.took.as_secs_f64()
    );
    for group in groups(report) {
        suite(&mut xml, report, group);
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// The groups in the order of their first case.
fn groups(report: &SuiteReport) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for result in &report.results {
        if !groups.contains(&result.group.as_str()) {
            groups.push(&result.group);
        }
    }
    groups
}

// Writing to a string does not fail, here and below.
fn suite(xml: &mut String, report: &SuiteReport, group: &str) {
    let results: Vec<&CaseResult> =
        report.results.iter().filter(|result| result.group == group).collect();
    let time: f64 = results.iter().map(|result| result.took.as_secs_f64()).sum();
    let _ = writeln!(
        xml,
        "  <testsuite name=\"{}\" {} time=\"{time:.3}\">",
        escaped(group),
        counts(&results)
    );
    let _ = writeln!(xml, "    <properties>");
    for (name, value) in [
        ("command", report.subject.command.as_str()),
        ("version", report.subject.version.as_deref().unwrap_or("unknown")),
        ("kernel", &report.environment.kernel),
        ("tester", &report.environment.tester),
        ("seed", &report.environment.seed.to_string()),
    ] {
        let value = escaped(value);
        let _ = writeln!(xml, "      <property name=\"{name}\" value=\"{value}\"/>");
    }
    let _ = writeln!(xml, "    </properties>");
    results.into_iter().for_each(|result| case(xml, result));
    let _ = writeln!(xml, "  </testsuite>");
}

fn counts(results: &[&CaseResult]) -> String {
    let count = |verdict| results.iter().filter(|result| result.verdict == verdict).count();
    format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\"",
        results.len(),
        count(Verdict::Fail),
        count(Verdict::Inconclusive),
        count(Verdict::Skip)
    )
}

fn case(xml: &mut String, result: &CaseResult) {
    let _ = write!(
        xml,
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">",
        escaped(&format!("lameduck.{}", result.group)),
        escaped(&format!("{} {}", result.id, result.title)),
        result.took.as_secs_f64()
    );
    let reason = escaped(&result.reason);
    let more = escaped(&details(result));
    match result.verdict {
        Verdict::Pass => {}
        Verdict::Fail => {
            let kind = result.level.word();
            let _ = write!(xml, "\n      <failure type=\"{kind}\" message=\"{reason}\">{more}");
            let _ = writeln!(xml, "</failure>");
        }
        Verdict::Inconclusive => {
            let _ = write!(xml, "\n      <error type=\"INCONCLUSIVE\" message=\"{reason}\">");
            let _ = writeln!(xml, "{more}</error>");
        }
        Verdict::Skip => {
            let _ = writeln!(xml, "\n      <skipped message=\"{reason}\"/>");
        }
        Verdict::Warn => {
            let _ = writeln!(xml, "\n      <system-out>WARN: {reason}\n{more}</system-out>");
        }
    }
    if matches!(result.verdict, Verdict::Fail | Verdict::Inconclusive)
        && let Some(said) = &result.said
    {
        let _ = writeln!(xml, "      <system-err>{}</system-err>", escaped(said));
    }
    let indent = if result.verdict == Verdict::Pass { "" } else { "    " };
    let _ = writeln!(xml, "{indent}</testcase>");
}

/// What a reader of a failure wants beside its reason.
fn details(result: &CaseResult) -> String {
    let mut lines = Vec::from_iter(result.hint.clone());
    if result.tally.sent() > 0 {
        lines.push(Summary::of([result]).sentence());
    }
    for figure in &result.figures {
        lines.push(format!("{}: {} {}", figure.name, figure.value, figure.unit));
    }
    lines.join("\n")
}

/// Text as XML wants it, in attributes and between tags. Characters that no XML may hold become `�`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(character),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(character),
        }
    }
    out
}
