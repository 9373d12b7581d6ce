//! The clients see losses where there are some: at a kill, and at the graceful stop of plain axum.

mod support;

use lameduck_verify::load::{Load, Mode, Report, Until};
use lameduck_verify::target::{Signal, Target};
use std::time::Duration;
use support::{SOON, axum_graceful};

/// So many stops may be needed until a race is lost; one is nearly always enough.
const STOPS: usize = 12;

fn under_load(mode: Mode, path: &str, end: fn(&mut Target)) -> Report {
    let (mut target, mut place) = axum_graceful();
    place.path = path.to_owned();
    let until = Until::Gone { at_most: Duration::from_secs(30) };
    let running = Load::new(place, mode).connections(24).until(until).start().unwrap();
    running.wait_flowing(SOON).unwrap();
    end(&mut target);
    target.wait(SOON).unwrap();
    let report = running.finish();
    assert!(report.tally().answered() > 0, "{report}");
    report
}

/// Whether one of several ends under load loses a request. A single one need not: at that instant every
/// connection may be between two requests.
fn loses(mode: Mode, path: &str, end: fn(&mut Target)) -> bool {
    (0..STOPS).any(|_| under_load(mode, path, end).lost() > 0)
}

fn kill(target: &mut Target) {
    target.kill().unwrap();
}

fn stop(target: &mut Target) {
    target.signal(Signal::TERM).unwrap();
}

#[test]
fn a_killed_server_loses_requests_in_every_mode() {
    assert!(loses(Mode::KeepAlive, "/b", kill), "kept connections");
    assert!(loses(Mode::NewConnection, "/b", kill), "new connections");
    assert!(loses(Mode::Post, "/orders", kill), "posts");
    assert!(loses(Mode::Http2 { streams: 4 }, "/b", kill), "HTTP/2");
}

#[test]
fn plain_axum_loses_requests_on_kept_connections_at_a_graceful_stop() {
    assert!(loses(Mode::KeepAlive, "/b", stop));
}

#[test]
fn plain_axum_loses_requests_on_new_connections_at_a_graceful_stop() {
    assert!(loses(Mode::NewConnection, "/b", stop));
}
