//! The conformance suite finds each way to misbehave, with the cases that are meant for it and no others.
//!
//! Without a fault every case passes: the positive control. With a fault the cases named first fail, and those named
//! after them, which try something near, still pass.

use lameduck_verify::adapter::Adapter;
use lameduck_verify::run::{Silent, Suite};
use lameduck_verify::verdict::Verdict;

/// The server as an adapter. Its own port tells readiness where an upgrade is tried: the second port is no part of it.
fn adapter(fault: Option<&str>, case: &str) -> Adapter {
    let program = env!("CARGO_BIN_EXE_misbehave");
    let fault = fault.map_or(String::new(), |fault| format!(r#", "--fault", "{fault}""#));
    let admin = if case == "RDY/4" { "" } else { "admin = \"{admin_address}\"" };
    let text = include_str!("misbehave.toml");
    // Otherwise the suite itself would ask a server that is not warm yet.
    let text = match case {
        "RDY/5" => text.replace(r#"{ stdout = "listening on " }"#, r#"{ http = "/b" }"#),
        _ => text.to_owned(),
    };
    let text = text.replace("PROGRAM", program).replace("FAULT", &fault).replace("ADMIN", admin);
    Adapter::parse("misbehave.toml", &text).expect("the adapter is right")
}

/// What a case finds, and why.
fn verdict(fault: Option<&str>, case: &str) -> (Verdict, String) {
    let suite = Suite::new(adapter(fault, case)).case(case);
    let report = suite.run(&mut Silent).unwrap_or_else(|error| panic!("{case}: {error}"));
    let result = report.results.into_iter().next().expect("one case was run");
    (result.verdict, result.reason)
}

fn check(fault: &str, caught_by: &[&str], passes: &[&str]) {
    for case in caught_by {
        let (found, why) = verdict(Some(fault), case);
        assert!(
            matches!(found, Verdict::Fail | Verdict::Warn),
            "{fault}: {case} says {found:?}: {why}"
        );
    }
    for case in passes {
        let (found, why) = verdict(Some(fault), case);
        assert_eq!(found, Verdict::Pass, "{fault}: {case}: {why}");
    }
}

macro_rules! caught {
    ($($test:ident: $fault:literal by $caught:expr, passes $passes:expr;)*) => {
        $(#[test] fn $test() { check($fault, &$caught, &$passes); })*
    };
}

macro_rules! well {
    ($($test:ident: $cases:expr;)*) => {
        $(#[test] fn $test() {
            for case in $cases {
                let (found, why) = verdict(None, case);
                assert_eq!(found, Verdict::Pass, "without a fault: {case}: {why}");
            }
        })*
    };
}

well! {
    http1_passes: ["H1/1", "H1/2", "H1/3", "H1/4", "H1/5", "H1/6", "H1/7", "H1/8", "H1/9", "H1/10", "H1/11", "H1/12"];
    http2_passes: ["H2/1", "H2/2", "H2/3", "H2/4", "H2/5", "H2/6", "H2/7", "H2/8", "H2/9", "H2/10", "H2/11", "H2/12"];
    sockets_and_events_pass: ["WS/1", "WS/2", "WS/3", "WS/4", "SSE/1"];
    tls_passes: ["TLS/1", "TLS/2", "TLS/3"];
    readiness_passes: ["RDY/1", "RDY/2", "RDY/3", "RDY/4", "RDY/5", "RDY/6"];
    what_remains_passes: ["DRN/1", "DRN/2", "DRN/3", "DRN/4", "DRN/5", "DRN/6"];
}

caught! {
    ignore_stop: "ignore-stop" by ["SIG/1"], passes [];
    exit_late: "exit-late" by ["SIG/1"], passes ["H1/1"];
    drop_queue: "drop-queue" by ["ACC/1"], passes ["H1/1", "H1/3"];
    cut_in_flight: "cut-in-flight" by ["H1/1", "H2/4", "H2/10"], passes ["H1/3"];
    no_connection_close: "no-connection-close" by ["H1/2"], passes ["H1/1"];
    reset_idle: "reset-idle" by ["H1/3"], passes ["H1/1"];
    idle_holds: "idle-holds" by ["H1/3"], passes ["H1/1"];
    run_unanswered: "run-unanswered" by ["H1/4", "H1/7"], passes ["H1/3"];
    cut_upload: "cut-upload" by ["H1/5"], passes ["H1/1"];
    close_unread: "close-unread" by ["H1/6"], passes ["H1/5"];
    run_pipelined: "run-pipelined" by ["H1/7"], passes ["H1/4"];
    reset_pipelined: "reset-pipelined" by ["H1/7"], passes ["H1/4"];
    end_stream_early: "end-stream-early" by ["H1/8"], passes ["H1/10"];
    no_continue: "no-continue" by ["H1/9"], passes ["H1/5"];
    cut_slow_reader: "cut-slow-reader" by ["H1/10"], passes ["H1/8"];
    half_head: "half-head" by ["H1/11"], passes ["H1/1"];
    http10_open: "http10-open" by ["H1/12"], passes ["H1/1"];
    no_go_away: "no-go-away" by ["H2/1", "H2/2"], passes ["H2/4"];
    one_go_away: "one-go-away" by ["H2/2"], passes ["H2/1", "H2/3", "H2/4"];
    growing_go_away: "growing-go-away" by ["H2/3"], passes ["H2/1"];
    mute_new_streams: "mute-new-streams" by ["H2/5"], passes ["H2/4"];
    run_excluded: "run-excluded" by ["H2/6"], passes ["H2/5"];
    linger_http2: "linger-http2" by ["H2/7"], passes ["H2/1"];
    silent_holds: "silent-holds" by ["H2/8"], passes ["H2/4"];
    no_deadline: "no-deadline" by ["H2/9"], passes ["H2/4"];
    bare_grpc: "bare-grpc" by ["H2/11"], passes ["H2/4"];
    reset_http2: "reset-http2" by ["H2/12"], passes ["H2/4"];
    no_close_frame: "no-close-frame" by ["WS/1"], passes ["WS/2"];
    websocket_holds: "websocket-holds" by ["WS/2"], passes ["WS/4"];
    no_spread: "no-spread" by ["WS/3"], passes ["WS/1"];
    cut_at_upgrade: "cut-at-upgrade" by ["WS/4"], passes ["WS/1"];
    cut_event: "cut-event" by ["SSE/1"], passes ["H1/8"];
    handshake_holds: "handshake-holds" by ["TLS/1"], passes ["TLS/3"];
    no_resumption: "no-resumption" by ["TLS/2"], passes ["TLS/3"];
    no_close_notify: "no-close-notify" by ["TLS/3"], passes ["TLS/1"];
    ready_while_draining: "ready-while-draining" by ["RDY/1", "RDY/6"], passes ["RDY/2"];
    no_lame_duck: "no-lame-duck" by ["RDY/2", "RDY/6"], passes ["RDY/3"];
    dead_while_draining: "dead-while-draining" by ["RDY/3"], passes ["RDY/1"];
    ready_too_early: "ready-too-early" by ["RDY/5"], passes [];
    red_at_upgrade: "red-at-upgrade" by ["RDY/4"], passes ["RDY/1"];
    cut_half_head: "cut-half-head" by ["DRN/1"], passes ["H1/1"];
    silent_drain: "silent-drain" by ["DRN/2"], passes ["DRN/4"];
    leave_child: "leave-child" by ["DRN/3"], passes ["DRN/4"];
    last_line_lost: "last-line-lost" by ["DRN/4"], passes ["DRN/2"];
    hanging_hook: "hanging-hook" by ["DRN/5"], passes ["DRN/4"];
    hold_long_polls: "hold-long-polls" by ["DRN/6"], passes ["H1/1"];
}
