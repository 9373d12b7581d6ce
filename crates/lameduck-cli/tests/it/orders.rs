//! Acknowledged is stored, once: over stops and starts in the middle of a load (losses 22, 27 and 30).

use std::collections::BTreeSet;
use std::path::Path;
use std::slice::from_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lameduck_verify::address::Place as Aim;
use lameduck_verify::answer::Persistence;
use lameduck_verify::load::{Load, Mode, Until};
use lameduck_verify::probe::{Until as WatchUntil, Wire, watch};
use lameduck_verify::target::Signal;
use private_postgres::Cluster;
use serde_json::Value;

use crate::service::{LIMIT, Service, User, body, let_pass, stops};

/// How long each run is under load before it is stopped.
const RUN: Duration = Duration::from_millis(300);

/// Stops and starts the service on the same address while `run` lasts.
#[track_caller]
fn restarts(mut service: Service, flags: &[&str]) -> Service {
    let address = service.addresses[0].clone();
    for _ in 0..stops() {
        let_pass(RUN);
        service.signal(Signal::TERM);
        service.ends_clean();
        let directory = service.into_directory();
        service = Service::start_in(directory, User::Same, &[&address], flags);
    }
    let_pass(RUN);
    service
}

/// Posts orders across restarts, and returns what was acknowledged.
fn orders_across_restarts(flags: &[&str]) -> (Service, BTreeSet<String>) {
    let service = Service::start(flags);
    let acked = tempfile::NamedTempFile::new().unwrap();
    let load = Load::new(service.place("/orders"), Mode::Post).connections(16).acked(acked.path());
    let load = load.until(Until::Elapsed(Duration::from_secs(3_600))).start().unwrap();
    load.wait_flowing(LIMIT).unwrap();
    let service = restarts(service, flags);
    load.stop();
    let report = load.finish();
    assert_eq!(report.lost(), 0, "{report}");
    let ids = lines(acked.path());
    assert_eq!(ids.len() as u64, report.tally().answered(), "an id was acknowledged twice");
    assert!(ids.len() > stops(), "{report}");
    (service, ids)
}

fn lines(path: &Path) -> BTreeSet<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[track_caller]
fn count(service: &Service) -> u64 {
    let (status, text) = service.get("/orders/count");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["count"].as_u64().unwrap()
}

#[test]
fn an_acknowledged_order_is_in_sqlite_once() {
    let (mut service, acked) = orders_across_restarts(&[]);
    // An id is the key of its row, so as many rows as ids and each id there means each id once.
    assert_eq!(count(&service), acked.len() as u64);
    for id in acked.iter().step_by(1 + acked.len() / 200) {
        assert_eq!(service.get(&format!("/orders/{id}")).0, 200, "{id}");
    }
    service.signal(Signal::TERM);
    service.ends_clean();
}

#[test]
fn an_acknowledged_order_is_in_postgresql_once() {
    let cluster = Cluster::start();
    let url = cluster.create_database("arena");
    let (mut service, acked) = orders_across_restarts(&["--database", &url]);
    assert_eq!(count(&service), acked.len() as u64);
    service.signal(Signal::TERM);
    service.ends_clean();
    let stored: Vec<String> =
        cluster.query("arena", "SELECT id FROM orders").lines().map(str::to_owned).collect();
    assert_eq!(stored.len(), acked.len());
    assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), acked);
}

/// What can't be stored any more is said, and holds nothing.
#[test]
fn a_database_that_is_gone_does_not_hold_the_exit() {
    let mut cluster = Cluster::start();
    let url = cluster.create_database("arena");
    let mut service = Service::start(&["--database", &url]);
    assert_eq!(service.get("/b").0, 200);
    cluster.stop();
    assert_eq!(service.get("/b").0, 200);
    let exit = service.stop();
    let words = service.last_words();
    assert_eq!(exit.code, Some(1), "{exit}: {words}");
    assert!(words.contains("failed to close counter after "), "{words}");
    assert!(exit.elapsed < Duration::from_secs(8), "{exit}: {words}");
}

/// Asks for numbers on a kept connection, with a new one whenever it was told to, until it is stopped.
fn numbers(aim: &Aim, stopped: &AtomicBool) -> Vec<u64> {
    let mut seen = Vec::new();
    while !stopped.load(Ordering::Relaxed) {
        // Between two runs nobody listens.
        let Ok(mut wire) = Wire::connect(&aim.address) else { continue };
        wire.request(&aim.get("connection: close\r\n"));
        assert!(watch(from_mut(&mut wire), WatchUntil::Closed, LIMIT).unwrap());
        let [head] = wire.answers() else { panic!("lost: {:?}", wire.fates()) };
        assert_eq!((head.status, head.persistence), (200, Persistence::Close));
        let number: Value = serde_json::from_str(&body(&wire)).unwrap();
        seen.push(number["num"].as_u64().unwrap());
    }
    seen
}

#[test]
fn each_number_is_given_out_once_across_restarts() {
    let service = Service::start(&[]);
    let aim = service.place("/b");
    let stopped = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| numbers(&aim, &stopped))).collect();
        let service = restarts(service, &[]);
        stopped.store(true, Ordering::Relaxed);
        let seen: Vec<u64> =
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        drop(service);
        seen
    });
    let distinct: BTreeSet<u64> = seen.iter().copied().collect();
    assert_eq!(distinct.len(), seen.len(), "a number was given out twice");
    // None is skipped either: each was asked for by one of the clients, and each of them was answered.
    assert_eq!(distinct.last().copied(), Some(seen.len() as u64));
}
