//! `lameduck serve` as process 1 of a container with a /proc of its own. Only root may make one; as anybody else there is
//! nothing to look at.

use std::process::Command;
use std::time::{Duration, Instant};

use lameduck_verify::probe::http1::pipelined;
use lameduck_verify::probe::{Until, Wire, watch};
use lameduck_verify::target::{Ready, Signal, Target, proc};
use rustix::process::{Pid, kill_process};
use serde_json::Value;

use crate::service::{LIMIT, Service, WITH_ADMIN, new_directory, run};
use crate::upgrade::WITH_CONTROL;

/// Between two looks at the table of processes, which has no way to wait.
const LOOK: Duration = Duration::from_millis(5);

/// A service in a container, and its process 1 as seen from here.
struct Container {
    service: Service,
    init: u32,
}

impl Container {
    fn start(flags: &[&str]) -> Option<Container> {
        if !prerequisites::is_root() {
            return None;
        }
        let alone = ["--pid", "--fork", "--kill-child", "--mount-proc"];
        let command = Target::command("unshare")
            .args(alone)
            .args([env!("CARGO_BIN_EXE_lameduck"), "serve", "--listen", "127.0.0.1:0"])
            .args(WITH_ADMIN)
            .args(WITH_CONTROL)
            .args(flags);
        let ready = Ready::Stderr("istening on ".into());
        let service = Service::run(new_directory(), command, ready, 1);
        let init = proc::descendants(service.target.pid())[0];
        Some(Container { service, init })
    }

    fn signal(&self, pid: u32, signal: Signal) {
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
    }

    /// What the runtime of a container does.
    fn stop(&self) {
        self.signal(self.init, Signal::TERM);
    }

    /// Runs a shell inside.
    fn shell(&self, script: &str) {
        run(
            "nsenter",
            &["--target", &self.init.to_string(), "--pid", "--mount", "sh", "-c", script],
        );
    }

    /// Generation and process, as numbered inside.
    fn version(&self) -> (u64, u64) {
        let (_, body) = self.service.get("/version");
        let version: Value = serde_json::from_str(&body).unwrap();
        (version["generation"].as_u64().unwrap(), version["pid"].as_u64().unwrap())
    }

    /// Waits until process 1 has this many below it, dead ones too.
    #[track_caller]
    fn wait_processes(&self, wanted: usize) -> Vec<u32> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let inside = proc::descendants(self.init);
            if inside.len() == wanted {
                return inside;
            }
            let words = self.service.target.stderr();
            assert!(Instant::now() < deadline, "{inside:?}, not {wanted}: {words}");
            std::thread::sleep(LOOK);
        }
    }

    /// Upgrades until the new version keeps the service.
    fn upgrade_for_good(&self) {
        loop {
            assert_eq!(self.service.operate("upgrade", &[]).code, Some(0));
            // Asked in its probation it does as it is told.
            let rollback = self.service.operate("rollback", &[]);
            if rollback.stderr.contains("probation is over") {
                return;
            }
        }
    }

    #[track_caller]
    fn ends_with(&mut self, code: i32) {
        let exit = self.service.wait();
        assert_eq!(exit.code, Some(code), "{exit}: {}", self.service.last_words());
    }
}

#[test]
fn process_1_reaps_every_orphan_and_takes_no_others_end() {
    let Some(mut container) = Container::start(&[]) else { return };
    let [_service] = container.wait_processes(1)[..] else { unreachable!() };
    container.shell("for i in $(seq 100); do (sleep 0.$i &) ; done");
    container.wait_processes(1);
    // The service waits for its own successor meanwhile, and hears of its end.
    container.shell("for i in $(seq 100); do (sleep 0.$i &) ; done");
    assert_eq!(container.service.operate("upgrade", &[]).code, Some(0));
    container.stop();
    container.ends_with(0);
}

#[test]
fn process_1_passes_a_stop_on_and_ends_as_the_service_does() {
    let Some(mut container) = Container::start(&["--slow", "300ms"]) else { return };
    let mut slow = pipelined(&container.service.place("/a"), 1).unwrap();
    container.service.wait_in_hand(1);
    container.stop();
    assert!(watch(std::slice::from_mut(&mut slow), Until::Closed, LIMIT).unwrap());
    assert_eq!(slow.answers().len(), 1, "{}", container.service.target.stderr());
    container.ends_with(0);

    let cut = ["--slow", "1h", "--grace", "300ms"];
    let Some(mut container) = Container::start(&cut) else { return };
    let _slow = pipelined(&container.service.place("/a"), 1).unwrap();
    container.service.wait_in_hand(1);
    container.stop();
    container.ends_with(3);

    let Some(mut container) = Container::start(&["--slow", "1h"]) else { return };
    let _slow = pipelined(&container.service.place("/a"), 1).unwrap();
    container.service.wait_in_hand(1);
    container.stop();
    container.service.target.wait_stderr("Shutting down server...", LIMIT).unwrap();
    container.stop();
    container.ends_with(143);
}

#[test]
fn process_1_outlives_the_generation_it_started() {
    let Some(mut container) = Container::start(&["--probation", "200ms"]) else { return };
    let (_, first) = container.version();
    for generation in 2..5 {
        container.signal(container.init, Signal::HUP);
        let told = format!("Handed over to generation {generation}");
        container.service.target.wait_stderr(&told, LIMIT).unwrap();
        container.wait_processes(1);
        let (now, pid) = container.version();
        assert_eq!(now, generation);
        assert_ne!(pid, first);
    }
    container.stop();
    container.ends_with(0);
}

/// An old generation has work when the container is told to stop: both hear of it.
#[test]
fn process_1_tells_every_generation_to_stop() {
    let flags = ["--slow", "1h", "--grace", "500ms", "--probation", "200ms"];
    let Some(mut container) = Container::start(&flags) else { return };
    let _slow = pipelined(&container.service.place("/a"), 1).unwrap();
    container.service.wait_in_hand(1);
    assert_eq!(container.service.operate("upgrade", &[]).code, Some(0));
    container.wait_processes(2);
    container.stop();
    container.ends_with(3);
    let words = container.service.last_words();
    assert!(words.contains("cut: 1 request"), "{words}");
}

#[test]
fn process_1_ends_with_a_service_that_crashes() {
    let Some(mut container) = Container::start(&[]) else { return };
    let service = container.wait_processes(1)[0];
    container.signal(service, Signal::KILL);
    container.ends_with(137);

    let Some(mut container) = Container::start(&["--probation", "100ms"]) else { return };
    assert_eq!(container.service.operate("upgrade", &[]).code, Some(0));
    let service = container.wait_processes(1)[0];
    container.signal(service, Signal::KILL);
    container.ends_with(137);
}

/// The generation that serves dies, and an older one finishes what it has in hand, and ends well: whether it is still the
/// dead one's parent or not, and whether the container is told to stop meanwhile or not.
#[test]
fn process_1_does_not_end_well_when_the_generation_that_served_crashed() {
    for (upgrades, is_stopped) in [(1, false), (1, true), (2, false), (2, true)] {
        let Some(mut container) = Container::start(&["--probation", "1ms"]) else { return };
        let mut upload = Wire::connect(&container.service.place("/").address).unwrap();
        upload.send(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nha").unwrap();
        container.service.wait_in_hand(1);
        (0..upgrades).for_each(|_| container.upgrade_for_good());
        container.wait_processes(2);
        let (_, serves) = container.version();
        container.shell(&format!("kill -KILL {serves}"));
        if is_stopped {
            container.stop();
        }
        upload.send(b"lf").unwrap();
        assert!(watch(std::slice::from_mut(&mut upload), Until::Closed, LIMIT).unwrap());
        let received = String::from_utf8_lossy(upload.received());
        assert!(received.starts_with("HTTP/1.1 200"), "{received}");
        container.ends_with(137);
        let words = container.service.last_words();
        assert!(words.contains("Ending with code 137: so did pid "), "{words}");
    }
}

/// Whoever died on probation did not end the service: its predecessor had it back.
#[test]
fn process_1_ends_as_the_predecessor_that_has_the_service_back() {
    for stop in ["command", "signal", "signal at once"] {
        let Some(mut container) = Container::start(&[]) else { return };
        assert_eq!(container.service.operate("upgrade", &[]).code, Some(0));
        let [first, second] = container.wait_processes(2)[..] else { unreachable!() };
        // So that it hears of both at once.
        let at_once = stop == "signal at once";
        if at_once {
            container.signal(first, Signal::STOP);
        }
        container.signal(second, Signal::KILL);
        match stop {
            "command" => {
                container.service.target.wait_stderr("died on probation", LIMIT).unwrap();
                assert_eq!(container.version().0, 1);
                assert_eq!(container.service.operate("stop", &[]).code, Some(0));
            }
            "signal" => {
                container.service.target.wait_stderr("died on probation", LIMIT).unwrap();
                container.stop();
            }
            _ => {
                container.stop();
                container.signal(first, Signal::CONT);
            }
        }
        container.ends_with(0);
    }
}

/// A signal that only some of them take ends nobody: a successor that starts has no handler yet.
#[test]
fn a_storm_of_signals_to_process_1_fails_no_upgrade() {
    let flags = ["--probation", "100ms", "--max-generations", "64"];
    let Some(mut container) = Container::start(&flags) else { return };
    for _ in 0..200 {
        container.signal(container.init, Signal::HUP);
        container.signal(container.init, Signal::USR1);
        std::thread::sleep(Duration::from_millis(2));
    }
    // Whoever is asked while the last signals are followed may have handed over by then.
    let deadline = Instant::now() + LIMIT;
    loop {
        let ended = container.service.operate("upgrade", &["--queue"]);
        if ended.code == Some(0) {
            break;
        }
        assert!(Instant::now() < deadline, "{ended:?}");
    }
    container.wait_processes(1);
    assert_eq!(container.service.get("/b").0, 200);
    container.stop();
    container.ends_with(0);
    let words = container.service.last_words();
    assert!(!words.contains("Upgrade failed"), "{words}");
}

/// Without a signal: the operator's own command ends the container too.
#[test]
fn process_1_ends_when_the_service_was_stopped_by_command() {
    let Some(mut container) = Container::start(&[]) else { return };
    assert_eq!(container.service.operate("upgrade", &[]).code, Some(0));
    assert_eq!(container.service.operate("stop", &[]).code, Some(0));
    container.ends_with(0);
}

/// What cannot start says so, with its own code.
#[test]
fn process_1_ends_as_a_service_that_does_not_start() {
    if !prerequisites::is_root() {
        return;
    }
    let lameduck = env!("CARGO_BIN_EXE_lameduck");
    let alone = ["--pid", "--fork", "--kill-child", "--mount-proc", lameduck, "serve"];
    let output =
        Command::new("unshare").args(alone).args(["--listen", "nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
