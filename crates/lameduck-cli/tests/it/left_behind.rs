//! The generation that served dies for good, and an older one still finishes: operators are told so, and a new start
//! takes the name over.

use lameduck_verify::probe::Wire;
use rustix::process::{Pid, Signal, kill_process};

use crate::service::{LIMIT, Service, User, WITH_ADMIN, as_user};
use crate::upgrade::WITH_CONTROL;

const FLAGS: [&str; 6] = ["--slow", "1h", "--grace", "300ms", "--probation", "0s"];
const HINT: &str = "hint: start the service again, it takes the name over; \
                    `lameduck stop --control run/control` ends what is left";

/// A first generation with a request in hand, whose successors are gone: the last one was killed when it was alone.
fn left_behind() -> (Service, Wire) {
    let flags: Vec<&str> = WITH_ADMIN.iter().chain(&FLAGS).copied().collect();
    let service = Service::upgradable(&flags);
    let place = service.place("/a");
    let mut long = Wire::connect(&place.address).unwrap();
    long.request(&place.get(""));
    service.wait_in_hand(1);
    service.upgrade();
    service.upgrade();
    // The second has no work: when it has left, there is no way back to the first either.
    service.wait_generations(2);
    let third = service.wait_answers_from(3)["pid"].as_i64().unwrap();
    let third = Pid::from_raw(i32::try_from(third).unwrap()).unwrap();
    kill_process(third, Signal::KILL).unwrap();
    let deadline = std::time::Instant::now() + LIMIT;
    // Its end closes its sockets: then nobody is behind the name.
    while service.operate("status", &[]).code == Some(0) {
        assert!(std::time::Instant::now() < deadline, "{}", service.target.stderr());
    }
    (service, long)
}

#[test]
fn operators_are_told_that_nobody_serves_and_who_is_left() {
    let (mut service, _long) = left_behind();
    let error = "error: no generation serves at run/control: generation 1 only finishes its work";
    for verb in ["status", "upgrade", "rollback"] {
        let ended = service.operate(verb, &[]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(ended.stderr, format!("{error}\n{HINT}\n"));
    }
    let status = service.operate("status", &["--json"]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["active"], serde_json::Value::Null, "{status:#}");
    assert_eq!(status["generations"][0]["pid"], service.target.pid(), "{status:#}");
    let table = service.operate("status", &[]).stdout;
    assert!(table.lines().nth(1).is_some_and(|row| row.contains("draining")), "{table}");

    let ended = service.operate("stop", &[]);
    assert_eq!((ended.code, &*ended.stderr), (Some(3), ""), "{}", ended.stdout);
    assert!(ended.stdout.starts_with("Stopped generation 1: deadline exceeded"), "{ended:?}");
    assert_eq!(service.wait().code, Some(3));
    service.leaves_no_process();
    let left: Vec<_> = std::fs::read_dir(service.path("run")).unwrap().flatten().collect();
    // The name and its process id are the next start's to take over.
    let names = ["control", "control.pid"];
    assert!(
        left.iter().all(|entry| names.iter().any(|name| entry.file_name() == *name)),
        "{left:?}"
    );
}

#[test]
fn a_service_that_is_started_again_takes_the_name_over() {
    let (mut service, _long) = left_behind();
    let address = service.addresses[0].clone();
    let flags = ["serve", "--listen", &address, "--slow", "1h", "--grace", "300ms"];
    let command = as_user(User::Same).args(flags).args(WITH_CONTROL);
    let ready = lameduck_verify::target::Ready::Stderr("istening on ".into());
    let command = command.directory(service.path("")).ready(ready).ready_limit(LIMIT);
    let mut again = command.start().unwrap();
    let status = service.status();
    let pids: Vec<_> = status["generations"].as_array().unwrap().iter().collect();
    assert_eq!(pids.len(), 2, "{status:#}");
    assert_eq!(status["active"], 2, "{status:#}");
    assert_eq!(pids[0]["pid"], again.pid(), "{status:#}");
    assert_eq!(pids[1]["pid"], service.target.pid(), "{status:#}");
    assert_eq!(service.version()["pid"], again.pid());
    let ended = service.operate("stop", &[]);
    assert_eq!((ended.code, &*ended.stderr), (Some(3), ""), "{}", ended.stdout);
    assert_eq!(again.wait(LIMIT).unwrap().code, Some(0));
    assert_eq!(service.wait().code, Some(3));
    service.leaves_no_process();
}
