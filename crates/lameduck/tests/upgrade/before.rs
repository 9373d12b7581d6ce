//! What is looked at before a successor is started: memory (F26), and the program's own word on its settings (F32).

use std::fs;
use std::path::{Path, PathBuf};

use lameduck::upgrade::CHECK_FIRST;
use lameduck_verify::target::Signal;

use crate::support::{BOUND, Service, Setup, wait, who};

const MIB: u64 = 1024 * 1024;

/// A control group with a limit of its own. Only root may make one; as anybody else there is nothing to look at.
struct Group {
    directory: PathBuf,
    limit: &'static str,
}

impl Group {
    fn new(name: &str) -> Option<Group> {
        if !prerequisites::is_root() {
            return None;
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mounts: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
        let one = mounts.iter().find(|fields| {
            fields[2] == "cgroup" && fields[3].split(',').any(|option| option == "memory")
        });
        let two = mounts.iter().find(|fields| fields[2] == "cgroup2");
        let (mount, limit) = match (one, two) {
            (Some(one), _) => (one[1], "memory.limit_in_bytes"),
            (None, Some(two)) => {
                // Where it is on already nothing changes.
                fs::write(Path::new(two[1]).join("cgroup.subtree_control"), "+memory").unwrap();
                (two[1], "memory.max")
            }
            (None, None) => panic!("no control groups are mounted"),
        };
        let name = format!("lameduck-{name}-{}", std::process::id());
        let directory = Path::new(mount).join(name);
        fs::create_dir(&directory).unwrap();
        Some(Group { directory, limit })
    }

    fn may_have(&self, bytes: u64) {
        fs::write(self.directory.join(self.limit), bytes.to_string()).unwrap();
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty once its last process is reaped.
        wait(|| fs::remove_dir(&self.directory).is_ok(), || self.directory.display().to_string());
    }
}

/// Uses 48 MiB in a group that may have this much.
fn confined(group: &Group, bytes: u64, wish: &str) -> Service {
    let service = Setup::new().wish("eat 48").wish(wish).start();
    group.take_in(service.target.pid());
    group.may_have(bytes);
    service
}

/// F26
#[test]
fn an_upgrade_that_does_not_fit_into_memory_is_refused_and_said_so() {
    let Some(group) = Group::new("no-room") else { return };
    // What a process used before it came into a group is not counted there: what it uses itself says enough.
    let service = confined(&group, 50 * MIB, "");
    service.wish("");
    let why = service.fail_to_upgrade();
    let directory = group.directory.display().to_string();
    for told in ["there is no memory for two generations", &directory, "may have 50 MiB"] {
        assert!(why.contains(told), "{told} is not in {why}");
    }
    assert!(!service.target.stderr().contains("Upgrading: started"), "nothing is even begun");
    // With room for both the same upgrade goes on.
    group.may_have(400 * MIB);
    let (pid, generation) = service.upgrade();
    assert_eq!(who(&service.get("/")), (generation, pid));
    service.stop();
}

/// F26
#[test]
fn an_upgrade_without_room_goes_on_where_nobody_wants_to_know() {
    let Some(group) = Group::new("not-asked") else { return };
    let service = confined(&group, 50 * MIB, "no-memory-check");
    service.wish("");
    let (pid, generation) = service.upgrade();
    assert_eq!(who(&service.get("/")), (generation, pid));
    service.stop();
}

/// F32
#[test]
fn a_program_that_finds_its_settings_wrong_is_not_started() {
    let service = Setup::new().wish("check-first 0").start();
    service.wish("check-first 2");
    let why = service.fail_to_upgrade();
    for told in ["the check of", "it exited with code 2", "checking myself"] {
        assert!(why.contains(told), "{told} is not in {why}");
    }
    assert!(!service.target.stderr().contains("Upgrading: started"), "nothing is even begun");
    service.wish("check-first 0");
    let (pid, generation) = service.upgrade();
    assert_eq!(who(&service.get("/")), (generation, pid));
    service.stop();
}

/// F32
#[test]
fn a_check_that_never_ends_is_ended() {
    let service = Setup::new().wish("check-first 0").start();
    service.wish("check-first hang");
    let why = service.fail_to_upgrade();
    assert!(why.contains(&format!("did not end in {CHECK_FIRST:?}")), "{why}");
    service.wish("check-first 0");
    service.upgrade();
    service.stop();
}

/// F23, F32
#[test]
fn a_stop_during_a_check_leaves_no_process() {
    let mut service = Setup::new().wish("check-first 0").start();
    service.wish("check-first hang");
    service.target.signal(Signal::HUP).unwrap();
    service.target.wait_stderr("checking myself", BOUND).unwrap();
    service.target.signal(Signal::TERM).unwrap();
    service.wait_processes(&[]);
}

/// A program that is gone when it is to check itself.
#[test]
fn a_missing_program_is_told_by_its_check() {
    let setup = Setup::new().wish("check-first 0");
    let copy = setup.file("app");
    fs::copy(crate::support::example("misbehaving_successor"), &copy).unwrap();
    let service = setup.program(&copy).start();
    fs::remove_file(&copy).unwrap();
    let why = service.fail_to_upgrade();
    assert!(why.contains("no such file") && why.contains(copy.to_str().unwrap()), "{why}");
    service.stop();
}
