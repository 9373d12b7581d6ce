//! The process of a successor that this one started: its last words, its end, its number while it has one, and how it
//! is made to leave when it is not wanted.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;

use crate::generation::{AttemptId, EXIT};
use crate::log::Log;
use crate::zombie::{await_exit, ended, has_exited, number};

/// How long an unwanted successor may take to leave when this process itself is about to leave: whoever it left behind would have nobody to kill it.
pub const LEAVE_WITH_US: Duration = Duration::from_millis(500);

/// What of a failed successor's last words is told, in bytes: a panic with its backtrace fits.
pub const LAST_WORDS: usize = 16 * 1024;

/// A process we started, with its last words.
#[derive(Clone)]
pub(crate) struct Process {
    pid: u32,
    words: Arc<Mutex<Vec<u8>>>,
    /// Locked while it is signalled and while it is reaped, so that no other process can have its number meanwhile.
    presence: Arc<watch::Sender<Presence>>,
    /// It has the service for good.
    keeps: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// As far as is known: it keeps its number until it is reaped.
    Runs,
    Reaped,
    /// It had the service for good and ended badly: its end is for whoever inherits it to hear, which is process 1 of a
    /// container. This generation only finishes what it has in hand, and its own end would say that all was well.
    Left,
}

/// Every process that was started here and was not reaped yet.
#[derive(Clone, Default)]
pub(crate) struct Started(Arc<Mutex<Vec<Process>>>);

impl Started {
    pub(super) fn add(&self, process: Process) {
        let mut started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        started.retain(|other| !other.is_reaped());
        started.push(process);
    }

    /// Waits until those that have ended are reaped. One that this process leaves behind is inherited by another, who
    /// would take it for one that outlived this one.
    pub(crate) async fn reap_the_ended(&self) {
        let started = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for process in started.iter().filter(|process| process.has_ended()) {
            let mut presence = process.presence.subscribe();
            let reaped = presence.wait_for(|presence| *presence != Presence::Runs);
            let _ = tokio::time::timeout(EXIT, reaped).await;
        }
    }
}

impl Process {
    /// Waits for the process, and passes its words on, on threads that hold nothing at exit: it may well outlive us.
    /// `exited` is called once it is reaped and its words are read.
    pub(super) fn watch(
        mut child: Child,
        stderr: Option<ChildStderr>,
        log: &Arc<Log>,
        exited: impl FnOnce(Exited) + Send + 'static,
    ) -> Process {
        let presence = Arc::new(watch::Sender::new(Presence::Runs));
        let keeps = Arc::default();
        let process = Process { pid: child.id(), words: Arc::default(), presence, keeps };
        let (words, log) = (Arc::clone(&process.words), Arc::clone(log));
        let (read, all_read) = std::sync::mpsc::channel();
        let passing_on = std::thread::Builder::new().name("lameduck-words".to_owned());
        drop(passing_on.spawn(move || {
            if let Some(stderr) = stderr {
                pass_on(stderr, &words, &log);
            }
            // Nobody listens any more when a process it started still holds the pipe.
            let _ = read.send(());
        }));
        let Process { pid, presence, keeps, .. } = process.clone();
        let waiting = std::thread::Builder::new().name("lameduck-child".to_owned());
        drop(waiting.spawn(move || {
            await_exit(pid);
            let mut status = Err(io::ErrorKind::NotFound.into());
            presence.send_modify(|presence| {
                let bad_end = match keeps.load(Ordering::Acquire) {
                    true => ended(pid).filter(|status| !status.success()),
                    false => None,
                };
                (status, *presence) = match bad_end {
                    Some(status) => (Ok(status), Presence::Left),
                    None => (child.wait(), Presence::Reaped),
                };
            });
            let _ = all_read.recv_timeout(EXIT);
            exited(Exited {
                is_well: status.as_ref().is_ok_and(ExitStatus::success),
                how: how_it_ended(status),
            });
        }));
        process
    }

    /// It is still to be reaped.
    fn has_ended(&self) -> bool {
        // The borrow is the lock.
        let presence = self.presence.borrow();
        *presence == Presence::Runs && has_exited(self.pid)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether nothing is left of it but its words, or its end for another to hear.
    fn is_reaped(&self) -> bool {
        *self.presence.borrow() != Presence::Runs
    }

    /// It has the service for good, unless it died before it could be told.
    pub(super) fn keeps(&self) {
        // The borrow is the lock.
        let presence = self.presence.borrow();
        if *presence == Presence::Runs && !has_exited(self.pid) {
            self.keeps.store(true, Ordering::Release);
        }
    }

    pub(super) fn last_words(&self) -> String {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&words).trim_end().to_owned()
    }

    pub(super) fn signal(&self, signal: Signal) {
        // The borrow is the lock.
        let presence = self.presence.borrow();
        if let (Some(pid), Presence::Runs) = (number(self.pid), *presence) {
            // Gone meanwhile: then it has left as it was asked to.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// The processes of attempts, as long as one may be signalled or its last words told.
#[derive(Default)]
pub(super) struct Processes(HashMap<AttemptId, Process>);

impl Processes {
    /// One attempt is under way at most, and this is its process: what became of those that are gone has been told.
    pub(super) fn add(&mut self, attempt: AttemptId, process: Process) {
        self.0.retain(|_, other| !other.is_reaped());
        self.0.insert(attempt, process);
    }

    pub(super) fn get(&self, attempt: AttemptId) -> Option<&Process> {
        self.0.get(&attempt)
    }
}

/// How a process ended.
pub(super) struct Exited {
    /// With code 0.
    pub(super) is_well: bool,
    /// For people.
    pub(super) how: String,
}

fn how_it_ended(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it exited with code {code}"),
            (None, Some(signal)) => format!("it was killed by {}", crate::signals::name(signal)),
            (None, None) => "it ended".to_owned(),
        },
        Err(error) => format!("it could not be waited for: {error}"),
    }
}

/// Passes a successor's standard error on and remembers the end of it.
fn pass_on(mut stderr: ChildStderr, words: &Mutex<Vec<u8>>, log: &Log) {
    let mut bytes = [0; 4096];
    while let Ok(n) = stderr.read(&mut bytes) {
        if n == 0 {
            return;
        }
        log.pass_on(&bytes[..n]);
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&bytes[..n]);
        let surplus = words.len().saturating_sub(LAST_WORDS);
        words.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::mpsc::channel;

    use super::*;
    use crate::log::LogFormat;

    /// However often an upgrade fails, the words of the last one are kept and no others.
    #[test]
    fn a_process_that_is_gone_is_forgotten_when_the_next_one_is_started() {
        let log = Arc::new(Log::new(LogFormat::Silent));
        let mut processes = Processes::default();
        for attempt in 1..=3 {
            let mut says = Command::new("sh");
            says.args(["-c", "echo no >&2; exit 1"]).stderr(Stdio::piped());
            let mut child = says.spawn().unwrap();
            let stderr = child.stderr.take();
            let (tell, told) = channel();
            let process =
                Process::watch(child, stderr, &log, move |exited| tell.send(exited.how).unwrap());
            processes.add(attempt, process);
            assert_eq!(told.recv().unwrap(), "it exited with code 1");
            assert_eq!(processes.get(attempt).map(Process::last_words).as_deref(), Some("no"));
            assert_eq!(processes.0.len(), 1);
        }
    }
}
