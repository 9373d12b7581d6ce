//! Busy, careful clients at many stops: none of their requests is lost (losses 2, 3, 5, 6 and 9).

use std::time::Duration;

use lameduck_verify::load::{Load, Mode, Report, Until};
use lameduck_verify::target::Signal;

use crate::service::{LIMIT, Service, stops};

/// As many clients as the promises are measured with.
const CLIENTS: usize = 32;

/// One stop under load; what the clients saw.
fn stop_under(service: &mut Service, load: Load) -> Report {
    let until = Until::Gone { at_most: LIMIT };
    let running = load.connections(CLIENTS).until(until).start().unwrap();
    running.wait_flowing(LIMIT).unwrap();
    service.signal(Signal::TERM);
    let report = running.finish();
    service.wait();
    report
}

/// Nothing is lost in any of the stops.
fn nothing_is_lost(listen: &str, path: &str, mode: Mode, pause: Duration) {
    for stop in 1..=stops() {
        let mut service = Service::start_on(&[listen], &[]);
        let load = Load::new(service.place(path), mode).pause(pause);
        let report = stop_under(&mut service, load);
        assert_eq!(report.lost(), 0, "stop {stop}: {report}\n{}", service.last_words());
        service.ends_clean();
    }
}

const IPV4: &str = "127.0.0.1:0";

fn kept_alive(pause: u64) {
    nothing_is_lost(IPV4, "/b", Mode::KeepAlive, Duration::from_millis(pause));
}

#[test]
fn kept_alive_clients_without_a_pause_lose_nothing() {
    kept_alive(0);
}

#[test]
fn kept_alive_clients_that_pause_1_ms_lose_nothing() {
    kept_alive(1);
}

#[test]
fn kept_alive_clients_that_pause_5_ms_lose_nothing() {
    kept_alive(5);
}

#[test]
fn kept_alive_clients_that_pause_20_ms_lose_nothing() {
    kept_alive(20);
}

#[test]
fn clients_with_a_connection_for_each_request_lose_nothing() {
    nothing_is_lost(IPV4, "/b", Mode::NewConnection, Duration::ZERO);
}

#[test]
fn clients_with_a_connection_for_each_request_over_ipv6_lose_nothing() {
    nothing_is_lost("[::1]:0", "/b", Mode::NewConnection, Duration::ZERO);
}

#[test]
fn clients_with_a_connection_for_each_request_over_unix_sockets_lose_nothing() {
    nothing_is_lost("unix:x.sock", "/b", Mode::NewConnection, Duration::ZERO);
}

#[test]
fn kept_alive_clients_over_unix_sockets_lose_nothing() {
    nothing_is_lost("unix:x.sock", "/b", Mode::KeepAlive, Duration::ZERO);
}

#[test]
fn clients_that_post_lose_nothing() {
    nothing_is_lost(IPV4, "/orders", Mode::Post, Duration::ZERO);
}

#[test]
fn http2_clients_with_several_streams_lose_nothing() {
    nothing_is_lost(IPV4, "/b", Mode::Http2 { streams: 4 }, Duration::ZERO);
}

#[test]
fn http2_clients_that_pause_lose_nothing() {
    nothing_is_lost(IPV4, "/b", Mode::Http2 { streams: 4 }, Duration::from_millis(5));
}

/// Handlers that take a while are in hand when the stop comes.
#[test]
fn clients_of_a_slow_handler_lose_nothing() {
    for mode in [Mode::KeepAlive, Mode::NewConnection, Mode::Http2 { streams: 2 }] {
        let mut service = Service::start(&["--slow", "30ms"]);
        let load = Load::new(service.place("/a"), mode);
        let report = stop_under(&mut service, load);
        assert_eq!(report.lost(), 0, "{report}\n{}", service.last_words());
        service.ends_clean();
    }
}

/// In the lame duck everybody is still served.
#[test]
fn nothing_is_lost_across_a_lame_duck() {
    for mode in [Mode::KeepAlive, Mode::NewConnection, Mode::Http2 { streams: 2 }] {
        let mut service = Service::start(&["--lame-duck", "300ms"]);
        let load = Load::new(service.place("/b"), mode);
        let report = stop_under(&mut service, load);
        assert_eq!(report.lost(), 0, "{report}\n{}", service.last_words());
        service.ends_clean();
    }
}

/// The test of the tester: the same clients at the stop of a server that is known to lose see that it does.
#[test]
fn the_same_clients_see_what_a_naive_server_loses() {
    /// A server that loses a few dozen in six stops does not get away with more of them.
    const MOST_STOPS: usize = 20;
    for mode in [Mode::KeepAlive, Mode::NewConnection] {
        let lost = (0..MOST_STOPS).map(|_| {
            let mut service = Service::program("naive-axum", &[]);
            let load = Load::new(service.place("/b"), mode);
            stop_under(&mut service, load).lost()
        });
        let seen = lost.into_iter().find(|lost| *lost > 0);
        assert!(seen.is_some(), "{mode:?}: nothing was lost in {MOST_STOPS} stops");
    }
}
