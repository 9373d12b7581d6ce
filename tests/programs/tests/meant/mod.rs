//! Which cases are meant for which fault of the server that misbehaves, and how one case is tried on it.

use lameduck_verify::adapter::Adapter;
use lameduck_verify::cases;
use lameduck_verify::run::{Silent, Suite};
use lameduck_verify::verdict::Verdict;
use std::path::Path;

/// Each fault: its name, the cases that find it and no others, and cases near them that are tried beside them.
macro_rules! rows {
    ($with:ident) => {
        $with! {
            ignore_stop: "ignore-stop" fails ["SIG/1", "SIG/2", "SIG/7", "H1/3", "H2/1", "TLS/1", "ACC/2", "ACC/3", "ACC/4", "ACC/5", "ACC/7", "DRN/1", "DRN/2", "DRN/5", "DRN/6", "H1/2", "H2/2", "H2/4", "H2/7", "H2/8", "H2/9", "H2/11", "H2/12", "RDY/6", "SIG/3", "SIG/4", "SIG/5", "SIG/6", "SIG/9", "SIG/10", "SIG/13", "SSE/1", "UPG/28", "WS/1", "WS/2", "WS/3"], near [];
            ignore_second_stop: "ignore-second-stop" fails ["SIG/5", "SIG/6"], near ["SIG/1"];
            no_deadline: "no-deadline" fails ["SIG/3", "H2/9", "SIG/4", "H2/12", "DRN/1"], near ["SIG/1"];
            exit_zero_after_cut: "exit-zero-after-cut" fails ["SIG/4"], near ["SIG/3"];
            exit_late: "exit-late" fails ["SIG/1", "SIG/2", "SIG/7", "ACC/4", "H2/7", "H2/8", "H2/9", "SIG/3", "SIG/9", "UPG/30", "WS/2"], near ["H1/1"];
            never_ready: "never-ready" fails ["*"], near [];
            die_in_drain: "die-in-drain" fails ["SIG/2", "H1/1", "H2/4", "DRN/1", "DRN/2", "H1/5", "H1/7", "H1/8", "H1/9", "H1/10", "H1/12", "H2/2", "SIG/4", "SIG/10", "UPG/9"], near ["SIG/1", "H1/3"];
            die_of_repeats: "die-of-repeats" fails ["SIG/6"], near ["SIG/5"];
            late_handler: "late-handler" fails ["SIG/12"], near ["SIG/1"];
            die_of_broken_pipe: "die-of-broken-pipe" fails ["SIG/10"], near ["SIG/2"];
            hang_listener: "hang-listener" fails ["ACC/5", "ACC/7"], near ["ACC/6"];
            drop_queue: "drop-queue" fails ["ACC/1", "ACC/2", "DRN/1", "ACC/7"], near ["H1/1", "H1/3"];
            cut_in_flight: "cut-in-flight" fails ["H1/1", "H2/4", "SIG/2", "SIG/4", "SIG/10", "H1/7", "H1/8", "H1/12", "H2/1", "H2/2", "H2/11", "H2/12", "DRN/1", "H2/10"], near ["H1/3"];
            no_connection_close: "no-connection-close" fails ["H1/2", "ACC/3", "SIG/2"], near ["H1/1"];
            reset_idle: "reset-idle" fails ["H1/3", "H1/10", "DRN/1", "TLS/3", "UPG/2"], near ["H1/1"];
            idle_holds: "idle-holds" fails ["H1/3"], near ["H1/1"];
            run_unanswered: "run-unanswered" fails ["H1/4", "H1/7", "UPG/2"], near ["H1/3"];
            cut_upload: "cut-upload" fails ["H1/5"], near ["H1/1"];
            close_unread: "close-unread" fails ["H1/6"], near ["H1/5"];
            run_pipelined: "run-pipelined" fails ["H1/7"], near ["H1/4"];
            reset_pipelined: "reset-pipelined" fails ["H1/7"], near ["H1/4"];
            end_stream_early: "end-stream-early" fails ["H1/8"], near ["H1/10"];
            no_continue: "no-continue" fails ["H1/9"], near ["H1/5"];
            cut_slow_reader: "cut-slow-reader" fails ["H1/10"], near ["H1/8"];
            half_head: "half-head" fails ["H1/11"], near ["H1/1"];
            http10_open: "http10-open" fails ["H1/12"], near ["H1/1"];
            no_go_away: "no-go-away" fails ["H2/1", "H2/2"], near ["H2/4"];
            one_go_away: "one-go-away" fails ["H2/2"], near ["H2/1", "H2/3", "H2/4"];
            growing_go_away: "growing-go-away" fails ["H2/3"], near ["H2/1"];
            mute_new_streams: "mute-new-streams" fails ["H2/5"], near ["H2/4"];
            run_excluded: "run-excluded" fails ["H2/6"], near ["H2/5"];
            linger_http2: "linger-http2" fails ["H2/7"], near ["H2/1"];
            silent_holds: "silent-holds" fails ["H2/8", "ACC/4"], near ["H2/4"];
            bare_grpc: "bare-grpc" fails ["H2/11"], near ["H2/4"];
            reset_http2: "reset-http2" fails ["H2/12"], near ["H2/4"];
            no_close_frame: "no-close-frame" fails ["WS/1"], near ["WS/2"];
            websocket_holds: "websocket-holds" fails ["WS/2"], near ["WS/4"];
            no_spread: "no-spread" fails ["WS/3"], near ["WS/1"];
            cut_at_upgrade: "cut-at-upgrade" fails ["WS/4"], near ["WS/1"];
            cut_event: "cut-event" fails ["SSE/1"], near ["H1/8"];
            handshake_holds: "handshake-holds" fails ["TLS/1"], near ["TLS/3"];
            no_resumption: "no-resumption" fails ["TLS/2"], near ["TLS/3"];
            no_close_notify: "no-close-notify" fails ["TLS/3"], near ["TLS/1"];
            ready_while_draining: "ready-while-draining" fails ["RDY/1", "RDY/6"], near ["RDY/2"];
            no_lame_duck: "no-lame-duck" fails ["RDY/2", "RDY/6"], near ["RDY/3"];
            dead_while_draining: "dead-while-draining" fails ["RDY/3"], near ["RDY/1"];
            ready_too_early: "ready-too-early" fails ["RDY/5"], near [];
            red_at_upgrade: "red-at-upgrade" fails ["RDY/4"], near ["RDY/1"];
            cut_half_head: "cut-half-head" fails ["DRN/1", "ACC/3"], near ["H1/1"];
            silent_drain: "silent-drain" fails ["DRN/2"], near ["DRN/4"];
            leave_child: "leave-child" fails ["DRN/3"], near ["DRN/4"];
            last_line_lost: "last-line-lost" fails ["DRN/4"], near ["DRN/2"];
            hanging_hook: "hanging-hook" fails ["DRN/5"], near ["DRN/4"];
            hold_long_polls: "hold-long-polls" fails ["DRN/6"], near ["H1/1"];
            rebind: "rebind" fails ["UPG/17"], near ["UPG/18"];
            die_of_failed_upgrade: "die-of-failed-upgrade" fails ["UPG/3", "UPG/5", "UPG/29"], near ["UPG/9"];
            keep_hung_successor: "keep-hung-successor" fails ["UPG/4"], near ["UPG/3"];
            one_upgrade: "one-upgrade" fails ["UPG/9"], near ["UPG/11"];
            leak_descriptors: "leak-descriptors" fails ["UPG/15"], near ["UPG/17"];
            keep_accepting: "keep-accepting" fails ["UPG/11"], near ["UPG/17"];
            orphan_successor: "orphan-successor" fails ["UPG/28"], near ["UPG/3"];
            tear_pid_file: "tear-pid-file" fails ["UPG/21"], near ["UPG/11"];
            fixed_addresses: "fixed-addresses" fails ["UPG/22"], near ["UPG/17"];
            open_control: "open-control" fails ["UPG/31"], near ["UPG/17"];
            refuse_silently: "refuse-silently" fails ["UPG/8"], near ["UPG/9"];
            die_with_supervisor: "die-with-supervisor" fails ["UPG/26"], near ["UPG/27"];
            restart_child: "restart-child" fails ["UPG/27"], near ["UPG/26"];
        }
    };
}

/// Cases that the server does not pass without a fault either: it has no way back from an upgrade, it says nothing to a
/// service manager, it does not reap as process 1.
pub const NOT_ITS_OWN: &[&str] = &["SIG/8", "UPG/6", "UPG/19", "UPG/20"];

/// The server as an adapter. A few cases need it in another way; what that is stands here and nowhere else.
pub fn adapter(program: &Path, fault: Option<&str>, case: &str) -> Adapter {
    let program = program.display();
    let mut more = fault.map_or(String::new(), |fault| format!(r#", "--fault", "{fault}""#));
    // Before it is ready there has to be a time to be stopped in.
    if case == "SIG/12" {
        more.push_str(r#", "--start", "100""#);
    }
    // Its own port tells readiness where an upgrade is tried: the second port is no part of it.
    let admin = if case == "RDY/4" { "" } else { "admin = \"{admin_address}\"" };
    let text = include_str!("../misbehave.toml");
    // Otherwise the suite itself would ask a server that is not warm yet.
    let text = match case {
        "RDY/5" => text.replace(r#"{ stdout = "listening on " }"#, r#"{ http = "/b" }"#),
        _ => text.to_owned(),
    };
    let text = text.replace("SUPERVISOR", SUPERVISOR);
    let text = text.replace("FAULT", &more).replace("ADMIN", admin);
    let text = text.replace("PROGRAM", &program.to_string());
    Adapter::parse("misbehave.toml", &text).expect("the adapter is right")
}

/// It keeps a server without a way to be upgraded: what is tried is the supervisor.
const SUPERVISOR: &str = r#"
[supervisor]
command = ["PROGRAM", "supervise", "--state", "{dir}/state", "--", "--port", "{port}"FAULT]
restart = "PROGRAM supervise --state {dir}/state -- --port {port} > /dev/null 2>&1 &"
upgrade_signal = "USR1"
"#;

/// What a case finds, and why. A server that cannot be started at all is found by every case.
pub fn verdict(program: &Path, fault: Option<&str>, case: &str) -> (Verdict, String) {
    verdict_of(adapter(program, fault, case), case)
}

/// The same, of a server that is changed in another way.
pub fn verdict_of(adapter: Adapter, case: &str) -> (Verdict, String) {
    let suite = Suite::new(adapter).case(case);
    match suite.run(&mut Silent) {
        Ok(report) => {
            let result = report.results.into_iter().next().expect("one case was run");
            (result.verdict, result.reason)
        }
        Err(error) => (Verdict::Fail, error.to_string()),
    }
}

/// Every case that the server can be tried with.
#[allow(dead_code, reason = "one of the two that share this file")]
pub fn tried(program: &Path) -> Vec<&'static str> {
    let is_tried = |case: &&'static lameduck_verify::case::Case| {
        let own = adapter(program, None, case.id);
        !NOT_ITS_OWN.contains(&case.id) && case.skipped(&own).is_none()
    };
    cases::all().filter(is_tried).map(|case| case.id).collect()
}
