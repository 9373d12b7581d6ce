//! The conformance suite finds each way to misbehave, with the cases that are meant for it and no others.
//!
//! Without a fault every case passes: the positive control. With a fault the cases meant for it fail, and some near them
//! still pass. Whether all others do is tried by the example `matrix`, which takes too long for a test.

#[macro_use]
mod meant;

use lameduck_verify::verdict::Verdict;
use programs::misbehave::Fault;
use std::path::Path;

const PROGRAM: &str = env!("CARGO_BIN_EXE_misbehave");

/// A fault that many cases find (a stop that is not heard) is tried with so many of them. The others may find it as well:
/// those that meet it only at the right moment come last in their row.
const TRIED: usize = 3;

fn check(fault: &str, fails: &[&str], near: &[&str]) {
    let tried = fails.iter().take(TRIED);
    for case in tried.map(|case| if *case == "*" { "SIG/1" } else { case }) {
        let (found, why) = meant::verdict(Path::new(PROGRAM), Some(fault), case);
        assert!(
            matches!(found, Verdict::Fail | Verdict::Warn),
            "{fault}: {case} says {found:?}: {why}"
        );
    }
    for case in near {
        let (found, why) = meant::verdict(Path::new(PROGRAM), Some(fault), case);
        assert_eq!(found, Verdict::Pass, "{fault}: {case}: {why}");
    }
}

macro_rules! caught {
    ($($test:ident: $fault:literal fails $fails:expr, near $near:expr;)*) => {
        const ROWS: &[&str] = &[$($fault),*];
        $(#[test] fn $test() { check($fault, &$fails, &$near); })*
    };
}

rows!(caught);

#[test]
fn each_fault_has_its_row() {
    let mut faults: Vec<&str> = Fault::ALL.iter().map(|(name, _)| *name).collect();
    let mut rows = ROWS.to_vec();
    faults.sort_unstable();
    rows.sort_unstable();
    assert_eq!(rows, faults);
}

macro_rules! well {
    ($($test:ident: $cases:expr;)*) => {
        $(#[test] fn $test() {
            for case in $cases {
                let (found, why) = meant::verdict(Path::new(PROGRAM), None, case);
                assert_eq!(found, Verdict::Pass, "without a fault: {case}: {why}");
            }
        })*
    };
}

/// The old version gives the upgrade up while the case asks who answers: killed then, it has no successor, and that is
/// nobody's mistake.
#[test]
fn an_upgrade_that_is_given_up_in_the_middle_is_not_held_against_the_server() {
    let mut adapter = meant::adapter(Path::new(PROGRAM), None, "UPG/7");
    let asked = adapter.identity.as_mut().expect("it tells its identity");
    asked.path = Some("/a?ms=40".to_owned());
    let command = adapter.command.as_mut().expect("it is started by a command");
    command.0.extend(["--ready-limit".to_owned(), "160".to_owned()]);
    let (found, why) = meant::verdict_of(adapter, "UPG/7");
    assert_eq!(found, Verdict::Inconclusive, "{why}");
}

well! {
    signals_pass: ["SIG/1", "SIG/2", "SIG/3", "SIG/4", "SIG/5", "SIG/6", "SIG/7", "SIG/9", "SIG/10", "SIG/11", "SIG/12", "SIG/13"];
    listeners_pass: ["ACC/1", "ACC/2", "ACC/3", "ACC/4", "ACC/5", "ACC/6", "ACC/7"];
    http1_passes: ["H1/1", "H1/2", "H1/3", "H1/4", "H1/5", "H1/6", "H1/7", "H1/8", "H1/9", "H1/10", "H1/11", "H1/12"];
    http2_passes: ["H2/1", "H2/2", "H2/3", "H2/4", "H2/5", "H2/6", "H2/7", "H2/8", "H2/9", "H2/10", "H2/11", "H2/12"];
    sockets_and_events_pass: ["WS/1", "WS/2", "WS/3", "WS/4", "SSE/1"];
    tls_passes: ["TLS/1", "TLS/2", "TLS/3"];
    readiness_passes: ["RDY/1", "RDY/2", "RDY/3", "RDY/4", "RDY/5", "RDY/6"];
    what_remains_passes: ["DRN/1", "DRN/2", "DRN/3", "DRN/4", "DRN/5", "DRN/6"];
    upgrades_pass: ["UPG/3", "UPG/4", "UPG/5", "UPG/7", "UPG/8", "UPG/9", "UPG/11", "UPG/13", "UPG/14"];
    what_upgrades_hand_over_passes: ["UPG/15", "UPG/16", "UPG/17", "UPG/18", "UPG/21", "UPG/22", "UPG/25", "UPG/28", "UPG/29", "UPG/31"];
    supervisors_pass: ["UPG/26", "UPG/27"];
}
