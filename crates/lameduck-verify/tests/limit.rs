//! A case ends, whatever its target does, and the run goes on.

mod support;

use lameduck_verify::adapter::Adapter;
use lameduck_verify::run::{Silent, Suite};
use lameduck_verify::target::proc;
use lameduck_verify::verdict::{CaseResult, Verdict};
use std::time::Duration;

/// A server that stands still (SIGSTOP) when it is told to stop.
fn stands_still() -> Adapter {
    let server = support::example("trivial-server").display().to_string();
    let text = format!(
        r#"
            name = "still"
            command = ["{server}", "{{address}}"]
            [stop]
            command = ["kill", "-STOP", "{{pid}}"]
            deadline = "600s"
            [paths]
            fast = "/"
        "#
    );
    Adapter::parse("still.toml", &text).unwrap()
}

/// The process that the case started first, from its timeline.
fn process(result: &CaseResult) -> u32 {
    let marks = &result.trace.as_ref().unwrap().marks;
    marks.iter().find_map(|mark| mark.text.strip_prefix("started, pid ")?.parse().ok()).unwrap()
}

#[test]
fn a_case_whose_target_stands_still_ends_at_its_limit_and_the_next_one_runs() {
    let suite = Suite::new(stands_still()).case("SIG/1").case("ACC/6");
    let report = suite.case_limit(Duration::from_secs(1)).run(&mut Silent).unwrap();
    assert_eq!(report.results.len(), 2);
    for result in &report.results {
        assert_eq!(result.verdict, Verdict::Inconclusive, "{}", result.reason);
        assert!(result.reason.contains("1 s after its begin"), "{}", result.reason);
        assert!(!proc::is_alive(process(result)), "{}", result.id);
    }
}

#[test]
fn a_miss_is_told_with_a_hint_and_a_pass_without() {
    let server = support::example("axum-graceful").display().to_string();
    let mut adapter = Adapter::of_command(vec![server, "{address}".to_owned()]);
    adapter.paths.fast = "/b".to_owned();
    let report = Suite::new(adapter).case("SIG/1").case("SIG/11").run(&mut Silent).unwrap();
    let found: Vec<_> = report.results.iter().map(|it| (it.verdict, it.hint.is_some())).collect();
    assert_eq!(found, [(Verdict::Pass, false), (Verdict::Warn, true)]);
    let text = lameduck_verify::report::terminal::text(
        &report,
        lameduck_verify::report::terminal::Colour::None,
    );
    assert!(text.contains("hint: HUP has its default action"), "{text}");
}
