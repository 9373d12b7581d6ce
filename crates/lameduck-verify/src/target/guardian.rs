//! Kills a server whose tester died without a chance to clean up (SIGKILL, Ctrl-C on a test run).

use super::{KILL_ROUNDS, MARK, PROC_PAUSE, as_pid, proc};
use rustix::process::{Signal, kill_process, kill_process_group};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Waits for the end of a pipe, then kills the process group `$0` and whoever has the mark `$1`, until none is found.
const SCRIPT: &str = r#"
read -r _
kill -s KILL -- "-$0" 2>/dev/null
for _ in 1 2 3 4 5; do
    found=$(grep -slzxF -e "$1" /proc/[0-9]*/environ) || exit 0
    for file in $found; do
        pid=${file#/proc/}
        kill -s KILL "${pid%/environ}" 2>/dev/null
    done
done
"#;

/// A shell that waits for the end of a pipe only the tester holds. The kernel closes the pipe however the
/// tester ends, so neither polling nor a parent-death signal (which needs unsafe code, and goes by thread) is
/// needed.
#[derive(Debug)]
pub(super) struct Guardian {
    shell: Child,
    guarded: Guarded,
}

/// The process group and the mark of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Guarded {
    group: u32,
    mark: String,
}

/// Nothing is started any more.
static LEAVING: AtomicBool = AtomicBool::new(false);

/// The servers of this process that may be alive.
static ALIVE: Mutex<Vec<Guarded>> = Mutex::new(Vec::new());

impl Guardian {
    /// Guards the process group of this number and the processes with this mark.
    pub(super) fn of(group: u32, mark: &str) -> io::Result<Guardian> {
        let variable = format!("{MARK}={mark}");
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, &group.to_string(), &variable])
            // A tester may be the server of another tester: its guardians are not what is guarded.
            .env_remove(MARK)
            // Not in the tester's group: what is typed at the terminal must not end the guardian first.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let guarded = Guarded { group, mark: mark.to_owned() };
        alive(|list| list.push(guarded.clone()));
        let guardian = Guardian { shell, guarded };
        if is_leaving() {
            return Err(io::Error::other("the tester is leaving"));
        }
        Ok(guardian)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        alive(|list| list.retain(|other| *other != self.guarded));
        // Killed before its pipe closes: the number of the group may belong to another by now.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Kills every server that this process started and has not let go of, at once, and lets it start none any more. For a
/// program that is about to leave because it was told to; what still runs in it meets servers that have died.
pub fn abandon() {
    LEAVING.store(true, Ordering::SeqCst);
    for Guarded { group, mark } in alive(|list| list.clone()) {
        if let Some(pid) = as_pid(group) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        kill_marked(&mark, group);
    }
}

/// Whether this process has [abandoned](abandon) its servers.
pub(crate) fn is_leaving() -> bool {
    LEAVING.load(Ordering::SeqCst)
}

/// A mark that no other server has.
pub(super) fn new_mark() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = since.map_or(0, |since| since.as_nanos());
    format!("{}-{}-{now:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Kills the members of a group and whoever has the mark, until none is alive.
pub(super) fn kill_marked(mark: &str, group: u32) {
    for _ in 0..KILL_ROUNDS {
        let found = proc::marked(mark, group);
        if found.is_empty() {
            return;
        }
        for pid in found.into_iter().filter_map(as_pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
        // A killed process is seen until it has gone through its exit.
        std::thread::sleep(PROC_PAUSE);
    }
}

fn alive<T>(look: impl FnOnce(&mut Vec<Guarded>) -> T) -> T {
    look(&mut ALIVE.lock().unwrap_or_else(PoisonError::into_inner))
}
