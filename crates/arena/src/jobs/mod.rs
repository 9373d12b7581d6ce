//! Background jobs: each has its effect exactly once, whatever happens to its worker.
//!
//! Invariants:
//!
//! 1. A job's effect and its completion are one transaction, on the condition that the claim is still the one that began
//!    it. So the effect is there once, also when a worker is killed or loses its claim in the middle.
//! 2. A claim ends by itself [`CLAIM`] after its last sign of life. Whoever takes the job then charges its dead worker an
//!    attempt, and after [`ATTEMPTS`] of them the job has failed.
//! 3. A graceful stop charges nothing: the claim is given back, and any other worker with a free hand finds it within
//!    [`LOOK_EVERY`]; PostgreSQL tells it at once.
//! 4. A generation works on what it has claimed and claims nothing more once a successor accepts.
//!
//! The worker is the library's ([`lameduck::jobs`]); here is the queue.

pub(crate) mod http;

use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use lameduck::jobs::{JobEnd, KEEP_EVERY, Queue};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::store::{Backend, Store, StoreError};

/// How long a claim lasts without a sign of life from its worker.
pub const CLAIM: Duration = KEEP_EVERY.saturating_mul(5);
/// How often a worker with nothing to do looks for jobs that other processes wrote or gave back. SQLite tells nobody, so
/// there is nothing to wait for; PostgreSQL rings a bell for what is given back, and is looked at for the rest.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After this many attempts a job has failed.
pub const ATTEMPTS: i64 = 5;
/// The longest job.
pub const TAKE_LIMIT: Duration = Duration::from_secs(3_600);

/// A claimed job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub(crate) id: i64,
    /// How long it takes.
    pub(crate) take_ms: i64,
    /// The number of the claim, which tells it from an earlier and a later one of the same job.
    pub(crate) claim: i64,
}

impl Job {
    pub(crate) fn from_row((id, take_ms, claim): (i64, i64, i64)) -> Self {
        Self { id, take_ms, claim }
    }

    /// What it adds to the sum, which so tells which jobs are in it.
    pub(crate) fn amount(&self) -> i64 {
        self.id
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.id)
    }
}

/// How many jobs are in which state, and what they did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JobStates {
    /// Waiting to be claimed.
    pub waiting: i64,
    /// In the hands of a worker, or of one that died less than [`CLAIM`] ago.
    pub claimed: i64,
    /// Done.
    pub done: i64,
    /// Given up after [`ATTEMPTS`].
    pub failed: i64,
    /// Attempts charged, to all jobs together.
    pub attempts: i64,
    /// Effects; as many as jobs that are done.
    pub effects: i64,
    /// The sum of all effects.
    pub sum: i64,
    /// The sum of the jobs that are done: the same, unless an effect is missing or was made twice.
    pub expected: i64,
    /// The longest time from a give-back to the next claim, in milliseconds.
    pub longest_pickup_ms: i64,
}

/// One row of [`JobStates::QUERY`].
pub(crate) type StatesRow = (i64, i64, i64, i64, i64, i64, i64, i64, i64);

impl JobStates {
    /// Both databases understand it. One statement, so that the figures are of one moment.
    pub(crate) const QUERY: &str = "SELECT \
        count(*) FILTER (WHERE state = 'waiting'), count(*) FILTER (WHERE state = 'claimed'), \
        count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'failed'), \
        CAST(coalesce(sum(attempts), 0) AS BIGINT), \
        (SELECT count(*) FROM job_effects), \
        (SELECT CAST(coalesce(sum(amount), 0) AS BIGINT) FROM job_effects), \
        CAST(coalesce(sum(id) FILTER (WHERE state = 'done'), 0) AS BIGINT), \
        coalesce(max(pickup_ms), 0) FROM jobs";

    pub(crate) fn from_row(row: StatesRow) -> Self {
        let (waiting, claimed, done, failed, attempts, effects, sum, expected, pickup) = row;
        let longest_pickup_ms = pickup;
        Self { waiting, claimed, done, failed, attempts, effects, sum, expected, longest_pickup_ms }
    }
}

/// The queue in the database, as one process sees it. Clones are the same.
#[derive(Debug, Clone)]
pub struct JobQueue {
    store: Store,
    /// Rung by this process's own posts, and by the database if it can.
    posted: Arc<Notify>,
    /// Whether the database was asked to; only a worker that waits asks.
    listens: Arc<Once>,
    /// The name in claims and effects.
    worker: Arc<str>,
}

/// Calls the same function of whichever database there is.
macro_rules! of_backend {
    ($self:ident, $call:ident ( $($argument:expr),* )) => {
        match $self.store.backend() {
            Backend::Sqlite(sqlite) => sqlite.$call($($argument),*).await,
            Backend::Postgres(postgres) => postgres.$call($($argument),*).await,
        }
    };
}

impl JobQueue {
    /// The queue in `store`, for the worker of this generation.
    #[must_use]
    pub fn new(store: Store, generation: u32) -> Self {
        let worker = format!("generation {generation}, pid {}", std::process::id()).into();
        Self { store, posted: Arc::default(), listens: Arc::new(Once::new()), worker }
    }

    /// Stores a job and returns its number; it is committed then.
    ///
    /// # Errors
    ///
    /// When the database does not take it.
    pub async fn post(&self, take: Duration) -> Result<i64, StoreError> {
        let take_ms = i64::try_from(take.as_millis()).unwrap_or(i64::MAX);
        let id = of_backend!(self, post_job(take_ms))?;
        self.posted.notify_one();
        Ok(id)
    }

    /// How many jobs are in which state, over all runs.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn states(&self) -> Result<JobStates, StoreError> {
        of_backend!(self, job_states())
    }

    async fn complete(&self, job: &Job) -> Result<bool, StoreError> {
        of_backend!(self, complete_job(job, &self.worker))
    }
}

impl Queue for JobQueue {
    type Job = Job;
    type Error = StoreError;

    async fn claim(&self, most: usize) -> Result<Vec<Job>, StoreError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        of_backend!(self, claim_jobs(most, &self.worker))
    }

    async fn arrival(&self) {
        if let Backend::Postgres(postgres) = self.store.backend() {
            self.listens.call_once(|| postgres.ring_for_jobs(Arc::downgrade(&self.posted)));
        }
        loop {
            if timeout(LOOK_EVERY, self.posted.notified()).await.is_ok() {
                return;
            }
            // A look is a read, which waits for no lock; the claim is a write. An error is the claim's to report.
            if of_backend!(self, has_jobs()).unwrap_or(true) {
                return;
            }
        }
    }

    async fn work(&self, job: Job, cancel: CancellationToken) -> Result<JobEnd, StoreError> {
        let take = Duration::from_millis(u64::try_from(job.take_ms).unwrap_or(0));
        if cancel.run_until_cancelled(sleep(take)).await.is_none() {
            return Ok(JobEnd::Unfinished);
        }
        match self.complete(&job).await? {
            true => Ok(JobEnd::Ended),
            false => Err(self.store.failed(format_args!("the claim of job {job} ran out"))),
        }
    }

    async fn keep(&self, claimed: Vec<Job>) -> Result<(), StoreError> {
        of_backend!(self, keep_jobs(&claimed))
    }

    async fn give_back(&self, claimed: Vec<Job>) -> Result<(), StoreError> {
        of_backend!(self, give_jobs_back(&claimed))
    }

    async fn charge(&self, job: Job, _why: String) -> Result<(), StoreError> {
        of_backend!(self, charge_job(&job))
    }
}
