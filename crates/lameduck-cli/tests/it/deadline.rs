//! Nothing holds the process beyond its deadline, and the report names what was cut (losses 13, 15, 16 and 18).

use std::time::Duration;

use lameduck_verify::probe::http1::{never_reads, pipelined};
use lameduck_verify::probe::{End, Until, Wire, watch};
use lameduck_verify::target::{Exit, Signal};

use crate::service::{AT_ONCE, LIMIT, Service, WITH_ADMIN, let_pass};

const DEADLINE: Duration = Duration::from_secs(2);
/// So late it may be on a busy machine; how late it is on a quiet one is the bench's business.
const LATEST: Duration = Duration::from_millis(2_500);

/// A process whose runtime is blocked can only be asked again and again.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// The work of every test here never ends by itself.
const SERVE: [&str; 4] = ["--slow", "1h", "--grace", "2s"];
const PROGRAM: [&str; 4] = ["--threads", "2", "--grace", "2000"];

fn serve() -> Service {
    Service::start(&[&WITH_ADMIN[..], &SERVE].concat())
}

#[track_caller]
fn ends_at_the_deadline(service: &mut Service, names: &[&str]) -> Exit {
    let exit = service.stop();
    let words = service.last_words();
    assert_eq!(exit.code, Some(3), "{exit}: {words}");
    assert!((DEADLINE..=LATEST).contains(&exit.elapsed), "{exit}: {words}");
    assert!(words.contains("Server forced to shutdown: deadline exceeded"), "{words}");
    for name in names {
        assert!(words.contains(name), "no {name} in: {words}");
    }
    exit
}

#[test]
fn a_handler_that_never_ends_is_cut_at_the_deadline_and_named() {
    let mut service = serve();
    let mut wire = pipelined(&service.place("/a"), 1).unwrap();
    service.wait_live(1, 1);
    ends_at_the_deadline(
        &mut service,
        &["cut: 1 request, 1 connection", "request GET /a from 127."],
    );
    assert!(watch(std::slice::from_mut(&mut wire), Until::Closed, LIMIT).unwrap());
    assert_eq!(wire.received_bytes(), 0);
}

#[test]
fn a_client_that_never_reads_is_cut_at_the_deadline_and_named() {
    let mut service = serve();
    let mut wire = never_reads(&service.place("/download?bytes=67108864")).unwrap();
    service.wait_in_hand(1);
    ends_at_the_deadline(&mut service, &["request GET /download from 127."]);
    // What is cut can't pass for complete.
    assert!(watch(std::slice::from_mut(&mut wire), Until::Closed, LIMIT).unwrap());
    assert!(wire.answers().is_empty() && wire.end() != End::Open);
}

/// An answer to HTTP/1.0 has no length but the end of the connection: cut, that end has to be a reset.
#[test]
fn a_cut_answer_to_http_1_0_does_not_pass_for_complete() {
    let mut service = Service::program("lameduck-b", &PROGRAM);
    let mut wire = Wire::connect_with_receive_buffer(&service.place("/").address, 4096).unwrap();
    wire.request(b"GET /trickle HTTP/1.0\r\n\r\n");
    assert!(!watch(std::slice::from_mut(&mut wire), Until::Closed, AT_ONCE).unwrap());
    assert!(wire.received_bytes() > 0, "it begins at once");
    ends_at_the_deadline(&mut service, &["request GET /trickle from 127."]);
    assert!(watch(std::slice::from_mut(&mut wire), Until::Closed, LIMIT).unwrap());
    assert_eq!(wire.end(), End::Reset);
}

#[test]
fn a_hook_that_hangs_is_cut_at_the_deadline_and_named() {
    let mut service = Service::program("hanging-hook", &PROGRAM);
    ends_at_the_deadline(&mut service, &["cut closing hanging after "]);
}

/// More requests than the runtime has workers, each of which blocks one for good. Waits until the first is in hand; when
/// the runtime comes to the others is its own business, and at the latest the stop wakes it up to do so.
fn blocked(path: &str, threads: &str) -> (Service, Vec<Wire>) {
    const REQUESTS: usize = 6;
    let mut service = Service::program("lameduck-b", &["--threads", threads, "--grace", "2000"]);
    let place = service.place(path);
    let wires = (0..REQUESTS).map(|_| pipelined(&place, 1).unwrap()).collect();
    let deadline = std::time::Instant::now() + LIMIT;
    while !service.target.stderr().contains("request GET ") {
        assert!(std::time::Instant::now() < deadline, "{}", service.target.stderr());
        // The control thread answers, whatever became of the runtime.
        service.signal(Signal::USR1);
        let_pass(BETWEEN_LOOKS);
    }
    (service, wires)
}

fn a_blocked_runtime(path: &str, threads: &str) {
    let (mut service, _wires) = blocked(path, threads);
    let request = format!("request GET {path} from 127.");
    ends_at_the_deadline(&mut service, &[&request, "the async runtime was blocked"]);
}

#[test]
fn a_runtime_blocked_by_sleeping_handlers_ends_at_the_deadline() {
    a_blocked_runtime("/block", "2");
}

#[test]
fn a_runtime_blocked_by_spinning_handlers_ends_at_the_deadline() {
    a_blocked_runtime("/spin", "2");
}

/// `main` itself is what is blocked.
#[test]
fn a_blocked_runtime_of_one_thread_ends_at_the_deadline() {
    a_blocked_runtime("/block", "1");
    a_blocked_runtime("/spin", "1");
}

#[test]
fn a_force_ends_a_blocked_runtime_at_once() {
    for (signals, code) in [
        (&[Signal::TERM, Signal::TERM][..], 143),
        (&[Signal::TERM, Signal::INT], 130),
        (&[Signal::QUIT], 131),
    ] {
        let (mut service, _wires) = blocked("/block", "2");
        let words = service.is_forced_by(signals, code);
        assert!(words.contains("request GET /block from 127."), "{words}");
    }
}

/// Everything at once: each is named.
#[test]
fn all_that_is_cut_is_named() {
    let mut service = serve();
    let wires = [
        pipelined(&service.place("/a"), 1).unwrap(),
        never_reads(&service.place("/download?bytes=67108864")).unwrap(),
    ];
    let mut upload = Wire::connect(&service.place("/").address).unwrap();
    upload.send(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx").unwrap();
    service.wait_live(3, 3);
    let names = ["cut: 3 requests, 3 connections", "GET /a", "GET /download", "POST /upload"];
    ends_at_the_deadline(&mut service, &names);
    drop(wires);
}

/// The operator said that work may last as long as it likes.
#[test]
fn without_a_deadline_work_is_waited_for() {
    let flags = ["--slow", "2500ms", "--grace", "unlimited"];
    let mut service = Service::start(&[&WITH_ADMIN[..], &flags].concat());
    let mut wire = pipelined(&service.place("/a"), 1).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    assert!(watch(std::slice::from_mut(&mut wire), Until::Closed, LIMIT).unwrap());
    assert_eq!(wire.answers().len(), 1);
    service.ends_clean();
    assert!(service.last_words().contains("(no deadline)"), "{}", service.last_words());
}
