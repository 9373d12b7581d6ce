//! Deaths: the successor's while it is on probation, and the predecessor's at each step.

use std::time::Duration;

use lameduck::operate::{Verb, ask};
use lameduck_verify::fate::Fate;
use lameduck_verify::load::{Load, Mode, Until};
use lameduck_verify::target::proc::descriptors;
use lameduck_verify::target::{Ready, Signal};

use crate::support::{BOUND, Service, Setup, example, moments, times, wait, wait_gone, who};

/// F13
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
        service.wait_named();
        wait(|| service.processes() == [first], || format!("{:?}", service.processes()));
        // As if nothing had been: the next one succeeds, with a number of its own.
        service.wish("");
        let (pid, generation) = service.upgrade();
        assert_eq!(generation, 3);
        assert_eq!(who(&service.get("/")), (3, pid));
        service.stop();
    }
}

/// F13: at another moment of its probation each time.
#[test]
fn a_successor_killed_under_load_costs_no_more_than_it_had_in_hand() {
    const CLIENTS: usize = 32;
    /// Within this time after an upgrade it is killed.
    const WITHIN: Duration = Duration::from_millis(300);
    let service = Setup::new().wish("probation 3600000").start();
    let load = Load::new(service.place("/"), Mode::KeepAlive).connections(CLIENTS);
    let running = load.until(Until::Elapsed(BOUND * 20)).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    let kills = times(8);
    for moment in moments(WITHIN).take(kills as usize) {
        let (pid, _) = service.upgrade();
        // Not a wait for anything: another moment each time.
        std::thread::sleep(moment);
        service.signal(pid, Signal::KILL);
        wait_gone(pid);
        service.wait_named();
        assert_eq!(who(&service.get("/")).0, 1);
    }
    running.stop();
    let report = running.finish();
    println!("{kills} kills: {report}");
    // A client whose kept connection died with the process may find so before it has written a byte.
    let refused = report.count(Fate::Refused) + report.count(Fate::ConnectTimedOut);
    assert_eq!(refused, 0, "the socket was open all the time: {report}");
    assert!(report.lost() <= u64::from(kills) * CLIENTS as u64, "{report}");
    let told = service.target.stderr().matches("died on probation").count();
    assert_eq!(told, kills as usize, "each death is told");
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

/// Its successor has not said a word when the service goes back: whoever waits for that is told, and nobody is left.
#[test]
fn an_upgrade_of_one_that_gives_the_service_back_is_refused() {
    let service = Service::start();
    let first = service.target.pid();
    service.upgrade();
    service.wish("hang");
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| service.ask(Verb::Upgrade));
        let two = || service.target.stderr().matches("Upgrading: started").count() == 2;
        wait(two, || service.target.stderr());
        assert_eq!(service.ask(Verb::Rollback).code, 0);
        let told = upgrade.join().unwrap();
        assert_ne!(told.code, 0);
        assert!(told.text.contains("this generation is not serving"), "{}", told.text);
    });
    wait(|| service.processes() == [first], || format!("{:?}", service.processes()));
    assert_eq!(who(&service.get("/")), (1, first));
    service.wish("");
    service.upgrade();
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

/// F15
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
    service.wait_named();
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
    service.wait_named();
    service.wait_processes(&[who(&answer).1]);
    service.stop();
}

/// F16
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

/// F23
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
    // Whoever answers under the name is stopped: it may have answered a client before that was the second.
    wait(|| service.status()["active"] == 2, || service.status().to_string());
    wait(|| who(&service.get("/")) == (2, second.pid()), || service.get("/"));
    assert_eq!(service.ask(Verb::Stop).code, 0);
    wait_gone(second.pid());
}

/// F15, F16: the predecessor is killed at another moment of the upgrade each time. Before it has given its sockets they
/// die with it, and then nobody is left; from then on the successor serves.
#[test]
fn a_predecessor_killed_at_any_moment_leaves_one_that_serves_or_nobody() {
    const WITHIN: Duration = Duration::from_millis(60);
    let mut succeeded = 0;
    for moment in moments(WITHIN).take(times(20) as usize) {
        let mut service = Service::start();
        service.target.signal(Signal::HUP).unwrap();
        let started = service.target.wait_stderr("Upgrading: started", BOUND).unwrap();
        let successor: u32 = started.rsplit(' ').next().unwrap().parse().unwrap();
        std::thread::sleep(moment);
        service.signal(service.target.pid(), Signal::KILL);
        service.target.wait(BOUND).unwrap();
        let answers = || std::net::TcpStream::connect(service.address).is_ok();
        let is_over = || service.processes().is_empty() || answers();
        wait(is_over, || format!("{moment:?}: {}", service.target.stderr()));
        // A connection may have been made just before a successor without an offer went away.
        if service.processes() == [successor] && service.try_get("/").is_some() {
            succeeded += 1;
            assert_eq!(who(&service.get("/")).1, successor);
            service.wait_named();
            assert_eq!(service.status()["generations"].as_array().unwrap().len(), 1);
            service.stop();
        } else {
            wait(|| service.processes().is_empty(), || service.target.stderr());
        }
    }
    assert!(succeeded > 0, "some came far enough");
}

/// F14: the successor is killed when the upgrade is final and nobody can take back. The next start serves where it did.
#[test]
fn a_service_that_died_after_probation_starts_again_in_its_place() {
    let mut service = Setup::new().wish("probation 50").start();
    let (pid, _) = service.upgrade();
    service.wait_processes(&[pid]);
    service.signal(pid, Signal::KILL);
    service.wait_processes(&[]);
    assert!(ask(&service.control(), Verb::Status, &[]).is_err());
    let ready = Ready::Stderr("listens".to_owned());
    let again = service.by_hand(&example("misbehaving_successor")).ready(ready).start().unwrap();
    assert_eq!(who(&service.get("/")).1, again.pid());
    let status = service.status();
    assert_eq!(status["generations"][0]["pid"], again.pid(), "{status}");
    assert_eq!(service.ask(Verb::Stop).code, 0);
    wait_gone(again.pid());
}

/// F17: the predecessor stands still when it should drain. The service goes on without it, and it drains when it can.
#[test]
fn a_predecessor_that_stands_still_after_the_commit_is_not_missed() {
    let mut service = Setup::new().wish("probation 50").start();
    let (pid, generation) = service.upgrade();
    service.target.signal(Signal::STOP).unwrap();
    for _ in 0..100 {
        assert_eq!(who(&service.get("/")), (generation, pid));
    }
    service.target.signal(Signal::CONT).unwrap();
    service.wait_processes(&[pid]);
    service.stop();
}

/// F17: the predecessor stands still at any moment of an upgrade, also when it should stop accepting.
#[test]
fn a_predecessor_that_stands_still_at_the_hand_over_loses_nothing() {
    const WITHIN: Duration = Duration::from_millis(40);
    const CLIENTS: usize = 8;
    for moment in moments(WITHIN).take(times(10) as usize) {
        let mut service = Service::start();
        let first = service.target.pid();
        service.target.signal(Signal::HUP).unwrap();
        service.target.wait_stderr("Upgrading: started", BOUND).unwrap();
        // Not a wait for anything: another moment each time.
        std::thread::sleep(moment);
        service.signal(first, Signal::STOP);
        let mut asking: Vec<_> = (0..CLIENTS).map(|_| service.connect()).collect();
        asking.iter_mut().for_each(|client| client.ask("/"));
        service.signal(first, Signal::CONT);
        let answers = asking.iter_mut().map(|client| client.answer());
        answers.for_each(|answer| assert!(who(&answer).0 <= 2, "after {moment:?}: {answer}"));
        wait(|| service.status()["active"] == 2, || service.target.stderr());
        service.stop();
    }
}

/// F41: a process that holds a listener and does not accept would let clients wait for nobody.
#[test]
fn nobody_holds_a_listener_who_neither_serves_nor_may_serve_again() {
    let mut service = Setup::new().wish("probation 50").start();
    let inode = format!("socket:[{}]", crate::moves::listening_inode(&service.address.to_string()));
    let mut busy = service.connect();
    busy.begin_echo();
    let (second, _) = service.upgrade();
    let first = service.target.pid();
    let holds = |pid| descriptors(pid).iter().any(|(_, leads_to)| *leads_to == inode);
    wait(|| !holds(first), || format!("{:?}", descriptors(first)));
    assert!(holds(second));
    service.signal(second, Signal::KILL);
    wait_gone(second);
    let refused = std::net::TcpStream::connect(service.address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    busy.end_echo();
    service.target.signal(Signal::TERM).unwrap();
    service.wait_processes(&[]);
}

/// F33: the way back is closed because the predecessor was killed.
#[test]
fn a_rollback_to_a_dead_predecessor_says_that_the_upgrade_is_final() {
    let mut service = Service::start();
    let (pid, generation) = service.upgrade();
    service.signal(service.target.pid(), Signal::KILL);
    service.target.wait(BOUND).unwrap();
    let answer = service.ask(Verb::Rollback);
    assert_ne!(answer.code, 0);
    assert!(answer.text.contains("the predecessor is gone"), "{}", answer.text);
    assert_eq!(who(&service.get("/")), (generation, pid));
    service.stop();
}
