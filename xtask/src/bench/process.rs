//! A child process that is waited for by descriptor, with a bound, and never left behind.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Signal};

/// A running child.
pub struct Process {
    pub name: String,
    pub child: Child,
    pid: Pid,
    /// Readable once the process has ended: no polling, so the time of the exit is exact.
    descriptor: OwnedFd,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command.spawn().with_context(|| format!("start {name}: {command:?}"))?;
        let described = Pid::from_raw(i32::try_from(child.id())?)
            .context("a process has a number")
            .and_then(|pid| {
                let descriptor = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
                Ok((pid, descriptor))
            });
        match described {
            Ok((pid, descriptor)) => Ok(Self { name: name.to_owned(), child, pid, descriptor }),
            Err(error) => {
                child.kill().ok();
                child.wait().ok();
                Err(error.context(format!("watch {name}")))
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::kill_process(self.pid, signal)
            .with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// Whether the process ended within this time.
    pub fn ended_within(&self, bound: Duration) -> Result<bool> {
        let until = Instant::now() + bound;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).context("a bound of centuries")?;
            let mut descriptors = [PollFd::new(&self.descriptor, PollFlags::IN)];
            match poll(&mut descriptors, Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("wait for a process"),
            }
        }
    }

    /// How the process ended; an error if it did not within the bound.
    pub fn exit_within(&mut self, bound: Duration) -> Result<ExitStatus> {
        if !self.ended_within(bound)? {
            bail!("{} still runs after {:.1} s", self.name, bound.as_secs_f64());
        }
        self.child.wait().with_context(|| format!("collect {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Harmless where it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Thousands of connections need thousands of descriptors; children inherit the limit.
pub fn raise_file_limit() -> Result<()> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit).context("raise the limit of open files")
}
