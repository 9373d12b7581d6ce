//! As process 1 of a container, and behind a shell.

use super::{IDLE_EXIT, milliseconds, still_runs};
use crate::case::{Fault, Outcome, fail, inconclusive, pass, skip};
use crate::stage::{Launch, SOON, Stage, find_program, run_command};
use crate::target::{Signal, proc};
use rustix::process::{Pid, kill_process};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a process that has ended may stay a zombie.
const ZOMBIE: Duration = Duration::from_secs(1);

/// The words that put a command into a PID namespace of its own, if this machine allows it.
fn namespace() -> Option<Vec<String>> {
    let words = |flags: &[&str]| -> Vec<String> {
        let base = ["unshare", "--pid", "--fork", "--kill-child"];
        base.iter().chain(flags).map(|word| (*word).to_owned()).collect()
    };
    find_program("unshare")?;
    [words(&[]), words(&["--user", "--map-current-user"])].into_iter().find(|words| {
        let trial: Vec<String> = words.iter().cloned().chain(["true".to_owned()]).collect();
        run_command(&trial, Path::new("/"), SOON).is_ok_and(|ran| ran.is_success())
    })
}

/// Starts the server as process 1, and gives its number outside.
fn start_as_one(stage: &mut Stage<'_>, more: &[&str]) -> Result<Option<u32>, Fault> {
    let Some(mut prefix) = namespace() else { return Ok(None) };
    prefix.extend(more.iter().map(|word| (*word).to_owned()));
    stage.start_as(Launch { prefix, ..Launch::default() })?;
    let outer = stage.service().target().pid();
    let inner = proc::descendants(outer).first().copied();
    let inner = inner.ok_or_else(|| Fault("the server is not in its namespace".to_owned()))?;
    stage.service().set_main(inner);
    Ok(Some(inner))
}

const NO_NAMESPACE: &str = "this machine does not let the tester make a PID namespace";

pub(super) fn process_one(stage: &mut Stage<'_>) -> Outcome {
    if start_as_one(stage, &[])?.is_none() {
        return skip(NO_NAMESPACE);
    }
    let told = stage.stop()?;
    let Some(gone) = stage.wait_gone(stage.exit_limit()) else {
        return fail("as process 1 it ignores the stop signal");
    };
    let took = gone.at.duration_since(told).saturating_sub(stage.lame_duck());
    let text = format!("as process 1 it exited {} after the stop", milliseconds(took));
    if took <= IDLE_EXIT { pass(text) } else { fail(text) }
}

pub(super) fn reaps(stage: &mut Stage<'_>) -> Outcome {
    // The orphan's parent is a subshell that ends at once; the outer shell becomes the server.
    let orphan = ["sh", "-c", "(sleep 600 & ) ; exec \"$@\"", "sh"];
    let Some(inner) = start_as_one(stage, &orphan)? else { return skip(NO_NAMESPACE) };
    let is_sleep = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == "sleep"
    };
    let Some(orphan) = proc::descendants(inner).into_iter().find(is_sleep) else {
        return inconclusive("the orphan cannot be found");
    };
    // Its end is the tester's doing, so that no start is too slow for it.
    if let Some(pid) = i32::try_from(orphan).ok().and_then(Pid::from_raw) {
        kill_process(pid, Signal::KILL).map_err(std::io::Error::from)?;
    }
    let deadline = Instant::now() + SOON;
    while proc::is_alive(orphan) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = Instant::now();
    while proc::is_zombie(orphan) {
        if ended.elapsed() > ZOMBIE {
            return fail("1 s after its end the orphan is still a zombie");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    pass("the orphan was reaped")
}

pub(super) fn behind_shell(stage: &mut Stage<'_>) -> Outcome {
    let behind = |script: &str| {
        let prefix = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
        Launch { prefix, ..Launch::default() }
    };
    stage.start_as(behind("exec \"$@\""))?;
    let told = stage.stop()?;
    let Some(gone) = stage.wait_gone(stage.exit_limit()) else { return still_runs(told) };
    let took = gone.at.duration_since(told).saturating_sub(stage.lame_duck());
    let text = format!("behind `exec` it exited {} after the stop", milliseconds(took));
    if took > IDLE_EXIT {
        return fail(text);
    }
    // The second command keeps the shell from executing the first in its own place.
    stage.start_as(behind("\"$@\"; exit $?"))?;
    let told = stage.signal(stage.adapter.stop.signal)?;
    let limit = stage.lame_duck() + IDLE_EXIT;
    let hears = stage.service().wait_empty(limit).is_empty();
    pass(match hears {
        true => format!(
            "{text}; behind a shell without `exec` it was gone, too, {} after the stop",
            milliseconds(told.elapsed())
        ),
        false => format!("{text}; behind a shell without `exec` it does not hear of the stop"),
    })
}
