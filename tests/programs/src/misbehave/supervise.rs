//! `misbehave supervise --state FILE -- WORDS…`: keeps a server running. Killed and started again it takes the server on
//! that it finds; told by USR1 it starts itself anew in its own place and keeps its child.

use super::Fault;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use tokio::signal::unix::{SignalKind, signal};

/// Set for the next self: the child that it has already.
const CHILD: &str = "MISBEHAVE_CHILD";

pub(super) fn main(words: &[String]) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(run(words))) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("misbehave: supervise: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &[String]) -> io::Result<u8> {
    let [state_flag, state, dashes, server @ ..] = words else { return Err(usage()) };
    if state_flag != "--state" || dashes != "--" {
        return Err(usage());
    }
    let mut stop = signal(SignalKind::terminate())?;
    let mut anew = signal(SignalKind::user_defined1())?;
    let kept = std::env::var(CHILD).ok().or_else(|| std::fs::read_to_string(state).ok());
    let kept = kept.and_then(|pid| pid.trim().parse().ok()).and_then(Pid::from_raw);
    let mut child = match kept.filter(|pid| is_server(*pid)) {
        Some(pid) => pid,
        None => start(server)?,
    };
    std::fs::write(state, child.as_raw_nonzero().to_string())?;
    loop {
        tokio::select! {
            code = ended(child) => return code,
            _ = stop.recv() => {
                let _ = kill_process(child, Signal::TERM);
            }
            _ = anew.recv() => {
                if server.iter().any(|word| Fault::named(word) == Some(Fault::RestartChild)) {
                    let _ = kill_process(child, Signal::KILL);
                    ended(child).await?;
                    child = start(server)?;
                    std::fs::write(state, child.as_raw_nonzero().to_string())?;
                }
                let own = std::env::current_exe()?;
                let number = child.as_raw_nonzero().to_string();
                return Err(Command::new(own).arg("supervise").args(words).env(CHILD, number).exec());
            }
        }
    }
}

fn usage() -> io::Error {
    io::Error::other("usage: misbehave supervise --state FILE -- WORDS…")
}

fn start(words: &[String]) -> io::Result<Pid> {
    let child = Command::new(std::env::current_exe()?).args(words).env_remove(CHILD).spawn()?;
    Ok(Pid::from_child(&child))
}

/// A number may be another's by now.
fn is_server(pid: Pid) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    name.is_ok_and(|name| name.trim() == "misbehave")
}

/// The end of the server, which may be no child of this process.
async fn ended(child: Pid) -> io::Result<u8> {
    let waiting = tokio::task::spawn_blocking(move || {
        let descriptor = pidfd_open(child, PidfdFlags::empty())?;
        poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None)?;
        let status = waitpid(Some(child), WaitOptions::NOHANG).ok().flatten();
        let code = status.and_then(|(_, status)| status.exit_status());
        Ok::<_, io::Error>(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(0))
    });
    waiting.await.map_err(io::Error::other)?
}
