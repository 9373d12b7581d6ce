//! Several generations at once.

use super::quiet::begin;
use crate::case::{Fault, Outcome, fail, inconclusive, pass};
use crate::fate::Fate;
use crate::probe::Until;
use crate::stage::{SOON, Stage, Wires};
use crate::target::proc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Upgrades during one long request.
const DURING: usize = 3;
/// Upgrades with a request on each generation.
const PILE: usize = 20;
/// New connections after an upgrade.
const FRESH: usize = 200;
/// Between two samples of memory.
const MEMORY_PAUSE: Duration = Duration::from_millis(20);
/// What two generations may need, compared with one.
const MEMORY_RATIO: f64 = 2.5;

pub(super) fn long_work(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.path("post")?;
    let (mut wires, rest) = stage.half_posts(&place, 1)?;
    stage.wait_accepted()?;
    // A server that answers before it has read the request is in no state that lasts.
    wires.watch(Until::Answered, Duration::from_millis(100))?;
    if wires[0].received_bytes() > 0 {
        return inconclusive("the server answers before it has the whole request");
    }
    for nth in 1..=DURING {
        if let Some(why) = stage.try_upgrade()?.failed {
            return fail(format!(
                "with a request on the first generation, upgrade {nth} fails: {why}"
            ));
        }
        if wires[0].has_closed() {
            return fail(format!("the request was cut at upgrade {nth}"));
        }
    }
    wires[0].send(&rest)?;
    wires.watch(Until::Answered, SOON)?;
    let fates = wires.fates();
    match fates.answered() {
        1 => pass(format!("after {DURING} upgrades the first generation answered it")),
        _ => {
            fail(format!("after {DURING} upgrades the request was lost: {}", fates.failures_text()))
        }
    }
}

pub(super) fn pile(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let one = stage.service().processes().len();
    let upgrade = stage.adapter.upgrade.as_ref();
    let cap = upgrade.and_then(|upgrade| upgrade.generations).unwrap_or(1);
    let place = stage.path("post")?;
    let mut held: Vec<Wires> = Vec::new();
    let (mut most, mut refused) = (0, 0);
    for _ in 0..PILE {
        held.push(stage.half_posts(&place, 1)?.0);
        stage.wait_accepted()?;
        refused += usize::from(stage.try_upgrade()?.failed.is_some());
        most = most.max(stage.service().processes().len());
    }
    drop(held);
    stage.figure("most processes", most as f64, "processes");
    // The newest is not one of the old ones.
    match most <= one * (cap + 1) + 1 {
        true => {
            pass(format!("at most {most} processes; {refused} of {PILE} upgrades were refused"))
        }
        false => {
            fail(format!("{most} processes at once, with at most {cap} old generations declared"))
        }
    }
}

pub(super) fn no_old_code(stage: &mut Stage<'_>) -> Outcome {
    begin(stage)?;
    let upgraded = stage.upgrade()?;
    stage.wait_changed(&upgraded);
    let mut old = 0;
    for _ in 0..FRESH {
        let who = stage.identity()?;
        old += usize::from(upgraded.before.contains(&who));
    }
    stage.recorder.count(&std::iter::repeat_n(Fate::Stale, old).collect());
    match old {
        0 => pass(format!("{FRESH} new connections, all answered by the new generation")),
        old => {
            fail(format!("{old} of {FRESH} new connections were answered by the old generation"))
        }
    }
}

/// The resident memory of these processes, in KiB. Pages that they share count for each.
fn resident(processes: &[u32]) -> u64 {
    processes.iter().filter_map(|pid| proc::resident_kib(*pid)).sum()
}

pub(super) fn memory(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    // The service is used before it is measured: what it allocates at first is not the upgrade's doing.
    stage.idle(10)?.close();
    let alone = resident(&stage.service().processes());
    if alone == 0 {
        return Err(Fault("its memory cannot be read".to_owned()));
    }
    let known = stage.service().target().pid();
    let ended = Arc::new(AtomicBool::new(false));
    let mark = stage.service().target().mark().to_owned();
    let sampler = {
        let ended = Arc::clone(&ended);
        std::thread::spawn(move || {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(resident(&proc::marked(&mark, Some(known))));
                std::thread::sleep(MEMORY_PAUSE);
            }
            peak
        })
    };
    let upgraded = stage.try_upgrade();
    // The overlap ends when the old generation is gone; half a second shows it if it goes at once.
    std::thread::sleep(MEMORY_PAUSE * 25);
    ended.store(true, Ordering::Relaxed);
    let peak = sampler.join().map_err(|_| Fault("the sampler panicked".to_owned()))?;
    upgraded?.done()?;
    stage.figure("memory alone", alone as f64, "KiB");
    stage.figure("memory in the upgrade", peak as f64, "KiB");
    let ratio = peak as f64 / alone as f64;
    let text =
        format!("{} KiB alone, {} KiB at most in the upgrade: {ratio:.2} times", alone, peak);
    if ratio <= MEMORY_RATIO { pass(text) } else { fail(text) }
}
