//! HTTP/1.x connections in the middle of something when the stop comes (losses 5 to 8, 13).

use std::slice::from_mut;
use std::time::Duration;

use lameduck_verify::answer::Persistence;
use lameduck_verify::fate::Fate;
use lameduck_verify::probe::http1::{idle, never_reads, pipelined};
use lameduck_verify::probe::{End, Until, Wire, ended, fates, watch};
use lameduck_verify::target::Signal;

use crate::service::{LIMIT, Service, WITH_ADMIN, body, let_pass};

/// Longer than the linger, in which an idle connection would be let go.
const LONG: Duration = Duration::from_millis(600);
/// Well within the linger.
const SOON: Duration = Duration::from_millis(50);

fn start(slow: &str) -> Service {
    Service::start(&[&WITH_ADMIN[..], &["--slow", slow]].concat())
}

/// A connection on which these bytes are sent, which end `count` requests.
fn wire(service: &Service, bytes: &[u8], count: usize) -> Wire {
    let mut wire = Wire::connect(&service.place("/").address).unwrap();
    wire.requests_in_one_write(bytes, count);
    wire
}

fn text(wire: &Wire) -> String {
    String::from_utf8_lossy(wire.received()).into_owned()
}

/// Lets time pass with nothing to do for the client; fails if the server closes meanwhile.
#[track_caller]
fn wait_open(wires: &mut [Wire], time: Duration) {
    watch(wires, Until::Closed, time).unwrap();
    assert_eq!(ended(wires, End::Open), wires.len(), "closed too early");
}

/// Reads to the end, which must be in order, and checks that each request was answered and the last answer alone said
/// that it is the last.
#[track_caller]
fn answered_and_told(service: &mut Service, wires: &mut [Wire]) {
    assert!(watch(wires, Until::Closed, LIMIT).unwrap(), "left open");
    for wire in wires.iter() {
        let fates = wire.fates();
        assert!(fates.iter().all(|fate| *fate == Fate::Answered), "{fates:?}: {}", text(wire));
        let told: Vec<_> = wire.answers().iter().map(|head| head.persistence).collect();
        let keep = told.iter().rposition(|told| *told == Persistence::Keep);
        let closes = told.iter().filter(|told| **told == Persistence::Close).count();
        assert_eq!((closes, told.last()), (1, Some(&Persistence::Close)), "{keep:?} {told:?}");
    }
    assert_eq!(ended(wires, End::Eof), wires.len());
    service.ends_clean();
}

fn ten_pipelined(slow: &str) {
    let mut service = start(slow);
    let (first, rest) = (service.place("/a").get(""), service.place("/b").get(""));
    let mut wire = wire(&service, &[first, rest.repeat(9)].concat(), 10);
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    answered_and_told(&mut service, from_mut(&mut wire));
    assert_eq!(wire.answers().len(), 10);
}

#[test]
fn pipelined_requests_are_answered_and_the_last_one_says_close() {
    ten_pipelined("100ms");
}

/// The linger is for idle connections: it is not over before the requests behind the slow one are answered.
#[test]
fn pipelined_requests_behind_a_slow_one_are_answered() {
    ten_pipelined("600ms");
}

#[test]
fn requests_pipelined_after_the_stop_are_answered() {
    let mut service = start("600ms");
    let mut wire = wire(&service, &service.place("/a").get(""), 1);
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    watch(from_mut(&mut wire), Until::Closed, SOON).unwrap();
    wire.requests_in_one_write(&service.place("/b").get("").repeat(3), 3);
    answered_and_told(&mut service, from_mut(&mut wire));
}

/// Bodies in between do not confuse what belongs to which request.
#[test]
fn pipelined_uploads_are_answered() {
    let mut service = start("300ms");
    let upload = b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nGET /x\r\n";
    let first = service.place("/a").get("");
    let mut wire = wire(&service, &[&first[..], &upload.repeat(4)].concat(), 5);
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    answered_and_told(&mut service, from_mut(&mut wire));
    assert!(text(&wire).ends_with(r#"{"bytes":8}"#), "{}", text(&wire));
}

#[test]
fn an_answer_whose_handler_began_before_the_stop_says_close() {
    let mut service = start("300ms");
    let place = service.place("/a");
    let mut wires: Vec<Wire> = (0..5).map(|_| pipelined(&place, 1).unwrap()).collect();
    service.wait_in_hand(5);
    service.signal(Signal::TERM);
    answered_and_told(&mut service, &mut wires);
}

#[test]
fn a_request_on_an_idle_connection_within_the_linger_is_answered() {
    let mut service = Service::start(&[]);
    let place = service.place("/b");
    let mut wires = idle(&place, 20).unwrap();
    service.signal(Signal::TERM);
    wait_open(&mut wires, SOON);
    wires.iter_mut().for_each(|wire| wire.request(&place.get("")));
    answered_and_told(&mut service, &mut wires);
}

#[test]
fn an_idle_connection_is_closed_in_order_after_the_linger() {
    let mut service = Service::start(&["--linger", "100ms"]);
    let mut wires = idle(&service.place("/b"), 20).unwrap();
    service.signal(Signal::TERM);
    assert!(watch(&mut wires, Until::Closed, LIMIT).unwrap());
    assert_eq!(ended(&wires, End::Eof), 20);
    assert_eq!(fates(&wires).answered(), 20);
    service.ends_clean();
}

/// Its head went out before the stop and could not announce the close: the client may use the connection again, and
/// has the whole linger after the answer for it.
#[test]
fn a_connection_whose_answer_began_before_the_stop_lingers_after_it() {
    // So long that even a busy machine reads within it what the kernel holds of the answer when the server is done.
    let linger = Duration::from_secs(2);
    let mut service = Service::start(&[&WITH_ADMIN[..], &["--linger", "2s"]].concat());
    let mut place = service.place("/download?bytes=33554432");
    let mut wire = never_reads(&place).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    // Nobody reads, so the server can't write: its deadline is what bounds this wait, not the linger.
    service.wait_status(|status| status["phase"] == "finish");
    let_pass(linger + SOON);
    assert!(watch(from_mut(&mut wire), Until::Answered, LIMIT).unwrap());
    assert_eq!(wire.fates(), [Fate::Answered]);
    place.path = "/b".to_owned();
    wire.request(&place.get(""));
    assert!(watch(from_mut(&mut wire), Until::Closed, LIMIT).unwrap());
    assert_eq!(wire.fates(), [Fate::Answered, Fate::Answered]);
    assert_eq!(wire.answers()[1].persistence, Persistence::Close);
    service.ends_clean();
}

#[test]
fn a_slow_reader_of_a_large_answer_gets_all_of_it() {
    let mut service = Service::start(&[]);
    let bytes = 32 * 1024 * 1024;
    let mut wire = never_reads(&service.place(&format!("/download?bytes={bytes}"))).unwrap();
    assert_eq!(service.get("/b").0, 200);
    service.signal(Signal::TERM);
    let_pass(LONG);
    assert!(watch(from_mut(&mut wire), Until::Closed, LIMIT).unwrap());
    assert_eq!((wire.fates(), wire.end()), (vec![Fate::Answered], End::Eof));
    assert!(wire.received_bytes() > bytes);
    service.ends_clean();
}

/// The answer comes while the client still writes; a reset would erase it.
fn early_answer(path: &str, status: u16) {
    const BODY: usize = 1_000_000;
    let mut service = Service::start(&[]);
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY}\r\n\r\n");
    let mut wire = wire(&service, head.as_bytes(), 1);
    let half = vec![b'x'; BODY / 2];
    wire.send(&half).unwrap();
    service.signal(Signal::TERM);
    // A write after the server's close would fail here or show as a reset below.
    for piece in half.chunks(50_000) {
        wire.send(piece).unwrap();
    }
    assert!(watch(from_mut(&mut wire), Until::Closed, LIMIT).unwrap());
    assert_eq!(wire.answers().first().map(|head| head.status), Some(status), "{}", text(&wire));
    assert_eq!(wire.end(), End::Eof, "{path}");
    service.ends_clean();
}

#[test]
fn an_early_answer_to_an_upload_is_read_in_full() {
    early_answer("/orders", 413);
    early_answer("/nowhere", 404);
}

#[test]
fn an_upload_in_the_middle_is_finished() {
    let heads = [
        "content-length: 20\r\n\r\n0123456789",
        "transfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n",
    ];
    let rests = ["0123456789", "a\r\n0123456789\r\n0\r\n\r\n"];
    let mut service = start("1ms");
    let mut wires: Vec<Wire> = heads
        .iter()
        .map(|head| {
            let mut wire = Wire::connect(&service.place("/").address).unwrap();
            wire.send(format!("POST /upload HTTP/1.1\r\nhost: x\r\n{head}").as_bytes()).unwrap();
            wire
        })
        .collect();
    service.wait_in_hand(2);
    service.signal(Signal::TERM);
    wait_open(&mut wires, LONG);
    for (wire, rest) in wires.iter_mut().zip(rests) {
        wire.request(rest.as_bytes());
    }
    answered_and_told(&mut service, &mut wires);
    assert!(wires.iter().all(|wire| body(wire) == r#"{"bytes":20}"#), "{}", text(&wires[1]));
}

/// A chunked body hides where the next request begins, so what is idle after it is found out another way.
#[test]
fn a_connection_after_a_chunked_upload_is_answered_within_the_linger() {
    let mut service = Service::start(&[]);
    let upload =
        "POST /upload HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let mut wires =
        vec![wire(&service, upload.as_bytes(), 1), wire(&service, upload.as_bytes(), 1)];
    assert!(watch(&mut wires, Until::Answered, LIMIT).unwrap());
    let request = service.place("/b").get("");
    let (first, rest) = request.split_at(10);
    wires[0].send(first).unwrap();
    service.signal(Signal::TERM);
    wait_open(&mut wires, SOON);
    wires[0].request(rest);
    wires[1].request(&request);
    answered_and_told(&mut service, &mut wires);
}

#[test]
fn a_client_that_waits_for_100_continue_is_told_to() {
    let head =
        "POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n";
    let mut service = start("1ms");
    let mut before = Wire::connect(&service.place("/").address).unwrap();
    let mut after = idle(&service.place("/b"), 1).unwrap().remove(0);
    before.send(head.as_bytes()).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    wait_open(from_mut(&mut after), SOON);
    after.send(head.as_bytes()).unwrap();
    let mut wires = [before, after];
    wait_open(&mut wires, LONG);
    for wire in &mut wires {
        assert!(text(wire).ends_with("HTTP/1.1 100 Continue\r\n\r\n"), "{}", text(wire));
        wire.request(b"abc");
    }
    answered_and_told(&mut service, &mut wires);
}

#[test]
fn an_http_1_0_request_is_answered() {
    let mut service = start("300ms");
    let requests = ["GET /a HTTP/1.0\r\n\r\n", "GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"];
    let mut wires = requests.map(|request| wire(&service, request.as_bytes(), 1));
    service.wait_in_hand(2);
    service.signal(Signal::TERM);
    answered_and_told(&mut service, &mut wires);
}

#[test]
fn a_head_request_is_answered_without_a_body() {
    let mut service = start("300ms");
    let mut wires = [Wire::connect(&service.place("/").address).unwrap()];
    wires[0].send(b"HEAD /a HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    assert!(watch(&mut wires, Until::Closed, LIMIT).unwrap());
    let answer = text(&wires[0]).to_lowercase();
    assert!(answer.starts_with("http/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    service.ends_clean();
}

/// Whoever hangs up holds nothing, and what they asked for is not reported as cut.
#[test]
fn a_client_that_vanishes_does_not_hold_the_exit() {
    let mut service = start("1h");
    let wires: Vec<Wire> = (0..5).map(|_| pipelined(&service.place("/a"), 1).unwrap()).collect();
    service.wait_in_hand(5);
    service.signal(Signal::TERM);
    for (count, wire) in wires.into_iter().enumerate() {
        if count % 2 == 0 { wire.reset().unwrap() } else { drop(wire) }
    }
    service.ends_clean();
}
