//! `graphile_worker`: what a worker that is cut by its program leaves locked, and that nothing is left with us.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use graphile_worker::{IntoTaskHandlerResult, JobSpec, TaskHandler, WorkerContext, WorkerOptions};
use lameduck::{Lifecycle, exit};
use private_postgres::Cluster;
use serde::{Deserialize, Serialize};

const LIMIT: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_millis(800);
const JOBS: usize = 4;

/// How many have begun, in this process.
static BEGUN: AtomicUsize = AtomicUsize::new(0);
static ONE_AT_A_TIME: OnceLock<tokio::sync::Mutex<()>> = OnceLock::new();

#[derive(Deserialize, Serialize)]
struct Long {}

impl TaskHandler for Long {
    const IDENTIFIER: &'static str = "long";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        BEGUN.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        Ok::<(), String>(())
    }
}

fn options(url: &str) -> WorkerOptions {
    WorkerOptions::default()
        .database_url(url)
        .schema("graphile_worker")
        .concurrency(2)
        .define_job::<Long>()
}

async fn add_jobs(url: &str) {
    let worker = options(url).init().await.unwrap();
    for _ in 0..JOBS {
        worker.create_utils().add_job(Long {}, JobSpec::default()).await.unwrap();
    }
}

async fn two_have_begun() {
    let begun = async {
        while BEGUN.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, begun).await.expect("two jobs begin");
}

/// Jobs, locked ones, attempts, and those that can be had now.
fn left(cluster: &Cluster) -> String {
    // An attempt is counted when a job is claimed: what is free again must have none.
    cluster.query(
        "arena",
        "SELECT count(*), count(locked_at), coalesce(sum(attempts), 0), \
         count(*) FILTER (WHERE locked_at IS NULL AND run_at <= now()) \
         FROM graphile_worker._private_jobs",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graphile_worker_that_its_program_leaves_keeps_its_jobs_locked() {
    let _turn = ONE_AT_A_TIME.get_or_init(Default::default).lock().await;
    BEGUN.store(0, Ordering::SeqCst);
    let cluster = Cluster::start();
    let url = cluster.create_database("arena");
    add_jobs(&url).await;
    let worker = options(&url).init().await.unwrap();
    // A task of a program that does not wait for it.
    let task = tokio::spawn(async move { worker.run().await });
    two_have_begun().await;
    task.abort();
    let _ = task.await;
    let left = left(&cluster);
    assert!(left.starts_with("4|2|"), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graphile_worker_gives_back_uncharged_and_at_once() {
    let _turn = ONE_AT_A_TIME.get_or_init(Default::default).lock().await;
    BEGUN.store(0, Ordering::SeqCst);
    let cluster = Cluster::start();
    let url = cluster.create_database("arena");
    add_jobs(&url).await;
    let life = Lifecycle::builder().without_signals().grace_period(GRACE).start().unwrap();
    let database = url.clone();
    queues::graphile::work(&life, &url, move || options(&database)).unwrap();
    life.ready();
    two_have_begun().await;
    life.stop();
    let ended = life.run().await;
    assert_eq!(ended.code(), exit::OK, "{:?}", ended.report());
    assert_eq!(left(&cluster), "4|0|0|4");
}
