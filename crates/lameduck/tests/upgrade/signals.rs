//! SIGHUP at every moment: during an upgrade, after it, and to generations that serve no more.

use lameduck::operate::{QUEUE, Verb, ask};
use lameduck_verify::target::Signal;

use crate::support::{BOUND, Service, wait, wait_gone, who};

/// What the active generation says of itself.
fn active(service: &Service) -> serde_json::Value {
    service.status()["generations"][0].clone()
}

/// Waits until this generation serves, and sees that none is on its way behind it.
fn wait_newest(service: &Service, generation: u32) {
    // Under the name answers whoever has said that it accepts; to a client it may have answered a moment before.
    let serves = || service.status()["active"] == generation;
    wait(serves, || format!("not generation {generation}: {}", service.target.stderr()));
    // The one before may accept a last connection until it hears so.
    wait(|| who(&service.get("/")).0 == generation, || service.target.stderr());
    service.wish("");
    assert_eq!(service.upgrade().1, generation + 1, "{}", service.target.stderr());
}

/// F25: the first successor has read its program by then, and the newest is what counts.
#[test]
fn signals_during_an_upgrade_are_followed_by_exactly_one_more() {
    let mut service = Service::start();
    service.wish("version 2\nslow 700");
    service.target.signal(Signal::HUP).unwrap();
    service.target.wait_stderr("warming up", BOUND).unwrap();
    service.wish("version 3");
    for _ in 0..5 {
        service.target.signal(Signal::HUP).unwrap();
    }
    service.target.wait_stderr("Upgrading once more after this one: an upgrade is", BOUND).unwrap();
    let newest = || active(&service)["version"] == "3";
    wait(newest, || format!("{}\n{}", service.status(), service.target.stderr()));
    wait_newest(&service, 3);
    service.stop();
}

/// F25: nothing came of the upgrade that was under way.
#[test]
fn a_signal_during_an_upgrade_that_fails_is_followed_by_one_more() {
    let mut service = Service::start();
    service.wish("slow 60000");
    service.target.signal(Signal::HUP).unwrap();
    let started = service.target.wait_stderr("Upgrading: started", BOUND).unwrap();
    service.target.wait_stderr("warming up", BOUND).unwrap();
    service.wish("");
    service.target.signal(Signal::HUP).unwrap();
    service.target.wait_stderr("Upgrading once more after this one", BOUND).unwrap();
    service.signal(started.rsplit(' ').next().unwrap().parse().unwrap(), Signal::KILL);
    service.target.wait_stderr("Upgrade failed, serving on", BOUND).unwrap();
    wait_newest(&service, 3);
    service.stop();
}

/// F22: what an operator put in place before it asked serves when it is answered, whatever was under way.
#[test]
fn an_upgrade_that_is_queued_follows_the_one_under_way() {
    let mut service = Service::start();
    for (round, fails) in [false, true].into_iter().enumerate() {
        let said = |text: &str, times: usize| {
            wait(
                || service.target.stderr().matches(text).count() >= times,
                || service.target.stderr(),
            );
        };
        service.wish("version 2\nslow 1000");
        service.signal(who(&service.get("/")).1, Signal::HUP);
        said("warming up", round + 1);
        let words = service.target.stderr();
        let (_, successor) = words.rsplit_once("misbehaving_successor as pid ").unwrap();
        let successor = successor.lines().next().unwrap().parse().unwrap();
        service.wish("version 3");
        let asked: Vec<_> = std::thread::scope(|scope| {
            let ask = || ask(&service.control(), Verb::Upgrade, &[QUEUE.to_owned()]).unwrap();
            let asked: Vec<_> = (0..2).map(|_| scope.spawn(ask)).collect();
            said("Upgrading once more after this one", 2 * round + 2);
            if fails {
                service.signal(successor, Signal::KILL);
            }
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        for answer in asked {
            assert_eq!(answer.code, 0, "{}\n{}", answer.text, service.target.stderr());
            assert!(answer.text.contains("\"pid\""), "{}", answer.text);
        }
        assert_eq!(active(&service)["version"], "3", "{}", service.target.stderr());
    }
    service.target.wait(BOUND).unwrap();
    service.stop();
}

/// A service manager knows no other process as long as the way back is open.
#[test]
fn a_signal_to_one_whose_successor_is_on_probation_reaches_that() {
    let mut service = Service::start();
    service.upgrade();
    service.target.signal(Signal::HUP).unwrap();
    service.target.wait_stderr("Passed on to the generation that serves", BOUND).unwrap();
    wait_newest(&service, 3);
    service.stop();
}

#[test]
fn a_signal_to_an_older_one_that_still_finishes_reaches_the_one_that_serves() {
    let mut service = Service::start();
    let mut busy = service.connect();
    busy.begin_echo();
    service.upgrade();
    service.upgrade();
    for _ in 0..3 {
        service.target.signal(Signal::HUP).unwrap();
    }
    wait(|| service.status()["active"].as_u64() >= Some(4), || service.target.stderr());
    // Those that came while the first was passed on, or was under way, are one more or none.
    let quiet = || service.ask(Verb::Upgrade).code == 0;
    wait(quiet, || service.target.stderr());
    let (generation, _) = who(&service.get("/"));
    assert!((5..=7).contains(&generation), "{generation}: {}", service.target.stderr());
    busy.end_echo();
    service.stop();
}

#[test]
fn a_signal_that_can_be_passed_on_to_nobody_is_told() {
    let mut service = Service::start();
    let mut busy = service.connect();
    busy.begin_echo();
    let (second, _) = service.upgrade();
    // With that the first is out of the game.
    let (third, _) = service.upgrade();
    for successor in [second, third] {
        service.signal(successor, Signal::KILL);
        wait_gone(successor);
    }
    service.target.signal(Signal::HUP).unwrap();
    let told = "Not upgrading: the generation that serves could not be told: ";
    service.target.wait_stderr(told, BOUND).unwrap();
    busy.end_echo();
    service.target.signal(Signal::TERM).unwrap();
    service.wait_processes(&[]);
}

#[test]
fn a_signal_while_stopping_is_refused_and_said_so() {
    let mut service = Service::start();
    let mut busy = service.connect();
    busy.begin_echo();
    service.target.signal(Signal::TERM).unwrap();
    service.target.wait_stderr("Shutting down", BOUND).unwrap();
    service.target.signal(Signal::HUP).unwrap();
    let told = "Not upgrading: this generation is stopping";
    service.target.wait_stderr(told, BOUND).unwrap();
    busy.end_echo();
    service.wait_processes(&[]);
}
