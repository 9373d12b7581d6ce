//! Signals, exit, deadline.

use crate::case::{Case, Need, Outcome, fail, inconclusive, pass, warn};
use crate::stage::Stage;
use crate::verdict::Level::Must;
use std::time::Duration;

/// An idle server has nothing to wait for.
const IDLE_EXIT: Duration = Duration::from_secs(1);
/// What a server that waits for an event, not for a poll, needs at most.
const QUICK_EXIT: Duration = Duration::from_millis(100);

pub(super) const CASES: &[Case] = &[Case {
    id: "SIG/1",
    level: Must,
    title: "an idle server exits when it is told to",
    setup: "the server is ready and has no connection",
    action: "the stop signal",
    criterion: "it exits by itself within 1 s with the code of a clean stop; within 100 ms to pass without a warning",
    why: "a restart waits for it, and a supervisor that loses patience kills",
    source: "Go polls every 500 ms, uvicorn every 100 ms",
    needs: &[Need::Stop],
    run: idle_exit,
}];

fn idle_exit(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let told = stage.stop()?;
    let lame_duck = stage.adapter.stop.lame_duck.map_or(Duration::ZERO, |span| *span);
    let Some(gone) = stage.wait_gone(stage.exit_limit()) else {
        return fail(format!("it still runs {:.1} s after the stop", told.elapsed().as_secs_f64()));
    };
    let took = gone.at.duration_since(told);
    stage.figure_ms("exit when idle", took);
    let seconds = took.as_secs_f64();
    match gone.code() {
        Some(code) if !stage.adapter.stop.exit.contains(&code) => {
            return fail(format!("it exited with code {code}, which is not one of a clean stop"));
        }
        Some(_) => {}
        None => return inconclusive("its exit code cannot be seen: it is not the tester's child"),
    }
    if took > lame_duck + IDLE_EXIT {
        fail(format!("it exited {seconds:.2} s after the stop"))
    } else if took > lame_duck + QUICK_EXIT {
        warn(format!("it exited {:.0} ms after the stop", seconds * 1000.0))
    } else {
        pass(format!("it exited {:.1} ms after the stop", seconds * 1000.0))
    }
}
