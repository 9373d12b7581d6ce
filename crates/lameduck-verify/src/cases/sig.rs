//! Signals, exit, deadline.

mod first;
mod forced;

use crate::adapter::Readiness;
use crate::answer::Persistence;
use crate::case::{Case, Fault, Need, Outcome, fail, inconclusive, pass, skip, warn};
use crate::cases::acc::losses;
use crate::probe::Until;
use crate::stage::{Launch, SOON, Stage};
use crate::target::{Signal, proc};
use crate::verdict::Level::{Must, Should};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::io::{PipeReader, Read};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// An idle server has nothing to wait for.
const IDLE_EXIT: Duration = Duration::from_secs(1);
/// So often an idle exit is tried.
const IDLE_EXITS: usize = 3;
/// What a server that waits for an event, not for a poll, needs at most.
const QUICK_EXIT: Duration = Duration::from_millis(100);
/// After the last byte of the last answer.
const LAG: Duration = Duration::from_millis(250);
/// When the stop comes, in percent of the time that the answer takes: a poll that is soon after one is late after another.
const STOPPED_AT: [u32; 4] = [40, 30, 55, 20];
/// The quickest of so many exits counts for each: a poll is as late every time, a busy machine is not.
const LAG_TRIES: usize = 3;
/// After the deadline, or after a forcing signal.
const FORCED_EXIT: Duration = Duration::from_secs(1);
/// When a stop comes during the start.
const EARLY: [u64; 4] = [0, 5, 20, 50];

pub(super) const CASES: &[Case] = &[
    Case {
        id: "SIG/1",
        level: Must,
        title: "an idle server exits when it is told to",
        setup: "the server is ready and has no connection",
        action: "the stop signal",
        criterion: "each of three times it exits by itself within 1 s (the quickest of three counts) with the code of a clean stop; once within 100 ms to pass without a warning",
        why: "a restart waits for it, and a supervisor that loses patience kills",
        source: "Go polls every 500 ms, uvicorn every 100 ms",
        needs: &[Need::Stop],
        run: idle_exit,
    },
    Case {
        id: "SIG/2",
        level: Must,
        title: "it exits right after its last answer, and not before",
        setup: "one slow request is being worked on",
        action: "the stop signal, at four moments of the request",
        criterion: "the answer comes in full, and the server exits within 250 ms of its last byte (the quickest of three counts for each moment)",
        why: "each restart of each instance waits for what is wasted here",
        source: "Go's Shutdown polls with a back-off to 500 ms; Node waits for its keep-alive limit",
        needs: &[Need::Stop, Need::Path("slow")],
        run: exit_after_answer,
    },
    Case {
        id: "SIG/3",
        level: Must,
        title: "the deadline ends a drain that does not end",
        setup: "a request never ends: its handler does not, or its client does not read",
        action: "the stop signal",
        criterion: "the process is gone within 1 s of its deadline",
        why: "without a bound old processes pile up, and the supervisor's KILL takes the rest along",
        source: "nginx and HAProxy have no bound by default",
        needs: &[Need::Deadline, Need::Lasts],
        run: forced::deadline,
    },
    Case {
        id: "SIG/4",
        level: Should,
        title: "a stop that cut work says so",
        setup: "three requests never end, as in SIG/3; and a clean stop, to compare with",
        action: "the stop signal",
        criterion: "the exit code is not that of a clean stop, and a line that a clean stop does not write has the number of those that were cut",
        why: "a deployment that cuts work must not look like one that does not",
        source: "Envoy and uvicorn log it",
        needs: &[Need::Deadline, Need::Lasts],
        run: forced::tells_cut,
    },
    Case {
        id: "SIG/5",
        level: Must,
        title: "a second signal ends the wait",
        setup: "a drain is running",
        action: "the stop signal again, and in another run INT",
        criterion: "the process is gone within 1 s",
        why: "the operator who asks twice means it; the alternative is KILL",
        source: "http-graceful-shutdown v4, uvicorn, PgBouncer",
        needs: &[Need::StopSignal, Need::Holds],
        run: forced::second_signal,
    },
    Case {
        id: "SIG/6",
        level: Must,
        title: "a hundred signals do no harm",
        setup: "a slow request is being worked on",
        action: "100 stop signals within 100 ms",
        criterion: "no crash; where repeats force, it exits within 1 s; where they count as one, the request is answered",
        why: "supervisors, shells and scripts each send their own",
        source: "http-graceful-shutdown v4 on double triggers",
        needs: &[Need::StopSignal, Need::Repeats, Need::Path("slow")],
        run: forced::signal_storm,
    },
    Case {
        id: "SIG/7",
        level: Must,
        title: "as PID 1 it does not ignore the stop",
        setup: "the server is process 1 of a PID namespace of its own, as in a container",
        action: "the stop signal",
        criterion: "it exits within 1 s",
        why: "process 1 has no default dispositions: what is not handled is ignored, until KILL",
        source: "dumb-init#121, pid_namespaces(7)",
        needs: &[Need::StopSignal],
        run: first::process_one,
    },
    Case {
        id: "SIG/8",
        level: Should,
        title: "as PID 1 it reaps orphans",
        setup: "the server is process 1 of a PID namespace; an orphan of another process runs beside it",
        action: "the orphan exits",
        criterion: "it is no zombie 1 s later",
        why: "zombies fill the process table of a container",
        source: "moby#33319",
        needs: &[Need::StopSignal],
        run: first::reaps,
    },
    Case {
        id: "SIG/9",
        level: Should,
        title: "behind `sh -c \"exec …\"` it is reached by the stop",
        setup: "the server is started by a shell that executes it in its own place; and by one that starts it as its child",
        action: "the stop signal to the process that was started",
        criterion: "the first exits within 1 s; whether the second hears of it is told and not judged: it is the user's error, and no server could mend it",
        why: "the shell form of a container's command is the usual reason why a stop is not heard",
        source: "sclorg#120, docker-node#323",
        needs: &[Need::StopSignal],
        run: first::behind_shell,
    },
    Case {
        id: "SIG/10",
        level: Must,
        title: "a client that vanishes in the drain does no harm",
        setup: "two slow requests are being worked on and the stop has been sent",
        action: "one client ends its stream and resets its connection",
        criterion: "the other is answered, and no signal ends the process",
        why: "SIGPIPE kills a process that does not ignore it",
        source: "signal(7)",
        needs: &[Need::Stop, Need::Path("slow")],
        run: vanished,
    },
    Case {
        id: "SIG/11",
        level: Should,
        title: "HUP does not end it",
        setup: "the server is ready; HUP is not declared as its upgrade",
        action: "HUP",
        criterion: "the service still answers",
        why: "the default of HUP is death: a closed terminal or a habit of `kill -HUP` ends the service",
        source: "signal(7); puma reopens its logs on HUP",
        needs: &[Need::StopSignal],
        run: hangup,
    },
    Case {
        id: "SIG/12",
        level: Must,
        title: "a stop during the start is obeyed",
        setup: "the server has been started and is not known to be ready",
        action: "the stop signal 0, 5, 20 and 50 ms after the start",
        criterion: "it exits within 1 s each time, and does not serve afterwards",
        why: "a handler that is installed too late, or a stop that is forgotten once start-up ends",
        source: "rolling restarts that are cancelled",
        needs: &[Need::StopSignal],
        run: early_stop,
    },
    Case {
        id: "SIG/13",
        level: Should,
        title: "a log that nobody reads does not hold the exit",
        setup: "standard output and error are closed, and in another run a pipe that is full",
        action: "the stop signal",
        criterion: "it exits within its deadline and 1 s",
        why: "a log collector that died blocks whoever waits for it",
        source: "pipe(7)",
        needs: &[Need::StopSignal],
        run: blocked_output,
    },
];

fn still_runs(told: Instant) -> Outcome {
    fail(format!("it still runs {:.1} s after the stop", told.elapsed().as_secs_f64()))
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// What became of one idle server that was told to stop.
enum Idle {
    /// It took so long.
    Gone(Duration),
    /// The case is over.
    Over(Outcome),
}

fn idle_exit(stage: &mut Stage<'_>) -> Outcome {
    let (mut slowest, mut quickest) = (Duration::ZERO, Duration::MAX);
    for _ in 0..IDLE_EXITS {
        // A busy machine makes one exit late; a server that polls is late most of the time.
        let mut took = Duration::MAX;
        for _ in 0..LAG_TRIES {
            match idle_exit_once(stage)? {
                Idle::Over(outcome) => return outcome,
                Idle::Gone(after) => took = took.min(after),
            }
            if took <= IDLE_EXIT {
                break;
            }
        }
        (slowest, quickest) = (slowest.max(took), quickest.min(took));
    }
    stage.figure_ms("exit when idle", quickest);
    let text = format!("it exited {} after the stop at the quickest", milliseconds(quickest));
    if slowest > IDLE_EXIT {
        fail(format!("it exited {} after the stop", milliseconds(slowest)))
    } else if quickest > QUICK_EXIT {
        warn(text)
    } else {
        pass(text)
    }
}

fn idle_exit_once(stage: &mut Stage<'_>) -> Result<Idle, Fault> {
    stage.start()?;
    let told = stage.stop()?;
    let Some(gone) = stage.wait_gone(stage.exit_limit()) else {
        return Ok(Idle::Over(still_runs(told)));
    };
    Ok(match gone.code() {
        Some(code) if !stage.adapter.stop.exit.contains(&code) => Idle::Over(fail(format!(
            "it exited with code {code}, which is not one of a clean stop"
        ))),
        Some(_) => Idle::Gone(gone.at.duration_since(told).saturating_sub(stage.lame_duck())),
        None => {
            Idle::Over(inconclusive("its exit code cannot be seen: it is not the tester's child"))
        }
    })
}

/// One exit after an answer, with the stop at this part of the time that the answer takes.
enum Left {
    /// So long after the last byte, or right after the lame-duck time.
    After(Duration),
    /// Not as it should be.
    Missed(String),
}

fn exit_after_answer(stage: &mut Stage<'_>) -> Outcome {
    let mut slowest = Duration::ZERO;
    for percent in STOPPED_AT {
        let mut quickest = Duration::MAX;
        for _ in 0..LAG_TRIES {
            match left_after_answer(stage, percent)? {
                Left::Missed(what) => return fail(what),
                Left::After(lag) => quickest = quickest.min(lag),
            }
            if quickest <= LAG {
                break;
            }
        }
        slowest = slowest.max(quickest);
        if slowest > LAG {
            break;
        }
    }
    stage.figure_ms("exit after the last answer", slowest);
    let text = format!("it exited {} after the last byte of its answer", milliseconds(slowest));
    if slowest <= LAG { pass(text) } else { fail(text) }
}

fn left_after_answer(stage: &mut Stage<'_>, percent: u32) -> Result<Left, Fault> {
    stage.start()?;
    let begun = Instant::now();
    let (mut wires, takes) = stage.in_flight(1)?;
    wires.watch(Until::Answered, (takes * percent / 100).saturating_sub(begun.elapsed()))?;
    let told = stage.stop()?;
    wires.watch(Until::Answered, takes + SOON)?;
    let fates = wires.fates();
    if fates.lost() > 0 {
        return Ok(Left::Missed(format!("the request was lost: {}", losses(&fates))));
    }
    let last = wires[0].last_byte().unwrap_or(told);
    // The client keeps its connection, as a browser does, unless it was told that it ends.
    if wires[0].answers().iter().any(|head| head.persistence == Persistence::Close) {
        drop(wires);
    }
    let Some(gone) = stage.wait_gone(stage.exit_limit().max(SOON * 2)) else {
        let ran = told.elapsed().as_secs_f64();
        return Ok(Left::Missed(format!("it still runs {ran:.1} s after the stop")));
    };
    let lame_duck_over = told + stage.lame_duck();
    Ok(Left::After(gone.at.saturating_duration_since(last.max(lame_duck_over))))
}

fn vanished(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (mut stays, takes) = stage.in_flight(1)?;
    let place = stage.path("slow")?;
    let mut leaves = crate::probe::Wire::open(&place)?;
    leaves.request(&place.get(""));
    stage.wait_accepted()?;
    stage.stop()?;
    // The end of its stream first: after it, a reset is told as a broken pipe, with the signal of that name.
    leaves.half_close()?;
    leaves.reset()?;
    stage.note("a client vanishes");
    stays.watch(Until::Answered, takes + SOON)?;
    let fates = stays.fates();
    drop(stays);
    let Some(gone) = stage.wait_gone(takes + stage.exit_limit()) else {
        return fail("the other request was answered or lost, and it does not exit");
    };
    match gone.exit.and_then(|exit| exit.signal) {
        Some(signal) if !stage.adapter.stop.exit.contains(&(128 + signal)) => {
            fail(format!("it was ended by signal {signal}"))
        }
        _ if fates.answered() == 1 => pass("the other request was answered"),
        _ => fail(format!("the other request was lost: {}", losses(&fates))),
    }
}

fn hangup(stage: &mut Stage<'_>) -> Outcome {
    let upgrade = stage.adapter.upgrade.as_ref();
    if upgrade.is_some_and(|upgrade| upgrade.signal == Some(Signal::HUP)) {
        return skip("HUP is the target's upgrade");
    }
    stage.start()?;
    stage.signal(Signal::HUP)?;
    let gone = stage.wait_gone(Duration::from_millis(500));
    match (stage.ask(&stage.fast()), gone) {
        (Ok(asked), _) if asked.status < 500 => pass("after HUP it still answers"),
        (_, Some(gone)) => fail(format!("HUP ended it: {}", gone.text())),
        (Ok(asked), None) => fail(format!("after HUP it answers {}", asked.status)),
        (Err(Fault(why)), None) => fail(format!("after HUP it does not answer: {why}")),
    }
}

fn early_stop(stage: &mut Stage<'_>) -> Outcome {
    let mut slowest = Duration::ZERO;
    for after in EARLY {
        stage.start_as(Launch { unready: true, ..Launch::default() })?;
        // Not to wait for anything: the moment within the start is what the case varies.
        std::thread::sleep(Duration::from_millis(after));
        let told = stage.stop()?;
        let Some(gone) = stage.wait_gone(stage.lame_duck() + IDLE_EXIT + SOON) else {
            return fail(format!("stopped {after} ms after its start, it still runs 6 s later"));
        };
        slowest = slowest.max(gone.at.duration_since(told).saturating_sub(stage.lame_duck()));
        if stage.ask(&stage.fast()).is_ok() {
            return fail(format!("stopped {after} ms after its start, it serves after its exit"));
        }
    }
    stage.figure_ms("exit when stopped during the start", slowest);
    let text =
        format!("stopped 0 to 50 ms after its start, it exited within {}", milliseconds(slowest));
    if slowest <= IDLE_EXIT { pass(text) } else { fail(text) }
}

fn blocked_output(stage: &mut Stage<'_>) -> Outcome {
    let closed = ["sh", "-c", "exec \"$@\" >&- 2>&-", "sh"].map(str::to_owned).to_vec();
    let start_closed = |stage: &mut Stage<'_>| {
        let prefix = closed.clone();
        stage.start_as(Launch { prefix, unseen: true, ..Launch::default() })
    };
    let closed = start_closed(stage).or_else(|_| start_closed(stage));
    let limit = stage.deadline() + stage.lame_duck() + FORCED_EXIT;
    let serves_closed = closed.is_ok();
    if serves_closed {
        stage.stop()?;
        if stage.wait_gone(limit).is_none() {
            return fail("with standard output and error closed it does not exit");
        }
    }
    let (mut reader, writer) = std::io::pipe()?;
    let (stdout, stderr) = (Stdio::from(writer.try_clone()?), Stdio::from(writer.try_clone()?));
    stage.start_as(Launch {
        stdout: Some(stdout),
        stderr: Some(stderr),
        unseen: true,
        ..Launch::default()
    })?;
    // Else it may wait with its first words, and not with what it says when it is stopped.
    if let Readiness::Stdout(words) | Readiness::Stderr(words) = &stage.adapter.ready {
        read_to(&mut reader, words)?;
    }
    proc::wait_at_rest(stage.service().main_pid());
    // Another open file of the same pipe: not to block is a property of the open file, and the server's must.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let filler = rustix::fs::open(path, flags, Mode::empty()).map_err(std::io::Error::from)?;
    while rustix::io::write(&filler, &[b'\n'; 4096]).is_ok() {}
    while rustix::io::write(&filler, b"\n").is_ok() {}
    stage.note("the pipe is full");
    stage.stop()?;
    match stage.wait_gone(limit) {
        Some(_) if serves_closed => {
            pass("it exits with its output closed, and with its output full")
        }
        Some(_) => pass("it exits with its output full; with its output closed it does not start"),
        None => fail("with standard output and error a full pipe it does not exit"),
    }
}

/// Reads what a server says until these words have come, for [`SOON`] at most.
fn read_to(output: &mut PipeReader, words: &str) -> Result<(), Fault> {
    let deadline = Instant::now() + SOON;
    let (mut said, mut bytes) = (String::new(), [0; 4096]);
    while !said.contains(words) {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        let mut polled = [PollFd::new(&*output, PollFlags::IN)];
        if poll(&mut polled, left.as_ref()).map_err(std::io::Error::from)? == 0 {
            return Err(Fault(format!("within {SOON:?} it did not say {words:?}")));
        }
        let read = output.read(&mut bytes)?;
        said.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    Ok(())
}
