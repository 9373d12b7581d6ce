//! Upgrades under a service manager or a supervisor.

use crate::adapter::Supervisor;
use crate::case::{Fault, Outcome, fail, inconclusive, pass, skip};
use crate::load::Mode;
use crate::stage::scratch::Scratch;
use crate::stage::{COMMAND_LIMIT, Launch, SOON, Stage, Stand, listening};
use crate::target::{Signal, proc};
use rustix::process::{Pid, kill_process};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A notify socket that the tester owns.
struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
    messages: Vec<String>,
    _scratch: Scratch,
}

impl Notify {
    fn bind() -> Result<Notify, Fault> {
        let scratch = Scratch::new()?;
        let path = scratch.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Notify { socket, path, messages: Vec::new(), _scratch: scratch })
    }

    /// Takes what comes until `is_it` holds for the messages, or `limit` has passed.
    fn wait(&mut self, limit: Duration, is_it: impl Fn(&[String]) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut buffer = [0; 4096];
        while !is_it(&self.messages) {
            if Instant::now() >= deadline {
                return false;
            }
            if let Ok(count) = self.socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                self.messages.extend(text.lines().map(str::to_owned));
            }
        }
        true
    }

    fn place(&self, wanted: &str) -> Option<usize> {
        self.messages.iter().position(|message| message.starts_with(wanted))
    }
}

/// The server with a notify socket, ready; `None` if it says nothing.
fn with_notify(stage: &mut Stage<'_>) -> Result<Option<Notify>, Fault> {
    let mut notify = Notify::bind()?;
    let variable = ("NOTIFY_SOCKET".to_owned(), notify.path.display().to_string());
    stage.start_as(Launch { env: vec![variable], ..Launch::default() })?;
    let is_ready = |messages: &[String]| messages.iter().any(|message| message == "READY=1");
    if !notify.wait(Duration::from_secs(1), is_ready) {
        return Ok(None);
    }
    notify.messages.clear();
    Ok(Some(notify))
}

const SILENT: &str = "the target does not speak to a service manager";

pub(super) fn notified(stage: &mut Stage<'_>) -> Outcome {
    let Some(mut notify) = with_notify(stage)? else { return skip(SILENT) };
    stage.upgrade()?;
    notify.wait(SOON, |messages| messages.iter().any(|message| message == "READY=1"));
    // MAINPID may come with READY=1 or after it.
    notify.wait(Duration::from_millis(500), |messages| {
        messages.iter().any(|message| message.starts_with("MAINPID="))
    });
    let said = notify.messages.join(" ");
    let Some(ready) = notify.place("READY=1") else {
        return fail(format!("no READY=1 after the upgrade; it said: {said}"));
    };
    if notify.place("RELOADING=1").is_none_or(|reloading| reloading > ready) {
        return fail(format!("no RELOADING=1 before READY=1; it said: {said}"));
    }
    if notify.place("MONOTONIC_USEC=").is_none() {
        return fail(format!("RELOADING=1 without MONOTONIC_USEC; it said: {said}"));
    }
    let main = notify.messages.iter().rev().find_map(|message| message.strip_prefix("MAINPID="));
    match main.and_then(|main| main.parse().ok()) {
        Some(pid) if proc::is_alive(pid) => {
            pass(format!("RELOADING=1, READY=1, and MAINPID={pid} lives"))
        }
        Some(pid) => fail(format!("MAINPID={pid} is not a living process")),
        // The main process may be the same: then there is nothing to tell.
        None if proc::is_alive(stage.service().target().pid()) => {
            pass("RELOADING=1, READY=1; the main process stays")
        }
        None => fail(format!("the main process is gone, and no MAINPID was told; it said: {said}")),
    }
}

pub(super) fn notified_failure(stage: &mut Stage<'_>) -> Outcome {
    let Some(mut notify) = with_notify(stage)? else { return skip(SILENT) };
    stage.put_program(Stand::Exits)?;
    let upgraded = stage.try_upgrade()?;
    if upgraded.failed.is_none() {
        return fail("the upgrade to a program that exits at once is reported as done");
    }
    notify.wait(Duration::from_millis(500), |messages| {
        messages.iter().any(|message| message == "READY=1")
    });
    let last =
        |wanted: &str| notify.messages.iter().rposition(|message| message.starts_with(wanted));
    match (last("RELOADING=1"), last("READY=1")) {
        (None, _) => pass("the upgrade failed before a reload was announced"),
        (Some(reloading), Some(ready)) if ready > reloading => {
            pass("the upgrade failed, and READY=1 came again")
        }
        (Some(_), _) => fail("after the failed upgrade the unit stays in reloading"),
    }
}

/// The server under its supervisor, and the process that this is.
fn supervised(stage: &mut Stage<'_>) -> Result<(Supervisor, u32), Fault> {
    let declared = stage.adapter.supervisor.clone();
    let declared = declared.ok_or_else(|| Fault("there is no supervisor".to_owned()))?;
    let command = declared.command.clone().map(|command| command.0);
    stage.start_as(Launch { command, ..Launch::default() })?;
    let file = declared.pid_file.as_ref().map(|file| stage.service().file(file));
    let pid = file.and_then(|file| crate::stage::read_pid(&file));
    let pid = pid.unwrap_or_else(|| stage.service().target().pid());
    Ok((declared, pid))
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have gone by itself.
        let _ = kill_process(pid, signal);
    }
}

pub(super) fn supervisor_killed(stage: &mut Stage<'_>) -> Outcome {
    let (declared, pid) = supervised(stage)?;
    let port = stage.service().address.port();
    let load = stage.load(stage.fast(), Mode::NewConnection);
    let (seen, restarted) = stage.under_load(&load, |stage| {
        stage.note("SIGKILL to the supervisor");
        send(pid, Signal::KILL);
        std::thread::sleep(Duration::from_millis(300));
        match &declared.restart {
            Some(command) => Ok(Some(stage.service().run(command, COMMAND_LIMIT)?)),
            None => Ok(None),
        }
    })?;
    let listeners = listening(port)?.len();
    if seen.failures() > 0 {
        return fail(format!("with the supervisor killed: {}", seen.failures_text()));
    }
    if listeners != 1 {
        return fail(format!("there are {listeners} listeners at the port"));
    }
    match restarted {
        Some(ran) if !ran.is_success() && ran.stderr.trim().is_empty() => {
            fail("the new supervisor cannot take the service on, and does not say so")
        }
        _ => pass(format!("the service went on: {} requests, no failure", seen.sent())),
    }
}

pub(super) fn supervisor_upgraded(stage: &mut Stage<'_>) -> Outcome {
    let (declared, pid) = supervised(stage)?;
    if declared.upgrade_signal.is_none() && declared.upgrade_command.is_none() {
        return skip("the target does not declare how its supervisor is upgraded");
    }
    let before = stage.identities()?;
    let load = stage.load(stage.fast(), Mode::NewConnection);
    let (seen, ()) = stage.under_load(&load, |stage| {
        stage.note("the supervisor is upgraded");
        if let Some(signal) = declared.upgrade_signal {
            send(pid, signal);
            std::thread::sleep(Duration::from_secs(1));
        }
        if let Some(command) = &declared.upgrade_command {
            let ran = stage.service().run(command, COMMAND_LIMIT)?;
            if !ran.is_success() {
                return Err(Fault(format!(
                    "the supervisor's upgrade fails: {}",
                    ran.stderr.trim()
                )));
            }
        }
        Ok(())
    })?;
    if !proc::is_alive(pid) {
        return fail("the supervisor has another process id now, or is gone");
    }
    let after = stage.identities()?;
    match seen.failures() {
        0 if after == before => {
            pass(format!("{} requests, no failure, the same processes", seen.sent()))
        }
        0 => inconclusive("the server's processes are others now, though no request failed"),
        _ => fail(seen.failures_text()),
    }
}
