//! The report for machines has each field that the documents name, and says what happened.

use std::collections::BTreeSet;

use lameduck_verify::probe::http1::pipelined;
use lameduck_verify::target::Signal;
use serde_json::Value;

use crate::service::{Service, WITH_ADMIN};

/// Every member of the report, as `Report` documents them.
const MEMBERS: [&str; 17] = [
    "accept_errors",
    "cause",
    "cut",
    "cut_work",
    "event",
    "exit_code",
    "finished",
    "ms",
    "outcome",
    "panics",
    "phases",
    "pid",
    "resources",
    "runtime_blocked_ms",
    "tally",
    "time",
    "unfit",
];

fn start(slow: &str, grace: &str) -> Service {
    let flags = ["--log", "json", "--slow", slow, "--grace", grace];
    Service::start(&[&WITH_ADMIN[..], &flags].concat())
}

#[track_caller]
fn is_whole(report: &Value) {
    let members: BTreeSet<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, BTreeSet::from(MEMBERS), "{report:#}");
    for kind in ["requests", "connections", "tasks", "blocking"] {
        assert!(report["finished"][kind].is_u64() && report["cut"][kind].is_u64(), "{report:#}");
    }
    let names = |list: &str| -> Vec<String> {
        let items = report[list].as_array().unwrap().iter();
        items
            .map(|item| {
                assert!(item["ms"].is_number(), "{report:#}");
                item["name"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    assert_eq!(names("resources"), ["database", "counter", "orders", "jobs"]);
    assert_eq!(names("phases").last().map(String::as_str), Some("closing"));
    let phases: f64 = report["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|phase| phase["ms"].as_f64().unwrap())
        .sum();
    assert!(phases <= report["ms"].as_f64().unwrap() + 1.0, "{report:#}");
}

#[test]
fn the_report_of_a_clean_stop_is_whole() {
    let mut service = start("200ms", "9s");
    let _slow = pipelined(&service.place("/a"), 1).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    service.ends_clean();
    let report = service.report();
    is_whole(&report);
    assert_eq!(report["outcome"], "finished");
    assert_eq!((&report["exit_code"], &report["cause"]), (&0.into(), &"SIGTERM".into()));
    assert_eq!(
        (&report["finished"]["requests"], &report["cut"]["requests"]),
        (&1.into(), &0.into())
    );
    assert_eq!(report["cut_work"], Value::Array(Vec::new()));
    assert!(report["runtime_blocked_ms"].is_null());
}

#[test]
fn the_report_of_a_deadline_is_whole() {
    let mut service = start("1h", "500ms");
    let _slow = pipelined(&service.place("/a"), 1).unwrap();
    service.wait_live(1, 1);
    assert_eq!(service.stop().code, Some(3));
    let report = service.report();
    is_whole(&report);
    assert_eq!(report["outcome"], "deadline exceeded");
    assert_eq!(report["exit_code"], 3);
    assert_eq!((&report["cut"]["requests"], &report["cut"]["connections"]), (&1.into(), &1.into()));
    let cut = &report["cut_work"][0];
    assert_eq!((&cut["kind"], &cut["name"]), (&"request".into(), &"GET /a".into()));
    assert!(cut["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[test]
fn the_report_of_a_force_is_whole() {
    let mut service = start("1h", "9s");
    let _slow = pipelined(&service.place("/a"), 1).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::INT);
    service.wait_status(|status| status["phase"] == "finish");
    service.signal(Signal::TERM);
    assert_eq!(service.wait().code, Some(143));
    let report = service.report();
    is_whole(&report);
    assert_eq!((&report["outcome"], &report["exit_code"]), (&"forced".into(), &143.into()));
    assert_eq!(report["cause"], "SIGINT");
}
