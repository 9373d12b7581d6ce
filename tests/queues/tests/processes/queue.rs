//! A queue with its server, where there is one, and what its jobs did.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use apalis::prelude::TaskSink;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use graphile_worker::{JobSpec, WorkerUtils};
use lameduck_verify::target::{Ready, Start, Target, free_address};
use private_postgres::Cluster;
use queues::apalis::{postgres_storage, sqlite_storage};
use queues::effects::{Effects, Job, now_ms};
use queues::nats::CONSUMER;
use queues::{Claims, MISSED, SIGN_OF_LIFE, graphile};
use sqlx::{PgPool, SqlitePool};

use crate::LIMIT;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    ApalisSqlite,
    ApalisPostgres,
    Graphile,
    Nats,
}

/// Runs as long as it is kept.
type Kept = Box<dyn std::any::Any + Send>;

enum Server {
    ApalisSqlite(SqlitePool),
    ApalisPostgres(PgPool),
    Graphile(WorkerUtils, PgPool),
    Nats(jetstream::Context),
}

pub struct Queue {
    claims: Claims,
    url: String,
    server: Server,
    effects: Watched,
    directory: tempfile::TempDir,
    /// What keeps the server running.
    _kept: Mutex<Kept>,
}

/// What is left in a queue.
#[derive(Debug, Clone, Copy)]
pub struct Left {
    /// In the hands of a worker, which may be dead.
    pub claimed: i64,
}

impl Queue {
    pub async fn start(kind: Kind, claims: Claims) -> Queue {
        let directory = tempfile::tempdir().unwrap();
        let effects = Effects::open(&directory.path().join("effects.db")).await.unwrap();
        let (url, server, kept) = match kind {
            Kind::ApalisSqlite => {
                let url = format!("sqlite:{}?mode=rwc", directory.path().join("q.db").display());
                let pool = SqlitePool::connect(&url).await.unwrap();
                apalis_sqlite::SqliteStorage::setup(&pool).await.unwrap();
                (url, Server::ApalisSqlite(pool), Box::new(()) as Kept)
            }
            Kind::ApalisPostgres => {
                let (url, pool, cluster) = postgres().await;
                apalis_postgres::PostgresStorage::setup(&pool).await.unwrap();
                (url, Server::ApalisPostgres(pool), cluster)
            }
            Kind::Graphile => {
                let (url, pool, cluster) = postgres().await;
                // It sets up its tables.
                let worker = graphile::options(&url, claims).init().await.unwrap();
                (url, Server::Graphile(worker.create_utils(), pool), cluster)
            }
            Kind::Nats => nats(&directory, claims).await,
        };
        let effects = Watched { effects, gone: Mutex::default() };
        Queue { claims, url, server, effects, directory, _kept: Mutex::new(kept) }
    }

    /// A worker, to be started.
    pub fn worker(&self, control: &str) -> Start {
        let kind = match self.server {
            Server::ApalisSqlite(..) => "apalis-sqlite",
            Server::ApalisPostgres(..) => "apalis-postgres",
            Server::Graphile(..) => "graphile",
            Server::Nats(..) => "nats",
        };
        let claims = if self.claims == Claims::Expire { "expire" } else { "kept" };
        let effects = self.directory.path().join("effects.db");
        Target::command(env!("CARGO_BIN_EXE_queue-worker"))
            .args([kind, &self.url])
            .arg(effects)
            .args([claims, control])
    }

    /// Posts a job; the queue has it when this returns.
    pub async fn post(&self, id: i64, take_ms: u64) {
        let job = Job { id, take_ms };
        match &self.server {
            Server::ApalisSqlite(pool) => {
                sqlite_storage::<Job>(pool, self.claims).push(job).await.unwrap();
            }
            Server::ApalisPostgres(pool) => {
                postgres_storage::<Job>(pool, self.claims).push(job).await.unwrap();
            }
            Server::Graphile(utils, _) => {
                let job = serde_json::to_value([job]).unwrap()[0].take();
                utils.add_raw_job(graphile::TASK, job, JobSpec::default()).await.unwrap();
            }
            Server::Nats(context) => {
                let job = serde_json::to_vec(&job).unwrap();
                context.publish(CONSUMER, job.into()).await.unwrap().await.unwrap();
            }
        }
    }

    /// A worker's process has ended in good order.
    pub fn gone(&self, pid: u32) {
        self.effects.gone.lock().unwrap().push((pid, now_ms()));
    }

    pub fn effects(&self) -> &Watched {
        &self.effects
    }

    pub async fn left(&self) -> Left {
        let claimed = match &self.server {
            Server::ApalisSqlite(pool) => {
                let count = "SELECT count(*) FROM Jobs WHERE status IN ('Queued', 'Running')";
                sqlx::query_scalar(count).fetch_one(pool).await.unwrap()
            }
            Server::ApalisPostgres(pool) => {
                let count =
                    "SELECT count(*) FROM apalis.jobs WHERE status IN ('Queued', 'Running')";
                sqlx::query_scalar(count).fetch_one(pool).await.unwrap()
            }
            Server::Graphile(_, pool) => {
                let count = "SELECT count(locked_at) FROM graphile_worker._private_jobs";
                sqlx::query_scalar(count).fetch_one(pool).await.unwrap()
            }
            Server::Nats(context) => {
                let stream = context.get_stream(CONSUMER).await.unwrap();
                let info = stream.consumer_info(CONSUMER).await.unwrap();
                i64::try_from(info.num_ack_pending).unwrap()
            }
        };
        Left { claimed }
    }
}

async fn postgres() -> (String, PgPool, Kept) {
    let cluster = Cluster::start();
    let url = cluster.create_database("jobs");
    (url.clone(), PgPool::connect(&url).await.unwrap(), Box::new(cluster))
}

async fn nats(directory: &tempfile::TempDir, claims: Claims) -> (String, Server, Kept) {
    let address = free_address().unwrap();
    let command = Target::command("nats-server").args(["--addr", "127.0.0.1", "--jetstream"]);
    let command = command.args(["--port", &address.port().to_string(), "--store_dir"]);
    let command = command.arg(directory.path()).ready(Ready::Stderr("Server is ready".to_owned()));
    let server = command.ready_limit(LIMIT).start().unwrap();
    let url = format!("nats://{address}");
    let context = jetstream::new(async_nats::connect(&url).await.unwrap());
    let config = stream::Config {
        name: CONSUMER.to_owned(),
        subjects: vec![CONSUMER.to_owned()],
        ..stream::Config::default()
    };
    let stream = context.create_stream(config).await.unwrap();
    let config = pull::Config {
        durable_name: Some(CONSUMER.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: match claims {
            Claims::Kept => Duration::from_secs(3_600),
            // A worker gives a sign of life each second.
            Claims::Expire => SIGN_OF_LIFE * MISSED,
        },
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.unwrap();
    (url, Server::Nats(context), Box::new(server))
}

/// The effects, as the test looks at them.
pub struct Watched {
    effects: Effects,
    /// Processes that ended in good order, and when.
    gone: Mutex<Vec<(u32, i64)>>,
}

/// What became of all jobs.
#[derive(Debug)]
pub struct Found {
    pub effects: usize,
    /// Ended more than once.
    pub repeated: usize,
    /// Begun more than once.
    pub begun_again: usize,
    pub most_attempts: i64,
    /// The longest time from a worker's end until another one had begun what it gave back.
    longest_pickup: Duration,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { effects, repeated, begun_again, most_attempts, longest_pickup } = self;
        write!(
            f,
            "{effects} effects, {begun_again} begun again, {repeated} ended again, at most "
        )?;
        write!(f, "{most_attempts} attempts, longest pickup {longest_pickup:?}")
    }
}

impl Watched {
    /// Waits until this process has this many jobs in hand: begun and not ended. Whether it has.
    pub async fn has_in_hand(&self, pid: u32, jobs: i64) -> bool {
        let begun = "SELECT count(*) FROM begun WHERE pid = ?1 AND NOT EXISTS \
                     (SELECT 1 FROM ended WHERE ended.job = begun.job AND ended.pid = ?1) \
                     AND at_ms < ?2";
        self.wait(async || {
            // Begun a while ago, so that it is one of the long ones.
            let before = now_ms() - 100;
            let count = sqlx::query_scalar(begun).bind(i64::from(pid)).bind(before);
            let count: i64 = count.fetch_one(self.effects.pool()).await.unwrap();
            (count >= jobs).then_some(())
        })
        .await
        .is_some()
    }

    /// Waits until each of these has its effect, and tells all.
    pub async fn all_done(&self, posted: &BTreeSet<i64>) -> Found {
        let done = self
            .wait(async || {
                let jobs = sqlx::query_scalar("SELECT job FROM effects");
                let done: Vec<i64> = jobs.fetch_all(self.effects.pool()).await.unwrap();
                posted.is_subset(&done.iter().copied().collect()).then_some(done.len())
            })
            .await;
        let Some(effects) = done else {
            panic!("not done: {:?}", self.not_done().await);
        };
        let count = async |text: &'static str| -> i64 {
            sqlx::query_scalar(text).fetch_one(self.effects.pool()).await.unwrap()
        };
        let again = async |text| usize::try_from(count(text).await).unwrap();
        Found {
            effects,
            repeated: again("SELECT count(*) - count(DISTINCT job) FROM ended").await,
            begun_again: again("SELECT count(*) - count(DISTINCT job) FROM begun").await,
            most_attempts: count("SELECT coalesce(max(attempt), 0) FROM begun").await,
            longest_pickup: self.longest_pickup().await,
        }
    }

    /// Each process, how many jobs it began, and how long ago the last one, in milliseconds.
    pub async fn begun(&self) -> Vec<(i64, i64, i64)> {
        let text = "SELECT pid, count(*), ?1 - max(at_ms) FROM begun GROUP BY pid";
        sqlx::query_as(text).bind(now_ms()).fetch_all(self.effects.pool()).await.unwrap()
    }

    async fn not_done(&self) -> Vec<(i64, i64, i64)> {
        let text = "SELECT job, pid, attempt FROM begun WHERE job NOT IN (SELECT job FROM effects)";
        sqlx::query_as(text).fetch_all(self.effects.pool()).await.unwrap()
    }

    async fn longest_pickup(&self) -> Duration {
        let mut longest = 0;
        let gone = self.gone.lock().unwrap().clone();
        for (pid, at_ms) in gone {
            let next = "SELECT coalesce(max(next), ?2) FROM (SELECT min(later.at_ms) AS next \
                        FROM begun JOIN begun AS later ON later.job = begun.job AND later.pid <> ?1 \
                        AND later.at_ms > begun.at_ms WHERE begun.pid = ?1 GROUP BY begun.job)";
            let next = sqlx::query_scalar(next).bind(i64::from(pid)).bind(at_ms);
            let next: i64 = next.fetch_one(self.effects.pool()).await.unwrap();
            longest = longest.max(next - at_ms);
        }
        Duration::from_millis(u64::try_from(longest).unwrap_or(0))
    }

    async fn wait<T>(&self, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
        let looks = async {
            loop {
                match look().await {
                    Some(found) => return found,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        tokio::time::timeout(LIMIT, looks).await.ok()
    }
}
