//! `apalis` 1.0: what its worker charges or leaves behind at a stop, and that nothing of it is left with us.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apalis::prelude::*;
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use lameduck::{Lifecycle, exit};
use private_postgres::Cluster;
use queues::apalis::{Storage, stops, work};
use sqlx::{PgPool, SqlitePool};

const LIMIT: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_millis(800);
const JOBS: u64 = 12;
const CONCURRENCY: usize = 2;

/// Handlers that never end by themselves, and count how many have begun.
#[derive(Clone, Default)]
struct Begun(Arc<AtomicUsize>);

async fn long(_: u64, begun: Data<Begun>) -> Result<(), BoxDynError> {
    begun.0.0.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    Ok(())
}

impl Begun {
    async fn all(&self) {
        let begun = async {
            while self.0.load(Ordering::SeqCst) < CONCURRENCY {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, begun).await.expect("as many jobs begin as may");
    }
}

/// A database with jobs in it.
enum Database {
    Sqlite(SqlitePool, tempfile::TempDir),
    Postgres(PgPool, Box<Cluster>),
}

impl Database {
    async fn sqlite() -> Database {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}?mode=rwc", directory.path().join("jobs.db").display());
        let pool = SqlitePool::connect(&url).await.unwrap();
        SqliteStorage::setup(&pool).await.unwrap();
        let mut storage = SqliteStorage::<u64>::new(&pool);
        for job in 0..JOBS {
            storage.push(job).await.unwrap();
        }
        Database::Sqlite(pool, directory)
    }

    async fn postgres() -> Database {
        let cluster = Box::new(Cluster::start());
        let pool = PgPool::connect(&cluster.create_database("jobs")).await.unwrap();
        PostgresStorage::setup(&pool).await.unwrap();
        let mut storage = PostgresStorage::<u64>::new(&pool);
        for job in 0..JOBS {
            storage.push(job).await.unwrap();
        }
        Database::Postgres(pool, cluster)
    }

    /// Jobs that wait for anybody, jobs that bear a worker's name, and attempts charged.
    async fn left(&self) -> (i64, i64, i64) {
        const COUNT: &str = "SELECT count(*) FILTER (WHERE status = 'Pending' AND lock_by IS NULL), \
                             count(lock_by), CAST(coalesce(sum(attempts), 0) AS BIGINT) FROM ";
        match self {
            Database::Sqlite(_, directory) => {
                let url = format!("sqlite:{}", directory.path().join("jobs.db").display());
                let pool = SqlitePool::connect(&url).await.unwrap();
                let count = sqlx::AssertSqlSafe(format!("{COUNT} Jobs"));
                sqlx::query_as(count).fetch_one(&pool).await.unwrap()
            }
            Database::Postgres(_, cluster) => {
                let pool = PgPool::connect(&cluster.url("jobs")).await.unwrap();
                let count = sqlx::AssertSqlSafe(format!("{COUNT} apalis.jobs"));
                sqlx::query_as(count).fetch_one(&pool).await.unwrap()
            }
        }
    }
}

/// Runs a worker of the storage until `$stop`.
macro_rules! run {
    ($storage:expr, $begun:expr, $stop:expr) => {
        WorkerBuilder::new("worker")
            .backend($storage)
            .concurrency(CONCURRENCY)
            .data($begun)
            .build(long)
            .run_until($stop)
    };
}

/// A worker with a bound of its own, as `shutdown_timeout` is one: what is over it is dropped.
async fn loses(database: Database) {
    let begun = Begun::default();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async move {
        let _ = stopped.await;
        Ok::<(), std::io::Error>(())
    };
    let data = begun.clone();
    let worker = match &database {
        Database::Sqlite(pool, _) => {
            let pool = pool.clone();
            tokio::spawn(async move {
                let running = run!(SqliteStorage::<u64>::new(&pool), data, stopped);
                let _ = running.await;
            })
        }
        Database::Postgres(pool, _) => {
            let pool = pool.clone();
            tokio::spawn(async move {
                let running = run!(PostgresStorage::<u64>::new(&pool), data, stopped);
                let _ = running.await;
            })
        }
    };
    begun.all().await;
    let _ = stop.send(());
    let _ = tokio::time::timeout(GRACE, worker).await;
    let (waiting, claimed, charged) = database.left().await;
    assert!(claimed + charged > 0, "{waiting} wait, {claimed} are claimed, {charged} charged");
    eprintln!("{waiting} wait, {claimed} are claimed, {charged} attempts are charged");
}

async fn keeps(database: Database) {
    let begun = Begun::default();
    let life = Lifecycle::builder().without_signals().grace_period(GRACE).start().unwrap();
    let data = begun.clone();
    match &database {
        Database::Sqlite(pool, _) => {
            let storage = SqliteStorage::<u64>::new(pool);
            let run = move |stop| run!(storage, data, stop);
            work(&life, "worker", Storage::Sqlite(pool.clone()), run, stops).unwrap();
        }
        Database::Postgres(pool, _) => {
            let storage = PostgresStorage::<u64>::new(pool);
            let run = move |stop| run!(storage, data, stop);
            work(&life, "worker", Storage::Postgres(pool.clone()), run, stops).unwrap();
        }
    }
    life.ready();
    begun.all().await;
    life.stop();
    let ended = life.run().await;
    assert_eq!(ended.code(), exit::OK, "{:?}", ended.report());
    assert_eq!(database.left().await, (i64::try_from(JOBS).unwrap(), 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apalis_worker_on_sqlite_leaves_claims_or_charges() {
    loses(Database::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apalis_worker_on_postgresql_leaves_claims_or_charges() {
    loses(Database::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apalis_worker_on_sqlite_gives_everything_back_uncharged() {
    keeps(Database::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apalis_worker_on_postgresql_gives_everything_back_uncharged() {
    keeps(Database::postgres().await).await;
}
