//! A successor's process: its last words, its end, and how one that is not wanted is made to leave.

use std::io::{self, Read};
use std::process::{Child, ChildStderr, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::log::Log;

/// After TERM, how long an unwanted successor may take to leave before it is killed.
pub const KILL_AFTER: Duration = Duration::from_secs(5);

/// The same when this process itself is about to leave: whoever it left behind would have nobody to kill it.
pub const LEAVE_WITH_US: Duration = Duration::from_millis(500);

/// How long a killed process may take to be gone.
const KILLED: Duration = Duration::from_millis(500);

/// What of a failed successor's last words is told.
pub const LAST_WORDS: usize = 2_048;

/// A process we started, with its last words.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) pid: u32,
    words: Arc<Mutex<Vec<u8>>>,
    gone: Arc<watch::Sender<bool>>,
}

impl Process {
    /// Waits for the child and passes its words on, on a thread that holds nothing at exit; `exited` is told its end.
    pub(super) fn watch(
        mut child: Child,
        stderr: Option<ChildStderr>,
        log: Arc<Log>,
        exited: impl FnOnce(io::Result<ExitStatus>) + Send + 'static,
    ) -> Process {
        let gone = Arc::new(watch::Sender::new(false));
        let process = Process { pid: child.id(), words: Arc::default(), gone };
        let watched = process.clone();
        // Detached: the process may well outlive us, and must not hold us.
        let waiting = std::thread::Builder::new().name("lameduck-child".to_owned());
        drop(waiting.spawn(move || {
            if let Some(stderr) = stderr {
                watched.pass_on(stderr, &log);
            }
            let status = child.wait();
            watched.gone.send_replace(true);
            exited(status);
        }));
        process
    }

    pub(super) fn last_words(&self) -> String {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&words).trim_end().to_owned()
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let (Some(pid), false) = (pid, self.is_gone()) {
            // Gone meanwhile: then it has left as it was asked to.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    /// Asks it to leave, and makes it leave after [`KILL_AFTER`].
    pub(super) fn end(&self) {
        self.signal(Signal::TERM);
        let process = self.clone();
        drop(tokio::spawn(async move { process.kill_at(Instant::now() + KILL_AFTER).await }));
    }

    /// Returns when it is gone; kills it if it is not by then.
    pub(super) async fn kill_at(&self, at: Instant) {
        let mut gone = self.gone.subscribe();
        if tokio::time::timeout_at(at, gone.wait_for(|gone| *gone)).await.is_err() {
            self.signal(Signal::KILL);
            let _ = tokio::time::timeout(KILLED, gone.wait_for(|gone| *gone)).await;
        }
    }

    /// Passes its standard error on and remembers the end of it.
    fn pass_on(&self, mut stderr: ChildStderr, log: &Log) {
        let mut bytes = [0; 4096];
        while let Ok(n) = stderr.read(&mut bytes) {
            if n == 0 {
                return;
            }
            log.pass_on(&bytes[..n]);
            let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
            words.extend_from_slice(&bytes[..n]);
            let surplus = words.len().saturating_sub(LAST_WORDS);
            words.drain(..surplus);
        }
    }
}
