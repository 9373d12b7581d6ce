//! The probes bring a server into the states they promise, and see what comes of it.

mod support;

use lameduck_verify::fate::Fate;
use lameduck_verify::probe::http1::{
    HalfHeads, Upload, backlog, idle, never_reads, pipelined, silent,
};
use lameduck_verify::probe::http2::{Client, UpTo};
use lameduck_verify::probe::{End, KEPT_BYTES, Until, ended, fates, raise_open_files, watch};
use lameduck_verify::target::Signal;
use std::io::{Read, Write};
use std::slice::from_mut;
use std::time::Duration;
use support::{SOON, Server, axum_graceful, close_in_order, serve_well};

/// A wait that is meant to pass without anything happening.
const QUIET: Duration = Duration::from_millis(100);

#[test]
fn requests_in_the_accept_queue_are_answered_after_the_thaw() {
    let (mut target, place) = axum_graceful();
    let mut wires = backlog(&mut target, &place, 50).unwrap();
    assert!(!watch(&mut wires, Until::Answered, QUIET).unwrap(), "nobody can have answered");
    target.thaw().unwrap();
    assert!(watch(&mut wires, Until::Answered, SOON).unwrap());
    assert_eq!(fates(&wires).answered(), 50);
}

#[test]
fn a_stop_that_drops_the_accept_queue_is_seen() {
    let (mut target, place) = axum_graceful();
    let mut wires = backlog(&mut target, &place, 50).unwrap();
    target.signal(Signal::TERM).unwrap();
    target.thaw().unwrap();
    target.wait(SOON).unwrap();
    assert!(watch(&mut wires, Until::Closed, SOON).unwrap());
    let tally = fates(&wires);
    assert_eq!(tally.sent(), 50);
    assert!(tally.count(Fate::ResetBeforeResponse) > 0, "{:?}", tally);
}

#[test]
fn half_heads_are_answered_once_they_are_whole() {
    let (_target, place) = axum_graceful();
    let mut half = HalfHeads::open(&place, 20).unwrap();
    watch(&mut half.wires, Until::Closed, QUIET).unwrap();
    assert!(half.wires.iter().all(|wire| wire.received_bytes() == 0 && wire.end() == End::Open));
    half.finish();
    assert!(watch(&mut half.wires, Until::Answered, SOON).unwrap());
    assert_eq!(fates(&half.wires).answered(), 20);
}

#[test]
fn silent_connections_stay_open_and_end_with_the_server() {
    let (mut target, place) = axum_graceful();
    let mut wires = silent(&place, 5).unwrap();
    watch(&mut wires, Until::Closed, QUIET).unwrap();
    assert_eq!(ended(&wires, End::Open), 5);
    target.kill().unwrap();
    assert!(watch(&mut wires, Until::Closed, SOON).unwrap());
    assert_eq!(ended(&wires, End::Open), 0);
    assert!(wires.iter().all(|wire| wire.ended().is_some() && wire.fates().is_empty()));
}

#[test]
fn pipelined_requests_have_a_fate_each() {
    let (_target, place) = axum_graceful();
    let mut wire = pipelined(&place, 10).unwrap();
    assert!(watch(from_mut(&mut wire), Until::Answered, SOON).unwrap());
    assert_eq!(fates([&wire]).answered(), 10);
    // A server that closes after its third answer leaves seven, one of them half answered.
    let server = Server::start(|mut stream| {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&[&answer.repeat(3), &answer[..20]].concat());
        close_in_order(stream);
    });
    let mut wire = pipelined(&server.place("/"), 10).unwrap();
    assert!(watch(from_mut(&mut wire), Until::Answered, SOON).unwrap());
    let tally = fates([&wire]);
    assert_eq!((tally.answered(), tally.count(Fate::Truncated)), (3, 1));
    assert_eq!(tally.count(Fate::EofBeforeResponse), 6);
}

#[test]
fn idle_connections_are_kept_by_the_thousand() {
    raise_open_files();
    let (mut target, place) = axum_graceful();
    let mut wires = idle(&place, 1000).unwrap();
    watch(&mut wires, Until::Closed, QUIET).unwrap();
    assert_eq!((ended(&wires, End::Open), fates(&wires).answered()), (1000, 1000));
    target.kill().unwrap();
    assert!(watch(&mut wires, Until::Closed, SOON).unwrap());
    assert_eq!(fates(&wires).lost(), 0, "they were idle");
    // A request on a connection that is gone by now.
    let wire = &mut wires[0];
    wire.request(&place.get(""));
    assert_eq!(wire.fates(), [Fate::Answered, Fate::IdleCloseRace]);
}

#[test]
fn a_reader_that_never_reads_holds_the_answer_and_can_take_it_later() {
    let (_target, mut place) = axum_graceful();
    place.path = "/big".to_owned();
    let mut wire = never_reads(&place).unwrap();
    assert_eq!(wire.fates(), [Fate::TimedOut]);
    assert!(watch(from_mut(&mut wire), Until::Answered, SOON).unwrap());
    assert_eq!(wire.fates(), [Fate::Answered]);
    assert!(wire.received_bytes() > 32 * 1024 * 1024);
    assert_eq!(wire.received().len(), KEPT_BYTES);
}

/// Answers 413 at once, while the client still writes.
fn early(mut stream: std::net::TcpStream) -> std::net::TcpStream {
    let _ = stream.read(&mut [0; 1024]);
    let _ = stream.write_all(b"HTTP/1.1 413 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream
}

#[test]
fn an_early_answer_reaches_a_client_that_still_writes() {
    let server = Server::start(|stream| close_in_order(early(stream)));
    let upload = Upload::begin(&server.place("/"), 1_000_000).unwrap();
    let (wire, uploaded) = upload.finish(Until::Answered, SOON).unwrap();
    assert_eq!(wire.fates(), [Fate::HttpOther]);
    assert_eq!(wire.answers()[0].status, 413);
    assert_eq!(uploaded.bytes, 1_000_000, "{uploaded:?}");
}

#[test]
fn a_close_with_unread_bytes_is_a_reset_to_a_client_that_still_writes() {
    // It closes at once, with most of the upload unread.
    let server = Server::start(|stream| drop(early(stream)));
    let upload = Upload::begin(&server.place("/"), 64_000_000).unwrap();
    let (wire, uploaded) = upload.finish(Until::Closed, SOON).unwrap();
    assert_eq!(wire.end(), End::Reset);
    assert!(uploaded.bytes < 64_000_000 && uploaded.error.is_some(), "{uploaded:?}");
}

#[test]
fn an_http2_client_goes_as_far_as_it_says() {
    let (_target, place) = axum_graceful();
    for up_to in [UpTo::PartOfPreface, UpTo::Preface, UpTo::Settings] {
        let mut client = Client::open(&place, up_to, SOON).unwrap();
        assert_eq!(client.wait_end(QUIET).unwrap(), End::Open, "{up_to:?}");
        assert!(client.go_aways().is_empty(), "{up_to:?}");
    }
    let mut client = Client::open(&place, UpTo::SettingsAcknowledged, SOON).unwrap();
    client.get(&place, 1).unwrap();
    assert!(client.wait_frame(|frame| frame.stream == 1 && frame.flags & 1 == 1, SOON).unwrap());
    assert!(client.is_answered(1) && !client.is_answered(3));
}

#[test]
fn the_go_away_of_a_stop_is_read_from_the_wire() {
    let (mut target, place) = axum_graceful();
    let mut client = Client::open(&place, UpTo::SettingsAcknowledged, SOON).unwrap();
    client.get(&place, 1).unwrap();
    assert!(client.wait_frame(|frame| frame.stream == 1 && frame.flags & 1 == 1, SOON).unwrap());
    target.signal(Signal::TERM).unwrap();
    assert!(client.wait_frame(|frame| frame.go_away().is_some(), SOON).unwrap());
    assert_eq!(client.go_aways()[0].1, 0, "NO_ERROR");
}

#[test]
fn a_correct_server_is_not_accused() {
    let server = Server::start(serve_well);
    let mut half = HalfHeads::open(&server.place("/"), 3).unwrap();
    half.finish();
    assert!(watch(&mut half.wires, Until::Answered, SOON).unwrap());
    assert_eq!(fates(&half.wires).lost(), 0);
}
