//! An open loop: the time of each request is fixed beforehand, whatever became of those before it.
//!
//! A latency is counted from that *intended* time. So a server that stands still for 100 ms is charged with every
//! request that came due meanwhile, and not only with those that a closed loop happened to have under way.
//!
//! Requests come at even distances and go over a fixed number of kept connections, each time over the one that has
//! been idle for longest; a request that finds none idle waits, and its wait counts. How late the load itself was to
//! notice that a request was due is reported beside the latencies ([`Report::lag`]): where it comes near them, the
//! machine was too busy to measure.
//!
//! One thread carries everything, with a system call for the time of the next request that is exact to some 50 µs;
//! a timer of the async runtime would be late by up to a millisecond.
//!
//! ```no_run
//! use lameduck_verify::load::Mode;
//! use lameduck_verify::load::open::Open;
//! use std::time::Duration;
//!
//! let place = "http://127.0.0.1:8080/b".parse()?;
//! let load = Open::new(place, Mode::KeepAlive, 2_000.0).connections(64).lasting(Duration::from_secs(10));
//! let report = load.start()?.finish()?;
//! println!("p99.9 {} us, own lag {} us", report.latency().p999, report.lag().p999);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! **Bounds**: [`super::CONNECT_LIMIT`] for the connections that are made before the first request, [`Open::request_limit`]
//! from the intended time of a request to the last byte of its answer.

mod engine;
mod wire;

use super::alarm::Alarm;
use super::ledger::Ledger;
use super::{EXAMPLES, Latency, Mode, REQUEST_LIMIT};
use crate::address::{Place, Scheme};
use crate::fate::{Fate, Tally};
use crate::trace::Trace;
use engine::Engine;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The largest lag that is told apart, in microseconds.
const LAG_MAX: u64 = 60_000_000;

/// An open-loop load to be started.
#[derive(Clone, Debug)]
pub struct Open {
    place: Place,
    mode: Mode,
    rate: f64,
    connections: usize,
    lasting: Duration,
    request_limit: Duration,
    recorded_since: Option<Instant>,
}

impl Open {
    /// `rate` requests a second over 32 connections, for 5 s. `mode` is [`Mode::KeepAlive`], [`Mode::Post`] or
    /// [`Mode::NewConnection`].
    pub fn new(place: Place, mode: Mode, rate: f64) -> Open {
        Open {
            place,
            mode,
            rate,
            connections: 32,
            lasting: Duration::from_secs(5),
            request_limit: REQUEST_LIMIT,
            recorded_since: None,
        }
    }

    /// How many connections, all made before the first request; in [`Mode::NewConnection`] how many may be open at a
    /// time. At least one.
    pub fn connections(mut self, count: usize) -> Open {
        self.connections = count.max(1);
        self
    }

    /// How long requests come.
    pub fn lasting(mut self, time: Duration) -> Open {
        self.lasting = time;
        self
    }

    /// How long after its intended time a request is given up; [`REQUEST_LIMIT`] when nothing is said.
    pub fn request_limit(mut self, limit: Duration) -> Open {
        self.request_limit = limit;
        self
    }

    /// Keeps what each connection does, with times since `begun`, for [`Report::pour_into`].
    pub fn recorded(mut self, begun: Instant) -> Open {
        self.recorded_since = Some(begun);
        self
    }

    /// Makes the connections, and starts the requests on a thread of their own.
    ///
    /// # Errors
    /// When the rate is not a positive number, the mode is [`Mode::Http2`], the place is https, a connection cannot be made, or the
    /// thread cannot be started.
    pub fn start(self) -> io::Result<Running> {
        let unusable = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if !self.rate.is_finite() || self.rate <= 0.0 {
            return unusable("an open loop needs a positive number of requests a second");
        }
        if matches!(self.mode, Mode::Http2 { .. }) {
            return unusable("an open loop speaks HTTP/1.1");
        }
        if self.place.scheme == Scheme::Https {
            return unusable("an open loop does not speak TLS");
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let alarm = Arc::<Alarm>::default();
        let engine = Engine::new(self, Arc::clone(&stopping), Arc::clone(&alarm))?;
        let thread = std::thread::Builder::new().name("open-loop".to_owned());
        let thread = thread.spawn(move || engine.run())?;
        Ok(Running { stopping, alarm, thread: Some(thread) })
    }
}

/// An open-loop load that runs. Dropping it stops it and waits for it.
#[derive(Debug)]
#[must_use]
pub struct Running {
    stopping: Arc<AtomicBool>,
    alarm: Arc<Alarm>,
    thread: Option<JoinHandle<io::Result<Report>>>,
}

impl Running {
    /// Lets no more requests come due. Those that are due already are answered first. Returns at once.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Waits until a request has failed, and says whether one has: not when `limit` passed before.
    pub fn wait_failed(&self, limit: Duration) -> bool {
        self.alarm.wait(limit)
    }

    /// A handle that stops the load, for a signal handler's task.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + 'static {
        let stopping = Arc::clone(&self.stopping);
        move || stopping.store(true, Ordering::Relaxed)
    }

    /// Waits until every request has its fate, and reports.
    ///
    /// # Errors
    /// When this process ran out of descriptors for its poller.
    ///
    /// # Panics
    /// When the load's thread panicked.
    pub fn finish(mut self) -> io::Result<Report> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(report)) => report,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Err(io::Error::other("the load has ended already")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic was printed by its thread; a second one in a drop would abort the test run.
            let _ = thread.join();
        }
    }
}

/// What an open-loop load saw. `Display` is for people.
#[derive(Debug)]
#[must_use]
pub struct Report {
    target: String,
    mode: Mode,
    rate: f64,
    elapsed: Duration,
    ledger: Ledger,
    lag: Histogram<u64>,
    silence: Duration,
}

impl Report {
    /// The count of each fate. A request that found no idle connection until its limit counts as
    /// [`Fate::ConnectTimedOut`]: it was not sent.
    pub fn tally(&self) -> &Tally {
        &self.ledger.tally
    }

    /// Everything that was sent and not answered in full with 2xx.
    pub fn lost(&self) -> u64 {
        self.ledger.tally.lost()
    }

    /// How many requests met this fate.
    pub fn count(&self, fate: Fate) -> u64 {
        self.ledger.tally.count(fate)
    }

    /// Of what was answered, from the intended time to the last byte of the answer, in microseconds.
    pub fn latency(&self) -> Latency {
        quantiles(&self.ledger.latency)
    }

    /// How late the load itself was to notice that a request was due, in microseconds.
    pub fn lag(&self) -> Latency {
        quantiles(&self.lag)
    }

    /// The longest time between two answers that followed each other.
    pub fn longest_silence(&self) -> Duration {
        self.silence
    }

    /// From the first intended time to the last fate.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Connections that were established, those made before the first request among them.
    pub fn connections_opened(&self) -> u64 {
        self.ledger.connections.opened
    }

    /// Adds the connections of a [recorded](Open::recorded) load to a trace, as many as fit its bounds; of another
    /// load there is nothing to add.
    pub fn pour_into(&self, trace: &mut Trace) {
        if let Some(recording) = &self.ledger.recording {
            recording.clone().pour_into(trace);
        }
    }

    /// One object: the tally's members, and target, mode, intended rate, elapsed, latency, lag, longest silence,
    /// connections and the first losses.
    pub fn to_json(&self) -> Value {
        let mut json = self.ledger.tally.to_json();
        let connections = &self.ledger.connections;
        let more = [
            ("target", json!(self.target)),
            ("mode", json!(self.mode.name())),
            ("intended_rate", json!(self.rate)),
            ("elapsed_ms", json!(milliseconds(self.elapsed))),
            ("latency_us", quantiles_json(&self.latency())),
            ("lag_us", quantiles_json(&self.lag())),
            ("longest_silence_ms", json!(milliseconds(self.silence))),
            (
                "connections",
                json!({
                    "opened": connections.opened,
                    "told_to_close": connections.told_to_close,
                    "found_closed": connections.found_closed,
                    "found_reset": connections.found_reset,
                    "found_unasked": connections.found_unasked,
                }),
            ),
            ("first_losses", self.ledger.examples.iter().map(|one| one.to_json()).collect()),
        ];
        if let Some(members) = json.as_object_mut() {
            members.extend(more.map(|(name, value)| (name.to_owned(), value)));
        }
        json
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn quantiles(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile);
    Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: histogram.max() }
}

fn quantiles_json(latency: &Latency) -> Value {
    let Latency { p50, p99, p999, max } = latency;
    json!({"p50": p50, "p99": p99, "p999": p999, "max": max})
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.ledger.tally;
        let (lost, sent) = (tally.lost(), tally.sent());
        let (mode, rate) = (self.mode.name(), self.rate);
        writeln!(f, "{lost} of {sent} requests lost ({mode}, {rate}/s intended, {})", self.target)?;
        for example in self.ledger.examples.iter().take(EXAMPLES) {
            writeln!(f, "  {example}")?;
        }
        let Latency { p50, p99, p999, max } = self.latency();
        writeln!(
            f,
            "latency from the intended time in us: p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}"
        )?;
        let Latency { p50, p99, p999, max } = self.lag();
        writeln!(f, "own lag in us: p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")?;
        write!(
            f,
            "longest silence {:.1} ms; {} connections opened; {} not sent; {:.2} s",
            milliseconds(self.silence),
            self.ledger.connections.opened,
            tally.not_sent(),
            self.elapsed.as_secs_f64()
        )
    }
}

/// When requests are due: at even distances from the beginning.
#[derive(Debug)]
struct Schedule {
    begun: Instant,
    rate: f64,
    count: u64,
    next: u64,
}

impl Schedule {
    fn new(begun: Instant, rate: f64, lasting: Duration) -> Schedule {
        // One at the beginning of each distance that has begun by the end.
        let count = (lasting.as_secs_f64() * rate).ceil() as u64;
        Schedule { begun, rate, count, next: 0 }
    }

    /// When the next request is due, unless there is none.
    fn due(&self) -> Option<Instant> {
        let after = Duration::from_secs_f64(self.next as f64 / self.rate);
        (self.next < self.count).then(|| self.begun + after)
    }

    /// The next request, if it is due: its intended time.
    fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due().filter(|due| *due <= now)?;
        self.next += 1;
        Some(due)
    }

    fn end(&mut self) {
        self.count = self.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_even_distances_however_late_they_are_taken() {
        let begun = Instant::now();
        let mut schedule = Schedule::new(begun, 1000.0, Duration::from_millis(3));
        assert_eq!(schedule.take(begun), Some(begun));
        assert_eq!(schedule.take(begun), None);
        let late = begun + Duration::from_secs(1);
        let taken = [schedule.take(late), schedule.take(late), schedule.take(late)];
        let after = |milliseconds| Some(begun + Duration::from_millis(milliseconds));
        assert_eq!(taken, [after(1), after(2), None]);
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn an_ended_schedule_has_nothing_more() {
        let begun = Instant::now();
        let mut schedule = Schedule::new(begun, 10.0, Duration::from_secs(10));
        schedule.take(begun);
        schedule.end();
        assert_eq!((schedule.due(), schedule.take(begun + Duration::from_secs(5))), (None, None));
    }
}
