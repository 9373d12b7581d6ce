//! What is looked at before a successor is started.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::process::{Exited, Process};
use crate::error::plain;
use crate::log::Log;
use crate::memory;
use crate::operate::LAST_WORDS_FOLLOW;
use crate::respawn::Program;

/// How long a program may take to check itself. Shorter than [`HELLO_TIMEOUT`](crate::takeover::HELLO_TIMEOUT), within which
/// something has to have been started.
pub const CHECK_FIRST: Duration = Duration::from_secs(8);

/// What has to be so.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    /// Two generations fit into memory.
    pub(crate) memory: bool,
    /// The program, with these arguments behind its own, ends well.
    pub(crate) check: Option<Vec<OsString>>,
}

impl Before {
    /// Whether a successor may be started, or why not.
    pub(super) async fn allows(&self, program: &Program, log: &Arc<Log>) -> Result<(), String> {
        if self.memory {
            memory::fits(&memory::look(Path::new("/")))?;
        }
        match &self.check {
            Some(arguments) => check(program, arguments, log).await,
            None => Ok(()),
        }
    }
}

async fn check(program: &Program, arguments: &[OsString], log: &Arc<Log>) -> Result<(), String> {
    let path = program.path().display();
    let (child, stderr) = program.check(arguments).map_err(|error| {
        format!("{path} could not be started to check itself: {}", plain(&error))
    })?;
    let (ended, end) = oneshot::channel();
    let process = Process::watch(child, stderr, log, move |exited| {
        // Nobody waits any more: it took too long.
        let _ = ended.send(exited);
    });
    let left = Unchecked(process.clone());
    let exited = timeout(CHECK_FIRST, end).await;
    let Exited { is_well, how } = match exited {
        Ok(Ok(exited)) => exited,
        Ok(Err(_)) => Exited { is_well: false, how: "it could not be waited for".to_owned() },
        Err(_) => {
            return Err(format!("the check of {path} did not end in {CHECK_FIRST:?}"));
        }
    };
    drop(left);
    if is_well {
        return Ok(());
    }
    let words = match process.last_words().as_str() {
        "" => String::new(),
        words => format!("{LAST_WORDS_FOLLOW}{words}"),
    };
    Err(format!("the check of {path} failed: {how}{words}"))
}

/// A process that is killed when nobody waits for its end any more.
struct Unchecked(Process);

impl Drop for Unchecked {
    fn drop(&mut self) {
        self.0.signal(Signal::KILL);
    }
}
