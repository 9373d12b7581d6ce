//! The process of a successor that this one started: its last words, its end, its number while it has one, and how it
//! is made to leave when it is not wanted.

use std::io::{self, Read};
use std::process::{Child, ChildStderr, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::log::Log;

/// After TERM, how long an unwanted successor may take to leave before it is killed.
pub const KILL_AFTER: Duration = Duration::from_secs(5);

/// The same when this process itself is about to leave: whoever it left behind would have nobody to kill it.
pub const LEAVE_WITH_US: Duration = Duration::from_millis(500);

/// How long a killed process may take to be gone.
const KILLED: Duration = Duration::from_millis(500);

/// What of a failed successor's last words is told, in bytes: a panic with its backtrace fits.
pub const LAST_WORDS: usize = 16 * 1024;

/// How long one that ended its conversation may take to exit, and its last words to be read after that.
pub const EXIT: Duration = Duration::from_secs(1);

/// A process we started, with its last words.
#[derive(Clone)]
pub(super) struct Process {
    pid: u32,
    words: Arc<Mutex<Vec<u8>>>,
    /// Locked while it is signalled and while it is reaped, so that no other process can have its number meanwhile.
    presence: Arc<watch::Sender<Presence>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Runs,
    /// It exited, and keeps its number until it is reaped.
    Exited,
    Reaped,
}

impl Process {
    /// Waits for the process, and passes its words on, on threads that hold nothing at exit: it may well outlive us.
    /// `exited` is called once it is reaped and its words are read.
    pub(super) fn watch(
        mut child: Child,
        stderr: Option<ChildStderr>,
        log: &Arc<Log>,
        exited: impl FnOnce(io::Result<ExitStatus>) + Send + 'static,
    ) -> Process {
        let presence = Arc::new(watch::Sender::new(Presence::Runs));
        let process = Process { pid: child.id(), words: Arc::default(), presence };
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
        let Process { pid, presence, .. } = process.clone();
        let waiting = std::thread::Builder::new().name("lameduck-child".to_owned());
        drop(waiting.spawn(move || {
            await_exit(pid);
            presence.send_replace(Presence::Exited);
            let _ = all_read.recv_timeout(EXIT);
            let mut status = Err(io::ErrorKind::NotFound.into());
            presence.send_modify(|presence| {
                status = child.wait();
                *presence = Presence::Reaped;
            });
            exited(status);
        }));
        process
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
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

    pub(super) fn is_gone(&self) -> bool {
        *self.presence.borrow() != Presence::Runs
    }

    /// Asks it to leave, and makes it leave after [`KILL_AFTER`].
    pub(super) fn end(&self) {
        self.signal(Signal::TERM);
        let process = self.clone();
        drop(tokio::spawn(async move { process.kill_at(Instant::now() + KILL_AFTER).await }));
    }

    /// Returns when it is gone; kills it if it is not by then.
    pub(super) async fn kill_at(&self, at: Instant) {
        let mut presence = self.presence.subscribe();
        let mut gone = async || {
            // No error: `self` keeps the sender.
            let _ = presence.wait_for(|presence| *presence != Presence::Runs).await;
        };
        if tokio::time::timeout_at(at, gone()).await.is_err() {
            self.signal(Signal::KILL);
            let _ = tokio::time::timeout(KILLED, gone()).await;
        }
    }
}

fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Waits for a child's end; it stays a zombie, so that its number stays its own.
fn await_exit(pid: u32) {
    let Some(pid) = number(pid) else { return };
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    // Any other error means that there is nothing to wait for.
    while matches!(waitid(WaitId::Pid(pid), how), Err(rustix::io::Errno::INTR)) {}
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
