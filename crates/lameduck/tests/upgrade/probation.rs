//! Deaths: the successor's while it is on probation, and the predecessor's at each step.

use std::time::Duration;

use lameduck::operate::{Verb, ask};
use lameduck_verify::load::{Load, Mode, Until};
use lameduck_verify::target::{Ready, Signal};

use crate::support::{BOUND, Service, Setup, example, wait, wait_gone, who};

// F13
#[test]
fn a_successor_that_dies_on_probation_gives_the_service_back() {
    // One that dies as soon as it is ready may not have said yet that it accepts: then the upgrade failed.
    for (after, told) in [(0, "serving "), (50, "serving again"), (500, "serving again")] {
        let mut service = Service::start();
        let first = service.target.pid();
        service.wish(&format!("crash-after {after}"));
        service.target.signal(Signal::HUP).unwrap();
        service.target.wait_stderr(told, BOUND).unwrap();
        assert_eq!(who(&service.get("/")), (1, first), "after {after} ms");
        // The name leads to the first again once that serves.
        let active = || ask(&service.control(), Verb::Status, &[]).is_ok();
        wait(active, || service.target.stderr());
        wait(|| service.processes() == [first], || format!("{:?}", service.processes()));
        // As if nothing had been: the next one succeeds, with a number of its own.
        service.wish("");
        let (pid, generation) = service.upgrade();
        assert_eq!(generation, 3);
        assert_eq!(who(&service.get("/")), (3, pid));
        service.stop();
    }
}

// F13
#[test]
fn a_successor_killed_under_load_costs_no_more_than_it_had_in_hand() {
    const CLIENTS: usize = 8;
    const KILLS: u64 = 8;
    let service = Service::start();
    let load = Load::new(service.place("/"), Mode::NewConnection).connections(CLIENTS);
    let running = load.until(Until::Elapsed(BOUND * 2)).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    for _ in 0..KILLS {
        let (pid, _) = service.upgrade();
        service.signal(pid, Signal::KILL);
        wait_gone(pid);
        // The name leads to the first again once that serves.
        let active = || ask(&service.control(), Verb::Status, &[]).is_ok();
        wait(active, || service.target.stderr());
        assert_eq!(who(&service.get("/")).0, 1);
    }
    running.stop();
    let report = running.finish();
    assert_eq!(report.tally().not_sent(), 0, "{report}");
    assert!(report.lost() <= KILLS * CLIENTS as u64, "{report}");
    service.stop();
}

#[test]
fn an_operator_takes_the_service_back() {
    let service = Service::start();
    let first = service.target.pid();
    let mut kept = service.connect();
    kept.get("/");
    let (pid, _) = service.upgrade();
    assert_eq!(service.ask(Verb::Rollback).code, 0);
    // Both accept for a moment.
    wait_gone(pid);
    assert_eq!(who(&service.get("/")), (1, first));
    let (_, generation) = service.upgrade();
    assert_eq!(generation, 3);
    service.stop();
}

/// The successor stands still from the answer on: whoever is served then is served by the predecessor.
#[test]
fn a_rollback_is_answered_when_the_predecessor_accepts() {
    for _ in 0..5 {
        let service = Service::start();
        let first = service.target.pid();
        let (pid, _) = service.upgrade();
        assert_eq!(service.ask(Verb::Rollback).code, 0);
        service.signal(pid, Signal::STOP);
        assert_eq!(who(&service.get("/")), (1, first));
        service.signal(pid, Signal::CONT);
        wait_gone(pid);
        service.stop();
    }
}

/// Nobody who waits for the process hears of its end: somebody else started it.
#[test]
fn a_successor_by_hand_that_dies_with_the_name_leaves_it_to_its_predecessor() {
    let service = Service::start();
    service.wish("raw crash-with-name");
    let program = example("misbehaving_successor");
    let mut second = service.by_hand(&program).start().unwrap();
    second.wait(BOUND).unwrap();
    service.target.wait_stderr("Upgrade failed, serving on", BOUND).unwrap();
    wait(|| ask(&service.control(), Verb::Status, &[]).is_ok(), || service.target.stderr());
    assert_eq!(service.status()["active"], 1);
    service.wish("");
    service.upgrade();
    service.stop();
}

#[test]
fn there_is_no_way_back_after_probation() {
    let mut service = Setup::new().wish("probation 50").start();
    service.upgrade();
    service.target.wait(BOUND).unwrap();
    let answer = service.ask(Verb::Rollback);
    assert_ne!(answer.code, 0);
    assert!(answer.text.contains("final"), "{}", answer.text);
    service.stop();
}

// F15
#[test]
fn a_predecessor_that_dies_before_the_commit_is_succeeded_all_the_same() {
    let mut service = Service::start();
    service.wish("slow 500");
    service.target.signal(Signal::HUP).unwrap();
    service.target.wait_stderr("warming up", BOUND).unwrap();
    service.signal(service.target.pid(), Signal::KILL);
    service.target.wait(BOUND).unwrap();
    // It waits in the queue of the socket that the successor holds.
    let (generation, pid) = who(&service.get("/"));
    assert_eq!(generation, 2);
    assert_eq!(service.status()["active"], 2);
    service.wait_processes(&[pid]);
    service.wish("");
    assert_eq!(service.upgrade().1, 3);
    service.stop();
}

/// Two could serve: the first, which still can take back, and the third, which succeeds the dead.
#[test]
fn a_death_while_the_next_one_starts_leaves_one_generation() {
    let mut service = Service::start();
    let (second, _) = service.upgrade();
    service.wish("slow 500");
    service.signal(second, Signal::HUP);
    service.target.wait_stderr("warming up", BOUND).unwrap();
    service.signal(second, Signal::KILL);
    let answer = service.get("/");
    assert_eq!(who(&answer).0, 3, "{answer}");
    service.wait_processes(&[who(&answer).1]);
    service.stop();
}

// F16
#[test]
fn a_predecessor_that_dies_while_draining_changes_nothing() {
    let mut service = Service::start();
    let mut busy = service.connect();
    busy.ask("/slow");
    wait(
        || service.status()["generations"][0]["live"]["requests"] == 1,
        || service.status().to_string(),
    );
    let (pid, generation) = service.upgrade();
    service.signal(service.target.pid(), Signal::KILL);
    service.target.wait(BOUND).unwrap();
    assert_eq!(who(&service.get("/")), (generation, pid));
    service.stop();
}

// F23
#[test]
fn both_told_to_stop_at_once_leave() {
    for _ in 0..5 {
        let mut service = Service::start();
        let (pid, _) = service.upgrade();
        service.target.signal(Signal::TERM).unwrap();
        service.signal(pid, Signal::TERM);
        service.wait_processes(&[]);
    }
}

#[test]
fn a_stop_soon_after_an_upgrade_does_not_wake_the_predecessor() {
    for moment in 0..5 {
        let mut service = Service::start();
        let (pid, _) = service.upgrade();
        // Not a wait for anything: another moment each time.
        std::thread::sleep(Duration::from_millis(moment));
        service.signal(pid, Signal::TERM);
        service.wait_processes(&[]);
        assert!(!service.target.stderr().contains("serving again"));
    }
}

#[test]
fn one_started_by_hand_takes_over_and_one_that_does_not_ask_is_refused() {
    let service = Service::start();
    let program = example("misbehaving_successor");
    let refused = service.by_hand(&program).ready(Ready::Stderr("listens".to_owned())).start();
    assert!(refused.unwrap_err().to_string().contains("in use"));
    service.wish("take-over");
    let ready = Ready::Stderr("Generation 2 listens".to_owned());
    let second = service.by_hand(&program).ready(ready).start().unwrap();
    wait(|| who(&service.get("/")) == (2, second.pid()), || service.get("/"));
    assert_eq!(service.ask(Verb::Stop).code, 0);
    wait_gone(second.pid());
}
