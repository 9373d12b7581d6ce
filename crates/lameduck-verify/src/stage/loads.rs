//! Load around an action, with the proof that a loss would have been seen.

use super::{SOON, Stage};
use crate::address::Place;
use crate::case::{Fault, Outcome, inconclusive};
use crate::fate::Tally;
use crate::load::{Load, Mode, Running, Until};
use std::time::{Duration, Instant};

/// How long the load runs without an action.
const BASELINE: Duration = Duration::from_millis(500);

/// How long the load flows before an action.
const BEFORE: Duration = Duration::from_millis(200);

/// How long the load goes on after an action.
const AFTER: Duration = Duration::from_millis(200);

/// The same for something that was not started here: what its action sets off may go on.
const AFTER_ELSEWHERE: Duration = Duration::from_secs(2);

/// Clients of a load, when nothing is said.
const CLIENTS: usize = 16;

/// Between an answer and a client's next request: a load that leaves the server time to be upgraded in.
const PAUSE: Duration = Duration::from_millis(1);

/// How long one request may take in a load of fast ones.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// The longest time of one load.
const LOAD_LIMIT: Duration = Duration::from_secs(60);

impl Stage<'_> {
    /// A load on this place, recorded for the timeline.
    pub fn load(&self, place: Place, mode: Mode) -> Load {
        let until = Until::Elapsed(LOAD_LIMIT);
        let load = Load::new(place, mode).connections(CLIENTS).pause(PAUSE);
        load.request_limit(REQUEST_LIMIT).until(until).recorded(self.recorder.begun())
    }

    /// The place and mode of a load of non-idempotent requests, where the server declares a path for them.
    pub fn posting(&self) -> (Place, Mode) {
        match self.path("post") {
            Ok(place) => (place, Mode::Post),
            Err(_) => (self.fast(), Mode::KeepAlive),
        }
    }

    /// Ends a load and counts it.
    pub fn finish_load(&self, running: Running) -> Tally {
        let report = running.finish();
        self.recorder.load(&report);
        report.tally().clone()
    }

    /// Runs `act` under a load, on the server that runs. The same load without an action is run before: it must show
    /// nothing. Gives what was seen during the action, and what the action gives.
    ///
    /// # Errors
    /// When the baseline is not clean, the load does not flow, or `act` fails.
    pub fn under_load<T>(
        &mut self,
        load: &Load,
        act: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<(Tally, T), Fault> {
        let begun = Instant::now();
        let baseline = load.clone().until(Until::Elapsed(BASELINE)).start()?;
        let baseline = self.finish_load(baseline);
        self.recorder.span(begun, "baseline");
        if baseline.failures() > 0 || baseline.answered() == 0 {
            return Err(Fault(format!(
                "without any action {} were answered, and {}",
                baseline.answered(),
                baseline.failures_text()
            )));
        }
        let begun = Instant::now();
        let running = load.clone().start()?;
        running.wait_flowing(SOON)?;
        running.wait_ended(BEFORE);
        let acted = act(self);
        // The load sees what comes right after the action as well; it ends by itself where the server is gone.
        running.wait_ended(if self.adapter.running.is_some() { AFTER_ELSEWHERE } else { AFTER });
        running.stop();
        let seen = self.finish_load(running);
        self.recorder.span(begun, "action");
        Ok((seen, acted?))
    }

    /// The negative control: the same load while the server is killed and started again. Gives an outcome only if it
    /// shows no failure, since then the tester could not have seen one either.
    ///
    /// # Errors
    /// When the load does not flow or the server does not start.
    pub fn control(&mut self, load: &Load) -> Result<Option<Outcome>, Fault> {
        let begun = Instant::now();
        let load = load.clone().until(Until::Elapsed(LOAD_LIMIT));
        let running = load.start()?;
        running.wait_flowing(SOON)?;
        let restarted = self.kill_and_start();
        running.stop();
        // Not counted with the case's own requests: these losses are the tester's doing.
        let seen = running.finish().tally().clone();
        self.recorder.span(begun, "negative control");
        restarted?;
        self.figure("failures of the negative control", seen.failures() as f64, "requests");
        Ok((seen.failures() == 0).then(|| {
            inconclusive("the negative control (kill and start) showed no failure: a loss would not have been seen")
        }))
    }
}
