//! A program with four things to lose at its end: rows in a database, a ledger in a buffered file, a log on a thread of its
//! own, and the writer that uses them all.
//!
//! `ordered DIRECTORY` closes them in order; `ordered DIRECTORY naive` does what programs do: it closes the pool when it is
//! told to stop, and leaves.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use lameduck::{Error, Exit, Lifecycle};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use tracing_appender::non_blocking::NonBlockingBuilder;

/// What the writer still has to write when it is told to stop.
const LAST_WORDS: usize = 500;

/// What the writer uses.
#[derive(Clone)]
struct Used {
    pool: SqlitePool,
    ledger: Arc<Mutex<BufWriter<File>>>,
}

impl Used {
    async fn open(directory: &std::path::Path) -> Used {
        let rows = SqliteConnectOptions::new().filename(directory.join("rows.db"));
        // It is about the end of a process, not of a machine: a disk that syncs each row would hold the stop for seconds.
        let rows = rows.create_if_missing(true).synchronous(SqliteSynchronous::Off);
        let pool = SqlitePool::connect_with(rows).await.expect("the database opens");
        sqlx::query("CREATE TABLE lines (line INTEGER)").execute(&pool).await.expect("a table");
        let file = File::create(directory.join("ledger")).expect("the ledger is made");
        Used { pool, ledger: Arc::new(Mutex::new(BufWriter::new(file))) }
    }

    /// One row, one line of the ledger, one line of the log.
    async fn write(&self, line: i64) -> Result<(), sqlx::Error> {
        let insert = sqlx::query("INSERT INTO lines (line) VALUES (?1)").bind(line);
        insert.execute(&self.pool).await?;
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk shows again when the ledger is flushed.
        let _ = writeln!(ledger, "line {line}");
        tracing::info!("line {line}");
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.flush()?;
        ledger.get_ref().sync_all()
    }
}

#[tokio::main]
async fn main() -> Result<Exit, Error> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("a directory"));
    let log = File::create(directory.join("log")).expect("the log is made");
    let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(log);
    tracing_subscriber::fmt().with_ansi(false).with_writer(writer).init();
    let used = Used::open(&directory).await;
    if arguments.next().is_some() {
        naive(used, guard).await;
    }

    let life = Lifecycle::builder().start()?;
    life.on_close("telemetry").last().run(move || async move { drop(guard) })?;
    let pool = used.pool.clone();
    life.on_close("database").run(move || async move {
        pool.close().await;
        tracing::info!("closed the database");
    })?;
    let ledger = used.clone();
    life.on_close("ledger").uses(["database"]).run(move || async move {
        let synced = ledger.sync();
        tracing::info!("closed the ledger");
        synced
    })?;
    let writer = used;
    life.task("writer", |drain| async move {
        writer.write(0).await.expect("the database is open");
        println!("writing");
        drain.started().await;
        for line in 1..=LAST_WORDS {
            writer.write(line as i64).await.expect("the database is open");
        }
    });
    Ok(life.run().await)
}

/// Waits for TERM, closes the pool, and is gone.
#[expect(clippy::disallowed_methods, reason = "it shows what is lost by it")]
async fn naive(used: Used, guard: tracing_appender::non_blocking::WorkerGuard) -> ! {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("a handler for TERM");
    let (told, is_told) = tokio::sync::oneshot::channel::<()>();
    let writer = used.clone();
    drop(tokio::spawn(async move {
        writer.write(0).await.expect("the database is open");
        println!("writing");
        let _ = is_told.await;
        for line in 1..=LAST_WORDS {
            if writer.write(line as i64).await.is_err() {
                return;
            }
        }
    }));
    let _ = terminate.recv().await;
    // Nobody gets a connection from this call on.
    let closing = used.pool.close();
    let _ = told.send(());
    closing.await;
    // As a program that ends itself does: destructors do not run.
    let _guard = guard;
    std::process::exit(0);
}
