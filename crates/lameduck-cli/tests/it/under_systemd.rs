//! Upgrades under a real systemd, which runs as process 1 of a namespace of its own. Only root may make one; as anybody
//! else there is nothing to look at.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lameduck_verify::address::Place;
use lameduck_verify::probe::http1::pipelined;
use lameduck_verify::probe::{Until, watch};
use lameduck_verify::target::{Ready, Target, proc};
use serde_json::Value;
use tempfile::TempDir;

use crate::service::{LIMIT, get, new_directory};

/// What the test's unit allows between two signs of life.
const WATCHDOG: Duration = Duration::from_secs(1);

/// Between two looks at a unit, which has no way to wait.
const PAUSE: Duration = Duration::from_millis(10);

/// A systemd with one service, whose files and sockets are in one directory.
struct Systemd {
    target: Target,
    /// Process 1 of the namespace, as seen from here.
    init: u32,
    cgroup: PathBuf,
    directory: TempDir,
}

impl Systemd {
    /// Starts systemd and the service in it. `None` where nobody may do so.
    fn start(probation: &str) -> Option<Systemd> {
        if !prerequisites::is_root() {
            return None;
        }
        let directory = new_directory();
        let own = |name: &str| directory.path().join(name).display().to_string();
        symlink(env!("CARGO_BIN_EXE_lameduck"), directory.path().join("current")).unwrap();
        fs::create_dir(directory.path().join("run")).unwrap();
        fs::set_permissions(directory.path().join("run"), PermissionsExt::from_mode(0o700))
            .unwrap();
        let unit = format!(
            "[Unit]\nDefaultDependencies=no\n\
             [Service]\nType=notify\nNotifyAccess=main\n\
             ExecStart={program} serve --listen unix:{socket} --database sqlite:{database} \
             --control {control} --probation {probation} --slow 500ms\n\
             ExecReload={binary} upgrade --control {control}\n\
             ExecStop={binary} stop --control {control}\n\
             KillMode=control-group\nTimeoutStopSec=20s\nWatchdogSec={watchdog}\n\
             StandardError=append:{log}\n",
            log = own("log"),
            program = own("current"),
            socket = own("http.sock"),
            database = own("test.db"),
            control = own("run/control"),
            binary = env!("CARGO_BIN_EXE_lameduck"),
            watchdog = WATCHDOG.as_secs(),
        );
        fs::write(directory.path().join("web.service"), unit).unwrap();
        let target = "[Unit]\nDefaultDependencies=no\n";
        fs::write(directory.path().join("bare.target"), target).unwrap();
        // One for each test, also when all run in one process.
        let test = directory.path().file_name().unwrap().to_string_lossy();
        let cgroup = cgroup_root().join(format!("lameduck-test-{}-{test}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let boot = format!(
            "echo $$ > {cgroup}/cgroup.procs && \
             exec unshare --fork --kill-child --pid --mount --uts --ipc --net --cgroup --mount-proc sh -c '\
             umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && \
             mount -t tmpfs none /run && mkdir -p /run/systemd/system && \
             cp {directory}/*.service {directory}/*.target /run/systemd/system/ && \
             exec env container=test /lib/systemd/systemd --system --unit=bare.target \
             --log-target=console --show-status=no'",
            cgroup = cgroup.display(),
            directory = directory.path().display(),
        );
        let command = Target::command("sh").args(["-c", &boot]).ready(Ready::Started);
        let target = command.start().unwrap();
        let init = until("process 1", || {
            let inside = proc::descendants(target.pid());
            inside.into_iter().find(|pid| name(*pid) == "systemd")
        });
        let systemd = Systemd { target, init, cgroup, directory };
        until("an answer of systemd", || {
            systemd.run("systemctl", &["is-active", "bare.target"]).status.success().then_some(())
        });
        let started = systemd.run("systemctl", &["start", "web.service"]);
        assert!(started.status.success(), "{started:?}\n{}", systemd.target.stderr());
        Some(systemd)
    }

    /// Runs a program inside.
    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", program]).args(arguments);
        command.output().unwrap()
    }

    fn property(&self, name: &str) -> String {
        let output = self.run("systemctl", &["show", "web.service", "--value", "-p", name]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[track_caller]
    fn is_up(&self) {
        let state = self.property("ActiveState");
        assert_eq!(state, "active", "{}: {}", self.property("Result"), self.log());
    }

    fn place(&self, path: &str) -> Place {
        let socket = self.directory.path().join("http.sock");
        format!("unix:{}:{path}", socket.display()).parse().unwrap()
    }

    /// Asks the service itself: generation and process, as numbered inside.
    fn version(&self) -> (u64, u64) {
        let (_, body) = get(&self.place("/version"));
        let version: Value = serde_json::from_str(&body).unwrap();
        (version["generation"].as_u64().unwrap(), version["pid"].as_u64().unwrap())
    }

    /// What the service and its reloads wrote.
    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    fn reload(&self) -> Output {
        self.run("systemctl", &["reload", "web.service"])
    }

    /// Waits until the watchdog has been fed so often that it would have ended a service it did not hear.
    fn outlive_the_watchdog(&self) {
        let fed = || self.property("WatchdogTimestampMonotonic").parse::<u64>().unwrap();
        let begun = fed();
        until("a watchdog that is fed", || {
            self.is_up();
            (fed() > begun + 2 * WATCHDOG.as_micros() as u64).then_some(())
        });
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // All that is below it dies with process 1; groups can be removed when they are empty, children first.
        let _ = self.target.signal_group(lameduck_verify::target::Signal::KILL);
        let _ = self.target.wait(LIMIT);
        let deadline = Instant::now() + LIMIT;
        while !remove_groups(&self.cgroup) && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
    }
}

fn remove_groups(group: &Path) -> bool {
    let Ok(entries) = fs::read_dir(group) else { return true };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_groups(&entry.path());
    }
    fs::remove_dir(group).is_ok()
}

/// Where version 2 of control groups is mounted.
fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.find(|fields| fields[2] == "cgroup2").expect("control groups, version 2");
    PathBuf::from(mount[1])
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

#[track_caller]
fn until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} within {LIMIT:?}");
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn a_reload_makes_the_successor_the_main_process_of_its_unit_when_it_is_final() {
    let Some(systemd) = Systemd::start("500ms") else { return };
    let (generation, first) = systemd.version();
    assert_eq!((generation, systemd.property("MainPID")), (1, first.to_string()));
    let reloaded = systemd.reload();
    assert!(reloaded.status.success(), "{reloaded:?}");
    let (generation, second) = systemd.version();
    assert_eq!(generation, 2);
    until("the main process to change", || {
        (systemd.property("MainPID") == second.to_string()).then_some(())
    });
    systemd.outlive_the_watchdog();
    until("the first generation's end", || {
        let inside = format!("/proc/{first}");
        (!systemd.run("test", &["-e", &inside]).status.success()).then_some(())
    });
    // A request is in hand when the stop comes: it is answered, and nothing is killed.
    let mut slow = pipelined(&systemd.place("/a"), 1).unwrap();
    until("the request", || {
        let status = Command::new(env!("CARGO_BIN_EXE_lameduck"))
            .args(["status", "--json", "--control"])
            .arg(systemd.directory.path().join("run/control"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&status.stdout).contains("\"requests\":1").then_some(())
    });
    let stopped = systemd.run("systemctl", &["stop", "web.service"]);
    assert!(stopped.status.success(), "{stopped:?}");
    assert!(watch(std::slice::from_mut(&mut slow), Until::Closed, LIMIT).unwrap());
    assert_eq!(slow.answers().len(), 1, "{}", systemd.log());
    let end = (systemd.property("ActiveState"), systemd.property("Result"));
    assert_eq!(end, ("inactive".to_owned(), "success".to_owned()), "{}", systemd.log());
}

#[test]
fn a_successor_that_dies_on_probation_does_not_end_its_unit() {
    let Some(systemd) = Systemd::start("20s") else { return };
    let (_, first) = systemd.version();
    assert!(systemd.reload().status.success());
    let (generation, second) = systemd.version();
    assert_eq!((generation, systemd.property("MainPID")), (2, first.to_string()));
    assert!(systemd.run("kill", &["-KILL", &second.to_string()]).status.success());
    until("the first generation's answer", || (systemd.version() == (1, first)).then_some(()));
    systemd.outlive_the_watchdog();
    assert_eq!(systemd.property("MainPID"), first.to_string());
    assert!(systemd.property("StatusText").contains("serving again"));
    // The way ahead is open.
    assert!(systemd.reload().status.success());
    assert_eq!(systemd.version().0, 3);
    systemd.is_up();
}

#[test]
fn a_reload_to_a_version_that_fails_is_told_and_leaves_the_unit_as_it_was() {
    let Some(systemd) = Systemd::start("20s") else { return };
    let before = systemd.version();
    let current = systemd.directory.path().join("current");
    fs::remove_file(&current).unwrap();
    fs::write(&current, "#!/bin/sh\necho no such library >&2; exit 1\n").unwrap();
    fs::set_permissions(&current, PermissionsExt::from_mode(0o755)).unwrap();
    let reloaded = systemd.reload();
    assert!(!reloaded.status.success(), "{reloaded:?}");
    assert!(systemd.log().contains("no such library"), "{}", systemd.log());
    assert_eq!(systemd.version(), before);
    systemd.outlive_the_watchdog();
    assert_eq!(systemd.property("MainPID"), before.1.to_string());
    assert!(systemd.property("StatusText").contains("upgrade failed, serving on"));
}

/// The main process gets the signal, and its successor has the service.
#[test]
fn a_signal_to_the_main_process_while_its_successor_is_on_probation_upgrades_that() {
    let Some(systemd) = Systemd::start("20s") else { return };
    let (_, first) = systemd.version();
    assert!(systemd.reload().status.success());
    let (generation, second) = systemd.version();
    assert_eq!((generation, systemd.property("MainPID")), (2, first.to_string()));
    let signalled = systemd.run("kill", &["-HUP", &first.to_string()]);
    assert!(signalled.status.success(), "{signalled:?}");
    until("the third generation", || (systemd.version().0 == 3).then_some(()));
    // The first is out of the game with that, and the second is the one that could take back.
    until("the main process to change", || {
        (systemd.property("MainPID") == second.to_string()).then_some(())
    });
    systemd.outlive_the_watchdog();
    systemd.is_up();
}
