//! F8: an address that the successor drops, and the connections that were accepted there. Nobody but the predecessor can
//! answer them.

use std::time::Duration;

use lameduck::operate::Verb;
use lameduck_verify::load::{Load, Mode, Until};
use lameduck_verify::target::Signal;

use crate::support::{BOUND, Conversation, Setup, free_address, times, wait, who};

/// Clients of a load.
const CLIENTS: usize = 32;

#[test]
fn an_idle_connection_of_a_dropped_address_is_answered_once_more_where_it_is() {
    let extra = free_address();
    let service = Setup::new().listen(extra).start();
    let (mut kept, mut silent) = (Conversation::tcp(extra), Conversation::tcp(extra));
    assert_eq!(who(&kept.get("/")).0, 1);
    service.wish(&format!("drop {extra}"));
    let (_, generation) = service.upgrade();
    assert_eq!(who(&service.get("/")).0, generation);
    assert_eq!(who(&kept.get("/")).0, 1);
    kept.wait_closed();
    assert_eq!(who(&silent.get("/")).0, 1);
    silent.wait_closed();
    service.stop();
}

#[test]
fn an_idle_connection_of_a_dropped_address_is_closed_in_order_after_its_linger() {
    let extra = free_address();
    let mut service = Setup::new().listen(extra).wish("upgrade-linger 300\nprobation 50").start();
    let (mut kept, mut silent) = (Conversation::tcp(extra), Conversation::tcp(extra));
    kept.get("/");
    service.wish(&format!("drop {extra}"));
    let (successor, _) = service.upgrade();
    kept.wait_closed();
    silent.wait_closed();
    // And the predecessor is not held by what it cannot send.
    service.wait_processes(&[successor]);
    service.stop();
}

#[test]
fn a_request_in_hand_on_a_dropped_address_is_answered_and_its_connection_closed() {
    let extra = free_address();
    let service = Setup::new().listen(extra).start();
    let mut busy = Conversation::tcp(extra);
    busy.send(b"POST /size HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nha");
    let in_hand = || service.status()["generations"][0]["live"]["requests"] == 1;
    wait(in_hand, || service.status().to_string());
    service.wish(&format!("drop {extra}"));
    service.upgrade();
    busy.send(b"lf");
    assert_eq!(who(&busy.answer()).0, 1);
    busy.wait_closed();
    service.stop();
}

/// The generation between has left, and the one that serves never had the address.
#[test]
fn a_connection_that_was_busy_while_its_address_was_dropped_two_upgrades_later_is_answered() {
    let extra = free_address();
    let service = Setup::new().listen(extra).wish("probation 50").start();
    let mut busy = Conversation::tcp(extra);
    busy.send(b"POST /size HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nha");
    let in_hand = || service.status()["generations"][0]["live"]["requests"] == 1;
    wait(in_hand, || service.status().to_string());
    let (second, _) = service.upgrade();
    service.wish(&format!("probation 50\ndrop {extra}"));
    service.upgrade();
    crate::support::wait_gone(second);
    busy.send(b"lf");
    assert_eq!(who(&busy.answer()).0, 1);
    busy.wait_closed();
    service.stop();
}

/// Until its successor keeps the service, whoever comes to the address is answered there, by the one that has it.
#[test]
fn a_dropped_address_is_served_again_after_a_rollback() {
    for way in ["rollback", "death"] {
        let extra = free_address();
        let mut service = Setup::new().listen(extra).wish("probation 3600000").start();
        let first = service.target.pid();
        service.wish(&format!("drop {extra}"));
        let (second, _) = service.upgrade();
        assert_eq!(who(&Conversation::tcp(extra).get("/")).1, first);
        match way {
            "rollback" => assert_eq!(service.ask(Verb::Rollback).code, 0),
            _ => service.signal(second, Signal::KILL),
        }
        service.wait_processes(&[first]);
        service.wait_named();
        let mut kept = Conversation::tcp(extra);
        for _ in 0..2 {
            assert_eq!(who(&kept.get("/")).1, first, "it is an address like any other again");
        }
        assert_eq!(who(&service.get("/")).1, first);
        // And it can be dropped once more, by one that keeps the service.
        let (third, _) = service.upgrade();
        assert_eq!(who(&kept.get("/")).1, first);
        service.upgrade();
        wait(|| std::net::TcpStream::connect(extra).is_err(), || extra.to_string());
        assert_ne!(third, second);
        service.stop();
    }
}

/// One that comes after it and has the address again binds it anew: by then it is closed.
#[test]
fn an_address_that_was_dropped_can_be_had_again_by_the_next() {
    let extra = free_address();
    let service = Setup::new().listen(extra).wish("probation 3600000").start();
    for _ in 0..times(3) {
        service.wish(&format!("drop {extra}\nprobation 3600000"));
        service.upgrade();
        service.wish("probation 3600000");
        let (pid, generation) = service.upgrade();
        assert_eq!(who(&Conversation::tcp(extra).get("/")), (generation, pid));
    }
    service.stop();
}

/// Nothing is in hand, and the process stays for the address until the way back is closed.
#[test]
fn a_stop_on_probation_ends_the_one_that_still_has_a_dropped_address() {
    let extra = free_address();
    let mut service = Setup::new().listen(extra).wish("probation 3600000").start();
    service.wish(&format!("drop {extra}"));
    let (second, _) = service.upgrade();
    service.target.signal(Signal::TERM).unwrap();
    service.wait_processes(&[second]);
    assert!(std::net::TcpStream::connect(extra).is_err());
    assert_eq!(who(&service.get("/")).1, second);
    service.stop();
}

/// A load on an address until nobody listens there any more.
fn dropped_under(mode: Mode, pause: Duration) {
    let extra = free_address();
    let service = Setup::new().listen(extra).wish("probation 50").start();
    let place = format!("http://{extra}/").parse().unwrap();
    let load = Load::new(place, mode).connections(CLIENTS).pause(pause);
    let running = load.until(Until::Gone { at_most: BOUND }).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    service.upgrade();
    service.wish(&format!("drop {extra}"));
    service.upgrade();
    assert!(running.wait_ended(BOUND), "clients are still answered at {extra}");
    let report = running.finish();
    assert_eq!(report.lost(), 0, "{report}\n{}", service.target.stderr());
    service.stop();
}

#[test]
fn busy_kept_connections_of_a_dropped_address_lose_nothing() {
    dropped_under(Mode::KeepAlive, Duration::ZERO);
}

#[test]
fn kept_connections_of_a_dropped_address_with_pauses_lose_nothing() {
    dropped_under(Mode::KeepAlive, Duration::from_millis(5));
}

#[test]
fn posts_to_a_dropped_address_lose_nothing() {
    dropped_under(Mode::Post, Duration::from_millis(1));
}

#[test]
fn new_connections_to_a_dropped_address_lose_nothing() {
    dropped_under(Mode::NewConnection, Duration::ZERO);
}

#[test]
fn http2_streams_of_a_dropped_address_lose_nothing() {
    dropped_under(Mode::Http2 { streams: 4 }, Duration::ZERO);
}
