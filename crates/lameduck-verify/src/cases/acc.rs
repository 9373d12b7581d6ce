//! The listener and its queue.

use crate::case::{Case, Need, Outcome, fail, inconclusive, pass};
use crate::fate::{Fate, Kind, Tally};
use crate::probe::Until;
use crate::stage::Stage;
use crate::verdict::Level::Must;

/// Connections put into the accept queue.
const QUEUED: usize = 50;

pub(super) const CASES: &[Case] = &[Case {
    id: "ACC/1",
    level: Must,
    title: "requests in the accept queue are answered",
    setup: "the server is stopped by SIGSTOP while 50 clients (or as many as its queue takes) connect and send a request each",
    action: "the stop signal, then SIGCONT",
    criterion: "each of them is answered in full",
    why: "the kernel accepted these connections in the server's name; closing the listener resets them",
    source: "gunicorn#3397; six of six servers measured lose some",
    needs: &[Need::Start],
    run: queue,
}];

fn queue(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let mut queued = stage.backlog(QUEUED)?;
    stage.stop()?;
    stage.thaw()?;
    queued.watch(Until::Answered, stage.exit_limit())?;
    let (fates, queued) = (queued.fates(), queued.len() as u64);
    stage.figure("answered from the queue", fates.answered() as f64, "requests");
    if fates.sent() < queued {
        return inconclusive(format!("only {} of {queued} requests were sent", fates.sent()));
    }
    match fates.answered() {
        answered if answered == QUEUED as u64 => {
            pass(format!("{QUEUED} of {QUEUED} were answered"))
        }
        answered => fail(format!("{answered} of {queued} were answered; {}", losses(&fates))),
    }
}

/// As in `12 RESET_BEFORE_RESPONSE, 3 TRUNCATED`.
pub(super) fn losses(fates: &Tally) -> String {
    let lost =
        fates.met(Kind::Lost).map(|(fate, count): (Fate, u64)| format!("{count} {}", fate.name()));
    let lost: Vec<String> = lost.collect();
    if lost.is_empty() { "nothing lost".to_owned() } else { lost.join(", ") }
}
