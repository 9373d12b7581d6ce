//! One run of one case, which ends whatever its target does.

use crate::adapter::Adapter;
use crate::case::{Case, Outcome, inconclusive};
use crate::stage::{Left, Recorder, Stage};
use crate::target::Scope;
use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Every wait of a case has a bound of its own; this comes on top of what they may add up to.
pub const CASE_MARGIN: Duration = Duration::from_secs(60);

/// So many of the times that a target declares (its deadline, an upgrade's) a case may spend one after the other.
pub const CASE_ROUNDS: u32 = 4;

/// How long a case may take to end once its target was killed; what it still does after that is not waited for.
const ENDING_LIMIT: Duration = Duration::from_secs(10);

/// How long a case may take in all with this target.
pub(super) fn outer_limit(case: &Case, adapter: &Adapter) -> Duration {
    case.takes() + adapter.declared_times() * CASE_ROUNDS + CASE_MARGIN
}

/// Runs the case on a thread of its own, and kills its target when `limit` has passed.
pub(super) fn attempt(
    adapter: &Arc<Adapter>,
    case: &'static Case,
    build: &Path,
    seed: u64,
    limit: Duration,
) -> (Outcome, Left) {
    let recorder = Recorder::begin();
    let scope = Scope::new();
    let (tell, told) = channel();
    let work = {
        let (adapter, build) = (Arc::clone(adapter), build.to_owned());
        let (recorder, scope) = (recorder.clone(), scope.clone());
        move || {
            scope.enter();
            let mut stage = Stage::new(&adapter, case, &build, seed, recorder);
            let found = (case.run)(&mut stage);
            // Nobody listens any more when the case was given up.
            let _ = tell.send((found, stage.finish()));
        }
    };
    let thread = match thread::Builder::new().name(case.id.to_owned()).spawn(work) {
        Ok(thread) => thread,
        Err(error) => return (Err(error.into()), Left::recorded(&recorder)),
    };
    match told.recv_timeout(limit) {
        Ok(ended) => ended,
        Err(RecvTimeoutError::Disconnected) => {
            let said = thread.join().err().map_or_else(String::new, |panic| words(panic.as_ref()));
            scope.end();
            (inconclusive(format!("the tester failed: {said}")), Left::recorded(&recorder))
        }
        Err(RecvTimeoutError::Timeout) => {
            scope.end();
            let ended = told.recv_timeout(ENDING_LIMIT).ok();
            let so_far = ended.as_ref().and_then(|(found, _)| found.as_ref().err());
            let so_far = so_far.map_or_else(String::new, |fault| format!(": {}", fault.0));
            let left = ended.map_or_else(|| Left::recorded(&recorder), |(_, left)| left);
            let reason = format!(
                "it had not ended {:.0} s after its begin, which is its outer limit; the target was killed{so_far}",
                limit.as_secs_f64()
            );
            (inconclusive(reason), left)
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
