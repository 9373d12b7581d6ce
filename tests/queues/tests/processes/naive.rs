//! The same workers without us: what each leaves behind or charges when it is told to stop.

use lameduck_verify::target::{Ready, Signal};
use queues::Claims;

use crate::LIMIT;
use crate::queue::{Kind, Queue};

/// Longer than any stop.
const LONG_MS: u64 = 3_600_000;
const JOBS: i64 = 4;

async fn leaves_its_jobs(kind: Kind) {
    let queue = Queue::start(kind, Claims::Kept).await;
    for id in 1..=JOBS {
        queue.post(id, LONG_MS).await;
    }
    let command = queue.worker("naive").ready(Ready::Stdout("Working".to_owned()));
    let mut worker = command.ready_limit(LIMIT).start().unwrap();
    assert!(queue.effects().has_in_hand(worker.pid(), JOBS).await, "{}", worker.stderr());
    worker.signal(Signal::TERM).unwrap();
    // It says that all is well.
    assert_eq!(worker.wait(LIMIT).unwrap().code, Some(0), "{}", worker.stderr());
    let left = queue.left().await;
    eprintln!("{kind:?}: {left:?}");
    assert!(left.claimed > 0, "nobody can have what its dead worker claimed: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_naive_apalis_process_on_sqlite_leaves_its_jobs_claimed() {
    leaves_its_jobs(Kind::ApalisSqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_naive_apalis_process_on_postgresql_leaves_its_jobs_claimed() {
    leaves_its_jobs(Kind::ApalisPostgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_naive_graphile_process_leaves_its_jobs_locked() {
    leaves_its_jobs(Kind::Graphile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_naive_jetstream_process_leaves_messages_that_nobody_gets() {
    leaves_its_jobs(Kind::Nats).await;
}
