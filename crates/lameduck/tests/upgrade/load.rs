//! Upgrades under load: nothing is lost, and a kept-alive client never has to connect again.

use std::time::Duration;

use lameduck_verify::load::{Load, Mode, Report, Until};
use lameduck_verify::target::{Ready, Signal};

use crate::support::{BOUND, Service, example, wait, who};

/// Clients of a load.
const CLIENTS: usize = 16;

/// How many upgrades one load sees; the environment may ask for more.
fn upgrades() -> u32 {
    std::env::var("LAMEDUCK_UPGRADES").ok().and_then(|asked| asked.parse().ok()).unwrap_or(10)
}

fn upgrades_under(mode: Mode, pause: Duration) -> Report {
    let service = Service::start();
    let load = Load::new(service.place("/"), mode).connections(CLIENTS).pause(pause);
    let running = load.until(Until::Elapsed(BOUND * 20)).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    for _ in 0..upgrades() {
        service.upgrade();
    }
    running.stop();
    let report = running.finish();
    assert_eq!(report.lost(), 0, "{report}\n{}", service.target.stderr());
    assert_eq!(who(&service.get("/")).0, 1 + upgrades());
    service.stop();
    report
}

#[test]
fn kept_connections_without_a_pause_lose_nothing_and_stay() {
    let report = upgrades_under(Mode::KeepAlive, Duration::ZERO);
    assert_eq!(report.connections_opened(), CLIENTS as u64, "{report}");
}

#[test]
fn kept_connections_with_pauses_lose_nothing_and_stay() {
    let report = upgrades_under(Mode::KeepAlive, Duration::from_millis(5));
    assert_eq!(report.connections_opened(), CLIENTS as u64, "{report}");
}

#[test]
fn posts_lose_nothing_and_stay() {
    let report = upgrades_under(Mode::Post, Duration::ZERO);
    assert_eq!(report.connections_opened(), CLIENTS as u64, "{report}");
}

#[test]
fn new_connections_lose_nothing() {
    let report = upgrades_under(Mode::NewConnection, Duration::ZERO);
    assert_eq!(report.tally().not_sent(), 0, "{report}");
}

#[test]
fn http2_streams_lose_nothing() {
    let report = upgrades_under(Mode::Http2 { streams: 4 }, Duration::ZERO);
    assert!(report.tally().answered() > 0, "{report}");
}

// F25
#[test]
fn a_storm_of_signals_leaves_one_generation_and_loses_nothing() {
    let service = Service::start();
    let load = Load::new(service.place("/"), Mode::KeepAlive).connections(CLIENTS);
    let running = load.until(Until::Elapsed(BOUND * 2)).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    for _ in 0..30 {
        let (_, pid) = who(&service.get("/"));
        // It may be leaving already: then the signal is for nobody.
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, Signal::HUP);
        // The rhythm of the storm, no wait for anybody.
        std::thread::sleep(Duration::from_millis(100));
    }
    running.stop();
    let report = running.finish();
    assert_eq!(report.lost(), 0, "{report}\n{}", service.target.stderr());
    assert_eq!(report.connections_opened(), CLIENTS as u64, "{report}");
    let serving = || {
        let status = service.status();
        let generations = status["generations"].as_array().unwrap();
        generations.iter().filter(|generation| generation["phase"] == "serving").count()
    };
    wait(|| serving() == 1, || service.status().to_string());
    service.stop();
}

/// The test of the tester: a service that dies and is started anew does lose requests, and these clients see it.
#[test]
fn a_kill_and_a_start_lose_some() {
    let mut service = Service::start();
    let load = Load::new(service.place("/slow"), Mode::KeepAlive).connections(CLIENTS);
    let running = load.until(Until::Elapsed(BOUND)).start().unwrap();
    let in_hand = || service.status()["generations"][0]["live"]["requests"] == CLIENTS;
    wait(in_hand, || service.status().to_string());
    service.target.kill().unwrap();
    let start = service.by_hand(&example("misbehaving_successor"));
    let _again = start.ready(Ready::Stderr("listens".to_owned())).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    running.stop();
    let report = running.finish();
    assert!(report.lost() > 0, "{report}");
    assert!(report.connections_opened() > CLIENTS as u64, "{report}");
}
