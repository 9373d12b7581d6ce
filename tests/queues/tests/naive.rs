//! What a worker on the reference service's queue loses when nobody thought of its end (loss 31).

use std::time::Duration;

use arena::jobs::JobQueue;
use arena::store::{DatabaseUrl, Store};
use lameduck::jobs::Queue;
use lameduck_verify::target::{Ready, Signal, Target};

/// How long a start, an answer or an exit may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_naive_worker_leaves_its_claims_and_charges_for_them() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("jobs.db").display());
    let store = Store::open(&url.parse::<DatabaseUrl>().unwrap()).await.unwrap();
    let queue = JobQueue::new(store.clone(), 1);
    for _ in 0..3 {
        queue.post(Duration::from_secs(3_600)).await.unwrap();
    }
    let worker = Target::command(env!("CARGO_BIN_EXE_naive-worker")).arg(url);
    let mut worker = worker.ready(Ready::Stdout("working".to_owned())).start().unwrap();
    let claimed = async {
        while queue.states().await.unwrap().claimed != 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, claimed).await.expect("the worker claims what there is");
    worker.signal(Signal::TERM).unwrap();
    assert_eq!(worker.wait(LIMIT).unwrap().code, Some(0));
    // It is gone, with exit code 0, and nobody can have its jobs.
    let states = queue.states().await.unwrap();
    assert_eq!((states.claimed, states.waiting), (3, 0), "{states:?}");
    assert!(queue.claim(3).await.unwrap().is_empty());
    // Not before the claims have run out, and then each is charged.
    tokio::time::timeout(LIMIT, queue.arrival()).await.expect("the claims run out");
    while queue.states().await.unwrap().attempts < 3 {
        queue.claim(3).await.unwrap();
    }
    store.close().await.unwrap();
}
