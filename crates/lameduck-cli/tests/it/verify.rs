//! `lameduck verify` as people run it: its verdicts, its exit codes, its complaints, and what it leaves behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lameduck_verify::target::{Signal, Target, proc};

use crate::service::LIMIT;

const BINARY: &str = env!("CARGO_BIN_EXE_lameduck");

/// A run of the default set may take three minutes; these run a few cases.
const RUN_LIMIT: Duration = Duration::from_secs(120);

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

#[track_caller]
fn verify(arguments: &[&str]) -> Ended {
    let mut run = start(arguments);
    let code = run.wait(RUN_LIMIT).unwrap().code;
    let (stdout, stderr) = (run.whole_stdout(LIMIT).unwrap(), run.whole_stderr(LIMIT).unwrap());
    Ended { code, stdout, stderr }
}

fn start(arguments: &[&str]) -> Target {
    Target::command(BINARY).arg("verify").args(arguments).start().unwrap()
}

/// A server with the usual mistakes, in the language everybody has here: it closes its listener and leaves. With a
/// second argument it answers 500 once in so many requests. Each has a name of its own, by which its processes are found.
fn naive(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = directory.join(format!("naive-{name}-{}.py", std::process::id()));
    let program = r#"
import http.server, itertools, signal, sys, threading
count = itertools.count(1)
fails = int(sys.argv[2]) if len(sys.argv) > 2 else 1 << 60
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(500 if next(count) % fails == 0 else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer)
server.daemon_threads = True
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.05)
server.server_close()
"#;
    std::fs::write(&path, program).unwrap();
    path
}

#[test]
fn the_reference_service_passes_what_a_naive_server_fails() {
    let cases = ["--case", "ACC/1", "--case", "SIG/1"];
    let good = verify(&[&["--adapter", "lameduck"], &cases[..]].concat());
    assert_eq!(good.code, Some(0), "{}{}", good.stdout, good.stderr);
    assert!(good.stdout.starts_with("All 2 pass"), "{}", good.stdout);
    let program = naive("server");
    let command = ["--", "python3", program.to_str().unwrap(), "{port}"];
    let bad = verify(&[&cases[..], &command[..]].concat());
    assert_eq!(bad.code, Some(1), "{}{}", bad.stdout, bad.stderr);
    assert!(bad.stdout.contains("RESET_BEFORE_RESPONSE"), "{}", bad.stdout);
}

/// One of each kind of connection: a handshake in the accept queue, half a head, HTTP/2 by ALPN, a WebSocket, an event
/// stream, the group about TLS itself, and an upgrade under load. Not WS/4: a WebSocket that is behind TLS cannot move, and
/// is told to go at an upgrade.
#[test]
fn the_reference_service_passes_over_tls() {
    let cases = "ACC/1,ACC/3,ACC/4,H1/3,H2/4,WS/1,SSE/1,TLS/1,TLS/2,TLS/3,UPG/32";
    let ended = verify(&["--adapter", "lameduck-tls", "--strict", "--case", cases]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.starts_with("All 11 pass"), "{}", ended.stdout);
}

/// What the reference service has for the suite's sake: a chosen wait, a child, a hook that hangs, a long poll, a file with
/// its process id, addresses in a file, a build of another protocol, a supervisor.
#[test]
fn the_reference_service_declares_what_the_rarer_cases_need() {
    let cases = "H1/11,DRN/3,DRN/5,DRN/6,UPG/21,UPG/22,UPG/26,UPG/27,UPG/29";
    let ended = verify(&["--adapter", "lameduck", "--strict", "--case", cases]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.starts_with("All 9 pass"), "{}", ended.stdout);
}

#[test]
fn a_run_that_cannot_test_says_why_in_one_line_and_ends_with_2() {
    let sleeps = ["--", "sh", "-c", "sleep 0.1; exit 7 # {port}"];
    let unreachable = ["--url", "http://127.0.0.1:1/", "--action", "true"];
    let daemon = ["--", "sh", "-c", "sleep 9 >&- 2>&- & # {port}"];
    let cases: [(&[&str], &str); 11] = [
        (&[], "nothing to test"),
        (&["--", "sleep", "9"], "does not say where it listens"),
        (
            &["--adapter", "nowhere"],
            "no shipped adapter and no file is called nowhere; shipped are",
        ),
        (&["--case", "SIG/99", "--adapter", "lameduck"], "no case is called SIG/99"),
        (&["--json", "/nowhere/x.json", "--adapter", "lameduck"], "/nowhere/x.json"),
        (&["--", "/nowhere/program", "{port}"], "/nowhere/program"),
        (&sleeps, "it ended before it was ready (exit code 7)"),
        (&daemon, "is told to stay in the foreground"),
        (&["--adapter", "/"], "read /: Is a directory"),
        (&["--adapter", "/dev/zero"], "/dev/zero: longer than 1 MiB"),
        (&unreachable, "the target does not answer"),
    ];
    for (arguments, expected) in cases {
        let ended = verify(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains(expected), "{arguments:?}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 2, "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn the_reports_are_written_to_their_files() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = |kind: &str| {
        directory.join(format!("verify-{}.{kind}", std::process::id())).display().to_string()
    };
    let (page, data, xml) = (path("html"), path("json"), path("xml"));
    let files = ["--html", &page, "--json", &data, "--junit", &xml, "--traces"];
    let ended = verify(
        &[&["--adapter", "lameduck", "--case", "ACC/1", "--repeat", "2"], &files[..]].concat(),
    );
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&read(&data)).unwrap();
    assert_eq!(value["schema"], "lameduck-verify/1");
    assert_eq!(value["results"].as_array().unwrap().len(), 2);
    // Fifty waited in the queue, and the timeline shows each.
    assert!(value["results"][0]["trace"]["connections"].as_array().unwrap().len() >= 50);
    assert!(read(&page).contains("<canvas"));
    assert!(read(&xml).contains("<testcase classname=\"lameduck.ACC\""));
}

#[test]
fn an_interrupt_leaves_no_target_running() {
    let program = naive("interrupted");
    let command = ["--repeat", "1000", "--", "python3", program.to_str().unwrap(), "{port}"];
    for signal in [Signal::INT, Signal::TERM] {
        let mut run = start(&command);
        run.wait_stderr("PASS", LIMIT).unwrap();
        let directory = std::env::temp_dir().join(format!("lameduck-verify-{}", run.pid()));
        run.signal(signal).unwrap();
        let exit = run.wait(LIMIT).unwrap();
        assert_eq!(exit.code, Some(128 + signal.as_raw()), "{}", run.stderr());
        assert!(!directory.exists());
        assert_eq!(running(&program), 0);
        // The target is killed before the tester leaves; its guardian ends a moment later.
        let deadline = Instant::now() + LIMIT;
        while !run.family().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", run.family());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(proc::descendants(run.pid()).is_empty());
    }
}

/// Each case that is named passes, or does not apply.
#[track_caller]
fn assert_passes(ended: &Ended, cases: usize) {
    let all = ended.stdout.starts_with(&format!("All {cases} pass;"));
    assert_eq!((ended.code, all), (Some(0), true), "{}{}", ended.stdout, ended.stderr);
}

#[test]
fn upgrades_of_the_reference_service_pass() {
    let cases = "UPG/1,UPG/3,UPG/8,UPG/9,UPG/11,UPG/16,UPG/17";
    assert_passes(&verify(&["--adapter", "lameduck", "--case", cases]), 7);
}

#[test]
fn a_service_that_runs_already_is_tested_with_any_action() {
    let directory = tempfile::tempdir().unwrap();
    let address = lameduck_verify::target::free_address().unwrap();
    let listen =
        ["serve", "--listen", &address.to_string(), "--control", "run/control"].map(str::to_owned);
    let service = Target::command(BINARY).args(listen).directory(directory.path());
    let ready = lameduck_verify::target::Ready::Stderr("istening on ".into());
    let _service = service.ready(ready).start().unwrap();
    let control = directory.path().join("run/control");
    let url = format!("http://{address}/b");
    let upgrade = format!("{BINARY} upgrade --control {}", control.display());
    let good = verify(&["--url", &url, "--action", &upgrade]);
    assert_passes(&good, 2);
    // The stop is an action like any other, and one that clients notice.
    let stop = format!("{BINARY} stop --control {}", control.display());
    let bad = verify(&["--url", &url, "--action", &stop, "--case", "UPG/1"]);
    assert_eq!(bad.code, Some(1), "{}{}", bad.stdout, bad.stderr);
    assert!(bad.stdout.contains("REFUSED"), "{}", bad.stdout);
}

/// How many processes have this path on their command line, other than the tester that was given it.
fn running(program: &Path) -> usize {
    let wanted = program.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let is_it = |line: &Vec<u8>| {
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.contains(&wanted.as_bytes()) && words[0] != BINARY.as_bytes()
    };
    lines.filter(is_it).count()
}

/// Waits until it is so.
#[track_caller]
fn until(what: &str, is_it: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_it() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_tester_that_is_killed_leaves_no_target_and_no_directory() {
    let program = naive("killed");
    let command = ["--repeat", "1000", "--", "python3", program.to_str().unwrap(), "{port}"];
    // Before it has a server, and when it has one.
    for has_server in [false, true] {
        let mut run = start(&command);
        let directory = std::env::temp_dir().join(format!("lameduck-verify-{}", run.pid()));
        let is_time = || if has_server { running(&program) > 0 } else { directory.exists() };
        until("the tester does not begin", is_time);
        run.signal(Signal::KILL).unwrap();
        run.wait(LIMIT).unwrap();
        until("the target still runs", || running(&program) == 0);
        until("its directory is still there", || !directory.exists());
    }
}

#[test]
fn a_server_that_fails_without_a_stop_is_not_judged_by_its_stop() {
    let program = naive("flaky");
    let command = ["--case", "ACC/7", "--", "python3", program.to_str().unwrap(), "{port}", "50"];
    let ended = verify(&command);
    assert_eq!(ended.code, Some(3), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("without any action"), "{}", ended.stdout);
    assert!(ended.stdout.contains("HTTP_5XX"), "{}", ended.stdout);
}
