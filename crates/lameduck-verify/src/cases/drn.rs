//! What remains after the drain.

use crate::case::{Case, Need, Outcome, fail, inconclusive, pass};
use crate::cases::acc::losses;
use crate::probe::http1::HalfHeads;
use crate::probe::{End, Until};
use crate::stage::{Launch, SOON, Stage, Wires};
use crate::target::proc;
use crate::verdict::Level::{Must, Should};
use std::time::{Duration, Instant};

/// Sessions of DRN/1: idle, in flight, half a head, endless.
const IDLE: usize = 40;
const IN_FLIGHT: usize = 30;
const HALF: usize = 20;
const ENDLESS: usize = 10;
/// When the half heads are finished after the stop.
const FINISHED_AFTER: Duration = Duration::from_millis(200);
/// A cut this long before the deadline was not the deadline's.
const TOLERANCE: Duration = Duration::from_millis(150);
/// What is to be gone with the process may take this long to be seen.
const QUICK: Duration = Duration::from_secs(1);
/// The last line of a log is looked for in so many.
const LAST_LINES: usize = 5;
/// A long poll that was ended this late was not ended early.
const POLL_LIMIT: Duration = Duration::from_secs(2);

pub(super) const CASES: &[Case] = &[
    Case {
        id: "DRN/1",
        level: Must,
        title: "every session is accounted for",
        setup: "100 sessions: idle, in flight, with half a head, and (where there is such a path) endless",
        action: "the stop signal; the half heads are finished 200 ms later",
        criterion: "the number served and the number cut by the deadline are 100: none is reset, lost or left open",
        why: "a drain that forgets a session reports success over a loss",
        source: "kamal counts its 504s",
        needs: &[Need::Stop, Need::Deadline, Need::Path("slow")],
        run: accounted,
    },
    Case {
        id: "DRN/2",
        level: Should,
        title: "the progress of a drain can be seen",
        setup: "a slow request holds the drain",
        action: "the stop signal; while it drains its status is asked for, or its log read",
        criterion: "it says how much is left",
        why: "whoever waits for a stop wants to know for what",
        source: "HAProxy's `show proc`",
        needs: &[Need::Stop, Need::Path("slow")],
        run: progress,
    },
    Case {
        id: "DRN/3",
        level: Must,
        title: "no child process is left behind",
        setup: "a handler has started a child process",
        action: "the stop signal",
        criterion: "the child is gone with the server",
        why: "an orphan holds ports, files and memory, and nobody knows of it",
        source: "process groups",
        needs: &[Need::Stop, Need::Path("child")],
        run: child,
    },
    Case {
        id: "DRN/4",
        level: Must,
        title: "the last line of the log is there",
        setup: "the server is ready",
        action: "the stop signal",
        criterion: "the line that it writes when it leaves is among the last of its output",
        why: "a log that is cut off hides how the stop ended",
        source: "tableflip's note on journald",
        needs: &[Need::Stop, Need::LastWords],
        run: last_words,
    },
    Case {
        id: "DRN/5",
        level: Should,
        title: "a closing function that hangs does not hold the exit",
        setup: "a server one of whose closing functions never ends",
        action: "the stop signal",
        criterion: "the process is gone at most 1 s after the deadline",
        why: "a database that does not answer must not hold up every stop",
        source: "the phases of Spring; lightship gives handlers 5 s",
        needs: &[Need::Stop, Need::Deadline, Need::HangingHook],
        run: hanging_hook,
    },
    Case {
        id: "DRN/6",
        level: Should,
        title: "a long poll is ended early",
        setup: "a request that would idle for a minute",
        action: "the stop signal",
        criterion: "it is answered in full long before its time, and before the deadline",
        why: "a poll without news is work that can be ended at once",
        source: "haproxy#1114",
        needs: &[Need::Stop, Need::Path("long_poll")],
        run: long_poll,
    },
];

fn accounted(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let mut idle =
        stage.idle(IDLE + if stage.adapter.paths.endless.is_some() { 0 } else { ENDLESS })?;
    let mut half = HalfHeads::open(&stage.fast(), HALF)?;
    let mut endless = match stage.path("endless") {
        Ok(place) => stage.requests("endless", &place, ENDLESS)?,
        Err(_) => stage.silent("none", 0)?,
    };
    let (mut busy, _) = stage.in_flight(IN_FLIGHT)?;
    let told = stage.stop()?;
    std::thread::sleep(FINISHED_AFTER);
    half.finish();
    let deadline = told + stage.lame_duck() + stage.deadline();
    let limit = || (deadline + SOON).saturating_duration_since(Instant::now());
    busy.watch(Until::Answered, limit())?;
    endless.watch(Until::Answered, limit())?;
    // The process closes what it forgot; another one that holds it does not.
    stage.wait_gone(limit());
    let mut half = stage.keep("half a head", half.wires);
    for wires in [&mut idle, &mut half, &mut busy, &mut endless] {
        wires.watch(Until::Closed, QUICK)?;
    }
    let mut served = idle.ended(End::Eof);
    served += half.fates().answered() as usize + busy.fates().answered() as usize;
    let is_cut = |wires: &Wires, place: usize| {
        let ended = wires[place].ended();
        ended.is_some_and(|ended| ended + TOLERANCE >= deadline)
    };
    served += endless.iter().filter(|wire| wire.is_answered()).count();
    let cut = (0..endless.len())
        .filter(|at| !endless[*at].is_answered() && is_cut(&endless, *at))
        .count();
    let all = idle.len() + half.len() + busy.len() + endless.len();
    stage.figure("served", served as f64, "sessions");
    stage.figure("cut by the deadline", cut as f64, "sessions");
    let seen = format!("{served} served and {cut} cut by the deadline, of {all}");
    if served + cut == all {
        return pass(seen);
    }
    let missing = [
        ("idle not closed in order", idle.len() - idle.ended(End::Eof)),
        ("half heads not answered", half.len() - half.fates().answered() as usize),
        ("in flight not answered", busy.len() - busy.fates().answered() as usize),
        (
            "endless cut early",
            endless.len() - cut - endless.iter().filter(|wire| wire.is_answered()).count(),
        ),
    ];
    let missing = missing.iter().filter(|(_, count)| *count > 0);
    let missing: Vec<String> = missing.map(|(what, count)| format!("{count} {what}")).collect();
    fail(format!("{seen}: {}", missing.join(", ")))
}

fn progress(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (mut held, takes) = stage.in_flight(1)?;
    let before = output(stage).len();
    stage.stop()?;
    std::thread::sleep(takes / 2);
    if held[0].received_bytes() > 0 {
        return inconclusive("the request was answered before the drain could be looked at");
    }
    let asked = stage.adapter.stop.progress.clone();
    let said = match &asked {
        Some(command) => stage.service().run(command, SOON)?.stdout,
        None => output(stage).get(before..).unwrap_or_default().to_owned(),
    };
    held.watch(Until::Answered, takes + SOON)?;
    let line = said.lines().find(|line| tells_rest(line));
    match line {
        Some(line) => pass(format!("it says: {}", line.trim())),
        None if said.trim().is_empty() => fail("it says nothing while it drains"),
        None => fail(format!(
            "it does not say how much is left: {}",
            said.lines().last().unwrap_or_default().trim()
        )),
    }
}

/// A number, and a word for what is left.
fn tells_rest(line: &str) -> bool {
    const WORDS: [&str; 9] = [
        "remain",
        "left",
        "drain",
        "in flight",
        "active",
        "waiting",
        "open",
        "pending",
        "connection",
    ];
    let lower = line.to_lowercase();
    line.bytes().any(|byte| byte.is_ascii_digit()) && WORDS.iter().any(|word| lower.contains(word))
}

fn output(stage: &mut Stage<'_>) -> String {
    let target = stage.service().target();
    target.stdout() + &target.stderr()
}

fn child(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.path("child")?;
    let asked = stage.ask(&place)?;
    let child = asked.field("child").and_then(|child| child.parse::<u32>().ok());
    let Some(child) = child.filter(|child| proc::is_alive(*child)) else {
        return inconclusive(format!("{place} names no living child: {}", asked.body));
    };
    stage.stop()?;
    if stage.wait_gone(stage.exit_limit()).is_none() {
        return inconclusive("the server did not exit");
    }
    let deadline = Instant::now() + QUICK;
    while proc::is_alive(child) && !proc::is_zombie(child) {
        if Instant::now() >= deadline {
            return fail(format!("the child, process {child}, is still there"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    pass("the child is gone with the server")
}

fn last_words(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let words = stage.adapter.stop.last_words.clone().unwrap_or_default();
    stage.stop()?;
    if stage.wait_gone(stage.exit_limit()).is_none() {
        return inconclusive("it did not exit");
    }
    let target = stage.service().target();
    // A process that was left behind holds the streams; what came until now is all that counts then.
    let whole = [
        target.whole_stdout(QUICK).unwrap_or_else(|_| target.stdout()),
        target.whole_stderr(QUICK).unwrap_or_else(|_| target.stderr()),
    ];
    let lines = whole.iter().flat_map(|text| text.lines().rev().take(LAST_LINES));
    let lines: Vec<&str> = lines.collect();
    match lines.iter().find(|line| line.contains(&words)) {
        Some(line) => pass(format!("the last line: {}", line.trim())),
        None => fail(format!(
            "no {words:?} at the end; the last line: {}",
            lines.first().unwrap_or(&"")
        )),
    }
}

fn hanging_hook(stage: &mut Stage<'_>) -> Outcome {
    let add = stage.adapter.stop.hanging_hook.clone().unwrap_or_default();
    stage.start_as(Launch { add, ..Launch::default() })?;
    let told = stage.stop()?;
    let limit = stage.lame_duck() + stage.deadline() + QUICK;
    match stage.wait_gone(limit) {
        Some(gone) => pass(format!(
            "it exited {:.1} s after the stop",
            gone.at.duration_since(told).as_secs_f64()
        )),
        None => fail(format!("it still runs {limit:?} after the stop")),
    }
}

fn long_poll(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.path("long_poll")?;
    let mut wires = stage.requests("long poll", &place, 1)?;
    wires.watch(Until::Answered, FINISHED_AFTER)?;
    if wires[0].received_bytes() > 0 || wires[0].end() != End::Open {
        return inconclusive("the poll was answered before the stop");
    }
    let told = stage.stop()?;
    wires.watch(Until::Answered, stage.exit_limit())?;
    let took = wires[0].last_byte().map(|last| last.duration_since(told));
    match (wires[0].answers().first(), took) {
        (Some(head), Some(took)) if took < POLL_LIMIT => {
            pass(format!("answered {} after {:.0} ms", head.status, took.as_secs_f64() * 1e3))
        }
        (Some(head), Some(took)) => {
            fail(format!("answered {} only after {:.1} s", head.status, took.as_secs_f64()))
        }
        _ => fail(losses(&wires.fates())),
    }
}
