//! Background jobs: a worker on any queue that loses no job at a stop, charges none for it, and leaves new ones to the
//! successor at an upgrade.
//!
//! The contract, in the order in which it happens:
//!
//! 1. **Stop claiming**, as soon as a stop begins or a successor accepts. A claim that was on its way then is given back.
//! 2. **Finish** what is in hand. [`CANCEL_AHEAD`] before work is cut, jobs are asked to end by their token; at an upgrade
//!    without a deadline they last as long as they last.
//! 3. **Give back** what has not ended, [`GIVE_BACK`] before the cut at the latest: one transaction, no attempt charged,
//!    so that another worker can claim it at once.
//! 4. Then what the worker [uses](Jobs::uses) closes: the pool is the last to go.
//!
//! What no worker can do for itself is left to the claims: they are kept alive every [`KEEP_EVERY`], so a queue can tell
//! the claims of a worker that was killed from those of one that works.
//!
//! `examples/jobs.rs` is a whole program: a directory whose files are the jobs.
//!
//! ```
//! # use std::collections::VecDeque;
//! # use std::sync::Mutex;
//! # use std::time::Duration;
//! use lameduck::jobs::{CancellationToken, JobEnd, Queue};
//!
//! /// A queue in memory; give the same five functions to yours.
//! #[derive(Default)]
//! struct Mail(Mutex<VecDeque<u32>>, tokio::sync::Notify);
//!
//! impl Queue for Mail {
//!     type Job = u32;
//!     type Error = String;
//!
//!     async fn claim(&self, most: usize) -> Result<Vec<u32>, String> {
//!         let mut waiting = self.0.lock().unwrap();
//!         let most = most.min(waiting.len());
//!         Ok(waiting.drain(..most).collect())
//!     }
//!     async fn arrival(&self) {
//!         self.1.notified().await;
//!     }
//!     async fn work(&self, job: u32, cancel: CancellationToken) -> Result<JobEnd, String> {
//!         // Only the wait is given up for the token; what is sent is sent whole.
//!         let asked_to_end = cancel.run_until_cancelled(tokio::time::sleep(Duration::from_secs(job.into()))).await;
//!         Ok(if asked_to_end.is_none() { JobEnd::Unfinished } else { JobEnd::Ended })
//!     }
//!     async fn give_back(&self, claimed: Vec<u32>) -> Result<(), String> {
//!         self.0.lock().unwrap().extend(claimed);
//!         Ok(())
//!     }
//!     async fn charge(&self, job: u32, why: String) -> Result<(), String> {
//!         Err(format!("mail {job}: {why}"))
//!     }
//! }
//!
//! # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
//! # let grace = Duration::from_millis(200);
//! # let life = lameduck::Lifecycle::builder().without_signals().grace_period(grace).start()?;
//! life.on_close("database").run(|| async {})?;
//! let mail = Mail::default();
//! mail.0.lock().unwrap().extend([0, 3600]);
//! let worker = life.jobs("mail", mail).concurrency(2).uses(["database"]).start()?;
//! # life.ready();
//! # let mut claimed = worker.clone();
//! # claimed.reached(|counts| counts.ended == 1 && counts.claimed == 2).await;
//! life.stop();
//! # assert_eq!(life.run().await.code(), lameduck::exit::OK);
//! let counts = worker.counts();
//! assert_eq!((counts.ended, counts.given_back, counts.charged), (1, 1, 0));
//! # Ok(()) }
//! ```

mod worker;

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
pub use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::lifecycle::Lifecycle;

/// How many jobs a worker has in hand at once, unless [`Jobs::concurrency`] says otherwise.
pub const CONCURRENCY: usize = 4;
/// How often claims are kept alive; a queue should take them for lost after five times that, not sooner.
pub const KEEP_EVERY: Duration = Duration::from_secs(1);
/// How long before work is cut jobs are asked to end; half of the grace period where that is shorter than twice this.
pub const CANCEL_AHEAD: Duration = Duration::from_secs(1);
/// How long before the cut what has not ended is dropped and given back; half of what is left when jobs were asked to
/// end, where that is shorter.
pub const GIVE_BACK: Duration = Duration::from_millis(500);
/// How long dropped jobs may take to be gone before their claims are given back without that.
pub const UNWIND: Duration = Duration::from_millis(50);
/// The first pause after a claim that failed.
pub const BACK_OFF: Duration = Duration::from_millis(100);
/// The longest such pause.
pub const BACK_OFF_MOST: Duration = Duration::from_secs(5);

/// How a job ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEnd {
    /// It is done, and the queue knows: its completion was committed with its effect.
    Ended,
    /// It was asked to end before it was done, and has left no effect: it is given back.
    Unfinished,
}

/// A queue of jobs, as a [worker](Lifecycle::jobs) wants it.
///
/// That a job has its effect once is the queue's promise: commit effect and completion in one transaction, on the
/// condition that the claim still is this worker's. The worker promises the rest.
pub trait Queue: Send + Sync + 'static {
    /// One claimed job. Its text names it in reports.
    type Job: Clone + Display + Send + Sync + 'static;
    /// Why the queue did not do what it was asked.
    type Error: Display + Send + 'static;

    /// Claims up to `most` jobs for this worker; none, at once, if there are none. Charges no attempt.
    ///
    /// It is never dropped before it returns, since an answer that is lost is a claim that nobody knows of: give it a
    /// bound of its own.
    fn claim(
        &self,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Self::Job>, Self::Error>> + Send;

    /// Waits until there may be something to claim. It is dropped at any time, and may return too early.
    fn arrival(&self) -> impl Future<Output = ()> + Send;

    /// Does one job. The token says when it should end early; until [`GIVE_BACK`] it is not dropped.
    ///
    /// # Errors
    ///
    /// When the job failed: then it is [charged](Queue::charge).
    fn work(
        &self,
        job: Self::Job,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<JobEnd, Self::Error>> + Send;

    /// Keeps claims alive, for queues whose claims run out.
    fn keep(
        &self,
        claimed: Vec<Self::Job>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = claimed;
        async { Ok(()) }
    }

    /// Gives claims back in one transaction, with no attempt charged; any worker can claim them at once.
    ///
    /// One of them may be complete already, if the job was dropped in the middle of its commit: leave that as it is.
    fn give_back(
        &self,
        claimed: Vec<Self::Job>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// A job failed, or panicked, and says why: charges an attempt, and gives the claim back or puts the job away.
    fn charge(
        &self,
        job: Self::Job,
        why: String,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// A queue that somebody else uses too: who posts to it, perhaps.
impl<Q: Queue> Queue for Arc<Q> {
    type Job = Q::Job;
    type Error = Q::Error;

    fn claim(&self, most: usize) -> impl Future<Output = Result<Vec<Q::Job>, Q::Error>> + Send {
        (**self).claim(most)
    }

    fn arrival(&self) -> impl Future<Output = ()> + Send {
        (**self).arrival()
    }

    fn work(
        &self,
        job: Q::Job,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<JobEnd, Q::Error>> + Send {
        (**self).work(job, cancel)
    }

    fn keep(&self, claimed: Vec<Q::Job>) -> impl Future<Output = Result<(), Q::Error>> + Send {
        (**self).keep(claimed)
    }

    fn give_back(&self, claimed: Vec<Q::Job>) -> impl Future<Output = Result<(), Q::Error>> + Send {
        (**self).give_back(claimed)
    }

    fn charge(
        &self,
        job: Q::Job,
        why: String,
    ) -> impl Future<Output = Result<(), Q::Error>> + Send {
        (**self).charge(job, why)
    }
}

impl Lifecycle {
    /// Works on a queue's jobs until the service stops or a successor takes them; see the [module](self).
    ///
    /// Nothing happens before [`Jobs::start`], and nothing is claimed before the service is ready.
    pub fn jobs<Q: Queue>(&self, name: &str, queue: Q) -> Jobs<'_, Q> {
        Jobs {
            life: self,
            name: name.to_owned(),
            queue,
            concurrency: CONCURRENCY,
            keep_every: KEEP_EVERY,
            uses: Vec::new(),
        }
    }
}

/// A worker in the making; [`Lifecycle::jobs`] begins it.
#[must_use = "nothing is claimed before `start`"]
pub struct Jobs<'a, Q> {
    life: &'a Lifecycle,
    name: String,
    queue: Q,
    concurrency: usize,
    keep_every: Duration,
    uses: Vec<String>,
}

impl<Q: Queue> Jobs<'_, Q> {
    /// How many jobs it has in hand at once, and how many it claims: it never holds a job that it does not work on.
    /// Default [`CONCURRENCY`]; zero claims none.
    pub fn concurrency(mut self, most: usize) -> Self {
        self.concurrency = most;
        self
    }

    /// How often claims are kept alive. Default [`KEEP_EVERY`].
    pub fn keep_every(mut self, time: Duration) -> Self {
        self.keep_every = time;
        self
    }

    /// Resources it uses: they close after it has given back what it had.
    pub fn uses<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.uses.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// When a resource of that name is registered, or one that it uses is not.
    pub fn start(self) -> Result<Worker, Error> {
        worker::start(self)
    }
}

/// What a worker has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Claimed.
    pub claimed: u64,
    /// Done.
    pub ended: u64,
    /// Given back uncharged.
    pub given_back: u64,
    /// Failed, and charged for it.
    pub charged: u64,
    /// Claims, or ways to give one back, that the queue failed.
    pub refused: u64,
}

/// A running worker's figures. Dropping it lets the worker go on.
#[derive(Debug, Clone)]
pub struct Worker {
    counts: watch::Receiver<JobCounts>,
}

impl Worker {
    /// What it has done so far.
    pub fn counts(&self) -> JobCounts {
        *self.counts.borrow()
    }

    /// Waits until the figures are as `is_it` wants them, or the worker is gone; returns them. Cancel safe.
    pub async fn reached(&mut self, mut is_it: impl FnMut(&JobCounts) -> bool) -> JobCounts {
        // An error means that they will not change any more.
        let _ = self.counts.wait_for(|counts| is_it(counts)).await;
        self.counts()
    }
}
