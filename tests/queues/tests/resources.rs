//! Resources in order: what a program loses that closes its pool and leaves, and that nothing is lost with an order.

use std::path::Path;
use std::time::Duration;

use lameduck_verify::target::{Ready, Signal, Target};
use sqlx::SqlitePool;

/// How long a start or an exit may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// What the program writes.
const LINES: usize = 501;

/// Runs it, stops it in the middle, and tells its last words.
fn stopped(directory: &Path, more: &[&str]) -> String {
    let command = Target::command(env!("CARGO_BIN_EXE_ordered")).arg(directory).args(more);
    let mut program = command.ready(Ready::Stdout("writing".to_owned())).start().unwrap();
    program.signal(Signal::TERM).unwrap();
    let exit = program.wait(LIMIT).unwrap();
    assert_eq!(exit.code, Some(0), "{exit}: {}", program.stderr());
    program.whole_stderr(LIMIT).unwrap()
}

/// Rows, lines of the ledger, lines of the log.
async fn written(directory: &Path) -> [usize; 3] {
    let url = format!("sqlite:{}", directory.join("rows.db").display());
    let pool = SqlitePool::connect(&url).await.unwrap();
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM lines").fetch_one(&pool).await.unwrap();
    let lines = |name| std::fs::read_to_string(directory.join(name)).unwrap().lines().count();
    [usize::try_from(rows).unwrap(), lines("ledger"), lines("log")]
}

#[tokio::test]
async fn a_naive_program_closes_the_pool_under_its_writer_and_flushes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    stopped(directory.path(), &["naive"]);
    let [rows, ledger, _] = written(directory.path()).await;
    assert!(rows < LINES, "all {rows} rows are there");
    assert!(ledger < rows.max(1), "{ledger} of {rows} lines are in the ledger");
}

#[tokio::test]
async fn the_pool_the_ledger_and_the_log_close_after_their_writer_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let report = stopped(directory.path(), &[]);
    // What the closings of the others say is in the log, which closes after them.
    let expected = [LINES, LINES, LINES + 2];
    assert_eq!(written(directory.path()).await, expected, "{report}");
    let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
    let place = |words: &str| log.find(words).unwrap_or_else(|| panic!("{words}: {log}"));
    assert!(place("line 500") < place("closed the ledger"), "{log}");
    assert!(place("closed the ledger") < place("closed the database"), "{log}");
}
