//! F8: an address that the successor drops, and the connections that were accepted there. Nobody but the predecessor can
//! answer them.

use std::time::Duration;

use lameduck_verify::load::{Load, Mode, Until};

use crate::support::{BOUND, Conversation, Setup, free_address, wait, who};

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

/// A load on an address until nobody listens there any more.
fn dropped_under(mode: Mode, pause: Duration) {
    let extra = free_address();
    let service = Setup::new().listen(extra).start();
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
