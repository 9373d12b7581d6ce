//! F38: several sockets of one address (`SO_REUSEPORT`), passed by whoever started the service. The kernel gives
//! connections to each of them as long as somebody holds it.

use std::time::Duration;

use lameduck_verify::load::{Load, Mode, Until};

use crate::support::{BOUND, Conversation, Service, Setup, times, who};

/// Sockets in the group.
const SOCKETS: usize = 4;

/// As many connections that some lie in the queue of each socket.
const CONNECTIONS: usize = 64;

/// Clients of a load, each with a new connection for each request.
const CLIENTS: usize = 16;

fn start(wishes: &[&str]) -> Service {
    let setup = Setup::new().group(SOCKETS).wish("inherited");
    wishes.iter().fold(setup, |setup, wish| setup.wish(wish)).start()
}

/// Every socket of the group is accepted from: no connection waits for ever.
fn everybody_is_answered(service: &Service, generation: u32) {
    let mut all: Vec<Conversation> = (0..CONNECTIONS).map(|_| service.connect()).collect();
    for conversation in &mut all {
        assert_eq!(who(&conversation.get("/")).0, generation);
    }
}

fn upgrades_under_load(service: &Service) {
    let load = Load::new(service.place("/"), Mode::NewConnection).connections(CLIENTS);
    let running = load.until(Until::Elapsed(BOUND * 20)).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    for number in 1..=times(10) {
        let (_, generation) = service.upgrade();
        assert_eq!(generation, 1 + number);
        everybody_is_answered(service, generation);
    }
    running.stop();
    let report = running.finish();
    println!("{report}");
    assert_eq!(report.lost() + report.tally().not_sent(), 0, "{report}");
}

#[test]
fn a_group_of_sockets_goes_over_whole_by_its_name_and_loses_nothing() {
    let service = start(&["probation 200"]);
    everybody_is_answered(&service, 1);
    upgrades_under_load(&service);
    service.stop();
}

/// It asks for the address once, serves it under another name, and would leave the others with nobody who accepts from them.
#[test]
fn a_successor_that_asks_for_fewer_sockets_accepts_from_all() {
    let service = start(&["probation 200"]);
    service.wish("probation 200");
    upgrades_under_load(&service);
    service.stop();
}

/// What lies in the queue of any of them when the service is handed over is answered by the successor.
#[test]
fn what_is_queued_at_any_socket_of_a_group_is_answered_after_the_upgrade() {
    for wishes in ["inherited", ""] {
        let service = start(&[]);
        service.wish(wishes);
        let mut waiting = Vec::new();
        std::thread::scope(|scope| {
            let upgrade = scope.spawn(|| service.upgrade());
            while !upgrade.is_finished() {
                waiting.push(service.connect());
                std::thread::sleep(Duration::from_micros(200));
            }
            upgrade.join().unwrap();
        });
        for conversation in &mut waiting {
            conversation.get("/");
        }
        everybody_is_answered(&service, 2);
        service.stop();
    }
}

/// A group of the service's own: its last holder closes each of its sockets through the gate, also those that it never
/// asked for.
#[test]
fn a_stop_of_a_service_with_a_group_resets_nobody() {
    let service = Setup::new().wish(&format!("own-group {SOCKETS}")).start();
    everybody_is_answered(&service, 1);
    service.wish("");
    service.upgrade_and_move();
    everybody_is_answered(&service, 2);
    let load = Load::new(service.place("/"), Mode::NewConnection).connections(CLIENTS);
    let running = load.until(Until::Elapsed(BOUND * 20)).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    service.stop();
    running.stop();
    let report = running.finish();
    assert_eq!(report.lost(), 0, "{report}");
}
