//! Upgrades that fail, and processes that die in them.

use crate::adapter::Tells;
use crate::case::{Fault, Outcome, fail, inconclusive, pass, skip};
use crate::fate::Fate;
use crate::load::Mode;
use crate::stage::{SOON, Stage, Stand, listening, run_command};
use crate::target::{Signal, proc};
use rustix::process::{Pid, kill_process};
use std::time::{Duration, Instant};

/// When a new version dies, after it took over.
const LIVES: [u64; 3] = [0, 50, 500];
/// How long a service may take until it answers again.
const BOOT: Duration = Duration::from_secs(5);
/// So often a moment in the middle of an upgrade is looked for.
const ATTEMPTS: usize = 5;
/// What a refusal of an upgrade may take beyond its time.
const MARGIN: Duration = Duration::from_secs(2);

/// An upgrade to `stand` under load: it has to fail and to change nothing. Gives how long it took, or the reason of a
/// failure of the target.
fn refused(
    stage: &mut Stage<'_>,
    stand: Stand,
    limit: Duration,
) -> Result<Result<Duration, String>, Fault> {
    let before = stage.old_ones()?;
    let load = stage.load(stage.fast(), Mode::KeepAlive);
    stage.put_program(stand)?;
    let (seen, upgraded) = stage.under_load(&load, |stage| stage.try_upgrade_within(limit))?;
    stage.put_program(Stand::Real)?;
    let told = upgraded.ran.as_ref();
    if upgraded.failed.is_none() && told.is_some() {
        return Ok(Err(format!(
            "an upgrade to a program that {} is reported as done",
            fails(stand)
        )));
    }
    if let Some(ran) = told
        && ran.stderr.trim().is_empty()
        && ran.stdout.trim().is_empty()
    {
        return Ok(Err("the upgrade's command fails and does not say why".to_owned()));
    }
    if seen.failures() > 0 {
        return Ok(Err(format!("while an upgrade failed: {}", seen.failures_text())));
    }
    match stage.identities() {
        Ok(after) if before.is_empty() || after.iter().any(|who| before.contains(who)) => {
            Ok(Ok(upgraded.took))
        }
        Ok(_) => Ok(Err("after the failed upgrade another generation answers".to_owned())),
        Err(Fault(why)) => Ok(Err(format!("after the failed upgrade: {why}"))),
    }
}

fn fails(stand: Stand) -> &'static str {
    match stand {
        Stand::Exits => "exits at once",
        Stand::Hangs => "hangs",
        Stand::Missing => "is missing",
        Stand::NotExecutable => "may not be executed",
        Stand::NotAProgram => "is no program",
        Stand::Real | Stand::Copy => "works",
    }
}

/// How long a failing upgrade without a command is watched: nothing tells that it has failed.
fn failing_limit(stage: &Stage<'_>) -> Duration {
    match &stage.adapter.upgrade {
        Some(upgrade) if upgrade.command.is_some() => *upgrade.deadline,
        Some(_) | None => Duration::from_secs(2),
    }
}

pub(super) fn exits(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let limit = failing_limit(stage);
    if let Err(why) = refused(stage, Stand::Exits, limit)? {
        return fail(why);
    }
    match stage.try_upgrade()?.failed {
        None => pass("the upgrade failed, the old version served on, and the next upgrade worked"),
        Some(why) => {
            fail(format!("after an upgrade that failed, the next one does not work: {why}"))
        }
    }
}

pub(super) fn hangs(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let before = stage.service().processes().len();
    let timeout = stage.adapter.upgrade.as_ref().and_then(|upgrade| upgrade.ready_timeout);
    let timeout = timeout.map_or(SOON, |span| *span);
    let took = match refused(stage, Stand::Hangs, timeout + MARGIN)? {
        Ok(took) => took,
        Err(why) => return fail(why),
    };
    stage.figure_ms("a hung upgrade is given up", took);
    if took > timeout + MARGIN {
        return fail(format!("it was given up after {:.1} s", took.as_secs_f64()));
    }
    let deadline = Instant::now() + SOON;
    while stage.service().processes().len() > before {
        if Instant::now() >= deadline {
            return fail("the hung process is still there");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    pass(format!("given up after {:.1} s, and the hung process is gone", took.as_secs_f64()))
}

pub(super) fn cannot_start(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let limit = failing_limit(stage);
    for stand in [Stand::Missing, Stand::NotExecutable, Stand::NotAProgram] {
        if let Err(why) = refused(stage, stand, limit)? {
            return fail(why);
        }
    }
    match stage.try_upgrade()?.failed {
        None => pass("each was refused, the old version served on, and the next upgrade worked"),
        Some(why) => fail(format!("after upgrades that failed, the next one does not work: {why}")),
    }
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have gone by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Waits until somebody answers.
fn answers(stage: &Stage<'_>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let place = stage.fast();
    while Instant::now() < deadline {
        if crate::stage::ask(&place, Duration::from_secs(1)).is_ok_and(|asked| asked.status < 300) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

fn tells_process(stage: &Stage<'_>) -> bool {
    let tells = stage.adapter.identity.as_ref().map(|identity| identity.tells);
    matches!(tells, Some(Tells::Pid | Tells::Worker))
}

pub(super) fn dies(stage: &mut Stage<'_>) -> Outcome {
    if !tells_process(stage) {
        return skip("the target does not tell its process id (identity.tells)");
    }
    let mut slowest = Duration::ZERO;
    for lives in LIVES {
        stage.start()?;
        let load = stage.load(stage.fast(), Mode::NewConnection);
        let (seen, back) = stage.under_load(&load, |stage| {
            let upgraded = stage.upgrade()?;
            let new = upgraded.after.and_then(|who| who.parse().ok());
            let new = new.ok_or_else(|| Fault("the new process is not known".to_owned()))?;
            // Not to wait for anything: how long it lives is what the case varies.
            std::thread::sleep(Duration::from_millis(lives));
            kill(new);
            stage.note(format!("SIGKILL to the new version, {new}"));
            let begun = Instant::now();
            Ok(answers(stage, BOOT).then(|| begun.elapsed()))
        })?;
        let Some(back) = back else {
            return fail(format!(
                "{lives} ms after it took over the new version died, and nobody answers"
            ));
        };
        slowest = slowest.max(back);
        let refused = seen.count(Fate::Refused) + seen.count(Fate::ConnectTimedOut);
        if refused > 0 {
            return fail(format!(
                "the new version died after {lives} ms, and {refused} connections were refused"
            ));
        }
    }
    stage.figure_ms("answers after the new version's death", slowest);
    pass(format!(
        "it answered again within {:.1} ms, and refused nobody",
        slowest.as_secs_f64() * 1000.0
    ))
}

/// Waits until a program that was not there before holds this socket. Until it is one, a process holds it by accident.
fn wait_holder(stage: &mut Stage<'_>, known: &[u32], inode: u32, limit: Duration) -> Option<u32> {
    let socket = format!("socket:[{inode}]");
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        let new = stage.service().processes().into_iter().find(|pid| {
            let holds = || proc::descriptors(*pid).iter().any(|(_, to)| *to == socket);
            !known.contains(pid) && !proc::is_copy(*pid) && holds()
        });
        if new.is_some() {
            return new;
        }
    }
    None
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Waits until a process that was sent SIGSTOP does nothing more.
fn freezes(pid: u32) -> bool {
    let deadline = Instant::now() + SOON;
    while !proc::is_stopped(pid) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

pub(super) fn old_dies(stage: &mut Stage<'_>) -> Outcome {
    for _ in 0..ATTEMPTS {
        stage.start()?;
        let before = stage.old_ones()?;
        let known = stage.service().processes();
        let port = stage.service().address.port();
        let inode = listening(port)?.first().map(|one| one.inode);
        let inode = inode.ok_or_else(|| Fault("the listener is not found".to_owned()))?;
        let command = stage.adapter.upgrade.as_ref().and_then(|upgrade| upgrade.command.clone());
        let command = command.ok_or_else(|| Fault("there is no upgrade command".to_owned()))?;
        let words: Vec<String> =
            command.0.iter().map(|word| stage.service().put_in(word)).collect();
        let directory = stage.service().directory().to_owned();
        let upgrade = std::thread::spawn(move || run_command(&words, &directory, SOON * 4));
        let new = wait_holder(stage, &known, inode, SOON);
        let Some(new) = new else {
            let _ = upgrade.join();
            continue;
        };
        signal(new, Signal::STOP);
        // Frozen, it cannot become ready any more; whether it was before is asked of those who answer.
        let is_early = stage.only_old_ones(&before);
        let old = stage.service().main_pid();
        // The old version may have given the upgrade up meanwhile. Frozen as well, it does not do so any more.
        signal(old, Signal::STOP);
        let is_met = is_early && freezes(old) && proc::is_alive(new);
        if !is_met {
            signal(old, Signal::CONT);
            signal(new, Signal::CONT);
            let _ = upgrade.join();
            continue;
        }
        stage.note("SIGKILL to the old version");
        kill(old);
        let place = stage.fast();
        let refused = crate::probe::Wire::connect(&place.address).is_err();
        signal(new, Signal::CONT);
        let back = answers(stage, BOOT);
        let _ = upgrade.join();
        return match (back, refused) {
            (true, false) => {
                pass("the new version took over from a dead one, and nobody was refused")
            }
            (true, true) => fail("the new version answers, and meanwhile connections were refused"),
            (false, _) => {
                fail("the old version died before the new one was ready, and nobody answers")
            }
        };
    }
    inconclusive("no upgrade could be met between the hand-over of the listener and its end")
}

/// A process that the upgrade has started.
fn wait_new(stage: &mut Stage<'_>, known: &[u32]) -> Option<u32> {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        let new = stage.service().processes().into_iter().find(|pid| !known.contains(pid));
        if new.is_some() {
            return new;
        }
    }
    None
}

/// What came of one stop in an upgrade.
enum Met {
    /// It was over before the stop could be sent, and the process that a stop goes to is another by now.
    TooLate,
    /// Everything was gone after this time. Says whether the new version had not answered yet.
    Gone(Duration, bool),
    Left(Vec<u32>, Duration),
}

pub(super) fn stopped(stage: &mut Stage<'_>) -> Outcome {
    let (mut slowest, mut stops, mut early) = (Duration::ZERO, 0, 0);
    for pause in [0, 5, 20] {
        for _ in 0..ATTEMPTS {
            match stop_within(stage, Duration::from_millis(pause))? {
                Met::TooLate => {}
                Met::Gone(took, is_early) => {
                    slowest = slowest.max(took);
                    stops += 1;
                    early += usize::from(is_early);
                    break;
                }
                Met::Left(left, after) => {
                    let names: Vec<String> = left.iter().map(|pid| name(*pid)).collect();
                    return fail(format!(
                        "stopped {pause} ms into an upgrade, {:.1} s later {} processes are left: {}",
                        after.as_secs_f64(),
                        left.len(),
                        names.join(", ")
                    ));
                }
            }
        }
    }
    match stops {
        0 => inconclusive("no upgrade could be met in its middle"),
        _ => pass(format!(
            "every process was gone within {:.2} s; {early} of {stops} stops came before the new version answered",
            slowest.as_secs_f64()
        )),
    }
}

/// A stop so long after the first process of the new version was seen.
fn stop_within(stage: &mut Stage<'_>, pause: Duration) -> Result<Met, Fault> {
    stage.start()?;
    let known = stage.service().processes();
    let before = stage.old_ones()?;
    let asked = stage.ask_in_background()?;
    let new = wait_new(stage, &known);
    let new = new.ok_or_else(|| Fault("the upgrade started no process".to_owned()))?;
    // Not to wait for anything: the moment within the upgrade is what the case varies.
    std::thread::sleep(pause);
    // Frozen, the new version cannot get further. What it told the old one until then has been heard by who rests.
    signal(new, Signal::STOP);
    proc::wait_until(|| proc::is_stopped(new));
    proc::wait_at_rest(stage.service().main_pid());
    let is_early = before.is_empty() || stage.only_old_ones(&before);
    // Where the new version answers and is itself what a stop goes to, the upgrade is over and the stop is another's. A
    // main process that stays (nginx's master) can be stopped at any moment.
    let moves = stage.adapter.identity.as_ref().map(|identity| identity.tells);
    if !is_early && matches!(moves, Some(Tells::Pid | Tells::Generation)) {
        signal(new, Signal::CONT);
        return Ok(Met::TooLate);
    }
    let told = stage.stop()?;
    // Else the new version could be ready before the old one has read of its stop: an upgrade that was done first.
    proc::wait_at_rest(stage.service().main_pid());
    signal(new, Signal::CONT);
    let limit = stage.exit_limit() + BOOT;
    let left = stage.service().wait_empty(limit);
    drop(asked);
    Ok(match left.is_empty() {
        true => Met::Gone(told.elapsed(), is_early),
        false => Met::Left(left, told.elapsed()),
    })
}

pub(super) fn other_version(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let other = stage.adapter.upgrade.as_ref().and_then(|upgrade| upgrade.other_version.clone());
    let other = stage.service().put_in(&other.unwrap_or_default());
    let found = crate::stage::find_program(&other);
    let found = found.ok_or_else(|| Fault(format!("upgrade.other_version: no program {other}")))?;
    let load = stage.load(stage.fast(), Mode::NewConnection);
    let program = stage.program()?;
    let (seen, upgraded) = stage.under_load(&load, |stage| {
        let beside = program.with_extension("next");
        std::os::unix::fs::symlink(&found, &beside)?;
        std::fs::rename(&beside, &program)?;
        stage.try_upgrade()
    })?;
    stage.put_program(Stand::Real)?;
    if seen.failures() > 0 {
        return fail(format!("with a build of another version: {}", seen.failures_text()));
    }
    if let Some(why) = stage.try_upgrade()?.failed {
        return fail(format!("back to the first build the upgrade fails: {why}"));
    }
    pass(match upgraded.failed {
        None => "the other version took over, and gave the service back".to_owned(),
        Some(why) => format!("the other version was refused, and the old one served on: {why}"),
    })
}

fn name(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} ({})", name.trim())
}
