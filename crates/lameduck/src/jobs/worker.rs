//! The one task of a worker: it takes one event after the other, and everything it holds is in one table.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    BACK_OFF, BACK_OFF_MOST, CANCEL_AHEAD, GIVE_BACK, JobCounts, JobEnd, Jobs, Queue, UNWIND,
    Worker,
};
use crate::error::Error;
use crate::lifecycle::Drain;
use crate::log::Log;
use crate::panics::CatchPanic;
use crate::phase::Asked;
use crate::readiness::Readiness;
use crate::work::{Registry, WorkKind};

/// Events that may wait for the worker; whoever has one more waits until there is a place.
const EVENTS: usize = 64;

/// What the worker holds, shared with the closing function: it gives back what the worker could not.
struct Held<Q: Queue> {
    queue: Q,
    name: String,
    jobs: Mutex<BTreeMap<u64, Q::Job>>,
    counts: watch::Sender<JobCounts>,
    log: Arc<Log>,
}

/// What happens to a worker.
enum Event<Q: Queue> {
    /// What a claim brought.
    Claimed(Result<Vec<Q::Job>, Q::Error>),
    /// There may be something to claim.
    Arrival,
    /// A job is over.
    Over { id: u64, end: Result<JobEnd, String> },
    /// Something else is asked for.
    Asked(Asked),
    /// Claims are to be kept alive.
    Keep,
    /// The drain has begun, and there is no way back.
    Draining,
    /// The cut is near: jobs are asked to end.
    Cancel,
    /// It is nearer: jobs are dropped.
    GiveUp,
}

/// Where claiming is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claiming {
    /// Nothing is on its way.
    No,
    /// A claim is.
    OnItsWay,
    /// Nothing was there, or the queue failed: an arrival is awaited.
    Waiting,
}

pub(super) fn start<Q: Queue>(jobs: Jobs<'_, Q>) -> Result<Worker, Error> {
    let Jobs { life, name, queue, concurrency, keep_every, uses } = jobs;
    let (counts, figures) = watch::channel(JobCounts::default());
    let (log, held) = (life.log(), Mutex::default());
    let held = Arc::new(Held { queue, name: name.clone(), jobs: held, counts, log });
    let left = Arc::clone(&held);
    life.on_close(&name)
        .uses(uses.iter().map(String::as_str))
        .run(move || async move { left.give_back_all().await })?;
    let (registry, readiness) = (Arc::clone(&life.shared.registry), life.readiness());
    life.task(&name, |drain| async move {
        let (events, received) = mpsc::channel(EVENTS);
        let mut watchers = JoinSet::new();
        watch(&mut watchers, &events, drain, readiness, keep_every);
        let desk = Desk {
            held,
            registry,
            concurrency,
            asked: Asked::LameDuck,
            claiming: Claiming::No,
            back_off: BACK_OFF,
            running: JoinSet::new(),
            handles: BTreeMap::new(),
            cancel: CancellationToken::new(),
            next_id: 0,
            draining: false,
            waiting: None,
            giving_back: None,
            events,
        };
        desk.run(received).await;
    });
    Ok(Worker { counts: figures })
}

/// Starts whatever turns time and the drain into events. All of them end with the worker.
fn watch<Q: Queue>(
    watchers: &mut JoinSet<()>,
    events: &mpsc::Sender<Event<Q>>,
    drain: Drain,
    mut readiness: Readiness,
    keep_every: Duration,
) {
    let (to, steps) = (events.clone(), drain.clone());
    watchers.spawn(async move {
        // Not before the service is ready: a start that fails has claimed nothing.
        readiness.ready().await;
        let mut asked = Asked::LameDuck;
        loop {
            let before = asked;
            asked = steps.asked_for(|asked| asked != before).await;
            if to.send(Event::Asked(asked)).await.is_err() || asked == Asked::Finish {
                return;
            }
        }
    });
    let (to, begins) = (events.clone(), drain.clone());
    watchers.spawn(async move {
        begins.started().await;
        let _ = to.send(Event::Draining).await;
    });
    let to = events.clone();
    watchers.spawn(async move {
        drain.nearly_cut(CANCEL_AHEAD).await;
        let _ = to.send(Event::Cancel).await;
        let left = drain.cut_at().map(|at| at.saturating_duration_since(std::time::Instant::now()));
        drain.nearly_cut(GIVE_BACK.min(left.unwrap_or_default() / 2)).await;
        let _ = to.send(Event::GiveUp).await;
    });
    let to = events.clone();
    watchers.spawn(async move {
        loop {
            sleep(keep_every).await;
            if to.send(Event::Keep).await.is_err() {
                return;
            }
        }
    });
}

/// The worker's own state: nobody else writes it.
struct Desk<Q: Queue> {
    held: Arc<Held<Q>>,
    registry: Arc<Registry>,
    concurrency: usize,
    asked: Asked,
    claiming: Claiming,
    back_off: Duration,
    running: JoinSet<()>,
    handles: BTreeMap<u64, AbortHandle>,
    cancel: CancellationToken,
    next_id: u64,
    draining: bool,
    waiting: Option<AbortHandle>,
    /// Gives back once more what could not be given back.
    giving_back: Option<AbortHandle>,
    events: mpsc::Sender<Event<Q>>,
}

impl<Q: Queue> Desk<Q> {
    async fn run(mut self, mut received: mpsc::Receiver<Event<Q>>) {
        while !self.is_done() {
            self.claim();
            match received.recv().await {
                Some(event) => self.take(event).await,
                // This holds a sender itself.
                None => return,
            }
        }
        if !self.held.is_empty() {
            self.held.give_back_all_said().await;
        }
    }

    /// Nothing is in hand and nothing will be.
    fn is_done(&self) -> bool {
        self.draining && self.claiming != Claiming::OnItsWay && self.handles.is_empty()
    }

    /// Asks for as many jobs as there are hands free.
    fn claim(&mut self) {
        let free = self.concurrency.saturating_sub(self.handles.len());
        if self.asked != Asked::Serve || self.draining || self.claiming != Claiming::No || free == 0
        {
            return;
        }
        self.claiming = Claiming::OnItsWay;
        let held = Arc::clone(&self.held);
        let answer = async move { Event::Claimed(held.queue.claim(free).await) };
        self.report(answer);
    }

    /// Runs something beside the worker and takes its event. Not aborted with it: a claim is never dropped.
    fn report(&self, event: impl Future<Output = Event<Q>> + Send + 'static) -> AbortHandle {
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            let _ = events.send(event.await).await;
        });
        task.abort_handle()
    }

    async fn take(&mut self, event: Event<Q>) {
        match event {
            Event::Claimed(Ok(jobs)) => self.claimed(jobs).await,
            Event::Claimed(Err(error)) => {
                self.held.refused("claim", &error);
                self.wait(Some(self.back_off));
                self.back_off = (self.back_off * 2).min(BACK_OFF_MOST);
            }
            Event::Arrival => {
                self.waiting = None;
                self.claiming = Claiming::No;
            }
            Event::Over { id, end } => self.over(id, end).await,
            Event::Asked(asked) => self.asked = asked,
            Event::Keep => self.keep(),
            Event::Draining => self.draining = true,
            Event::Cancel => self.cancel.cancel(),
            Event::GiveUp => self.give_up().await,
        }
    }

    async fn claimed(&mut self, jobs: Vec<Q::Job>) {
        self.claiming = Claiming::No;
        self.back_off = BACK_OFF;
        self.held.count(|counts| counts.claimed += jobs.len() as u64);
        let too_late = self.asked != Asked::Serve || self.draining;
        if jobs.is_empty() && !too_late {
            return self.wait(None);
        }
        for job in jobs {
            let id = self.next_id;
            self.next_id += 1;
            self.held.jobs().insert(id, job.clone());
            if !too_late {
                self.begin(id, job);
            }
        }
        if too_late {
            self.held.give_back_idle(&self.handles).await;
        }
    }

    /// Waits for an arrival, or for the queue to have recovered.
    fn wait(&mut self, back_off: Option<Duration>) {
        self.claiming = Claiming::Waiting;
        let held = Arc::clone(&self.held);
        let arrival = async move {
            match back_off {
                Some(pause) => sleep(pause).await,
                None => held.queue.arrival().await,
            }
            Event::Arrival
        };
        self.waiting = Some(self.report(arrival));
    }

    fn begin(&mut self, id: u64, job: Q::Job) {
        let guard = self.registry.begin(WorkKind::Task, &format!("{} {job}", self.held.name));
        let (held, registry) = (Arc::clone(&self.held), Arc::clone(&self.registry));
        let (events, cancel) = (self.events.clone(), self.cancel.child_token());
        let handle = self.running.spawn(async move {
            let _guard = guard;
            let label = format!("{} {job}", held.name);
            let end = match CatchPanic::new(held.queue.work(job, cancel)).await {
                Ok(end) => end.map_err(|error| error.to_string()),
                Err(panic) => {
                    registry.panicked(format!("{label}: {panic}"));
                    Err(format!("panicked: {panic}"))
                }
            };
            let _ = events.send(Event::Over { id, end }).await;
        });
        self.handles.insert(id, handle);
    }

    async fn over(&mut self, id: u64, end: Result<JobEnd, String>) {
        self.handles.remove(&id);
        while self.running.try_join_next().is_some() {}
        match end {
            Ok(JobEnd::Ended) => {
                self.held.jobs().remove(&id);
                self.held.count(|counts| counts.ended += 1);
            }
            Ok(JobEnd::Unfinished) => {
                // Whoever was asked to end is given back with the others, once the last has ended.
                if !self.cancel.is_cancelled() || self.handles.is_empty() {
                    self.held.give_back_idle(&self.handles).await;
                }
            }
            Err(why) => self.held.charge(id, why).await,
        }
    }

    /// Keeps alive what is worked on. What is held and not worked on could not be given back, and is tried once more: kept
    /// alive it would be nobody's for ever.
    fn keep(&mut self) {
        let held = Arc::clone(&self.held);
        let (working, idle): (Vec<_>, Vec<_>) = {
            let jobs = held.jobs();
            let all = jobs.iter().map(|(id, job)| (*id, job.clone()));
            all.partition(|(id, _)| self.handles.contains_key(id))
        };
        let tries = self.giving_back.as_ref().is_some_and(|trying| !trying.is_finished());
        if !idle.is_empty() && !tries {
            let (held, idle) =
                (Arc::clone(&held), BTreeSet::from_iter(idle.into_iter().map(|(id, _)| id)));
            // Beside the worker: a queue that hangs must not keep it from what else happens.
            let again =
                tokio::spawn(async move { held.give_back_said(move |id| idle.contains(id)).await });
            self.giving_back = Some(again.abort_handle());
        }
        if working.is_empty() {
            return;
        }
        let working = working.into_iter().map(|(_, job)| job).collect();
        drop(tokio::spawn(async move {
            if let Err(error) = held.queue.keep(working).await {
                held.refused("keep claims", &error);
            }
        }));
    }

    /// Drops what has not ended. What does not let itself be dropped has lost its claim all the same.
    async fn give_up(&mut self) {
        self.cancel.cancel();
        self.running.abort_all();
        let gone = async { while self.running.join_next().await.is_some() {} };
        let _ = timeout(UNWIND, gone).await;
        self.handles.clear();
        self.held.give_back_all_said().await;
    }
}

impl<Q: Queue> Drop for Desk<Q> {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.abort();
        }
    }
}

impl<Q: Queue> Held<Q> {
    fn jobs(&self) -> MutexGuard<'_, BTreeMap<u64, Q::Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.jobs().is_empty()
    }

    fn count(&self, change: impl FnOnce(&mut JobCounts)) {
        self.counts.send_modify(change);
    }

    fn refused(&self, what: &str, error: &impl std::fmt::Display) {
        self.count(|counts| counts.refused += 1);
        self.log.line("jobs", &format!("{}: cannot {what}: {error}", self.name));
    }

    /// Gives back everything that is held and not worked on.
    async fn give_back_idle(&self, running: &BTreeMap<u64, AbortHandle>) {
        self.give_back_said(|id| !running.contains_key(id)).await;
    }

    async fn give_back_all_said(&self) {
        self.give_back_said(|_| true).await;
    }

    async fn give_back_said(&self, is_it: impl Fn(&u64) -> bool) {
        if let Err(error) = self.give_back(is_it).await {
            self.log.line("jobs", &format!("{}: {error}", self.name));
        }
    }

    async fn give_back_all(&self) -> Result<(), String> {
        self.give_back(|_| true).await
    }

    /// What could not be given back stays held: the closing function tries once more.
    async fn give_back(&self, is_it: impl Fn(&u64) -> bool) -> Result<(), String> {
        let (ids, jobs): (Vec<u64>, Vec<Q::Job>) = {
            let held = self.jobs();
            held.iter().filter(|(id, _)| is_it(id)).map(|(id, job)| (*id, job.clone())).unzip()
        };
        if jobs.is_empty() {
            return Ok(());
        }
        let result = self.queue.give_back(jobs).await;
        let count = ids.len();
        match result {
            Ok(()) => {
                self.jobs().retain(|id, _| !ids.contains(id));
                self.count(|counts| counts.given_back += count as u64);
                let plural = if count == 1 { "" } else { "s" };
                self.log.line("jobs", &format!("{}: gave back {count} job{plural}", self.name));
                Ok(())
            }
            Err(error) => {
                self.count(|counts| counts.refused += 1);
                Err(format!("cannot give back {count} jobs: {error}"))
            }
        }
    }

    async fn charge(&self, id: u64, why: String) {
        let job = self.jobs().remove(&id);
        let Some(job) = job else { return };
        self.log.line("jobs", &format!("{} {job} failed: {why}", self.name));
        self.count(|counts| counts.charged += 1);
        if let Err(error) = self.queue.charge(job, why).await {
            self.refused("charge a job", &error);
        }
    }
}
