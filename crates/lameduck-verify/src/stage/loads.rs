//! Load around an action, with the proof that a loss would have been seen.

use super::{SOON, Stage};
use crate::address::Place;
use crate::case::{Fault, Outcome, inconclusive};
use crate::fate::{Fate, Tally};
use crate::load::open::{self, Open};
use crate::load::{Latency, Load, Mode, Running, Until};
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

/// Clients one after the other at the server's door: in an open loop, or in a closed one where that cannot be.
#[derive(Debug)]
pub enum Arrivals {
    /// At even distances in time.
    Open(Open),
    /// By so many clients, each when it has its answer.
    Closed(Load),
}

impl Stage<'_> {
    /// Runs `act` under new connections; see [`under_load`](Stage::under_load).
    ///
    /// # Errors
    /// As there.
    pub fn under_arrivals<T>(
        &mut self,
        load: &Arrivals,
        act: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<(Tally, T), Fault> {
        match load {
            Arrivals::Open(load) => self.under_open_load(load, act),
            Arrivals::Closed(load) => self.under_load(load, act),
        }
    }

    /// The negative control of new connections; see [`control`](Stage::control).
    ///
    /// # Errors
    /// As there.
    pub fn control_of_arrivals(&mut self, load: &Arrivals) -> Result<Option<Outcome>, Fault> {
        match load {
            Arrivals::Open(load) => self.open_control(load),
            Arrivals::Closed(load) => self.control(load),
        }
    }

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

    /// An open loop of new connections on the fast path, recorded for the timeline.
    pub fn open_load(&self, rate: f64, at_once: usize) -> Open {
        let load = Open::new(self.fast(), Mode::NewConnection, rate).connections(at_once);
        let load = load.lasting(LOAD_LIMIT).request_limit(REQUEST_LIMIT);
        load.recorded(self.recorder.begun())
    }

    /// As [`under_load`](Stage::under_load), with an open loop: its latencies count from the time that each request was
    /// meant to be sent at, before the action and in it, and its own lag is told beside them.
    ///
    /// # Errors
    /// When the baseline is not clean, the load cannot be started, or `act` fails.
    fn under_open_load<T>(
        &mut self,
        load: &Open,
        act: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<(Tally, T), Fault> {
        let begun = Instant::now();
        let baseline = load.clone().lasting(BASELINE).start()?.finish()?;
        self.recorder.open_load(&baseline);
        self.recorder.span(begun, "baseline");
        let tally = baseline.tally();
        if tally.failures() > 0 || tally.answered() == 0 {
            return Err(Fault(format!(
                "without any action {} were answered, and {}",
                tally.answered(),
                tally.failures_text()
            )));
        }
        let begun = Instant::now();
        let running = load.clone().start()?;
        std::thread::sleep(BEFORE);
        let acted = act(self);
        std::thread::sleep(AFTER);
        running.stop();
        let seen = running.finish()?;
        self.recorder.open_load(&seen);
        self.recorder.span(begun, "action");
        self.figures_of_open_load(&baseline, &seen);
        is_judgeable(&seen)?;
        Ok((seen.tally().clone(), acted?))
    }

    fn figures_of_open_load(&mut self, baseline: &open::Report, seen: &open::Report) {
        let mut tell = |what: &str, latency: Latency| {
            for (name, micros) in
                [("p50", latency.p50), ("p99", latency.p99), ("p99.9", latency.p999)]
            {
                self.figure_ms(&format!("{what}, {name}"), Duration::from_micros(micros));
            }
        };
        tell("latency before", baseline.latency());
        tell("latency in the action", seen.latency());
        tell("the load's own lag", seen.lag());
    }

    /// The negative control of an open loop; see [`control`](Stage::control).
    ///
    /// # Errors
    /// When the load cannot be started or the server does not start.
    fn open_control(&mut self, load: &Open) -> Result<Option<Outcome>, Fault> {
        let begun = Instant::now();
        let running = load.clone().start()?;
        std::thread::sleep(BEFORE);
        let restarted = self.kill_and_start(|| running.wait_failed(SOON));
        running.stop();
        let seen = running.finish()?.tally().clone();
        self.recorder.span(begun, "negative control");
        restarted?;
        Ok(self.controlled(&seen))
    }

    /// How many new connections a second an open loop may make: `wanted`, or the `part` of what the server takes from a
    /// closed loop of so many clients where that is less. A load that a server cannot take shows its overload.
    ///
    /// # Errors
    /// When the load cannot be started, or the server takes none.
    pub fn bearable_rate(&mut self, wanted: f64, clients: usize, part: f64) -> Result<f64, Fault> {
        let load = Load::new(self.fast(), Mode::NewConnection).connections(clients);
        let begun = Instant::now();
        let report = load.until(Until::Elapsed(BASELINE)).start()?.finish();
        let taken = report.tally().answered() as f64 / begun.elapsed().as_secs_f64();
        let rate = (taken * part).min(wanted);
        if rate < 1.0 {
            return Err(Fault("the server takes no new connections".to_owned()));
        }
        self.figure("new connections", rate, "a second");
        Ok(rate)
    }

    fn controlled(&mut self, seen: &Tally) -> Option<Outcome> {
        self.figure("failures of the negative control", seen.failures() as f64, "requests");
        (seen.failures() == 0).then(|| {
            inconclusive("the negative control (kill and start) showed no failure: a loss would not have been seen")
        })
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
        let restarted = self.kill_and_start(|| running.wait_failed(SOON));
        running.stop();
        // Not counted with the case's own requests: these losses are the tester's doing.
        let seen = running.finish().tally().clone();
        self.recorder.span(begun, "negative control");
        restarted?;
        Ok(self.controlled(&seen))
    }
}

/// A load that was itself late by this much, at one request in a hundred, met a machine that had no time for either side.
const LAG_LIMIT: Duration = Duration::from_millis(250);

/// Time-outs alone, on a machine that had no time for the load either, say nothing about the server.
fn is_judgeable(seen: &open::Report) -> Result<(), Fault> {
    let tally = seen.tally();
    let late = tally.count(Fate::TimedOut) + tally.count(Fate::ConnectTimedOut);
    let lag = Duration::from_micros(seen.lag().p99);
    if late > 0 && late == tally.failures() && lag > LAG_LIMIT {
        return Err(Fault(format!(
            "the machine was too busy: {late} requests were out of time, and the load itself was late by {lag:?}"
        )));
    }
    Ok(())
}
