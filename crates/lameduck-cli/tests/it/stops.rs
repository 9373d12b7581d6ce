//! Stops of a service with several generations, or with a successor on its way: what is told, and that nobody is left.

use std::net::TcpListener;

use crate::service::{LIMIT, Service, WITH_ADMIN};
use crate::upgrade::{BINARY, ended};

#[test]
fn a_stop_over_the_socket_ends_with_the_reports_code() {
    let mut service = Service::upgradable(&[]);
    let ended = service.operate("stop", &[]);
    // A service manager kills what is left when the command returns.
    assert!(!service.target.is_running(), "the answer came before the process was gone");
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    assert!(ended.stdout.starts_with("Stopped: finished in "), "{}", ended.stdout);
    assert_eq!(service.wait().code, Some(0));
    service.leaves_no_process();
    let left = std::fs::read_dir(service.path("run")).unwrap().count();
    assert_eq!(left, 0, "a control socket was left behind");

    for verb in ["stop", "status", "upgrade", "rollback"] {
        let ended = service.operate(verb, &[]);
        assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{}", ended.stderr);
        assert!(
            lines[0].starts_with("error: cannot ask the service at run/control: "),
            "{lines:?}"
        );
        assert!(lines[1].starts_with("hint: "), "{lines:?}");
    }
}

#[test]
fn a_stop_ends_the_generations_that_still_finish_as_well() {
    let flags = [WITH_ADMIN[0], WITH_ADMIN[1], "--slow", "1h", "--grace", "300ms"];
    let mut service = Service::upgradable(&flags);
    let _long = service.begin_slow_request();
    service.upgrade();
    service.wait_answers_from(2);
    // The other one alone first: it is not there.
    let none = service.operate("stop", &["--generation", "7"]);
    assert_eq!((none.code, &*none.stdout), (Some(1), ""));
    assert!(none.stderr.starts_with("error: there is no generation 7\nhint: "), "{}", none.stderr);
    let ended = service.operate("stop", &[]);
    assert_eq!((ended.code, &*ended.stderr), (Some(3), ""), "{}", ended.stdout);
    assert!(ended.stdout.starts_with("Stopped: finished in "), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("\nStopped generation 1: deadline exceeded in "),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.contains("\n  cut: request GET /a\n"), "{}", ended.stdout);
    assert_eq!(service.wait().code, Some(3));
    service.leaves_no_process();
}

#[test]
fn a_stop_of_one_generation_leaves_the_others() {
    let flags = [WITH_ADMIN[0], WITH_ADMIN[1], "--slow", "1h", "--grace", "300ms"];
    let mut service = Service::upgradable(&flags);
    let _long = service.begin_slow_request();
    service.upgrade();
    service.wait_answers_from(2);
    let ended = service.operate("stop", &["--generation", "1"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(3), ""), "{}", ended.stdout);
    assert_eq!(service.wait().code, Some(3));
    assert_eq!(service.version()["generation"], 2);
    assert_eq!(service.operate("stop", &[]).code, Some(0));
    service.leaves_no_process();
}

#[test]
fn a_stop_over_the_socket_tells_what_the_deadline_cut() {
    let flags = [WITH_ADMIN[0], WITH_ADMIN[1], "--slow", "1h", "--grace", "300ms"];
    let mut service = Service::upgradable(&flags);
    let _long = service.begin_slow_request();
    let ended = service.operate("stop", &[]);
    assert_eq!((ended.code, &*ended.stderr), (Some(3), ""));
    assert!(ended.stdout.starts_with("Stopped: deadline exceeded in "), "{}", ended.stdout);
    assert!(ended.stdout.contains("\n  cut: request GET /a\n"), "{}", ended.stdout);
    assert_eq!(service.wait().code, Some(3));
}

/// To force is a signal's to ask: two operators, or one and a service manager, want the same thing.
#[test]
fn a_second_stop_over_the_socket_waits_for_the_first_and_forces_nothing() {
    let flags = [WITH_ADMIN[0], WITH_ADMIN[1], "--slow", "1500ms", "--grace", "20s"];
    let mut service = Service::upgradable(&flags);
    let _slow = service.begin_slow_request();
    let first = service.start_command("stop", &[]);
    service.target.wait_stderr("Shutting down server...", LIMIT).unwrap();
    let second = service.operate("stop", &[]);
    for stopped in [ended(first), second] {
        assert_eq!((stopped.code, &*stopped.stderr), (Some(0), ""), "{}", stopped.stdout);
        assert!(stopped.stdout.contains("finished 1 request"), "{}", stopped.stdout);
        assert!(stopped.stdout.contains("cut nothing"), "{}", stopped.stdout);
    }
    assert_eq!(service.wait().code, Some(0));
    service.leaves_no_process();
}

/// TERM reaches the service while its successor has come as far as `reached` says; nobody is left.
#[track_caller]
fn check_term(mut service: Service, reached: impl FnOnce()) {
    let upgrade = service.start_command("upgrade", &[]);
    service.target.wait_stderr("Upgrading: started", LIMIT).unwrap();
    reached();
    let exit = service.stop();
    assert_eq!(exit.code, Some(0), "{}", service.target.stderr());
    let ended = ended(upgrade);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("error: "), "{}", ended.stderr);
    service.leaves_no_process();
}

#[test]
fn a_stop_before_the_successor_says_a_word_leaves_no_process() {
    let service = Service::replaceable();
    service.replace_by_script("exec sleep 1000", 0o755);
    check_term(service, || {});
}

#[test]
fn a_stop_while_the_successor_initialises_leaves_no_process() {
    // It accepts and never answers: whoever has connected is in the middle of its start.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = Service::replaceable();
    let database = format!("postgres://u@{}/arena", silent.local_addr().unwrap());
    service.replace_by_script(&format!("exec {BINARY} \"$@\" --database {database}"), 0o755);
    let mut connection = None;
    check_term(service, || connection = Some(silent.accept().unwrap()));
}

#[test]
fn a_stop_does_not_leave_a_successor_that_will_not_go() {
    let service = Service::replaceable();
    service.replace_by_script("trap '' TERM; exec sleep 1000", 0o755);
    check_term(service, || {});
}
