//! Busy, careful clients at many stops, with a handshake before everything.

use std::time::Duration;

use lameduck_verify::load::{Load, Mode, Report, Until};
use lameduck_verify::target::{Ready, Signal, Target};

use super::{CLIENTS, Secure};
use crate::service::{LIMIT, Service, new_directory, program, stops};

/// One stop under load; what the clients saw.
#[track_caller]
fn stop_under(service: &mut Service, load: Load) -> Report {
    let running = load.until(Until::Gone { at_most: LIMIT }).start().unwrap();
    running.wait_flowing(LIMIT).unwrap();
    service.signal(Signal::TERM);
    let report = running.finish();
    service.wait();
    report
}

fn nothing_is_lost(mode: Mode, pause: Duration) {
    for stop in 1..=stops() {
        let mut secure = Secure::start(&[]);
        let load = secure.load("/b", mode).pause(pause);
        let report = stop_under(&mut secure.service, load);
        let words = secure.service.last_words();
        assert_eq!(report.lost(), 0, "stop {stop}: {report}\n{words}");
        assert_eq!(report.truncated(), 0, "stop {stop}: closed without close_notify: {report}");
        secure.service.ends_clean();
    }
}

#[test]
fn kept_alive_clients_behind_tls_lose_nothing() {
    nothing_is_lost(Mode::KeepAlive, Duration::ZERO);
}

#[test]
fn kept_alive_clients_behind_tls_that_pause_5_ms_lose_nothing() {
    nothing_is_lost(Mode::KeepAlive, Duration::from_millis(5));
}

#[test]
fn clients_with_a_handshake_for_each_request_lose_nothing() {
    nothing_is_lost(Mode::NewConnection, Duration::ZERO);
}

#[test]
fn http2_clients_behind_tls_lose_nothing() {
    nothing_is_lost(Mode::Http2 { streams: 4 }, Duration::ZERO);
}

/// The test of the tester: the same clients at the stop of hyper's own graceful shutdown behind tokio-rustls.
#[test]
fn the_same_clients_see_what_a_naive_tls_server_loses() {
    /// A server that loses some in each stop does not get away with more of them.
    const MOST_STOPS: usize = 20;
    for mode in [Mode::KeepAlive, Mode::NewConnection] {
        let lost = (0..MOST_STOPS).map(|_| {
            let command = Target::command(program("naive-tls")).args(["--port", "0"]);
            let ready = Ready::Stdout("istening on ".into());
            let mut service = Service::run_unasked(new_directory(), command, ready);
            let place = format!("https://{}/b", service.addresses[0]).parse().unwrap();
            stop_under(&mut service, Load::new(place, mode).connections(CLIENTS)).lost()
        });
        let seen = lost.into_iter().find(|lost| *lost > 0);
        assert!(seen.is_some(), "{mode:?}: nothing was lost in {MOST_STOPS} stops");
    }
}

#[test]
fn curl_is_served_over_both_protocols() {
    let secure = Secure::start(&[]);
    let version = ["--write-out", " %{http_version}"];
    let text = secure.curl_text(&[&["--http1.1"], &version[..]].concat(), "/b");
    assert_eq!(text, r#"{"num":1} 1.1"#);
    let text = secure.curl_text(&[&["--http2"], &version[..]].concat(), "/b");
    assert_eq!(text, r#"{"num":2} 2"#);
}
