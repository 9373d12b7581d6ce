//! The clients see losses where there are some: at a kill, and at the graceful stop of plain axum.

mod support;

use lameduck_verify::load::{Load, Mode, Report, Until};
use lameduck_verify::target::{Signal, Target};
use std::time::Duration;
use support::{SOON, axum_graceful};

/// So many stops may be needed until a race is lost; one is nearly always enough.
const STOPS: usize = 12;

fn under_load(mode: Mode, path: &str, end: impl FnOnce(&mut Target)) -> Report {
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

#[test]
fn a_killed_server_loses_requests_in_every_mode() {
    for (mode, path) in [
        (Mode::KeepAlive, "/b"),
        (Mode::NewConnection, "/b"),
        (Mode::Post, "/orders"),
        (Mode::Http2 { streams: 4 }, "/b"),
    ] {
        let report = under_load(mode, path, |target| {
            target.kill().unwrap();
        });
        assert!(report.lost() > 0, "{mode:?}: {report}");
    }
}

/// Sums the losses of graceful stops until there is one.
fn losses_of_graceful_stops(mode: Mode) -> u64 {
    let stop = |target: &mut Target| target.signal(Signal::TERM).unwrap();
    let losses = (0..STOPS).map(|_| under_load(mode, "/b", stop).lost());
    losses.into_iter().find(|lost| *lost > 0).unwrap_or(0)
}

#[test]
fn plain_axum_loses_requests_on_kept_connections_at_a_graceful_stop() {
    assert!(losses_of_graceful_stops(Mode::KeepAlive) > 0);
}

#[test]
fn plain_axum_loses_requests_on_new_connections_at_a_graceful_stop() {
    assert!(losses_of_graceful_stops(Mode::NewConnection) > 0);
}
