//! The open loop: requests come due whatever the server does, and each latency counts from then.

mod support;

use lameduck_verify::fate::Fate;
use lameduck_verify::load::open::{Open, Report};
use lameduck_verify::load::{Load, Mode, Until};
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{OK, OK_CLOSE, Server, close_in_order, read_request, reset, serve_well};

/// Requests a second, and for how long.
const RATE: f64 = 500.0;
const LASTING: Duration = Duration::from_secs(1);
const SCHEDULED: u64 = 500;

fn run(server: &Server, mode: Mode) -> Report {
    let load = Open::new(server.place("/"), mode, RATE).connections(8).lasting(LASTING);
    load.start().unwrap().finish().unwrap()
}

#[test]
fn every_scheduled_request_is_sent_over_the_same_connections() {
    let server = Server::start(serve_well);
    for mode in [Mode::KeepAlive, Mode::Post] {
        let report = run(&server, mode);
        assert_eq!((report.tally().answered(), report.lost()), (SCHEDULED, 0), "{report}");
        assert_eq!((report.connections_opened(), report.tally().not_sent()), (8, 0), "{report}");
        assert!(report.elapsed() >= LASTING - Duration::from_millis(2), "{report}");
    }
}

#[test]
fn a_connection_for_each_request_is_one() {
    let server = Server::start(|mut stream| {
        if read_request(&mut stream).is_some() && stream.write_all(OK_CLOSE).is_ok() {
            close_in_order(stream);
        }
    });
    let report = run(&server, Mode::NewConnection);
    assert_eq!((report.tally().answered(), report.lost()), (SCHEDULED, 0), "{report}");
    assert_eq!(report.connections_opened(), SCHEDULED, "{report}");
}

/// A server that stands still once, for this long, on every connection.
fn standing_still(pause: Duration) -> Server {
    let (answered, still) = (AtomicU64::new(0), Mutex::new(()));
    Server::start(move |mut stream: TcpStream| {
        while read_request(&mut stream).is_some() {
            let lock = still.lock().unwrap();
            if answered.fetch_add(1, Ordering::SeqCst) == SCHEDULED / 10 {
                std::thread::sleep(pause);
            }
            drop(lock);
            if stream.write_all(OK).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_pause_of_the_server_is_charged_to_each_request_that_came_due() {
    const PAUSE: Duration = Duration::from_millis(600);
    let report = run(&standing_still(PAUSE), Mode::KeepAlive);
    assert_eq!(report.tally().answered(), SCHEDULED, "{report}");
    // 50 requests came due within the first 100 ms of the pause, and one in ten of all is above p90.
    assert!(report.latency().p99 >= 500_000, "{report}");
    assert!(report.longest_silence() >= PAUSE, "{report}");
    // The closed loop next to it does not see that: it sends nothing while it waits.
    let server = standing_still(PAUSE);
    let load = Load::new(server.place("/"), Mode::KeepAlive).connections(8).threads(1);
    let load = load.pause(Duration::from_millis(1)).until(Until::Elapsed(LASTING));
    let closed = load.start().unwrap().finish();
    assert!(closed.tally().answered() > SCHEDULED, "{closed}");
    assert!(closed.latency().p50 < 500_000, "{closed}");
}

#[test]
fn losses_are_seen_and_the_connections_made_anew() {
    let server = Server::start(|mut stream| {
        for _ in 0..10 {
            if read_request(&mut stream).is_none() || stream.write_all(OK).is_err() {
                return;
            }
        }
        read_request(&mut stream);
        reset(stream);
    });
    let report = run(&server, Mode::KeepAlive);
    assert_eq!(report.tally().sent() + report.tally().not_sent(), SCHEDULED, "{report}");
    assert!(report.count(Fate::IdleCloseRace) > 10, "{report}");
    assert!(report.connections_opened() > 8 + 10, "{report}");
}

#[test]
fn what_could_not_be_sent_is_not_lost() {
    let server = Server::start(serve_well);
    let running = Open::new(server.place("/"), Mode::NewConnection, RATE).lasting(LASTING);
    drop(server);
    let report = running.start().unwrap().finish().unwrap();
    assert_eq!((report.count(Fate::Refused), report.lost()), (SCHEDULED, 0), "{report}");
}

#[test]
fn a_request_that_finds_no_idle_connection_waits_until_its_limit() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&held);
    let server = Server::start(move |mut stream: TcpStream| {
        read_request(&mut stream);
        kept.lock().unwrap().push(stream);
    });
    let load = Open::new(server.place("/"), Mode::KeepAlive, 100.0).connections(2);
    let load = load.lasting(Duration::from_millis(100)).request_limit(Duration::from_millis(200));
    let report = load.start().unwrap().finish().unwrap();
    let counts = (report.count(Fate::TimedOut), report.count(Fate::ConnectTimedOut));
    // Two were sent and never answered; what waited behind them was sent when they were given up, or never.
    assert_eq!(counts.0 + counts.1, 10, "{report}");
    assert!(counts.0 >= 2, "{report}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let server = Server::start(serve_well);
    let place = || server.place("/");
    for load in [
        Open::new(place(), Mode::KeepAlive, 0.0),
        Open::new(place(), Mode::KeepAlive, f64::NAN),
        Open::new(place(), Mode::Http2 { streams: 1 }, 1.0),
    ] {
        assert_eq!(load.start().unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
}
