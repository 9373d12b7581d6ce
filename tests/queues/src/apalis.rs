//! `apalis` 1.0 on the service's own stop: its worker drains by itself, and what it leaves or charges is put right after.
//!
//! What the worker does not do by itself: a bound that is shorter than its jobs drops them with their claims, and what it
//! had fetched ahead is given back at the price of an attempt. Here it has until shortly before work is cut, and then one
//! statement gives back everything that bears its name, and takes the price back.
//!
//! Give each process a name of its own for its worker (a pid, a generation): two living workers of one name take each
//! other's jobs for abandoned, and at an upgrade there are two.

use std::future::Future;

use apalis::prelude::BackendExt;
use apalis::prelude::{IntervalStrategy, PollWith};
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use lameduck::jobs::GIVE_BACK;
use lameduck::{Asked, Error, Lifecycle};
use sqlx::{PgPool, SqlitePool};

use crate::{Claims, LOOK_EVERY, MISSED, SIGN_OF_LIFE};

/// The name of the queue here.
pub const QUEUE: &str = "jobs";

/// The settings for either database.
///
/// With a batch of one nothing is fetched ahead of its work. A worker that stops charges an attempt for what it had fetched
/// ahead, and another one may have it before the price can be taken back.
macro_rules! config {
    ($config:ty, $claims:expr) => {{
        let config = <$config>::default().queue(QUEUE).batch_size(1);
        match $claims {
            Claims::Kept => config,
            Claims::Expire => {
                config.heartbeat_interval(SIGN_OF_LIFE).missed_heartbeats(MISSED as usize)
            }
        }
    }};
}

/// A queue in SQLite whose workers look for jobs every [`LOOK_EVERY`].
#[must_use]
pub fn sqlite_storage<T>(
    pool: &SqlitePool,
    claims: Claims,
) -> PollWith<SqliteStorage<T>, IntervalStrategy> {
    let storage = SqliteStorage::new(pool).with_config(config!(apalis_sqlite::Config, claims));
    storage.poll_with_interval(LOOK_EVERY)
}

/// The same in PostgreSQL.
#[must_use]
pub fn postgres_storage<T>(
    pool: &PgPool,
    claims: Claims,
) -> PollWith<PostgresStorage<T>, IntervalStrategy> {
    let storage = PostgresStorage::new(pool).with_config(config!(apalis_postgres::Config, claims));
    storage.poll_with_interval(LOOK_EVERY)
}

/// The two databases, and what is said to them.
#[derive(Clone)]
pub enum Storage {
    /// `apalis-sqlite`.
    Sqlite(SqlitePool),
    /// `apalis-postgres`.
    Postgres(PgPool),
}

/// What `apalis` writes to a job that it fetched, did not begin, and charges for that.
const CHARGED: &str = "%Re-enqueued due to worker shutdown%";

impl Storage {
    /// Gives back what bears the worker's name, uncharged, in one transaction each.
    async fn give_back(&self, worker: &str) -> Result<u64, sqlx::Error> {
        match self {
            Storage::Sqlite(pool) => {
                let given = sqlx::query(
                    "UPDATE Jobs SET attempts = CASE WHEN lock_by IS NULL THEN attempts - 1 ELSE attempts END, \
                     status = 'Pending', lock_by = NULL, lock_at = NULL, done_at = NULL, last_result = NULL \
                     WHERE (lock_by = ?1 AND status IN ('Queued', 'Running')) \
                     OR (lock_by IS NULL AND status = 'Pending' AND attempts > 0 AND last_result LIKE ?2)",
                );
                Ok(given.bind(worker).bind(CHARGED).execute(pool).await?.rows_affected())
            }
            Storage::Postgres(pool) => {
                let given = sqlx::query(
                    "UPDATE apalis.jobs SET attempts = CASE WHEN lock_by IS NULL THEN attempts - 1 ELSE attempts END, \
                     status = 'Pending', lock_by = NULL, lock_at = NULL, done_at = NULL, last_result = NULL \
                     WHERE (lock_by = $1 AND status IN ('Queued', 'Running')) \
                     OR (lock_by IS NULL AND status = 'Pending' AND attempts > 0 AND last_result::text LIKE $2)",
                );
                Ok(given.bind(worker).bind(CHARGED).execute(pool).await?.rows_affected())
            }
        }
    }
}

/// Runs an `apalis` worker until the service stops or a successor works.
///
/// `run` is given the signal to end and runs the worker: `|stop| worker.run_until(stop)`. The pool closes when the worker
/// has ended and everything is given back.
///
/// # Errors
///
/// When a resource has the worker's name.
pub fn work<S, Fut, E>(
    life: &Lifecycle,
    worker: &str,
    storage: Storage,
    run: impl FnOnce(S) -> Fut + Send + 'static,
    signal: impl FnOnce(lameduck::Drain) -> S,
) -> Result<(), Error>
where
    S: Send + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: std::fmt::Display + Send,
{
    let (pool, name) = (storage.clone(), worker.to_owned());
    life.on_close(worker).run(move || async move {
        let given = pool.give_back(&name).await.map(drop);
        match pool {
            Storage::Sqlite(pool) => pool.close().await,
            Storage::Postgres(pool) => pool.close().await,
        }
        given
    })?;
    let (name, log) = (worker.to_owned(), life.log());
    let stop = signal(life.drain());
    life.task(worker, |drain| async move {
        let running = run(stop);
        tokio::select! {
            ended = running => if let Err(error) = ended {
                log.line("apalis", &format!("the worker ended: {error}"));
            },
            // Dropped with what it has in hand, before the whole task is.
            () = drain.nearly_cut(GIVE_BACK) => {}
        }
        match storage.give_back(&name).await {
            Ok(given) => log.line("apalis", &format!("gave back {given} jobs")),
            Err(error) => log.line("apalis", &format!("cannot give back jobs: {error}")),
        }
    });
    Ok(())
}

/// The signal that [`work`] hands on, as `run_until` wants it.
pub async fn stops(drain: lameduck::Drain) -> Result<(), std::io::Error> {
    drain.asked_for(|asked| asked != Asked::Serve).await;
    Ok(())
}
