//! Upgrades that no client notices.

use crate::adapter::Adapter;
use crate::address::{Place, Scheme};
use crate::case::{Fault, Outcome, fail, inconclusive, pass};
use crate::fate::{Fate, Tally};
use crate::load::Mode;
use crate::probe::Until;
use crate::stage::{Arrivals, SOON, Stage};
use std::time::{Duration, Instant};

/// Upgrades one after the other.
pub(super) const UPGRADES: usize = 100;
/// The time for all of them.
pub(super) const UPGRADES_TIME: Duration = Duration::from_secs(6);
/// Fewer prove little: a busy machine gets twice the time for so many.
const UPGRADES_LEAST: usize = 30;
/// How long an old generation may take to go before the next upgrade is asked for all the same.
const SETTLE: Duration = Duration::from_millis(150);
/// Connections in a queue.
const QUEUED: usize = 50;
/// New connections a second while the service is upgraded: an open loop, so that whoever waits is counted with what it
/// waited, and few enough that a small machine can be upgraded beside it.
const RATE: f64 = 2000.0;
/// Clients that see how many a second there can be, and the part of it that leaves room for a successor's start.
const CLIENTS: usize = 16;
const BEARABLE: f64 = 0.5;
/// Connections that may be open at a time.
const AT_ONCE: usize = 256;
/// Between two upgrades of a storm.
const STORM_PAUSE: Duration = Duration::from_millis(100);
/// Upgrades of a storm: ten a second for ten seconds.
const STORM: usize = 100;
/// How long after a storm the service may take to be its usual self.
const STORM_OVER: Duration = Duration::from_secs(10);
/// Upgrades while each request is counted.
const COUNTED: usize = 20;
/// Ids that are asked for afterwards.
const ASKED: usize = 2000;

/// Starts the target, if it is the tester's to start.
pub(super) fn begin(stage: &mut Stage<'_>) -> Result<(), Fault> {
    if stage.adapter.running.is_none() {
        stage.start()?;
    }
    Ok(())
}

/// As many upgrades as fit into the time; at least one. Something that runs already is acted on once.
pub(super) fn upgrades(stage: &mut Stage<'_>, most: usize) -> Result<usize, Fault> {
    let most = if is_running(stage.adapter) { 1 } else { most };
    let usual = if is_running(stage.adapter) { 0 } else { stage.service().processes().len() };
    let (begun, mut took) = (Instant::now(), Duration::ZERO);
    let mut done = 0;
    let is_time = |done: usize| {
        let time = if done < UPGRADES_LEAST { UPGRADES_TIME * 2 } else { UPGRADES_TIME };
        begun.elapsed() < time
    };
    while done < most && (done == 0 || is_time(done)) {
        took += stage.upgrade()?.took;
        done += 1;
        // A signal that comes while the one before is still being worked on may be lost, as in any program.
        let deadline = Instant::now() + SETTLE;
        while usual > 0 && stage.service().processes().len() > usual && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let average = took / u32::try_from(done).unwrap_or(1);
    stage.figure("upgrades", done as f64, "upgrades");
    stage.figure_ms("one upgrade", average);
    Ok(done)
}

fn is_running(adapter: &Adapter) -> bool {
    adapter.running.is_some()
}

/// Upgrades under a load, and what is said of it.
fn under(stage: &mut Stage<'_>, load: &Arrivals) -> Outcome {
    let (seen, done) = stage.under_arrivals(load, |stage| upgrades(stage, UPGRADES))?;
    // What runs already is not the tester's to kill: there the baseline alone is the proof.
    if !is_running(stage.adapter)
        && let Some(blind) = stage.control_of_arrivals(load)?
    {
        return blind;
    }
    judged(&seen, done)
}

fn judged(seen: &Tally, done: usize) -> Outcome {
    let races = seen.count(Fate::IdleCloseRace);
    match seen.failures() {
        0 => pass(format!("{done} upgrades, none of {} requests failed", seen.sent())),
        failures if failures == races => fail(format!(
            "{done} upgrades, {races} of {} requests lost, all on kept connections that were closed while a request was on its way",
            seen.sent()
        )),
        failures => fail(format!(
            "{done} upgrades, {failures} failures beside {} answers: {}",
            seen.answered(),
            seen.failures_text()
        )),
    }
}

pub(super) fn new_connections(stage: &mut Stage<'_>) -> Outcome {
    begin(stage)?;
    // What runs already may be far away, and the open loop speaks no TLS.
    if is_running(stage.adapter) || stage.fast().scheme == Scheme::Https {
        let load = stage.load(stage.fast(), Mode::NewConnection);
        return under(stage, &Arrivals::Closed(load));
    }
    let rate = stage.bearable_rate(RATE, CLIENTS, BEARABLE)?;
    let load = stage.open_load(rate, AT_ONCE);
    under(stage, &Arrivals::Open(load))
}

pub(super) fn kept_connections(stage: &mut Stage<'_>) -> Outcome {
    begin(stage)?;
    let (place, mode) = stage.posting();
    // Without a pause: the more requests are on their way, the surer a close meets one.
    let load = stage.load(place, mode).pause(Duration::ZERO);
    under(stage, &Arrivals::Closed(load))
}

pub(super) fn queued(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let before = stage.old_ones()?;
    let mut queued = stage.backlog(QUEUED)?;
    // Asked for while nothing can be accepted: the queue is full when the upgrade begins.
    let _asked = stage.ask_in_background()?;
    stage.thaw()?;
    queued.watch(Until::Answered, SOON)?;
    let (fates, count) = (queued.fates(), queued.len() as u64);
    let deadline = Instant::now() + SOON;
    while !before.is_empty() && stage.only_old_ones(&before) {
        if Instant::now() >= deadline {
            return inconclusive("the upgrade was not done within 5 s");
        }
    }
    match fates.answered() {
        answered if answered == count => pass(format!("all {count} were answered")),
        answered => fail(format!("{answered} of {count} were answered: {}", fates.failures_text())),
    }
}

pub(super) fn reload_storm(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let before = stage.service().processes().len();
    let load = stage.load(stage.fast(), Mode::NewConnection);
    let (seen, most) = stage.under_load(&load, |stage| {
        let mut most = 0;
        for _ in 0..STORM {
            let begun = Instant::now();
            stage.ask_only()?;
            most = most.max(stage.service().processes().len());
            std::thread::sleep(STORM_PAUSE.saturating_sub(begun.elapsed()));
        }
        Ok(most)
    })?;
    stage.figure("most processes", most as f64, "processes");
    let cap = stage.adapter.upgrade.as_ref().and_then(|upgrade| upgrade.generations).unwrap_or(10);
    let deadline = Instant::now() + STORM_OVER;
    while stage.service().processes().len() > before + 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = stage.service().processes().len();
    if let Some(blind) = stage.control(&load)? {
        return blind;
    }
    if seen.failures() > 0 {
        return judged(&seen, STORM);
    }
    if most > before * (cap + 2) {
        return fail(format!("there were {most} processes at once; {before} before"));
    }
    if left > before + 2 {
        return fail(format!("10 s after the storm there are {left} processes; {before} before"));
    }
    pass(format!(
        "{STORM} upgrades, none of {} requests failed; at most {most} processes",
        seen.sent()
    ))
}

pub(super) fn once(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let file = stage.service().directory().join("acknowledged");
    let load = stage.load(stage.path("post")?, Mode::Post).acked(&file);
    let count = stage.path("count")?;
    let is_total = !count.path.contains("{id}");
    let before = if is_total { counted(stage, &count)? } else { 0 };
    let (seen, done) = stage.under_load(&load, |stage| upgrades(stage, COUNTED))?;
    let acknowledged = std::fs::read_to_string(&file)?;
    let all: Vec<&str> = acknowledged.lines().collect();
    if is_total {
        // The baseline's are acknowledged as well. What was lost may have been executed or not.
        let executed = counted(stage, &count)?.saturating_sub(before);
        let (least, most) = (all.len() as u64, all.len() as u64 + seen.lost());
        stage.recorder.count(
            &std::iter::repeat_n(Fate::Duplicated, executed.saturating_sub(most) as usize)
                .collect(),
        );
        return match executed {
            executed if executed < least => {
                fail(format!("{least} were acknowledged, and {executed} were executed"))
            }
            executed if executed > most => fail(format!(
                "{least} were acknowledged and {} lost, and {executed} were executed",
                seen.lost()
            )),
            executed => pass(format!("{done} upgrades; {executed} executed, {least} acknowledged")),
        };
    }
    let (mut asked, mut twice, mut never) = (0, 0, 0);
    let step = (all.len() / ASKED).max(1);
    for id in all.iter().step_by(step) {
        let place = Place { path: count.path.replace("{id}", id), ..count.clone() };
        asked += 1;
        match counted(stage, &place)? {
            1 => {}
            0 => never += 1,
            _ => twice += 1,
        }
    }
    stage.recorder.count(&std::iter::repeat_n(Fate::Duplicated, twice).collect());
    match (twice, never) {
        (0, 0) => {
            pass(format!("{done} upgrades; each of {asked} acknowledged ids was executed once"))
        }
        _ => {
            fail(format!("of {asked} acknowledged ids {twice} were executed twice, {never} never"))
        }
    }
}

/// What the server counted: a number, a JSON field `count`, or nothing at all (404).
fn counted(stage: &Stage<'_>, place: &Place) -> Result<u64, Fault> {
    let told = stage.ask(place)?;
    let number = told.field("count").unwrap_or_else(|| told.body.trim().to_owned());
    match number.parse() {
        Ok(number) => Ok(number),
        Err(_) if told.status == 404 => Ok(0),
        Err(_) => Err(Fault(format!("{place} answers {} {}", told.status, told.body.trim()))),
    }
}
