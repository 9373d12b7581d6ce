//! Connections that are told to go when they are old: none of their requests is lost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lameduck_verify::load::{Load, Mode, Until};
use lameduck_verify::probe::End;
use lameduck_verify::probe::http2::{Client, UpTo};
use lameduck_verify::target::Signal;

use crate::service::{ADMIN, LIMIT, Service, WITH_ADMIN, get};
use crate::tls::Secure;

const OLD: [&str; 4] = ["--max-connection-age", "200ms", "--max-connection-age-grace", "20s"];

/// As many connections as it takes until each client was told often to go.
const CLIENTS: usize = 8;

#[track_caller]
fn loses_nothing(load: Load) {
    let load = load.connections(CLIENTS).until(Until::Elapsed(Duration::from_secs(2)));
    let report = load.start().unwrap().finish();
    assert_eq!((report.lost(), report.truncated()), (0, 0), "{report}");
    // About ten generations of connections; nothing is asserted about the exact times.
    assert!(report.connections_opened() > 2 * CLIENTS as u64, "{report}");
    // Nobody found a connection closed that had not been announced.
    assert!(report.told_to_close() > CLIENTS as u64, "{report}");
}

fn load(mode: Mode, pause: Duration) {
    let service = Service::start(&OLD);
    loses_nothing(Load::new(service.place("/b"), mode).pause(pause));
}

#[test]
fn an_old_connection_of_http_1_1_is_told_to_go_and_loses_nothing() {
    load(Mode::KeepAlive, Duration::ZERO);
}

#[test]
fn an_old_connection_of_a_client_that_pauses_loses_nothing() {
    load(Mode::KeepAlive, Duration::from_millis(20));
}

#[test]
fn an_old_connection_of_http_2_gets_its_go_aways_and_loses_nothing() {
    load(Mode::Http2 { streams: 4 }, Duration::ZERO);
}

#[test]
fn an_old_connection_behind_tls_loses_nothing_over_either_protocol() {
    for (mode, pause) in [
        (Mode::KeepAlive, Duration::ZERO),
        (Mode::KeepAlive, Duration::from_millis(20)),
        (Mode::Http2 { streams: 4 }, Duration::ZERO),
    ] {
        let secure = Secure::start(&OLD);
        loses_nothing(secure.load("/b", mode).pause(pause));
    }
}

const CUT: [&str; 6] =
    ["--max-connection-age", "100ms", "--max-connection-age-grace", "200ms", "--slow", "60s"];

/// What was cut is counted: while it runs, in the metrics, and at the end, in the report.
#[track_caller]
fn is_counted(service: &mut Service, connections: u64, requests: u64) {
    let cut = |status: &serde_json::Value| status["tally"]["cut_for_age"] == connections;
    let status = service.wait_status(cut);
    assert_eq!(status["tally"]["requests_cut_for_age"], requests, "{status}");
    let place = format!("unix:{}:/metrics", service.path(ADMIN).display()).parse().unwrap();
    let (_, metrics) = get(&place);
    let line = format!("\nlameduck_requests_cut_for_age_total {requests}\n");
    assert!(metrics.contains(&line), "{metrics}");
    service.signal(Signal::TERM);
    service.ends_clean();
    let report = service.report();
    assert_eq!(report["tally"]["cut_for_age"], connections, "{report}");
}

#[test]
fn what_an_old_connection_has_in_hand_after_its_grace_is_cut_and_counted() {
    for version in ["1.1", "1.0"] {
        let flags = [&CUT[..], &["--log", "json"], &WITH_ADMIN].concat();
        let mut service = Service::start(&flags);
        let mut socket = TcpStream::connect(&service.addresses[0]).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let ask = format!("GET /a HTTP/{version}\r\nhost: x\r\n\r\n");
        socket.write_all(ask.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // An end or a reset, and no answer that could pass for one.
        let _ = socket.read_to_end(&mut answer);
        assert_eq!(answer, b"");
        is_counted(&mut service, 1, 1);
    }
}

/// An answer of HTTP/1.0 ends with its connection: cut, it must not end like one that is whole.
#[test]
fn an_answer_that_only_a_close_ends_is_cut_with_a_reset() {
    let mut service = Service::start(&[&CUT[..], &["--log", "json"], &WITH_ADMIN].concat());
    let mut socket = TcpStream::connect(&service.addresses[0]).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.write_all(b"GET /events HTTP/1.0\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let end = socket.read_to_end(&mut answer).unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(answer.starts_with(b"HTTP/1."), "{answer:?}");
    is_counted(&mut service, 1, 1);
}

#[test]
fn what_an_old_connection_of_http_2_has_in_hand_is_cut_and_counted_too() {
    let mut service = Service::start(&[&CUT[..], &["--log", "json"], &WITH_ADMIN].concat());
    let mut client = Client::open(&service.place("/b"), UpTo::SettingsAcknowledged, LIMIT).unwrap();
    for stream in [1, 3, 5] {
        client.get(&service.place("/a"), stream).unwrap();
    }
    assert_ne!(client.wait_end(LIMIT).unwrap(), End::Open);
    for stream in [1, 3, 5] {
        assert!(!client.is_answered(stream), "{:?}", client.frames());
    }
    is_counted(&mut service, 1, 3);
}

#[test]
fn what_an_old_connection_behind_tls_has_in_hand_is_cut_without_close_notify_and_counted() {
    let mut secure = Secure::start(&[&CUT[..], &["--log", "json"], &WITH_ADMIN].concat());
    let mut busy = secure.dial(&secure.client(b"http/1.1"));
    busy.send(b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    busy.rest().unwrap_err();
    is_counted(&mut secure.service, 1, 1);
    let mut secure = Secure::start(&[&CUT[..], &["--log", "json"], &WITH_ADMIN].concat());
    assert!(!secure.curl(&["--http2"], "/a").status.success());
    is_counted(&mut secure.service, 1, 1);
}
