//! Where orders and the counter live: a SQLite file or a PostgreSQL database behind one type.
//!
//! Invariants:
//!
//! 1. [`Store::open`] returns a store that was found whole, can be written, and has the newest tables, or an error
//!    that names the database; a file it created for nothing is removed again.
//! 2. An order that was reported as committed is on the disk: SQLite runs with `synchronous=FULL`, and a PostgreSQL
//!    session that would acknowledge before its write-ahead log is flushed is told not to.
//! 3. A stored counter never goes down: the statement itself keeps the larger value.
//! 4. After [`Store::close`] no connection is left, and a SQLite file is whole without its write-ahead log unless
//!    another process still uses it.
//!
//! A database that a *newer* version has migrated is accepted: an upgrade may be rolled back, so migrations only
//! ever add what older versions can ignore.

mod postgres;
mod sqlite;
mod url;

use std::fmt;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

pub(crate) use self::postgres::Postgres;
pub(crate) use self::sqlite::Sqlite;
pub use self::url::DatabaseUrl;

use crate::Error;
use crate::error::system;
use crate::orders::Order;

/// An open database. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Backend,
}

#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl Store {
    /// Opens the database, creates the file if there is none, and brings the tables up to date.
    ///
    /// # Errors
    ///
    /// When the database cannot be reached, read or written, or is damaged; the error names it without its password.
    pub async fn open(url: &DatabaseUrl) -> Result<Self, Error> {
        let backend = match &url.0 {
            url::Target::Sqlite(path) => {
                Backend::Sqlite(Sqlite::open(path, url.to_string()).await?)
            }
            url::Target::Postgres(options) => {
                Backend::Postgres(Postgres::open(options, url.to_string()).await?)
            }
        };
        Ok(Self { backend })
    }

    /// Looks whether the database could be opened, and leaves it as it is: no file is made, no table is changed.
    ///
    /// # Errors
    ///
    /// As [`open`](Store::open), but for what only a change would show.
    pub async fn look(url: &DatabaseUrl) -> Result<(), Error> {
        match &url.0 {
            url::Target::Sqlite(path) => Sqlite::look(path, url.to_string()).await,
            url::Target::Postgres(options) => Postgres::look(options, url.to_string()).await,
        }
    }

    /// An error that names this database.
    pub(crate) fn failed(&self, problem: impl fmt::Display) -> StoreError {
        let name = match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.name(),
            Backend::Postgres(postgres) => postgres.name(),
        };
        StoreError::new(name, problem)
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The stored value of a counter; zero if it was never stored.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn counter(&self, name: &str) -> Result<u64, StoreError> {
        let value = match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.counter(name).await?,
            Backend::Postgres(postgres) => postgres.counter(name).await?,
        };
        // Only `raise_counter` writes the column, and it never writes a negative value.
        Ok(value.map_or(0, |value| u64::try_from(value).unwrap_or(0)))
    }

    /// Stores `value` for a counter unless a larger one is there.
    ///
    /// # Errors
    ///
    /// When the database does not take it.
    pub async fn raise_counter(&self, name: &str, value: u64) -> Result<(), StoreError> {
        // The columns are signed; counting to 2^63 one by one takes longer than any machine lasts.
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.raise_counter(name, value).await,
            Backend::Postgres(postgres) => postgres.raise_counter(name, value).await,
        }
    }

    /// The committed order with this id.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn order(&self, id: &str) -> Result<Option<Order>, StoreError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.order(id).await,
            Backend::Postgres(postgres) => postgres.order(id).await,
        }
    }

    /// How many orders are committed.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn count_orders(&self) -> Result<u64, StoreError> {
        let count = match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.count_orders().await?,
            Backend::Postgres(postgres) => postgres.count_orders().await?,
        };
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Writes SQLite's log back into its file and closes every connection.
    ///
    /// Waits for connections that are still in use, so it belongs after their users and under a deadline.
    ///
    /// # Errors
    ///
    /// When the log could not be written back, or a connection stayed open.
    pub async fn close(&self) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.close().await,
            Backend::Postgres(postgres) => postgres.close().await,
        }
    }
}

/// Why an open database did not do what it was asked; names the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    message: String,
}

impl StoreError {
    fn new(database: &str, problem: impl fmt::Display) -> Self {
        Self { message: format!("database {database}: {problem}") }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

/// What the driver says, without the wrapping that repeats "error returned from database".
fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => system(error),
        sqlx::Error::PoolTimedOut => "no free connection in time".to_owned(),
        other => other.to_string(),
    }
}

fn migrator(steps: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migrations = steps
        .iter()
        .map(|&(version, description, sql)| {
            Migration::new(
                version,
                description.into(),
                MigrationType::Simple,
                sql.into_sql_str(),
                false,
            )
        })
        .collect();
    let mut migrator = Migrator::with_migrations(migrations);
    // See the module's last paragraph: a rolled-back upgrade leaves migrations behind that we do not know.
    migrator.set_ignore_missing(true);
    migrator
}
