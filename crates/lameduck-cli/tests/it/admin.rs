//! What health checks and people see while the service stops, and the service as process 1 (losses 32 and 35).

use std::io;
use std::time::{Duration, Instant};

use lameduck_verify::answer::Persistence;
use lameduck_verify::probe::http1::pipelined;
use lameduck_verify::probe::{Until, Wire, watch};
use lameduck_verify::target::{Ready, Signal, Target, proc};
use rustix::process::{Pid, kill_process};

use serde_json::Value;

use crate::service::{ADMIN, LIMIT, Service, WITH_ADMIN, new_directory};

fn start(flags: &[&str]) -> Service {
    Service::start(&[&WITH_ADMIN[..], flags].concat())
}

/// What the admin server answers, or nothing when it is gone.
fn probe(service: &Service, path: &str) -> Option<u16> {
    let place: lameduck_verify::address::Place =
        format!("unix:{}:{path}", service.path(ADMIN).display()).parse().unwrap();
    let mut wire = Wire::connect(&place.address).ok()?;
    wire.request(&place.get("connection: close\r\n"));
    watch(std::slice::from_mut(&mut wire), Until::Closed, LIMIT).unwrap();
    wire.answers().first().map(|head| head.status)
}

#[test]
fn readiness_is_red_before_the_first_refusal() {
    // A connection attempt during the gate is heard a second later, when the kernel repeats it.
    let mut service = start(&["--slow", "2500ms"]);
    // Accepting begins a moment before it says so.
    service.wait_status(|status| status["ready"] == true);
    assert_eq!(probe(&service, "/readyz"), Some(200));
    assert_eq!(probe(&service, "/startupz"), Some(200));
    let mut slow = pipelined(&service.place("/a"), 1).unwrap();
    service.wait_in_hand(1);
    let address = service.place("/b").address;
    service.signal(Signal::TERM);
    let deadline = Instant::now() + LIMIT;
    let refused = |result: io::Result<Wire>| match result {
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        Ok(_) => false,
    };
    while !refused(Wire::connect(&address)) {
        assert!(Instant::now() < deadline);
    }
    // It never turns green again, so what is red after the first refusal was red before it.
    assert_eq!(probe(&service, "/readyz"), Some(503));
    assert_eq!((probe(&service, "/livez"), probe(&service, "/startupz")), (Some(200), Some(200)));
    assert!(watch(std::slice::from_mut(&mut slow), Until::Closed, LIMIT).unwrap());
    assert_eq!(slow.answers().len(), 1);
    service.ends_clean();
}

/// A liveness probe that fails has the process killed in the middle of its drain.
#[test]
fn liveness_is_green_until_the_end() {
    let mut service = start(&["--slow", "700ms"]);
    let _slow = pipelined(&service.place("/a"), 1).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    let mut asked = 0;
    let unanswered = loop {
        match probe(&service, "/livez") {
            Some(status) => assert_eq!(status, 200),
            None => break Instant::now(),
        }
        asked += 1;
    };
    service.ends_clean();
    assert!(unanswered.elapsed() < Duration::from_secs(1), "it was deaf before it was gone");
    assert!(asked > 10, "asked {asked} times");
}

/// The one request among the live work; the worker on jobs is another piece.
#[track_caller]
fn request_of(status: &Value) -> &Value {
    let work = status["work"].as_array().unwrap();
    let mut requests = work.iter().filter(|item| item["kind"] == "request");
    requests.next().unwrap_or_else(|| panic!("{status:#}"))
}

#[test]
fn the_status_names_live_work() {
    let mut service = start(&["--slow", "2s"]);
    let _slow = pipelined(&service.place("/a?secret=1"), 1).unwrap();
    let status = service.wait_in_hand(1);
    let request = request_of(&status);
    assert_eq!((&status["phase"], &status["ready"]), (&"serving".into(), &true.into()));
    assert_eq!(request["name"], "GET /a");
    assert!(request["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{status:#}");
    assert!(request["age_ms"].is_number() && status["left_ms"].is_null(), "{status:#}");
    service.signal(Signal::TERM);
    let status = service.wait_status(|status| status["phase"] == "finish");
    assert_eq!((&status["ready"], &request_of(&status)["name"]), (&false.into(), &"GET /a".into()));
    assert!(status["left_ms"].as_f64().unwrap() > 8_000.0, "{status:#}");
    service.ends_clean();
}

/// Balancers get time to look away, and whoever comes meanwhile is served.
#[test]
fn a_lame_duck_is_red_and_serves_new_connections() {
    const LAME_DUCK: Duration = Duration::from_secs(1);
    let mut service = start(&["--lame-duck", "1s"]);
    service.signal(Signal::TERM);
    service.wait_status(|status| status["phase"] == "lame-duck");
    assert_eq!(probe(&service, "/readyz"), Some(503));
    let begun = Instant::now();
    while begun.elapsed() < LAME_DUCK / 2 {
        let mut wire = pipelined(&service.place("/b"), 1).unwrap();
        assert!(watch(std::slice::from_mut(&mut wire), Until::Closed, LIMIT).unwrap());
        assert_eq!(wire.answers()[0].status, 200);
        assert_eq!(wire.answers()[0].persistence, Persistence::Close);
    }
    let exit = service.ends_clean();
    assert!(exit.elapsed >= LAME_DUCK, "{exit}: {}", service.last_words());
}

/// The second stop does not cut anything here: it ends the lame duck, and only a third one forces.
#[test]
fn a_second_stop_ends_the_lame_duck() {
    let mut service = start(&["--lame-duck", "20s", "--grace", "30s", "--slow", "300ms"]);
    service.signal(Signal::TERM);
    service.wait_status(|status| status["phase"] == "lame-duck");
    let mut slow = pipelined(&service.place("/a"), 1).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    let exit = service.ends_clean();
    assert!(exit.elapsed < Duration::from_secs(5), "{exit}");
    assert!(watch(std::slice::from_mut(&mut slow), Until::Closed, LIMIT).unwrap());
    assert_eq!(slow.answers().len(), 1);
}

/// Probes during a drain are no work that finished in it.
#[test]
fn the_report_counts_no_probes() {
    let mut service = start(&["--slow", "300ms", "--log", "json"]);
    let _slow = pipelined(&service.place("/a"), 1).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    service.wait_status(|status| status["phase"] == "finish");
    for _ in 0..5 {
        assert_eq!(probe(&service, "/livez"), Some(200));
    }
    service.ends_clean();
    assert_eq!(service.report()["finished"]["requests"], 1, "{:#}", service.report());
}

/// Process 1 of a namespace gets no signal that it has no handler for. Here /proc is that of another namespace. Only
/// root may make such a namespace; as anybody else there is nothing to look at.
#[test]
fn process_1_of_a_container_drains_when_told() {
    if !prerequisites::is_root() {
        return;
    }
    let directory = new_directory();
    let command = Target::command("unshare")
        .args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_lameduck"), "serve"])
        .args(["--listen", "127.0.0.1:0", "--slow", "300ms"])
        .args(WITH_ADMIN);
    let mut service = Service::run(directory, command, Ready::Stderr("istening on ".into()), 1);
    let mut slow = pipelined(&service.place("/a"), 1).unwrap();
    let status = service.wait_in_hand(1);
    assert_eq!(status["pid"], 2, "{status:#}");
    let inside = proc::descendants(service.target.pid());
    let [inside, _] = inside[..] else { panic!("not two processes: {inside:?}") };
    kill_process(Pid::from_raw(inside.cast_signed()).unwrap(), Signal::TERM).unwrap();
    assert!(watch(std::slice::from_mut(&mut slow), Until::Closed, LIMIT).unwrap());
    assert_eq!(slow.answers().len(), 1, "{}", service.target.stderr());
    service.ends_clean();
}
