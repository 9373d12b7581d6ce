//! The suite as a team uses it in its own tests.

mod support;

use lameduck_verify::check;
use lameduck_verify::verdict::Verdict;
use std::panic::catch_unwind;

fn axum() -> String {
    format!("{} {{address}}", support::example("axum-graceful").display())
}

fn failure(body: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = catch_unwind(body).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[test]
fn a_server_that_meets_a_case_passes_and_its_report_is_given() {
    let report = check(&axum()).path("/b").case("SIG/1").assert();
    assert_eq!(report.results.len(), 1);
    assert_eq!(report.results[0].verdict, Verdict::Pass);
}

#[test]
fn a_failure_says_what_was_seen_case_by_case() {
    // This one has no handler for the signal: it dies of it.
    let server = support::example("trivial-server").display().to_string() + " {address}";
    let text = failure(move || {
        check(&server).case("SIG/1").assert();
    });
    println!("{text}");
    assert!(text.contains("0 of 1 pass, 1 fails"), "{text}");
    assert!(text.contains("FAIL SIG/1"), "{text}");
    assert!(text.lines().skip(1).all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn what_could_not_be_tested_is_named() {
    let text = failure(|| {
        check("/nowhere/server {port}").case("SIG/1").assert();
    });
    assert!(text.contains("was not tested"), "{text}");
    assert!(text.contains("/nowhere/server"), "{text}");
    let text = failure(|| {
        check("/nowhere/server {port}").case("SIG/99").assert();
    });
    assert!(text.contains("no case is called SIG/99"), "{text}");
}
