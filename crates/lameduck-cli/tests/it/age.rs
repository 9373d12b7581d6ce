//! Connections that are told to go when they are old: none of their requests is lost.

use std::time::Duration;

use lameduck_verify::load::{Load, Mode, Until};

use crate::service::{LIMIT, Service};

const OLD: [&str; 4] = ["--max-connection-age", "200ms", "--max-connection-age-grace", "20s"];

/// Connections that each client had, when it was told often to go.
fn load(mode: Mode, pause: Duration) {
    const CLIENTS: usize = 8;
    let service = Service::start(&OLD);
    let load = Load::new(service.place("/b"), mode).connections(CLIENTS).pause(pause);
    let report = load.until(Until::Elapsed(Duration::from_secs(2))).start().unwrap().finish();
    assert_eq!(report.lost(), 0, "{report}");
    // About ten generations of connections; nothing is asserted about the exact times.
    assert!(report.connections_opened() > 2 * CLIENTS as u64, "{report}");
    // Nobody found a connection closed that had not been announced.
    assert!(report.told_to_close() > CLIENTS as u64, "{report}");
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
fn what_an_old_connection_has_in_hand_after_its_grace_is_cut() {
    use std::io::{Read, Write};
    let flags = ["--max-connection-age", "100ms", "--max-connection-age-grace", "200ms"];
    let service = Service::start(&[&flags[..], &["--slow", "60s"]].concat());
    let mut socket = std::net::TcpStream::connect(&service.addresses[0]).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.write_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // An end or a reset, and no answer that could pass for one.
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(answer, b"");
}
