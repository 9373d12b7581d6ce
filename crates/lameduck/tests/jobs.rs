//! A worker on a queue that does not do what it is asked.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lameduck::jobs::{JobEnd, Queue};
use lameduck::phase::Outcome;
use lameduck::{Lifecycle, exit};
use tokio_util::sync::CancellationToken;

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
const OFTEN: Duration = Duration::from_millis(5);

/// One job, which is not done the first time, and cannot be given back the first time.
#[derive(Default)]
struct Unwilling {
    waiting: Mutex<VecDeque<u32>>,
    arrived: tokio::sync::Notify,
    begun_before: AtomicBool,
    refused_before: AtomicBool,
}

impl Queue for Unwilling {
    type Job = u32;
    type Error = &'static str;

    async fn claim(&self, most: usize) -> Result<Vec<u32>, &'static str> {
        let mut waiting = self.waiting.lock().unwrap();
        let most = most.min(waiting.len());
        Ok(waiting.drain(..most).collect())
    }

    async fn arrival(&self) {
        self.arrived.notified().await;
    }

    async fn work(&self, _: u32, _: CancellationToken) -> Result<JobEnd, &'static str> {
        let again = self.begun_before.swap(true, Ordering::SeqCst);
        Ok(if again { JobEnd::Ended } else { JobEnd::Unfinished })
    }

    async fn give_back(&self, claimed: Vec<u32>) -> Result<(), &'static str> {
        if !self.refused_before.swap(true, Ordering::SeqCst) {
            return Err("the connection was lost");
        }
        self.waiting.lock().unwrap().extend(claimed);
        self.arrived.notify_one();
        Ok(())
    }

    async fn charge(&self, _: u32, why: String) -> Result<(), &'static str> {
        panic!("charged: {why}");
    }
}

#[tokio::test]
async fn a_claim_that_could_not_be_given_back_is_given_back_later_and_not_kept_for_ever() {
    let life = Lifecycle::builder().without_signals().start().unwrap();
    let queue = Arc::new(Unwilling::default());
    queue.waiting.lock().unwrap().push_back(1);
    let mut worker = life.jobs("mail", Arc::clone(&queue)).keep_every(OFTEN).start().unwrap();
    life.ready();
    let counts = tokio::time::timeout(LIMIT, worker.reached(|counts| counts.ended == 1)).await;
    let counts = counts.expect("the job comes back and is done");
    assert_eq!((counts.claimed, counts.given_back, counts.refused), (2, 1, 1), "{counts:?}");
    life.stop();
    assert_eq!(life.run().await.code(), exit::OK);
}

/// One job that does not care for being asked to end, and one that panics when it is.
#[derive(Default)]
struct Stubborn {
    begun: AtomicUsize,
    given_back: Mutex<Vec<u32>>,
    charged: Mutex<Vec<(u32, String)>>,
}

impl Queue for Stubborn {
    type Job = u32;
    type Error = &'static str;

    async fn claim(&self, _: usize) -> Result<Vec<u32>, &'static str> {
        Ok(if self.begun.load(Ordering::SeqCst) == 0 { vec![1, 2] } else { Vec::new() })
    }

    async fn arrival(&self) {
        pending().await
    }

    async fn work(&self, job: u32, cancel: CancellationToken) -> Result<JobEnd, &'static str> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        if job == 1 {
            pending().await
        }
        cancel.cancelled().await;
        panic!("not now")
    }

    async fn give_back(&self, claimed: Vec<u32>) -> Result<(), &'static str> {
        self.given_back.lock().unwrap().extend(claimed);
        Ok(())
    }

    async fn charge(&self, job: u32, why: String) -> Result<(), &'static str> {
        self.charged.lock().unwrap().push((job, why));
        Ok(())
    }
}

/// Only the one that failed pays.
#[tokio::test]
async fn a_job_that_ignores_its_token_is_given_back_beside_one_that_panics_in_the_drain() {
    let grace = Duration::from_secs(2);
    let life = Lifecycle::builder().without_signals().grace_period(grace).start().unwrap();
    let queue = Arc::new(Stubborn::default());
    let worker = life.jobs("mail", Arc::clone(&queue)).start().unwrap();
    life.ready();
    let begun = async {
        while queue.begun.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, begun).await.expect("both begin");
    life.stop();
    let exit = life.run().await;
    let report = exit.report();
    assert_eq!((report.outcome, report.cut.tasks), (Outcome::Finished, 0), "{report}");
    assert!(report.panics.iter().any(|panic| panic.contains("not now")), "{report}");
    assert_eq!(*queue.given_back.lock().unwrap(), [1]);
    assert_eq!(*queue.charged.lock().unwrap(), [(2, "panicked: not now".to_owned())]);
    assert_eq!(worker.counts().given_back, 1);
}
