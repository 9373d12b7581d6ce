//! What jobs did, written down apart from their queues: who began each, when and for which time, and what came of it.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

/// How long a process waits while others write.
const BUSY: Duration = Duration::from_secs(20);

const TABLES: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS begun (job INTEGER, pid INTEGER, attempt INTEGER, at_ms INTEGER)",
    "CREATE TABLE IF NOT EXISTS ended (job INTEGER, pid INTEGER)",
    "CREATE TABLE IF NOT EXISTS effects (job INTEGER PRIMARY KEY)",
];

/// A job of every queue here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Its number, which makes its effect one.
    pub id: i64,
    /// How long it takes.
    pub take_ms: u64,
}

/// The one file of effects that all workers share.
#[derive(Debug, Clone)]
pub struct Effects {
    pool: SqlitePool,
}

impl Effects {
    /// Opens the file, and makes it if there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub async fn open(file: &Path) -> Result<Effects, sqlx::Error> {
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
        // Processes are killed here, not machines.
        let options = options.journal_mode(SqliteJournalMode::Wal);
        let options = options.synchronous(SqliteSynchronous::Off).busy_timeout(BUSY);
        let pool = SqlitePool::connect_with(options).await?;
        for table in TABLES {
            sqlx::query(table).execute(&pool).await?;
        }
        Ok(Effects { pool })
    }

    /// Does a job that is claimed for the `attempt`th time: notes that it began, lets its time pass, and has its effect.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub async fn perform(&self, job: &Job, attempt: i64) -> Result<(), sqlx::Error> {
        self.begin(job, attempt).await?;
        tokio::time::sleep(Duration::from_millis(job.take_ms)).await;
        self.end(job).await
    }

    /// Notes that a job began.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub async fn begin(&self, job: &Job, attempt: i64) -> Result<(), sqlx::Error> {
        let begun = sqlx::query("INSERT INTO begun VALUES (?1, ?2, ?3, ?4)");
        let begun = begun.bind(job.id).bind(pid()).bind(attempt).bind(now_ms());
        begun.execute(&self.pool).await.map(drop)
    }

    /// The job has its effect. The number makes it one, also where a queue can only promise at least one run.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub async fn end(&self, job: &Job) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let effect = sqlx::query("INSERT OR IGNORE INTO effects VALUES (?1)").bind(job.id);
        effect.execute(&mut *transaction).await?;
        let ended = sqlx::query("INSERT INTO ended VALUES (?1, ?2)").bind(job.id).bind(pid());
        ended.execute(&mut *transaction).await?;
        transaction.commit().await
    }

    /// The pool, for a closing function and for whoever wants to look.
    #[must_use]
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }
}

fn pid() -> i64 {
    std::process::id().into()
}

/// The time of day in milliseconds, which all processes of a machine agree on.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
