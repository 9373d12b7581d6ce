//! Upgrades of the real binary, asked for with the real command: what clients see of them, and what is left behind.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lameduck_verify::load::{Load, Mode, Running, Until};
use lameduck_verify::target::{Ready, Target};
use serde_json::Value;

use crate::command::{Ended, Place};
use crate::service::{ADMIN, LIMIT, Service, WITH_ADMIN, new_directory};

/// The control socket, in the server's directory.
const CONTROL: &str = "run/control";
pub const WITH_CONTROL: [&str; 2] = ["--control", CONTROL];
pub const BINARY: &str = env!("CARGO_BIN_EXE_lameduck");
/// Where tests that replace the program have it, in the server's directory.
const PROGRAM: &str = "program";

/// How many upgrades a test makes that repeats them; `LAMEDUCK_UPGRADES` asks for more than the few of a quick run.
fn upgrades() -> u64 {
    std::env::var("LAMEDUCK_UPGRADES").map_or(20, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("LAMEDUCK_UPGRADES={text}: not a number of upgrades"))
    })
}

impl Service {
    #[track_caller]
    pub fn upgradable(flags: &[&str]) -> Service {
        let flags: Vec<&str> = WITH_CONTROL.iter().chain(flags).copied().collect();
        Service::start(&flags)
    }

    /// The same from a path in the server's directory that can be made to lead elsewhere.
    #[track_caller]
    pub fn replaceable() -> Service {
        let directory = new_directory();
        let program = directory.path().join(PROGRAM);
        symlink(BINARY, &program).unwrap();
        let listen = ["serve", "--listen", "127.0.0.1:0"];
        let command = Target::command(program).args(listen).args(WITH_CONTROL);
        Service::run(directory, command, Ready::Stderr("istening on ".into()), 1)
    }

    /// Puts a script in the program's place.
    pub fn replace_by_script(&self, script: &str, mode: u32) {
        let (program, beside) = (self.path(PROGRAM), self.path("beside"));
        std::fs::write(&beside, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&beside, PermissionsExt::from_mode(mode)).unwrap();
        std::fs::rename(beside, program).unwrap();
    }

    pub fn start_command(&self, verb: &str, flags: &[&str]) -> Target {
        let command = Target::command(BINARY).arg(verb).args(WITH_CONTROL).args(flags);
        command.directory(self.path("")).start().unwrap()
    }

    /// Asks the service with the command, as an operator does.
    #[track_caller]
    pub fn operate(&self, verb: &str, flags: &[&str]) -> Ended {
        ended(self.start_command(verb, flags))
    }

    #[track_caller]
    pub fn upgrade(&self) -> String {
        let ended = self.operate("upgrade", &[]);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{}", self.target.stderr());
        ended.stdout
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        let ended = self.operate("status", &["--json"]);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
        serde_json::from_str(&ended.stdout).unwrap()
    }

    #[track_caller]
    pub fn version(&self) -> Value {
        serde_json::from_str(&self.get("/version").1).unwrap()
    }

    /// Asks on new connections until this generation answers. The one before may accept a last connection just after
    /// the hand-over was told: its accept loops close then, and not before.
    #[track_caller]
    pub fn wait_answers_from(&self, generation: u64) -> Value {
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let version = self.version();
            if version["generation"] == generation {
                return version;
            }
            assert!(std::time::Instant::now() < deadline, "{version}");
        }
    }

    #[track_caller]
    fn number(&self) -> u64 {
        number(&self.get("/b").1)
    }

    /// Asks again and again until this many generations are left.
    #[track_caller]
    pub fn wait_generations(&self, count: usize) {
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if status["generations"].as_array().unwrap().len() == count {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{status:#}");
        }
    }

    /// Waits until no generation holds standard error, and looks for processes that do not.
    #[track_caller]
    pub fn leaves_no_process(&mut self) {
        let words = self.last_words();
        self.wait();
        assert_eq!(alive_in_group(self.target.pid()), [0; 0], "{words}");
    }
}

/// The kernel's mark of a process that is ending (`PF_EXITING`).
const EXITING: u32 = 4;

/// The processes of a group that have not ended. Orphans that have may wait as zombies for whoever reaps them here.
pub fn alive_in_group(group: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let alive = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // Behind the name in parentheses: state, parent, group, session, terminal, its group, flags (proc(5)).
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let [state, _, its_group, _, _, _, flags, ..] = fields[..] else { return None };
        // One that is ending has closed its files before it counts as dead.
        let is_alive = state != "Z" && flags.parse::<u32>().ok()? & EXITING == 0;
        (is_alive && its_group.parse() == Ok(group)).then_some(pid)
    });
    alive.collect()
}

#[track_caller]
pub fn ended(mut command: Target) -> Ended {
    let code = command.wait(LIMIT).unwrap().code;
    let [stdout, stderr] = [command.whole_stdout(LIMIT), command.whole_stderr(LIMIT)];
    Ended { code, stdout: stdout.unwrap(), stderr: stderr.unwrap() }
}

fn number(body: &str) -> u64 {
    let body: Value = serde_json::from_str(body).unwrap();
    body["num"].as_u64().unwrap()
}

/// Counts on one kept connection until told to stop; any close, reset or refusal is a panic.
fn count_on(address: &str, stop: &AtomicBool) -> Vec<u64> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut numbers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(b"GET /b HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            answers.read_line(&mut line).unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            assert_ne!(line, "connection: close", "after {} answers", numbers.len());
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        answers.read_exact(&mut body).unwrap();
        numbers.push(number(&String::from_utf8(body).unwrap()));
    }
    numbers
}

#[track_caller]
fn load(service: &Service, path: &str, mode: Mode, clients: usize) -> Running {
    let load = Load::new(service.place(path), mode).connections(clients).threads(2);
    let running = load.until(Until::Elapsed(LIMIT * 10)).start().unwrap();
    running.wait_flowing(LIMIT).unwrap();
    running
}

#[test]
fn no_client_notices_an_upgrade_and_no_number_is_lost_or_given_twice() {
    const COUNTING: usize = 4;
    let mut service = Service::upgradable(&[]);
    let before = service.number();
    let kept = load(&service, "/version", Mode::KeepAlive, 8);
    let fresh = load(&service, "/version", Mode::NewConnection, 4);
    let posts = load(&service, "/orders", Mode::Post, 4);
    let stop = AtomicBool::new(false);
    let numbers: Vec<u64> = thread::scope(|threads| {
        let count = || count_on(&service.addresses[0], &stop);
        let counting: Vec<_> = (0..COUNTING).map(|_| threads.spawn(count)).collect();
        for upgrade in 1..=upgrades() {
            let said = service.upgrade();
            let expected = format!("Upgraded: generation {}, pid ", upgrade + 1);
            assert!(said.starts_with(&expected), "{said}");
        }
        stop.store(true, Ordering::Relaxed);
        counting.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    for (running, connections) in [(kept, Some(8)), (fresh, None), (posts, Some(4))] {
        running.stop();
        let report = running.finish();
        assert_eq!(report.lost(), 0, "{report}");
        if let Some(connections) = connections {
            assert_eq!(report.connections_opened(), connections, "{report}");
        }
    }
    let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(distinct.len(), numbers.len(), "a number was given twice");
    assert_eq!(distinct.first(), Some(&(before + 1)));
    assert_eq!(distinct.len() as u64, distinct.last().unwrap() - before, "a number is missing");
    assert_eq!(service.number(), distinct.last().unwrap() + 1);
    service.wait_answers_from(upgrades() + 1);
    assert_eq!(service.operate("stop", &[]).code, Some(0));
    service.leaves_no_process();
}

/// A successor that is not ready must not answer on the admin socket that it was given.
#[test]
fn readiness_stays_green_through_upgrades() {
    let mut service = Service::upgradable(&WITH_ADMIN);
    let place = format!("unix:{}:/readyz", service.path(ADMIN).display()).parse().unwrap();
    let stop = AtomicBool::new(false);
    let asked = thread::scope(|threads| {
        let asking = threads.spawn(|| {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                let (status, body) = crate::service::get(&place);
                assert_eq!(status, 200, "{body}");
                asked += 1;
            }
            asked
        });
        for _ in 0..5 {
            service.upgrade();
        }
        stop.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    assert!(asked > 5, "it was asked meanwhile: {asked} times");
    assert_eq!(service.operate("stop", &[]).code, Some(0));
    service.leaves_no_process();
}

#[test]
fn long_work_stays_with_its_generation_and_status_tells_of_each() {
    let service = Service::upgradable(&[WITH_ADMIN[0], WITH_ADMIN[1], "--slow", "1h"]);
    let _long = service.begin_slow_request();
    service.upgrade();
    service.upgrade();
    let status = service.status();
    assert_eq!(status["active"], 3);
    let generations = status["generations"].as_array().unwrap();
    assert_eq!(generations[0]["generation"], 3);
    assert_eq!(generations[0]["phase"], "serving");
    let oldest = generations.last().unwrap();
    assert_eq!((&oldest["generation"], &oldest["live"]["requests"]), (&1.into(), &1.into()));
    assert_eq!(oldest["pid"], service.target.pid());

    let table = service.operate("status", &[]).stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].trim_start().starts_with("generation  pid"), "{table}");
    assert!(lines[1].starts_with("*  3 ") && lines[1].contains("  serving  "), "{table}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("   1 ") && last.contains("  draining  "), "{table}");
    assert!(last.contains("  1 request, 1 connection  ") && last.ends_with("unlimited"), "{table}");
}

#[test]
fn a_rollback_within_probation_gives_the_service_back() {
    let mut service = Service::upgradable(&["--probation", "1h"]);
    let first = service.number();
    service.upgrade();
    assert_eq!(service.number(), first + 1);
    let back = service.operate("rollback", &[]);
    assert_eq!((back.code, &*back.stderr), (Some(0), ""));
    assert_eq!(back.stdout, "Rolled back: the previous generation serves again\n");
    assert_eq!(service.wait_answers_from(1)["pid"], service.target.pid());
    assert_eq!(service.number(), first + 2);

    let again = service.operate("rollback", &[]);
    assert_eq!(again.code, Some(1));
    let error = "error: rollback failed: this generation took over from nobody\nhint: ";
    assert!(again.stderr.starts_with(error), "{}", again.stderr);
    assert_eq!(service.operate("stop", &[]).code, Some(0));
    service.leaves_no_process();
}

#[test]
fn after_probation_an_upgrade_is_final() {
    let service = Service::upgradable(&["--probation", "0s"]);
    service.upgrade();
    service.wait_generations(1);
    let back = service.operate("rollback", &[]);
    assert_eq!(back.code, Some(1));
    assert!(back.stderr.contains("the upgrade is final\nhint: "), "{}", back.stderr);
    assert_eq!(service.version()["generation"], 2);
}

/// Upgrades to a broken program, sees the reason, and that everything is as it was.
#[track_caller]
fn check_broken(service: &Service, reason: &str) {
    let before = service.version();
    let ended = service.operate("upgrade", &[]);
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
    let last_two: Vec<&str> = ended.stderr.lines().rev().take(2).collect();
    assert!(last_two[0].starts_with("hint: "), "{}", ended.stderr);
    assert!(last_two[1].starts_with("error: upgrade failed: "), "{}", ended.stderr);
    assert!(ended.stderr.contains(reason), "`{reason}` is missing in {}", ended.stderr);
    assert_eq!(service.version(), before);
    assert_eq!(service.status()["generations"].as_array().unwrap().len(), 1);
}

/// Two who ask at once: the one that is refused is told how to follow the other. And a directory is no socket.
#[test]
fn a_refusal_says_what_helps_against_it() {
    let service = Service::replaceable();
    let slow = format!("sleep 1; exec {BINARY} \"$@\"");
    service.replace_by_script(&slow, 0o755);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| service.operate("upgrade", &[]));
        service.target.wait_stderr("Upgrading: started", LIMIT).unwrap();
        let second = service.operate("upgrade", &[]);
        assert_eq!(second.code, Some(1));
        assert!(
            second.stderr.contains("hint: wait for it, or follow it: `lameduck upgrade --queue")
        );
        assert_eq!(first.join().unwrap().code, Some(0));
    });
    let ended = Place::new().run(&["status", "--control", "."], &[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains(". is a directory, not a control socket"), "{}", ended.stderr);
}

#[test]
fn an_upgrade_to_a_broken_program_fails_with_its_reason_and_changes_nothing() {
    let mut service = Service::replaceable();
    let kept = load(&service, "/b", Mode::KeepAlive, 4);
    std::fs::remove_file(service.path(PROGRAM)).unwrap();
    check_broken(&service, "could not be started: no such file or directory");
    service.replace_by_script("exit 0", 0o644);
    check_broken(&service, "could not be started: permission denied");
    service.replace_by_script("echo 'cannot read' >&2; echo 'its settings' >&2; exit 7", 0o755);
    check_broken(
        &service,
        "| cannot read\n| its settings\nerror: upgrade failed: it exited with code 7",
    );
    service.replace_by_script("kill -KILL $$", 0o755);
    check_broken(&service, "it was killed by signal 9");
    service.replace_by_script(&format!("exec {BINARY} \"$@\" --nonsense"), 0o755);
    check_broken(&service, "| error: --nonsense: no such flag");

    service.replace_by_script(&format!("exec {BINARY} \"$@\""), 0o755);
    service.upgrade();
    service.wait_answers_from(2);
    kept.stop();
    let report = kept.finish();
    assert_eq!((report.lost(), report.connections_opened()), (0, 4), "{report}");
    assert_eq!(service.operate("stop", &[]).code, Some(0));
    service.leaves_no_process();
}

#[test]
fn a_takeover_by_hand_needs_no_signal() {
    let mut service = Service::upgradable(&[]);
    let first = service.number();
    // Started by nobody's child: an operator's shell, another supervisor.
    let flags = ["serve", "--listen", "127.0.0.1:0", "--takeover"];
    let command = Target::command(BINARY).args(flags).args(WITH_CONTROL);
    let command = command.directory(service.path("")).ready(Ready::Stderr("istening on ".into()));
    let mut successor = command.ready_limit(LIMIT).start().unwrap();
    service.target.wait_stderr("Handed over to generation 2", LIMIT).unwrap();
    assert_eq!(service.wait_answers_from(2)["pid"], successor.pid());
    assert_eq!(service.number(), first + 1);
    assert_eq!(service.operate("stop", &[]).code, Some(0));
    assert_eq!(successor.wait(LIMIT).unwrap().code, Some(0));
    service.leaves_no_process();

    let nobody = service.operate("serve", &["--takeover", "--listen", "127.0.0.1:0"]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.stderr.starts_with("error: cannot take over from "), "{}", nobody.stderr);
}
