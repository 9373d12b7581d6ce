//! F10: a successor that says that it is ready, and would not answer well, changes nothing.

use lameduck::operate::{Reason, Verb};
use lameduck::takeover::PROBE_TIMEOUT;
use lameduck_verify::load::{Load, Mode, Until};
use lameduck_verify::target::{Ready, Signal};

use crate::support::{BOUND, Service, Setup, times, wait_gone, who};

/// The socket of the probe and the conversation end at the same time: either may be heard first.
fn tells_of_an_end(why: &str, how: &str) -> bool {
    why.contains(how) || why.contains("closed the connection without an answer")
}

/// A successor that asks to be probed.
const PROBED: &str = "probe /health\n";

#[test]
fn one_that_answers_its_probe_well_takes_over() {
    let service = Service::start();
    service.wish(PROBED);
    let mut kept = service.connect();
    kept.get("/");
    for _ in 0..times(3) {
        let (pid, generation) = service.upgrade();
        assert_eq!(who(&kept.get("/")), (generation, pid));
    }
    assert!(service.target.stderr().contains("asked for my health"));
    service.stop();
}

#[test]
fn one_that_answers_its_probe_late_but_well_takes_over() {
    let service = Service::start();
    service.wish(&format!("{PROBED}health-after 3000"));
    let (pid, generation) = service.upgrade();
    assert_eq!(who(&service.get("/")), (generation, pid));
    service.stop();
}

#[test]
fn one_that_answers_its_probe_badly_is_told_with_path_status_and_generation() {
    let mut service = Service::start();
    let first = service.target.pid();
    for (wish, told) in [
        ("health 500", "generation 2 answered 500 Internal Server Error to GET /health"),
        ("health 302", "generation 3 answered 302 Found to GET /health"),
        ("probe /nowhere", "generation 4 answered 404 Not Found to GET /nowhere"),
    ] {
        // Of two wishes the first counts.
        service.wish(&format!("{wish}\n{PROBED}"));
        let answer = service.ask(Verb::Upgrade);
        assert!(answer.text.contains(told), "{}", answer.text);
        assert_eq!(answer.reason, Some(Reason::Failed));
        service.wait_processes(&[first]);
        // It says so itself, and takes nothing else for the reason.
        service.target.wait_stderr(&format!("Not taking over: {told}"), BOUND).unwrap();
    }
    let words = service.target.stderr();
    assert_eq!(words.matches("Not taking over: ").count(), 3, "{words}");
    service.wish(PROBED);
    service.upgrade();
    service.stop();
}

#[test]
fn one_that_never_answers_its_probe_is_ended() {
    let service = Service::start();
    for silent in ["health hang\nprobe /health", "raw probe-silent", "raw probe-endless"] {
        service.wish(silent);
        let why = service.fail_to_upgrade();
        let told = format!("gave no answer in {PROBE_TIMEOUT:?} to GET /health");
        assert!(why.contains(&told), "{silent}: {why}");
    }
    service.stop();
}

#[test]
fn one_that_answers_its_probe_with_nonsense_is_told() {
    let service = Service::start();
    for (how, told) in [
        ("garbage", "answered with what is no HTTP (what a lovely day)"),
        ("half", "answered HTTP/1.1 2 and no more"),
        ("drop", "closed the connection without an answer"),
        ("accepting", "it said Accepting, which does not belong here"),
    ] {
        service.wish(&format!("raw probe-{how}"));
        let why = service.fail_to_upgrade();
        assert!(why.contains(told), "{how}: {why}");
    }
    service.wish("raw probe-crash");
    assert!(tells_of_an_end(&service.fail_to_upgrade(), "code 0"));
    service.stop();
}

/// Good and bad ones in turn, beside clients that never pause: none of them notices.
#[test]
fn probes_good_and_bad_cost_no_client_anything() {
    const CLIENTS: usize = 16;
    let service = Setup::new().wish("probation 200").start();
    let load = Load::new(service.place("/"), Mode::KeepAlive).connections(CLIENTS);
    let running = load.until(Until::Elapsed(BOUND * 20)).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    let bad = ["health 500\nprobe /health", "raw probe-garbage", "raw probe-drop", "check fail"];
    for number in 0..times(10) {
        service.wish(bad[number as usize % bad.len()]);
        service.fail_to_upgrade();
        service.wish(&format!("probation 200\n{PROBED}"));
        service.upgrade();
    }
    running.stop();
    let report = running.finish();
    println!("{report}");
    assert_eq!(report.lost(), 0, "{report}\n{}", service.target.stderr());
    assert_eq!(report.connections_opened(), CLIENTS as u64, "{report}");
    service.stop();
}

#[test]
fn one_that_is_killed_while_it_is_probed_changes_nothing() {
    let service = Service::start();
    service.wish(&format!("{PROBED}health hang"));
    let before = service.processes();
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| service.fail_to_upgrade());
        service.target.wait_stderr("asked for my health", BOUND).unwrap();
        for pid in service.processes() {
            if !before.contains(&pid) {
                service.signal(pid, Signal::KILL);
            }
        }
        let why = upgrade.join().unwrap();
        assert!(tells_of_an_end(&why, "it was killed by"), "{why}");
    });
    service.stop();
}

#[test]
fn a_predecessor_that_is_killed_while_it_probes_is_succeeded_all_the_same() {
    let mut service = Service::start();
    service.wish(&format!("{PROBED}health hang"));
    let first = service.target.pid();
    service.target.signal(Signal::HUP).unwrap();
    service.target.wait_stderr("asked for my health", BOUND).unwrap();
    let second = *service.processes().iter().find(|pid| **pid != first).unwrap();
    service.signal(first, Signal::KILL);
    service.wait_processes(&[second]);
    assert_eq!(who(&service.get("/")).1, second);
    service.wait_named();
    assert_eq!(service.ask(Verb::Status).code, 0);
    service.signal(second, Signal::KILL);
    wait_gone(second);
}

#[test]
fn a_stop_during_a_probe_leaves_no_process() {
    let mut service = Service::start();
    service.wish(&format!("{PROBED}health hang"));
    service.target.signal(Signal::HUP).unwrap();
    service.target.wait_stderr("asked for my health", BOUND).unwrap();
    service.target.signal(Signal::TERM).unwrap();
    service.wait_processes(&[]);
}

#[test]
fn one_whose_own_check_fails_is_told_in_its_words() {
    let service = Service::start();
    service.wish("check fail");
    let why = service.fail_to_upgrade();
    assert!(why.contains("check 'myself': unwell, as I was told"), "{why}");
    service.wish("check hang");
    let why = service.fail_to_upgrade();
    assert!(why.contains("check 'myself': it did not end in 10s"), "{why}");
    service.wish("check pass");
    service.upgrade();
    service.stop();
}

/// At the first start there is nobody to go on instead.
#[test]
fn a_service_whose_own_check_fails_does_not_begin() {
    let setup = Setup::new();
    std::fs::write(setup.file("wishes"), "check fail").unwrap();
    let mut target = setup.command().ready(Ready::Started).start().unwrap();
    let exit = target.wait(BOUND).unwrap();
    let words = target.stderr();
    assert_eq!(exit.code, Some(1), "{words}");
    assert!(words.contains("Not serving: check 'myself': unwell, as I was told"), "{words}");
}
