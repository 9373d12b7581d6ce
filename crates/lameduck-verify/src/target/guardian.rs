//! Kills a server whose tester died without a chance to clean up (SIGKILL, Ctrl-C on a test run), however early.

use super::{KILL_ROUNDS, MARK, PROC_PAUSE, Scope, as_pid, proc};
use rustix::process::{Signal, kill_process, kill_process_group};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Reads the number of a process group, if it is told one, and waits for the end of the pipe. Then kills that group and
/// whoever has the mark `$0`, until two looks in a row find nobody: a process that is just becoming the server shows
/// its mark a moment after it let go of the pipe. Last it removes the tester's directories `$1`: nobody of this server
/// writes there any more.
const SCRIPT: &str = r#"
read -r group
read -r _
[ -z "$group" ] || kill -s KILL -- "-$group" 2>/dev/null
quiet=0
for _ in 1 2 3 4 5 6 7 8 9 10; do
    quiet=$((quiet + 1))
    for file in $(grep -slzxF -e "$0" /proc/[0-9]*/environ); do
        quiet=0
        pid=${file#/proc/}
        kill -s KILL "${pid%/environ}" 2>/dev/null
    done
    [ $quiet -lt 2 ] || break
done
rm -rf -- "$1"
"#;

/// The same for a tester that has no server at the moment.
const KEEPER: &str = r#"read -r _; rm -rf -- "$0""#;

/// A shell that waits for the end of a pipe only the tester holds. The kernel closes the pipe however the
/// tester ends, so neither polling nor a parent-death signal (which needs unsafe code, and goes by thread) is
/// needed.
///
/// It is there before its server is, and knows it by the mark: a tester that dies while it starts the server leaves
/// none. The server's process holds the pipe too, as everything of the tester's, until it is the server's program,
/// and from then on it carries the mark.
#[derive(Debug)]
pub(super) struct Guardian {
    shell: Child,
    mark: String,
}

/// A server that may be alive.
#[derive(Clone, Debug)]
struct Guarded {
    mark: String,
    /// Not known before the server is started.
    group: Option<u32>,
    scope: Option<Scope>,
}

/// Nothing is started any more.
static LEAVING: AtomicBool = AtomicBool::new(false);

/// The servers of this process that may be alive.
static ALIVE: Mutex<Vec<Guarded>> = Mutex::new(Vec::new());

impl Guardian {
    /// Guards whoever will have this mark.
    pub(super) fn of(mark: &str) -> io::Result<Guardian> {
        let variable = format!("{MARK}={mark}");
        let (script, directories) = (OsStr::new(SCRIPT), directories());
        let shell = waiting_shell(&[script, variable.as_ref(), directories.as_os_str()])?;
        let scope = Scope::current();
        let guarded = Guarded { mark: mark.to_owned(), group: None, scope: scope.clone() };
        alive(|list| list.push(guarded));
        let guardian = Guardian { shell, mark: mark.to_owned() };
        // After it was listed: whoever ends the list meanwhile either finds it there, or is seen here.
        if is_leaving() {
            return Err(io::Error::other("the tester is leaving"));
        }
        if scope.is_some_and(|scope| scope.is_over()) {
            return Err(io::Error::other("the time of the case is over"));
        }
        Ok(guardian)
    }

    /// The server has started, as the first of this process group.
    pub(super) fn started(&mut self, group: u32) -> io::Result<()> {
        alive(|list| {
            for guarded in list.iter_mut().filter(|it| it.mark == self.mark) {
                guarded.group = Some(group);
            }
        });
        match self.shell.stdin.as_mut() {
            Some(pipe) => writeln!(pipe, "{group}"),
            None => Ok(()),
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        alive(|list| list.retain(|guarded| guarded.mark != self.mark));
        // Killed before its pipe closes: the number of the group may belong to another by now.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Where this process has its private directories; removed when it is gone.
pub(crate) fn directories() -> PathBuf {
    std::env::temp_dir().join(format!("lameduck-verify-{}", std::process::id()))
}

/// Has [`directories`] removed when this process is gone, however it ends. Called before the first is made.
pub(crate) fn keep_directories() -> io::Result<()> {
    static KEEPER_SHELL: Mutex<Option<Child>> = Mutex::new(None);
    let mut keeper = KEEPER_SHELL.lock().unwrap_or_else(PoisonError::into_inner);
    if keeper.is_none() {
        *keeper = Some(waiting_shell(&[KEEPER.as_ref(), directories().as_os_str()])?);
    }
    Ok(())
}

/// A shell that waits for the end of its standard input, which is the end of this process.
fn waiting_shell(words: &[&OsStr]) -> io::Result<Child> {
    Command::new("/bin/sh")
        .arg("-c")
        .args(words)
        // A tester may be the server of another tester: its guardians are not what is guarded.
        .env_remove(MARK)
        // Not in the tester's group: what is typed at the terminal must not end the guardian first.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Kills every server that this process started and has not let go of, at once, and lets it start none any more. For a
/// program that is about to leave because it was told to; what still runs in it meets servers that have died.
pub fn abandon() {
    LEAVING.store(true, Ordering::SeqCst);
    kill_guarded(|_| true);
}

/// Kills every server of this scope.
pub(super) fn kill_scope(scope: &Scope) {
    kill_guarded(|guarded| guarded.scope.as_ref() == Some(scope));
}

fn kill_guarded(is_meant: impl Fn(&Guarded) -> bool) {
    for Guarded { group, mark, .. } in alive(|list| list.clone()).into_iter().filter(is_meant) {
        if let Some(pid) = group.and_then(as_pid) {
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
pub(super) fn kill_marked(mark: &str, group: Option<u32>) {
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
