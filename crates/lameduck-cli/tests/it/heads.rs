//! What is half sent when the stop comes: it has a bounded time to become whole (losses 4, 10 and 20).

use std::time::Duration;

use lameduck_verify::probe::http1::{HalfHeads, silent};
use lameduck_verify::probe::http2::{Client, UpTo};
use lameduck_verify::probe::{End, Until, Wire, ended, fates, watch};
use lameduck_verify::target::Signal;

use crate::service::{LIMIT, Service};

/// The rest of a head comes this long after the stop.
const LATE: Duration = Duration::from_millis(100);
/// Heads that never become whole hold the exit for 1.3 s, what is no request at all for 1 s: what the bench measures on a
/// quiet machine. A busy one, whose disk may take its time over closing the database, gets half a second more.
const HEADS_HOLD: Duration = Duration::from_millis(1_300 + 500);
const SILENCE_HOLDS: Duration = Duration::from_millis(1_000 + 500);

const COUNT: usize = 20;

fn finished_late(service: &mut Service, mut half: HalfHeads) {
    service.signal(Signal::TERM);
    watch(&mut half.wires, Until::Closed, LATE).unwrap();
    half.finish();
    assert!(watch(&mut half.wires, Until::Closed, LIMIT).unwrap());
    assert_eq!(fates(&half.wires).answered() as usize, COUNT, "{:?}", fates(&half.wires));
    service.ends_clean();
}

#[test]
fn a_half_sent_head_that_becomes_whole_is_answered() {
    let mut service = Service::start(&[]);
    let half = HalfHeads::open(&service.place("/b"), COUNT).unwrap();
    finished_late(&mut service, half);
}

/// They may not even have been accepted when the stop comes.
#[test]
fn a_half_sent_head_in_the_accept_queue_is_answered_once_whole() {
    let mut service = Service::start(&[]);
    service.target.freeze().unwrap();
    let half = HalfHeads::open(&service.place("/b"), COUNT).unwrap();
    service.signal(Signal::TERM);
    service.target.thaw().unwrap();
    finished_late_again(&mut service, half);
}

fn finished_late_again(service: &mut Service, mut half: HalfHeads) {
    watch(&mut half.wires, Until::Closed, LATE).unwrap();
    half.finish();
    assert!(watch(&mut half.wires, Until::Closed, LIMIT).unwrap());
    assert_eq!(fates(&half.wires).answered() as usize, COUNT, "{:?}", fates(&half.wires));
    service.ends_clean();
}

/// Stops a service with these wires on it and says what each client read, checking that none was reset.
#[track_caller]
fn closed_within(service: &mut Service, wires: &mut [Wire], bound: Duration) {
    service.signal(Signal::TERM);
    let exit = service.ends_clean();
    assert!(watch(wires, Until::Closed, LIMIT).unwrap());
    assert_eq!(ended(wires, End::Reset), 0, "a client was reset");
    assert!(exit.elapsed <= bound, "{exit}: {}", service.last_words());
}

#[track_caller]
fn told_or_closed(wires: &[Wire]) {
    for wire in wires {
        let text = String::from_utf8_lossy(wire.received());
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    }
}

#[test]
fn a_head_that_never_becomes_whole_does_not_hold_the_exit() {
    let mut service = Service::start(&[]);
    let mut half = HalfHeads::open(&service.place("/b"), COUNT).unwrap();
    closed_within(&mut service, &mut half.wires, HEADS_HOLD);
    told_or_closed(&half.wires);
}

/// The same on a connection that was answered before.
#[test]
fn a_second_head_that_never_becomes_whole_does_not_hold_the_exit() {
    let mut service = Service::start(&[]);
    let place = service.place("/b");
    let mut wires = lameduck_verify::probe::http1::idle(&place, COUNT).unwrap();
    let before: Vec<u64> = wires.iter().map(Wire::received_bytes).collect();
    let head = place.get("");
    for wire in &mut wires {
        wire.send(&head[..head.len() / 2]).unwrap();
    }
    closed_within(&mut service, &mut wires, HEADS_HOLD);
    for (wire, before) in wires.iter().zip(before) {
        let text = String::from_utf8_lossy(&wire.received()[before as usize..]).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    }
}

/// One byte at a time is still a head that does not come.
#[test]
fn a_head_that_trickles_does_not_hold_the_exit() {
    let mut service = Service::start(&[]);
    let mut wire = Wire::connect(&service.place("/b").address).unwrap();
    wire.send(b"GET /b HTTP/1.1\r\nx: ").unwrap();
    service.signal(Signal::TERM);
    let begun = std::time::Instant::now();
    let pause = Duration::from_millis(20);
    while begun.elapsed() < HEADS_HOLD && wire.end() == End::Open {
        if wire.send(b"x").is_err() {
            break;
        }
        watch(std::slice::from_mut(&mut wire), Until::Closed, pause).unwrap();
    }
    let exit = service.ends_clean();
    assert!(exit.elapsed <= HEADS_HOLD, "{exit}: {}", service.last_words());
}

#[test]
fn a_silent_connection_does_not_hold_the_exit() {
    let mut service = Service::start(&[]);
    let mut wires = silent(&service.place("/b"), COUNT).unwrap();
    closed_within(&mut service, &mut wires, SILENCE_HOLDS);
    assert!(wires.iter().all(|wire| wire.received_bytes() == 0));
}

/// Stops a service whose HTTP/2 client went this far and then fell silent.
fn http2_falls_silent(up_to: UpTo) {
    let mut service = Service::start(&[]);
    let mut client = Client::open(&service.place("/b"), up_to, LIMIT).unwrap();
    // An answer on a later connection says that the earlier one was accepted.
    assert_eq!(service.get("/b").0, 200);
    service.signal(Signal::TERM);
    let exit = service.ends_clean();
    assert_eq!(client.wait_end(LIMIT).unwrap(), End::Eof, "{up_to:?}");
    assert!(exit.elapsed <= SILENCE_HOLDS, "{up_to:?}: {exit}: {}", service.last_words());
}

#[test]
fn a_part_of_an_http2_preface_does_not_hold_the_exit() {
    http2_falls_silent(UpTo::PartOfPreface);
}

#[test]
fn an_http2_preface_without_settings_does_not_hold_the_exit() {
    http2_falls_silent(UpTo::Preface);
}

#[test]
fn http2_settings_never_acknowledged_do_not_hold_the_exit() {
    http2_falls_silent(UpTo::Settings);
}

#[test]
fn an_http2_ping_never_acknowledged_does_not_hold_the_exit() {
    http2_falls_silent(UpTo::SettingsAcknowledged);
}
