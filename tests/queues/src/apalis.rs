//! `apalis` 1.0 on the service's own stop: its worker drains by itself, and what it leaves or charges is put right after.
//!
//! What the worker does not do by itself: a bound that is shorter than its jobs drops them with their claims; what it had
//! fetched ahead is given back at the price of an attempt; with more in hand than its channel holds it never ends
//! ([`Drained`]); and a claim whose commit is on its way when it stops is nobody's. Here it has until shortly before work is
//! cut, and then, when nothing it wrote is on its way any more, one statement gives back everything that bears its name, and
//! takes the price back.
//!
//! Give each process a name of its own for its worker (a pid, a generation): two living workers of one name take each
//! other's jobs for abandoned, and at an upgrade there are two.

mod drained;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apalis::prelude::BackendExt;
use apalis::prelude::{IntervalStrategy, PollWith};
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use lameduck::jobs::GIVE_BACK;
use lameduck::{Drain, Error, Lifecycle};
use sqlx::{PgPool, SqlitePool};

pub use drained::{Drained, Fetches};

use crate::{Claims, LOOK_EVERY, MISSED, SIGN_OF_LIFE, runs_again};

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
    /// Waits until no write to the jobs is on its way, 300 ms at most.
    ///
    /// A worker that ends drops the claim that it is just writing. Where its COMMIT has been sent that is a claim all the
    /// same, and may come after everything was given back. Whoever has this lock knows that no such transaction is left.
    /// In SQLite there is one writer at a time, and who gives back waits for it in any case.
    async fn settle(&self) -> Result<(), sqlx::Error> {
        let Storage::Postgres(pool) = self else { return Ok(()) };
        let mut transaction = pool.begin().await?;
        sqlx::query("SET LOCAL lock_timeout = '300ms'").execute(&mut *transaction).await?;
        sqlx::query("LOCK TABLE apalis.jobs IN SHARE MODE").execute(&mut *transaction).await?;
        transaction.commit().await
    }

    /// Gives back what bears the worker's name, uncharged, in one statement.
    async fn give_back(&self, worker: &str) -> Result<u64, sqlx::Error> {
        // Better given back without than not at all.
        let _ = self.settle().await;
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

    async fn close(&self) {
        match self {
            Storage::Sqlite(pool) => pool.close().await,
            Storage::Postgres(pool) => pool.close().await,
        }
    }
}

/// The worker's name in each of its turns: its database may remember a name longer than a turn lasts.
#[derive(Clone)]
struct Name {
    of: String,
    turn: Arc<AtomicUsize>,
}

impl Name {
    fn now(&self) -> String {
        match self.turn.load(Ordering::SeqCst) {
            0 => self.of.clone(),
            turn => format!("{}, again {turn}", self.of),
        }
    }

    fn next(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
    }
}

/// Runs an `apalis` worker until the service stops or a successor works, and again if that one is lost in its probation.
///
/// `run` runs a worker by the name it is given on a backend that is [`Drained`]:
/// `|name, drain| WorkerBuilder::new(name).backend(Drained::new(storage.clone(), drain)).build(job).run()`. The pool closes
/// when the worker has ended and everything is given back.
///
/// # Errors
///
/// When a resource has the worker's name.
pub fn work<Fut, E>(
    life: &Lifecycle,
    worker: &str,
    storage: Storage,
    mut run: impl FnMut(String, Drain) -> Fut + Send + 'static,
) -> Result<(), Error>
where
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: std::fmt::Display + Send,
{
    let name = Name { of: worker.to_owned(), turn: Arc::default() };
    let (left, by) = (storage.clone(), name.clone());
    life.on_close(worker).run(move || async move {
        let given = left.give_back(&by.now()).await.map(drop);
        left.close().await;
        given
    })?;
    let log = life.log();
    life.task(worker, |drain| async move {
        loop {
            let now = name.now();
            tokio::select! {
                ended = run(now.clone(), drain.clone()) => if let Err(error) = ended {
                    log.line("apalis", &format!("the worker ended: {error}"));
                },
                // Dropped with what it has in hand, before the whole task is.
                () = drain.nearly_cut(GIVE_BACK) => {}
            }
            match storage.give_back(&now).await {
                Ok(given) => log.line("apalis", &format!("gave back {given} jobs")),
                Err(error) => log.line("apalis", &format!("cannot give back jobs: {error}")),
            }
            if !runs_again(&drain).await {
                return;
            }
            name.next();
        }
    });
    Ok(())
}
