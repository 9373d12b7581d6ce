//! The successor fails: nothing changes, and the operator is told why. Numbers are those of the failure table.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use lameduck::operate::Verb;
use lameduck_verify::target::Signal;

use crate::support::{
    BOUND, Conversation, Service, Setup, copy_program, example, free_address, moments, times, wait,
    wait_gone, who,
};

/// A service that runs a copy, so that the copy can be broken.
fn copied() -> (Service, std::path::PathBuf) {
    let setup = Setup::new();
    let copy = setup.file("app");
    copy_program(&example("misbehaving_successor"), &copy);
    (setup.program(&copy).start(), copy)
}

/// F1
#[test]
fn a_missing_file_is_told() {
    let (service, copy) = copied();
    std::fs::remove_file(&copy).unwrap();
    let why = service.fail_to_upgrade();
    assert!(why.contains("no such file") && why.contains(copy.to_str().unwrap()), "{why}");
    service.stop();
}

/// F1
#[test]
fn a_file_that_is_not_executable_is_told() {
    let (service, copy) = copied();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).unwrap();
    let why = service.fail_to_upgrade();
    assert!(why.contains("permission denied"), "{why}");
    service.stop();
}

/// F1
#[test]
fn a_file_of_another_architecture_is_told() {
    let (service, copy) = copied();
    std::fs::remove_file(&copy).unwrap();
    std::fs::write(&copy, b"\x7fELF\x02\x01\x01 not for this machine").unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let why = service.fail_to_upgrade();
    assert!(why.contains("exec format error"), "{why}");
    service.stop();
}

/// F2
#[test]
fn a_file_that_is_being_written_is_told() {
    let (service, copy) = copied();
    std::fs::remove_file(&copy).unwrap();
    copy_program(&example("misbehaving_successor"), &copy);
    let written = std::fs::OpenOptions::new().append(true).open(&copy).unwrap();
    let why = service.fail_to_upgrade();
    assert!(why.contains("text file busy"), "{why}");
    drop(written);
    service.upgrade();
    service.stop();
}

/// F3
#[test]
fn one_that_exits_at_once_is_told_with_its_last_words() {
    let service = Service::start();
    service.wish("exit 3");
    let why = service.fail_to_upgrade();
    assert!(why.contains("code 3") && why.contains("leaving at once"), "{why}");
    service.stop();
}

/// F3
#[test]
fn one_that_panics_is_told_with_its_last_words() {
    let service = Service::start();
    service.wish("panic");
    let why = service.fail_to_upgrade();
    assert!(why.contains("panicking as I was told"), "{why}");
    // F11: before it is ready.
    service.wish("panic-late");
    let why = service.fail_to_upgrade();
    assert!(why.contains("panicking late, as I was told"), "{why}");
    service.stop();
}

/// F4
#[test]
fn one_that_never_introduces_itself_is_ended() {
    // The shorter of the two limits holds.
    let service = Setup::new().wish("takeover-timeout 300").start();
    service.wish("hang");
    let why = service.fail_to_upgrade();
    assert!(why.contains("did not ask to take over"), "{why}");
    service.stop();
}

/// F5
#[test]
fn one_that_speaks_another_protocol_is_told_both_ranges() {
    let service = Service::start();
    service.wish("raw protocol");
    let why = service.fail_to_upgrade();
    assert!(why.contains("900 to 901") && why.contains("1 to 1"), "{why}");
    service.stop();
}

/// F6
#[test]
fn one_without_room_for_descriptors_fails() {
    let mut setup = Setup::new();
    for number in 0..20 {
        let path = setup.file(&format!("socket{number}"));
        setup = setup.listen(format!("unix:{}", path.display()));
    }
    let service = setup.start();
    service.wish("descriptors 24");
    let why = service.fail_to_upgrade();
    assert!(why.contains("descriptors") || why.contains("open files"), "{why}");
    service.wish("");
    service.upgrade();
    service.stop();
}

/// F7
#[test]
fn one_that_adds_a_taken_address_is_told_the_address() {
    let service = Service::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    service.wish(&format!("add {address}"));
    let why = service.fail_to_upgrade();
    assert!(why.contains(&address) && why.contains("in use"), "{why}");
    // The address is free: the same successor succeeds.
    drop(taken);
    let (pid, _) = service.upgrade();
    let mut added = Conversation::tcp(address.parse().unwrap());
    assert_eq!(who(&added.get("/")).1, pid);
    service.stop();
}

/// F8
#[test]
fn a_dropped_address_is_closed_after_the_commit_and_not_before() {
    let extra = free_address();
    let service = Setup::new().listen(extra).wish("probation 50").start();
    service.wish(&format!("drop {extra}\npanic-late"));
    service.fail_to_upgrade();
    Conversation::tcp(extra).get("/");
    service.wish(&format!("drop {extra}"));
    service.upgrade();
    wait(|| std::net::TcpStream::connect(extra).is_err(), || extra.to_string());
    service.stop();
}

/// F9
#[test]
fn one_that_hangs_before_it_is_ready_is_ended() {
    let service = Setup::new().wish("takeover-timeout 300").start();
    service.wish("hang-late");
    let why = service.fail_to_upgrade();
    assert!(why.contains("did not become ready"), "{why}");
    service.stop();
}

/// F9
#[test]
fn one_that_says_that_it_starts_slowly_is_waited_for() {
    let service = Setup::new().wish("takeover-timeout 300").start();
    service.wish("slow 1000");
    let (pid, generation) = service.upgrade();
    assert_eq!(who(&service.get("/")), (generation, pid));
    assert!(service.target.stderr().contains("warming up"), "{}", service.target.stderr());
    service.stop();
}

/// F11
#[test]
fn one_that_goes_away_between_ready_and_accepting_changes_nothing() {
    let service = Service::start();
    service.wish("raw crash-between");
    let why = service.fail_to_upgrade();
    assert!(why.contains("code 0"), "{why}");
    service.stop();
}

/// F12
#[test]
fn one_that_never_says_that_it_accepts_is_killed() {
    let service = Service::start();
    service.wish("raw ready-and-hang");
    let began = Instant::now();
    let why = service.fail_to_upgrade();
    assert!(why.contains("did not say that it does"), "{why}");
    assert!(began.elapsed() >= lameduck::takeover::ACCEPTING_TIMEOUT);
    service.stop();
}

#[test]
fn one_that_talks_nonsense_is_told() {
    let service = Service::start();
    service.wish("raw garbage-late");
    let why = service.fail_to_upgrade();
    assert!(why.contains("cannot be understood"), "{why}");
    service.stop();
}

/// Nobody knows that it is the successor who speaks.
#[test]
fn one_that_begins_with_nonsense_is_told_that_it_did_not_ask() {
    let service = Setup::new().wish("takeover-timeout 300").start();
    service.wish("raw garbage");
    let why = service.fail_to_upgrade();
    assert!(why.contains("did not ask to take over"), "{why}");
    service.stop();
}

#[test]
fn a_state_of_another_version_is_told() {
    let service = Service::start();
    service.wish("cells 2");
    let why = service.fail_to_upgrade();
    assert!(why.contains("state 'count'") && why.contains("version 1"), "{why}");
    service.stop();
}

/// F22
#[test]
fn a_second_upgrade_while_one_starts_is_refused_and_said_so() {
    let service = Service::start();
    service.wish("slow 700");
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| service.upgrade());
        service.target.wait_stderr("warming up", BOUND).unwrap();
        let second = service.ask(Verb::Upgrade);
        assert_ne!(second.code, 0);
        assert!(second.text.contains("an upgrade is under way"), "{}", second.text);
        service.target.wait_stderr("Not upgrading: an upgrade is under way", BOUND).unwrap();
        first.join().unwrap()
    });
    assert_eq!(who(&service.get("/")), (first.1, first.0));
    service.stop();
}

/// F23
#[test]
fn a_stop_while_a_successor_starts_leaves_no_process() {
    for late in ["slow 5000", "hang"] {
        let mut service = Service::start();
        service.wish(late);
        service.target.signal(Signal::HUP).unwrap();
        service.target.wait_stderr("Upgrading: started", BOUND).unwrap();
        service.target.signal(Signal::TERM).unwrap();
        service.wait_processes(&[]);
    }
}

/// F23
#[test]
fn a_stop_at_any_moment_of_an_upgrade_leaves_no_process_of_two() {
    for moment in moments(Duration::from_millis(24)).take(times(24) as usize) {
        let mut service = Service::start();
        service.target.signal(Signal::HUP).unwrap();
        let started = service.target.wait_stderr("Upgrading: started", BOUND).unwrap();
        let successor = started.rsplit(' ').next().unwrap().parse().unwrap();
        // Not a wait for anything: another moment each time.
        std::thread::sleep(moment);
        service.target.signal(Signal::TERM).unwrap();
        let first = service.target.wait(BOUND).unwrap();
        assert!(first.code.is_some(), "{first}");
        let words = service.target.stderr();
        if words.contains("Handed over") {
            // The hand-over came first: the stop was for a generation that was leaving anyway.
            assert_eq!(who(&service.get("/")).1, successor, "after {moment:?}: {words}");
            service.signal(successor, Signal::TERM);
        }
        wait_gone(successor);
        service.wait_processes(&[]);
    }
}

/// F24
#[test]
fn a_second_term_while_draining_is_a_fast_stop() {
    let mut service = Service::start();
    let mut slow = service.connect();
    slow.ask("/slow");
    wait(
        || service.status()["generations"][0]["live"]["requests"] == 1,
        || service.status().to_string(),
    );
    service.target.signal(Signal::TERM).unwrap();
    service.target.wait_stderr("Shutting down", BOUND).unwrap();
    service.target.signal(Signal::TERM).unwrap();
    let exit = service.target.wait(BOUND).unwrap();
    assert_ne!(exit.code, Some(0), "{exit}");
    service.wait_processes(&[]);
}

/// F6: the predecessor has no descriptor left to start a successor with.
#[test]
fn a_predecessor_without_descriptors_fails_the_upgrade_and_serves_on() {
    let mut service = Setup::new().wish("descriptors 40").start();
    let mut kept = service.connect();
    kept.get("/");
    // More than fit: the rest wait in the queue.
    let many: Vec<_> = (0..60).map(|_| service.connect()).collect();
    let full = || lameduck_verify::target::proc::descriptors(service.target.pid()).len() >= 40;
    wait(full, || service.target.stderr());
    service.target.signal(Signal::HUP).unwrap();
    let told = service.target.wait_stderr("Upgrade failed, serving on", BOUND).unwrap();
    assert!(told.contains("open files"), "{told}");
    assert_eq!(who(&kept.get("/")), (1, service.target.pid()));
    drop(many);
    service.wish("");
    let (pid, generation) = service.upgrade();
    assert_eq!(who(&kept.get("/")).0, generation);
    assert_eq!(who(&service.get("/")), (generation, pid));
    service.stop();
}

/// F35: what moves is in memory. An upgrade writes no file, so no disk can be too full for it.
#[test]
fn an_upgrade_writes_no_file() {
    let service = Service::start();
    service.wish("");
    let before = files(&service.file(""));
    service.upgrade();
    service.upgrade();
    assert_eq!(files(&service.file("")), before);
    service.stop();
}

/// Regular files below a directory, with their sizes.
fn files(directory: &std::path::Path) -> Vec<(std::path::PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push((entry.path(), entry.metadata().unwrap().len()));
        }
    }
    found.sort();
    found
}

/// F18: work of the old generation that never ends is cut at the deadline that was set for it, and named.
#[test]
fn work_that_never_ends_is_cut_at_the_upgrade_grace_and_named() {
    let mut service = Setup::new().wish("upgrade-grace 300").wish("probation 50").start();
    let mut long = service.connect();
    long.begin_echo();
    service.upgrade();
    let exit = service.target.wait(BOUND).unwrap();
    assert_eq!(exit.code, Some(3), "{exit}: {}", service.target.stderr());
    service.target.wait_stderr("  cut: 1 request", BOUND).unwrap();
    service.target.wait_stderr("    request POST /echo", BOUND).unwrap();
    service.get("/");
    service.stop();
}
