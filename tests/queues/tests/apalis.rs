//! `apalis` 1.0: what its worker charges or leaves behind at a stop, and that nothing of it is left with us.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apalis::prelude::*;
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use lameduck::{Lifecycle, exit};
use private_postgres::Cluster;
use queues::apalis::{Drained, Storage, work};
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

/// Handlers that end when they are let.
#[derive(Clone)]
struct Let(Arc<tokio::sync::Semaphore>);

async fn held(_: u64, begun: Data<Begun>, go: Data<Let>) -> Result<(), BoxDynError> {
    begun.0.0.fetch_add(1, Ordering::SeqCst);
    go.0.0.acquire().await?.forget();
    Ok(())
}

impl Begun {
    async fn all(&self) {
        self.are(CONCURRENCY).await;
    }

    async fn are(&self, many: usize) {
        let begun = async {
            while self.0.load(Ordering::SeqCst) < many {
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

    /// Jobs that wait for anybody, jobs in the hands of a worker, attempts charged.
    async fn left(&self) -> (i64, i64, i64) {
        let (waiting, claimed, charged, _) = self.count().await;
        (waiting, claimed, charged)
    }

    async fn done(&self) -> i64 {
        self.count().await.3
    }

    async fn count(&self) -> (i64, i64, i64, i64) {
        const COUNT: &str = "SELECT count(*) FILTER (WHERE status = 'Pending' AND lock_by IS NULL), \
                             count(*) FILTER (WHERE status IN ('Queued', 'Running')), \
                             CAST(coalesce(sum(attempts), 0) AS BIGINT), \
                             count(*) FILTER (WHERE status = 'Done') FROM ";
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

/// A worker of the storage.
macro_rules! worker {
    ($name:expr, $storage:expr, $begun:expr) => {
        WorkerBuilder::new($name)
            .backend($storage)
            .concurrency(CONCURRENCY)
            .data($begun)
            .build(long)
    };
}

/// Runs such a worker under the life, on its queue.
macro_rules! drained {
    ($life:expr, $database:ident, $storage:expr, $pool:expr, $begun:expr) => {{
        let (storage, begun) = ($storage, $begun);
        let run = move |name, drain| {
            worker!(name, Drained::new(storage.clone(), drain), begun.clone()).run()
        };
        work($life, "worker", Storage::$database($pool.clone()), run).unwrap();
    }};
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
                let running =
                    worker!("worker", SqliteStorage::<u64>::new(&pool), data).run_until(stopped);
                let _ = running.await;
            })
        }
        Database::Postgres(pool, _) => {
            let pool = pool.clone();
            tokio::spawn(async move {
                let running =
                    worker!("worker", PostgresStorage::<u64>::new(&pool), data).run_until(stopped);
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
            drained!(&life, Sqlite, SqliteStorage::<u64>::new(pool), pool, data);
        }
        Database::Postgres(pool, _) => {
            drained!(&life, Postgres, PostgresStorage::<u64>::new(pool), pool, data);
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

/// A worker has more in hand than its channel for what has ended holds, and all of it ends in the drain.
async fn ends(database: Database) {
    let many = usize::try_from(JOBS).unwrap();
    let (begun, go) = (Begun::default(), Let(Arc::new(tokio::sync::Semaphore::new(0))));
    // Nothing but their own end ends them.
    let life = Lifecycle::builder().without_signals().no_deadline().start().unwrap();
    macro_rules! run {
        ($storage:expr) => {{
            let (storage, begun, go) = ($storage, begun.clone(), go.clone());
            move |name: String, drain| {
                WorkerBuilder::new(name)
                    .backend(Drained::new(storage.clone(), drain))
                    .concurrency(many)
                    .data(begun.clone())
                    .data(go.clone())
                    .build(held)
                    .run()
            }
        }};
    }
    match &database {
        Database::Sqlite(pool, _) => {
            let config = apalis_sqlite::Config::default().queue("u64").batch_size(1);
            let storage = SqliteStorage::<u64>::new(pool).with_config(config);
            let run = run!(storage);
            work(&life, "worker", Storage::Sqlite(pool.clone()), run).unwrap();
        }
        Database::Postgres(pool, _) => {
            let config = apalis_postgres::Config::default().queue("u64").batch_size(1);
            let storage = PostgresStorage::<u64>::new(pool).with_config(config);
            let run = run!(storage);
            work(&life, "worker", Storage::Postgres(pool.clone()), run).unwrap();
        }
    }
    life.ready();
    begun.are(many).await;
    life.stop();
    life.drain().started().await;
    for ended in 1..=JOBS {
        go.0.add_permits(1);
        let told = async { while database.done().await < i64::try_from(ended).unwrap() {} };
        tokio::time::timeout(LIMIT, told).await.expect("what ends is told while others go on");
    }
    let ended = tokio::time::timeout(LIMIT, life.run()).await.expect("the worker ends with them");
    assert_eq!(ended.code(), exit::OK, "{:?}", ended.report());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_in_the_drain_of_an_apalis_worker_on_sqlite_is_told_at_once() {
    ends(Database::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_in_the_drain_of_an_apalis_worker_on_postgresql_is_told_at_once() {
    ends(Database::postgres().await).await;
}

/// A commit of a claim that takes its time, as on a busy disk.
const SLOW_CLAIMS: [&str; 2] = [
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
     $$ BEGIN IF NEW.status = 'Queued' THEN PERFORM pg_sleep(0.2); END IF; RETURN NULL; END $$",
    "CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON apalis.jobs DEFERRABLE INITIALLY DEFERRED \
     FOR EACH ROW EXECUTE FUNCTION slow()",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_commit_is_on_its_way_at_the_stop_is_given_back_too() {
    let Database::Postgres(pool, cluster) = Database::postgres().await else { unreachable!() };
    for statement in SLOW_CLAIMS {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let watching = PgPool::connect(&cluster.url("jobs")).await.unwrap();
    let commits = async || -> i64 {
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        sqlx::query_scalar(sleeping).fetch_one(&watching).await.unwrap()
    };
    let begun = Begun::default();
    let life = Lifecycle::builder().without_signals().grace_period(LIMIT).start().unwrap();
    let storage = PostgresStorage::<u64>::new(&pool);
    let storage =
        storage.with_config(apalis_postgres::Config::default().queue("u64").batch_size(1));
    drained!(&life, Postgres, storage, pool, begun.clone());
    life.ready();
    while commits().await == 0 {}
    life.stop();
    let ended = life.run().await;
    while commits().await > 0 {}
    let left = Database::Postgres(pool, cluster).left().await;
    assert_eq!(left, (i64::try_from(JOBS).unwrap(), 0, 0), "{:?}", ended.report());
}
