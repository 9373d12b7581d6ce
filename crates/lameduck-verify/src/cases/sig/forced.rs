//! What ends a drain that does not end by itself: the deadline, and more signals.

use super::{FORCED_EXIT, milliseconds, still_runs};
use crate::adapter::Repeats;
use crate::case::{Fault, Outcome, fail, inconclusive, pass};
use crate::cases::acc::losses;
use crate::probe::Until;
use crate::stage::{Gone, SOON, Stage};
use crate::target::Signal;
use std::time::{Duration, Instant};

/// A drain that lasts this long is running.
const DRAINING: Duration = Duration::from_millis(150);
/// Requests that the deadline cuts: a number that no log has by chance in a line of its own words.
const CUT: usize = 3;
/// Signals of a storm.
const STORM: usize = 100;
/// Between two of them.
const STORM_PAUSE: Duration = Duration::from_millis(1);
/// Signals that a crash ends a process with.
const CRASHES: [i32; 5] = [4, 6, 7, 8, 11];

/// The server with a drain that does not end by itself, told to stop; how and when it went.
fn held(stage: &mut Stage<'_>, count: usize) -> Result<(Instant, Option<Gone>), Fault> {
    stage.start()?;
    let mut held = stage.hold(count)?;
    stage.wait_accepted()?;
    let told = stage.stop()?;
    let limit = stage.deadline() + stage.lame_duck() + FORCED_EXIT + SOON;
    let gone = stage.wait_gone(limit);
    held.watch(Until::Closed, Duration::ZERO)?;
    if held.fates().answered() > 0 {
        return Err(Fault("the request that holds the drain ended by itself".to_owned()));
    }
    Ok((told, gone))
}

pub(super) fn deadline(stage: &mut Stage<'_>) -> Outcome {
    let (told, gone) = held(stage, 1)?;
    let Some(gone) = gone else { return still_runs(told) };
    let (took, bound) = (gone.at.duration_since(told), stage.deadline() + stage.lame_duck());
    stage.figure_ms("exit with a request that never ends", took);
    let text = format!(
        "it was gone {:.2} s after the stop, with a deadline of {:.1} s",
        took.as_secs_f64(),
        bound.as_secs_f64()
    );
    if took <= bound + FORCED_EXIT { pass(text) } else { fail(text) }
}

pub(super) fn tells_cut(stage: &mut Stage<'_>) -> Outcome {
    let (told, gone) = held(stage, CUT)?;
    let Some(gone) = gone else { return still_runs(told) };
    let Some(code) = gone.code() else {
        return inconclusive("its exit code cannot be seen: it is not the tester's child");
    };
    let stop = &stage.adapter.stop;
    if stop.exit.contains(&code) {
        return fail(format!(
            "it cut {CUT} requests and exited with code {code}, as after a clean stop"
        ));
    }
    if !stop.forced_exit.is_empty() && !stop.forced_exit.contains(&code) {
        return fail(format!(
            "it exited with code {code}, which is none that it declares for this"
        ));
    }
    let _ = stage.service().target().whole_stderr(SOON);
    let log = output(stage);
    // What a clean stop says is no word about a cut.
    stage.start()?;
    stage.stop()?;
    stage.wait_gone(stage.exit_limit());
    let _ = stage.service().target().whole_stderr(SOON);
    match cut_line(&log, &output(stage), CUT) {
        Some(line) => pass(format!("it exited with code {code} and says: {}", line.trim())),
        None => fail(format!("it exited with code {code}, and no line says that {CUT} were cut")),
    }
}

/// The line of `log` that `clean` has not and that has this number in it, but not as a time: those differ from stop to
/// stop.
fn cut_line<'l>(log: &'l str, clean: &str, count: usize) -> Option<&'l str> {
    const UNITS: [&str; 7] = ["ms", "s", "us", "ns", "sec", "seconds", "milliseconds"];
    let count = count.to_string();
    let has_count = |line: &&str| {
        let is_part = |c: char| c.is_alphanumeric() || c == '.' || c == ':';
        let words: Vec<&str> = line
            .split(|c: char| !is_part(c))
            .map(|word| word.trim_matches(['.', ':']))
            .filter(|word| !word.is_empty())
            .collect();
        (0..words.len()).any(|at| {
            let is_time = words.get(at + 1).is_some_and(|next| UNITS.contains(next));
            words[at] == count && !is_time
        })
    };
    log.lines().filter(has_count).find(|line| clean.lines().all(|other| other != *line))
}

/// Everything the server wrote so far.
fn output(stage: &mut Stage<'_>) -> String {
    let target = stage.service().target();
    target.stdout() + &target.stderr()
}

pub(super) fn second_signal(stage: &mut Stage<'_>) -> Outcome {
    let stop = stage.adapter.stop.signal;
    let mut again = vec![Signal::INT];
    // A server that declares that its stop signal counts once has another way: INT.
    if stage.adapter.stop.repeats != Some(Repeats::Coalesce) {
        again.insert(0, stop);
    }
    let mut slowest = Duration::ZERO;
    for signal in again {
        stage.start()?;
        let _held = stage.hold(1)?;
        stage.wait_accepted()?;
        stage.stop()?;
        if stage.lame_duck() > Duration::ZERO {
            // A second stop ends the lame duck; the drain begins then.
            stage.signal(stop)?;
        }
        if stage.wait_gone(DRAINING).is_some() {
            return inconclusive("it exited before a second signal could be sent");
        }
        let told = stage.signal(signal)?;
        let Some(gone) = stage.wait_gone(FORCED_EXIT + SOON) else {
            let name = crate::adapter::signal_name(signal);
            return fail(format!("{name} was sent a second time, and it still runs after 6 s"));
        };
        slowest = slowest.max(gone.at.duration_since(told));
    }
    stage.figure_ms("exit after a second signal", slowest);
    let text = format!("it exited {} after the second signal", milliseconds(slowest));
    if slowest <= FORCED_EXIT { pass(text) } else { fail(text) }
}

pub(super) fn signal_storm(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (mut wires, takes) = stage.in_flight(1)?;
    let told = stage.stop()?;
    let signal = stage.adapter.stop.signal;
    for _ in 1..STORM {
        // Not at once: the kernel keeps one pending signal of a kind, and a hundred would be one.
        if stage.wait_gone(STORM_PAUSE).is_some() {
            break;
        }
        // It may be gone by now.
        let _ = stage.service().signal(signal);
    }
    stage.note(format!("{STORM} signals"));
    let forces = stage.forces();
    if !forces {
        wires.watch(Until::Answered, takes + SOON)?;
    }
    let Some(gone) = stage.wait_gone(takes + stage.exit_limit()) else { return still_runs(told) };
    let ended_by = gone.exit.and_then(|exit| exit.signal);
    if let Some(crash) = ended_by.filter(|signal| CRASHES.contains(signal)) {
        return fail(format!("it crashed with signal {crash}"));
    }
    let took = gone.at.duration_since(told);
    match (forces, wires.fates().answered()) {
        (true, _) if took > FORCED_EXIT => fail(format!(
            "repeats force, and it exited {:.1} s after {STORM} signals",
            took.as_secs_f64()
        )),
        (true, _) => pass(format!("{STORM} signals, and it exited {} later", milliseconds(took))),
        (false, 1) => pass(format!("{STORM} signals counted as one: the request was answered")),
        (false, _) => fail(format!("the request was lost: {}", losses(&wires.fates()))),
    }
}

#[cfg(test)]
mod tests {
    use super::cut_line;

    #[test]
    fn a_line_counts_only_with_the_number_of_those_that_were_cut() {
        let clean = "stopped: 0 requests cut\nclosed after 3 ms\n";
        assert_eq!(
            cut_line("stopped: 3 requests cut\n", clean, 3),
            Some("stopped: 3 requests cut")
        );
        assert_eq!(cut_line("closed after 3 ms\n", clean, 3), None);
        assert_eq!(cut_line("stopped at 13:33:03\nwaited 3.5 s\n", clean, 3), None);
        assert_eq!(cut_line("closed the database in 3 ms\n", clean, 3), None);
        assert_eq!(cut_line("something was cut\n", clean, 3), None);
    }
}
