//! Each way a SQLite file can be of no use, and that nothing is left behind.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use arena::orders::{Order, Orders};
use arena::store::{DatabaseUrl, Store};

use crate::databases::files_of;

async fn check(path: &Path, message: &str, hint: &str) {
    let error = Store::open(&DatabaseUrl::sqlite(path)).await.map(drop).unwrap_err();
    let message = message.replace("PATH", &path.display().to_string());
    assert!(error.to_string().contains(&message), "`{error}` lacks `{message}`");
    assert!(error.hint().contains(hint), "hint `{}` lacks `{hint}`", error.hint());
}

/// A file with orders in it, closed.
async fn filled(path: &Path) {
    let store = Store::open(&DatabaseUrl::sqlite(path)).await.unwrap();
    let orders = Orders::start(store.clone());
    for id in 0..200 {
        let order = Order { id: format!("o-{id}"), item: "tea ".repeat(60), quantity: 1 };
        orders.place(order).await.unwrap();
    }
    orders.close().await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_closed_file_is_whole_without_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    filled(&path).await;
    assert_eq!(files_of(&path), ["db"]);
    let moved = directory.path().join("moved");
    fs::copy(&path, &moved).unwrap();
    let store = Store::open(&DatabaseUrl::sqlite(&moved)).await.unwrap();
    assert_eq!(store.count_orders().await, Ok(200));
    store.close().await.unwrap();
}

/// As after an upgrade: the predecessor closes while its successor reads and writes.
#[tokio::test]
async fn a_close_does_not_wait_for_another_process_and_the_last_one_leaves_a_whole_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let url = DatabaseUrl::sqlite(&path);
    let (first, second) = (Store::open(&url).await.unwrap(), Store::open(&url).await.unwrap());
    first.raise_counter("requests", 1).await.unwrap();

    let reader = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let reader = sqlx::SqlitePool::connect_with(reader).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    let value = "SELECT value FROM counters";
    let seen: i64 = sqlx::query_scalar(value).fetch_one(&mut *reading).await.unwrap();
    second.raise_counter("requests", 2).await.unwrap();

    // SQLite would wait five seconds for the reader; a close that does not is over long before.
    let closed = tokio::time::timeout(Duration::from_secs(2), first.close()).await;
    closed.expect("the close waits for nobody").unwrap();
    second.raise_counter("requests", 3).await.unwrap();
    assert_eq!((seen, second.counter("requests").await.unwrap()), (1, 3));

    reading.rollback().await.unwrap();
    reader.close().await;
    second.close().await.unwrap();
    assert_eq!(files_of(&path), ["db"]);
}

#[tokio::test]
async fn a_missing_directory_is_named_and_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    check(
        &missing.join("db"),
        &format!("directory {} of database sqlite:PATH does not exist", missing.display()),
        "mkdir -p",
    )
    .await;
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_directory_is_not_a_database() {
    let directory = tempfile::tempdir().unwrap();
    check(directory.path(), "sqlite:PATH is not a regular file", "name a file").await;
}

#[tokio::test]
async fn a_read_only_file_is_refused_also_for_root() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    filled(&path).await;
    fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
    check(&path, "database sqlite:PATH is read-only", "chmod u+w").await;
    assert_eq!(files_of(&path), ["db"]);
}

#[tokio::test]
async fn another_kind_of_file_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let text = "not a database, but long enough to look for a header in it\n".repeat(100);
    fs::write(&path, &text).unwrap();
    check(&path, "database sqlite:PATH is not a SQLite file", "name another path").await;
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(files_of(&path), ["db"]);
}

#[tokio::test]
async fn a_damaged_page_is_found_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    filled(&path).await;
    let bytes = fs::metadata(&path).unwrap().len();
    assert!(bytes > 8 * 4096, "the orders fill several pages");
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xa5; 4096], bytes - 2 * 4096).unwrap();
    let damaged = fs::read(&path).unwrap();
    check(&path, "database sqlite:PATH is damaged", "restore it from a backup").await;
    assert_eq!(files_of(&path), ["db"]);
    assert!(fs::read(&path).unwrap() == damaged, "a refused file is left as it was");
}

#[tokio::test]
async fn a_shortened_file_is_found_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    filled(&path).await;
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(fs::metadata(&path).unwrap().len() / 2).unwrap();
    check(&path, "database sqlite:PATH is damaged", "restore it from a backup").await;
}

#[tokio::test]
async fn a_file_with_foreign_tables_is_refused_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("CREATE TABLE orders (other TEXT)").execute(&pool).await.unwrap();
    pool.close().await;
    check(&path, "database sqlite:PATH", "name another path").await;
    assert!(path.exists());
}

#[tokio::test]
async fn an_empty_file_becomes_a_database() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    File::create(&path).unwrap();
    let store = Store::open(&DatabaseUrl::sqlite(&path)).await.unwrap();
    assert_eq!(store.count_orders().await, Ok(0));
    store.close().await.unwrap();
}
