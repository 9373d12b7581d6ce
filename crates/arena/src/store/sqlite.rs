//! A SQLite file: one connection that writes, a few that read, and the checks that make a bad file a clear error.

mod jobs;

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

use super::url::directory_of;
use super::{StoreError, migrator, reason};
use crate::Error;
use crate::error::system;
use crate::orders::{Order, Placed};

/// SQLite has one writer at a time; more connections would only wait for each other inside it.
const WRITERS: u32 = 1;
/// Readers do not wait for the writer (write-ahead log); a few threads serve the few questions people ask.
const READERS: u32 = 2;
/// How long a statement waits for another process that holds the file's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for one of our own connections.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A file up to this size is read through at the start to find damage; a larger one would delay the start too long,
/// and of it only the header, the tables' definitions and the pages a request touches are checked.
const CHECKED_AT_OPEN_BYTES: u64 = 256 * 1024 * 1024;

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "counter and orders", include_str!("../../migrations/sqlite/0001_counter_and_orders.sql")),
    (2, "jobs", include_str!("../../migrations/sqlite/0002_jobs.sql")),
];

#[derive(Debug, Clone)]
pub(crate) struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    /// The URL, for messages.
    name: String,
}

impl Sqlite {
    pub(super) async fn open(path: &Path, name: String) -> Result<Self, Error> {
        let prepared = {
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || prepare(&path)).await
        };
        let file = prepared
            .map_err(|panic| Error::start(format!("{name}: {panic}"), "report this bug"))??;
        let sqlite = Self::connect(path, name);
        if let File::Found { bytes } = file
            && bytes <= CHECKED_AT_OPEN_BYTES
        {
            sqlite.inspect(path).await?;
        }
        match sqlite.begin().await {
            Ok(()) => Ok(sqlite),
            Err(error) => {
                sqlite.writer.close().await;
                sqlite.readers.close().await;
                if matches!(file, File::Created) {
                    remove(path);
                }
                Err(error)
            }
        }
    }

    pub(super) async fn look(path: &Path, name: String) -> Result<(), Error> {
        let found = {
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || look(&path)).await
        };
        let file = found
            .map_err(|panic| Error::start(format!("{name}: {panic}"), "report this bug"))??;
        match file {
            File::Found { bytes } if bytes <= CHECKED_AT_OPEN_BYTES => {
                Self::connect(path, name).inspect(path).await
            }
            File::Found { .. } | File::Created => Ok(()),
        }
    }

    fn connect(path: &Path, name: String) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // FULL syncs the log at each commit: what was acknowledged survives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new()
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A connection is a file descriptor in this process: it does not go stale.
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None);
        let readers = options.clone().pragma("query_only", "ON");
        Self {
            // SQLite itself ends a transaction that a full disk cuts short, and the driver then counts one for ever: such a
            // connection begins no other.
            writer: pool
                .clone()
                .before_acquire(|connection, _| {
                    Box::pin(async move { Ok(!connection.is_in_transaction()) })
                })
                .max_connections(WRITERS)
                .connect_lazy_with(options),
            readers: pool.max_connections(READERS).connect_lazy_with(readers),
            name,
        }
    }

    /// Reads the file through for damage.
    ///
    /// Without a log beside it nobody has it open, and it is read as it lies there: a file that is refused is left
    /// untouched, with nothing beside it. With a log it is whole only together with that.
    async fn inspect(&self, path: &Path) -> Result<(), Error> {
        let alone = ["-wal", "-journal"].iter().all(|suffix| !beside(path, suffix).exists());
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT);
        let options = options.immutable(alone).read_only(alone).disable_statement_logging();
        let mut connection = options.connect().await.map_err(|error| self.unusable(&error))?;
        let verdict = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut connection).await;
        let closed = connection.close().await;
        let verdict: String = verdict.map_err(|error| self.unusable(&error))?;
        closed.map_err(|error| self.unusable(&error))?;
        if verdict == "ok" { Ok(()) } else { Err(self.damaged(&verdict)) }
    }

    /// Proves that the file can be written, and brings its tables up to date.
    async fn begin(&self) -> Result<(), Error> {
        let mut connection = self.writer.acquire().await.map_err(|error| self.unusable(&error))?;
        for statement in ["BEGIN IMMEDIATE", "ROLLBACK"] {
            sqlx::query(statement)
                .execute(&mut *connection)
                .await
                .map_err(|error| self.unusable(&error))?;
        }
        migrator(MIGRATIONS).run(&mut *connection).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(error) => self.unusable(&error),
            other => self.foreign_tables(&other),
        })
    }

    /// Commits a group of orders in one transaction and tells the fate of each, in their order.
    pub(crate) async fn place_all(&self, orders: &[Order]) -> Result<Vec<Placed>, StoreError> {
        self.place_in_one_transaction(orders).await.map_err(|error| self.failed(&error))
    }

    async fn place_in_one_transaction(&self, orders: &[Order]) -> Result<Vec<Placed>, sqlx::Error> {
        let rows = json_rows(orders);
        // IMMEDIATE: a transaction that starts as a reader cannot wait for the write lock, it fails at once.
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        // One statement for the whole group: its cost is the commit, not a round trip for each row.
        let inserted: Vec<String> = sqlx::query_scalar(
            "INSERT INTO orders (id, item, quantity) \
             SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true \
             ON CONFLICT (id) DO NOTHING RETURNING id",
        )
        .bind(&rows)
        .fetch_all(&mut *transaction)
        .await?;
        let inserted: HashSet<String> = inserted.into_iter().collect();
        // Fewer rows than orders: some id was there before, or came twice in this group.
        let stored = if inserted.len() == orders.len() {
            Vec::new()
        } else {
            sqlx::query_as::<_, (String, String, i64)>(
                "SELECT id, item, quantity FROM orders \
                 WHERE id IN (SELECT value ->> 0 FROM json_each(?1))",
            )
            .bind(&rows)
            .fetch_all(&mut *transaction)
            .await?
        };
        transaction.commit().await?;
        Ok(verdicts(orders, inserted, stored))
    }

    pub(super) async fn order(&self, id: &str) -> Result<Option<Order>, StoreError> {
        sqlx::query_as::<_, (String, String, i64)>(
            "SELECT id, item, quantity FROM orders WHERE id = ?1",
        )
        .bind(id)
        .fetch_optional(&self.readers)
        .await
        .map(|row| row.map(Order::from_row))
        .map_err(|error| self.failed(&error))
    }

    pub(super) async fn count_orders(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT count(*) FROM orders")
            .fetch_one(&self.readers)
            .await
            .map_err(|error| self.failed(&error))
    }

    pub(super) async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        sqlx::query_scalar("SELECT value FROM counters WHERE name = ?1")
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.failed(&error))
    }

    pub(super) async fn raise_counter(&self, name: &str, value: i64) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO counters (name, value) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        )
        .bind(name)
        .bind(value)
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(|error| self.failed(&error))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn close(&self) -> Result<(), StoreError> {
        self.readers.close().await;
        // Passive never waits and never holds a lock that a successor's writes would wait for. Without another process
        // nothing is in its way, and the close that follows removes the emptied log; with one, the last to close does.
        let checkpoint = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&self.writer).await;
        self.writer.close().await;
        checkpoint.map_err(|error| self.failed(&error))?;
        match self.readers.size() + self.writer.size() {
            0 => Ok(()),
            left => Err(StoreError::new(&self.name, format!("{left} connections stayed open"))),
        }
    }

    fn failed(&self, error: &sqlx::Error) -> StoreError {
        StoreError::new(&self.name, reason(error))
    }

    /// Turns SQLite's result code into what a person can do about it.
    fn unusable(&self, error: &sqlx::Error) -> Error {
        let name = &self.name;
        match primary_code(error) {
            Some(SQLITE_NOTADB) => Error::start(
                format!("database {name} is not a SQLite file"),
                "name another path, or move that file away",
            ),
            Some(SQLITE_CORRUPT) => self.damaged(&reason(error)),
            Some(SQLITE_BUSY | SQLITE_LOCKED) => Error::start(
                format!("database {name} is locked by another process"),
                "stop the other process, or name another path",
            ),
            Some(SQLITE_READONLY | SQLITE_CANTOPEN | SQLITE_PERM) => Error::start(
                format!("database {name} cannot be written: {}", reason(error)),
                "its directory must be writable too: SQLite keeps its log beside the file",
            ),
            Some(SQLITE_FULL) => {
                Error::start(format!("database {name}: the disk is full"), "free some space")
            }
            _ => Error::start(
                format!("database {name} cannot be opened: {}", reason(error)),
                "name another path, or restore the file from a backup",
            ),
        }
    }

    fn damaged(&self, finding: &str) -> Error {
        Error::start(
            format!("database {} is damaged: {finding}", self.name),
            "restore it from a backup, or move it away to start with an empty one",
        )
    }

    fn foreign_tables(&self, error: &sqlx::migrate::MigrateError) -> Error {
        Error::start(
            format!("database {} holds other tables than this service's: {error}", self.name),
            "name another path; the service keeps a file of its own",
        )
    }
}

// SQLite's primary result codes (https://www.sqlite.org/rescode.html).
const SQLITE_PERM: i32 = 3;
const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_READONLY: i32 = 8;
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_NOTADB: i32 = 26;

/// The low byte of the extended code the driver reports.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Whether the file was there before us.
enum File {
    Found { bytes: u64 },
    Created,
}

/// Finds or creates the file with plain system calls, whose errors say exactly what is wrong; SQLite's say "unable to
/// open database file" for all of them, and silently fall back to reading.
fn prepare(path: &Path) -> Result<File, Error> {
    existing(path)?.map_or_else(|| create(path), Ok)
}

/// The same without making one: what would be made has room in its directory.
fn look(path: &Path) -> Result<File, Error> {
    if let Some(file) = existing(path)? {
        return Ok(file);
    }
    let may = rustix::fs::access(directory_of(path), rustix::fs::Access::WRITE_OK);
    may.map_err(|error| no_access("create", path, &error.into()))?;
    Ok(File::Created)
}

/// The file as it lies there, if there is one.
fn existing(path: &Path) -> Result<Option<File>, Error> {
    let shown = path.display();
    let directory = directory_of(path);
    if !directory.is_dir() {
        return Err(Error::start(
            format!("directory {} of database sqlite:{shown} does not exist", directory.display()),
            format!("create it with `mkdir -p {}`, or name another path", directory.display()),
        ));
    }
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(Error::start(
            format!("database sqlite:{shown} is not a regular file"),
            "name a file: sqlite:PATH",
        )),
        // Root may write to a read-only file, but whoever took the permission away meant it.
        Ok(found) if found.permissions().mode() & 0o222 == 0 => Err(read_only(path)),
        Ok(found) => match OpenOptions::new().read(true).write(true).open(path) {
            Ok(_) => Ok(Some(File::Found { bytes: found.len() })),
            Err(error) => Err(no_access("write", path, &error)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(no_access("read", path, &error)),
    }
}

fn create(path: &Path) -> Result<File, Error> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => Ok(File::Created),
        // Another process was faster, which is as good.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(File::Found { bytes: 0 }),
        Err(error) => Err(no_access("create", path, &error)),
    }
}

fn read_only(path: &Path) -> Error {
    Error::start(
        format!("database sqlite:{} is read-only", path.display()),
        format!("make it writable with `chmod u+w {}`, or name another path", path.display()),
    )
}

fn no_access(what: &str, path: &Path, error: &std::io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "give this user the permission, or name another path",
        ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only: name another path",
        _ => "name another path",
    };
    let message = format!("cannot {what} database sqlite:{}: {}", path.display(), system(error));
    Error::start(message, hint)
}

/// Takes back a file that this start created and could not use, with what SQLite put beside it.
fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        // What cannot be removed stays: the start has failed with a better message already.
        let _ = std::fs::remove_file(beside(path, suffix));
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut file = path.as_os_str().to_owned();
    file.push(suffix);
    file.into()
}

/// The first order of each id as a JSON array of `[id, item, quantity]`.
fn json_rows(orders: &[Order]) -> String {
    let mut seen = HashSet::with_capacity(orders.len());
    let rows: Vec<_> = orders
        .iter()
        .filter(|order| seen.insert(order.id.as_str()))
        .map(|order| (&order.id, &order.item, order.quantity))
        .collect();
    serde_json::to_string(&rows).expect("strings and integers always serialise")
}

fn verdicts(
    orders: &[Order],
    mut inserted: HashSet<String>,
    stored: Vec<(String, String, i64)>,
) -> Vec<Placed> {
    let stored: HashMap<String, Order> =
        stored.into_iter().map(|row| (row.0.clone(), Order::from_row(row))).collect();
    let verdict = |order: &Order| {
        if inserted.remove(&order.id) {
            return Placed::Committed;
        }
        let stored = stored.get(&order.id);
        order.against(stored.expect("an id that was not inserted was read in the same transaction"))
    };
    orders.iter().map(verdict).collect()
}
