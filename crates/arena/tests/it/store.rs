//! A store closes whole, and one that cannot be used says why.

use arena::store::{DatabaseUrl, Store};
use private_postgres::Cluster;

use crate::databases::Database;

#[track_caller]
fn says(error: &arena::Error, message: &[&str], hint: &str) {
    let text = error.to_string();
    for part in message {
        assert!(text.contains(part), "`{text}` lacks `{part}`");
    }
    assert!(error.hint().contains(hint), "hint `{}` lacks `{hint}`", error.hint());
    assert!(!error.is_usage());
}

async fn refusal(url: &str) -> arena::Error {
    Store::open(&url.parse::<DatabaseUrl>().unwrap()).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn a_second_open_finds_the_tables_and_another_version_does_not_disturb() {
    for database in [Database::sqlite(), Database::postgres()] {
        let first = database.open().await;
        first.raise_counter("requests", 3).await.unwrap();
        let second = database.open().await;
        assert_eq!(second.counter("requests").await.unwrap(), 3);
        first.close().await.unwrap();
        second.raise_counter("requests", 4).await.unwrap();
        second.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_the_password() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refusal(&format!("postgres://u:secret@127.0.0.1:{free}/arena")).await;
    says(
        &error,
        &["cannot reach database", &format!("postgres://u@127.0.0.1:{free}/arena"), "refused"],
        &format!("is PostgreSQL running on 127.0.0.1:{free}?"),
    );
    assert!(!error.to_string().contains("secret"));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let error = refusal(&format!("postgres://u@127.0.0.1:{port}/arena")).await;
    says(&error, &["did not answer within 5 s"], "firewall");
}

#[tokio::test]
async fn a_missing_database_and_a_standby_are_told_apart() {
    let cluster = Cluster::start();
    says(
        &refusal(&cluster.url("nowhere")).await,
        &["cannot reach database", "\"nowhere\" does not exist"],
        "createdb nowhere",
    );
    let _ = cluster.create_database("frozen");
    let _ = cluster.query("frozen", "ALTER DATABASE frozen SET default_transaction_read_only = on");
    says(&refusal(&cluster.url("frozen")).await, &["is read-only"], "primary");
    assert_eq!(
        cluster.query("frozen", "SELECT count(*) FROM pg_tables WHERE tablename = 'orders'"),
        "0"
    );
}

#[tokio::test]
async fn a_server_that_would_acknowledge_before_its_log_is_flushed_is_told_not_to() {
    let cluster = Cluster::start();
    let url = cluster.create_database("arena");
    let _ = cluster.query("arena", "ALTER DATABASE arena SET synchronous_commit = off");
    // The trigger writes down the setting of the session that inserts.
    let store = Store::open(&url.parse().unwrap()).await.unwrap();
    let _ = cluster.query("arena", "CREATE TABLE seen (setting text)");
    let _ = cluster.query(
        "arena",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN INSERT INTO seen VALUES (current_setting(''synchronous_commit'')); RETURN NEW; END'",
    );
    let _ = cluster.query(
        "arena",
        "CREATE TRIGGER note AFTER INSERT ON counters FOR EACH ROW EXECUTE FUNCTION note()",
    );
    store.raise_counter("requests", 1).await.unwrap();
    assert_eq!(cluster.query("arena", "SELECT setting FROM seen"), "on");
    store.close().await.unwrap();
}
