//! A worker as it is written without a thought for its end: it claims what there is, spawns it, and leaves when told.
//!
//! It works on the reference service's own queue, so that what it leaves behind can be compared.

use std::env::args;
use std::time::Duration;

use arena::jobs::JobQueue;
use arena::store::{DatabaseUrl, Store};
use lameduck::jobs::Queue;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long it waits when nothing was there.
const PAUSE: Duration = Duration::from_millis(50);
/// How many jobs it takes at a time.
const TAKEN: usize = 4;

#[tokio::main]
async fn main() {
    let url: DatabaseUrl = args().nth(1).expect("the URL of a database").parse().expect("a URL");
    let store = Store::open(&url).await.expect("the database opens");
    let queue = JobQueue::new(store.clone(), 1);
    let mut terminate = signal(SignalKind::terminate()).expect("a handler for TERM");
    println!("working");
    loop {
        let claimed = tokio::select! {
            claimed = queue.claim(TAKEN) => claimed.expect("the database answers"),
            _ = terminate.recv() => break,
        };
        for job in claimed {
            let queue = queue.clone();
            drop(tokio::spawn(async move { queue.work(job, CancellationToken::new()).await }));
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = terminate.recv() => break,
        }
    }
    let _ = store.close().await;
}
