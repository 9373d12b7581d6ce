//! What `/proc` says about a process: descriptors, threads, descendants, memory. A process that is gone has
//! none of them.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a process may take to come to rest; a busy one never does.
pub const REST: Duration = Duration::from_secs(1);
/// Between two looks at whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// An open descriptor and what it leads to, as in `(3, "socket:[12345]")`.
pub fn descriptors(pid: u32) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let named = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        // It may have been closed since the directory was read.
        let leads_to = fs::read_link(entry.path()).ok()?;
        Some((number, leads_to.to_string_lossy().into_owned()))
    });
    let mut found: Vec<_> = named.collect();
    found.sort();
    found
}

/// The threads of a process, by their names.
pub fn threads(pid: u32) -> Vec<String> {
    let names =
        tasks(pid).into_iter().filter_map(|task| fs::read_to_string(task.join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}

/// Children, their children and so on, parents first. Zombies are among them.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(Status { parent, .. }) = status(entry.path()) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut found = children.remove(&pid).unwrap_or_default();
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        found.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    found
}

/// The living processes that inherited this mark ([`MARK`](super::MARK)) or belong to this process group.
pub fn marked(mark: &str, group: Option<u32>) -> Vec<u32> {
    let wanted = format!("{}={mark}", super::MARK);
    let has_mark = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let belongs = |pid: u32| {
        let status = status(format!("/proc/{pid}").into());
        status.is_some_and(|status| {
            !matches!(status.state, 'Z' | 'X') && (Some(status.group) == group || has_mark(pid))
        })
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes.filter(|pid| belongs(*pid)).collect()
}

/// Whether the process exists and has not ended.
pub fn is_alive(pid: u32) -> bool {
    status(format!("/proc/{pid}").into()).is_some_and(|status| !matches!(status.state, 'Z' | 'X'))
}

/// Whether any thread of the process has not ended. A killed process looks like one that has ended as soon as its first
/// thread has, while the others still hold its sockets.
pub fn has_threads(pid: u32) -> bool {
    let states = tasks(pid).into_iter().filter_map(status);
    states.into_iter().any(|status| !matches!(status.state, 'Z' | 'X'))
}

/// Whether every thread of the process is stopped by a signal (or the process is gone).
pub fn is_stopped(pid: u32) -> bool {
    let states = tasks(pid).into_iter().filter_map(status);
    states.into_iter().all(|status| matches!(status.state, 'T' | 'Z' | 'X'))
}

/// Whether the process has taken every signal that it was sent, and every thread of it waits for something (or it is
/// gone).
pub fn is_at_rest(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending =
        text.lines().filter(|line| line.starts_with("SigPnd:") || line.starts_with("ShdPnd:"));
    let has_none =
        |line: &str| line.rsplit('\t').next().is_some_and(|set| !set.contains(|it| it != '0'));
    let states = tasks(pid).into_iter().filter_map(status);
    pending.into_iter().all(has_none)
        && states.into_iter().all(|status| matches!(status.state, 'S' | 'Z' | 'X'))
}

/// Waits until the process [is at rest](is_at_rest), or for [`REST`] at most: a busy one never is.
pub fn wait_at_rest(pid: u32) {
    wait_until(|| is_at_rest(pid));
}

/// Waits until it is so, for [`REST`] at most.
pub fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + REST;
    while !is_so() && Instant::now() < deadline {
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// Whether the process has not become a program of its own since it was forked: it holds whatever its parent held, and
/// may lose it at any moment.
pub fn is_copy(pid: u32) -> bool {
    status(format!("/proc/{pid}").into()).is_some_and(|status| status.flags & FORKED != 0)
}

/// Whether the process has ended and was not waited for.
pub fn is_zombie(pid: u32) -> bool {
    status(format!("/proc/{pid}").into()).is_some_and(|status| status.state == 'Z')
}

/// Resident memory in KiB, if the process is alive.
pub fn resident_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn tasks(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// The kernel's `PF_FORKNOEXEC`.
const FORKED: u32 = 0x40;

struct Status {
    state: char,
    parent: u32,
    group: u32,
    flags: u32,
}

/// The name in `stat` stands in parentheses and may hold any byte, also `)`: what follows its last one counts.
fn status(directory: PathBuf) -> Option<Status> {
    let text = fs::read(directory.join("stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // Between them: session, terminal, its group.
    let flags = fields.nth(3)?.parse().ok()?;
    Some(Status { state, parent, group, flags })
}
