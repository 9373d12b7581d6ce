//! The cluster starts, answers, survives a restart, and leaves nothing behind.

use private_postgres::Cluster;

#[test]
fn a_cluster_answers_and_leaves_nothing_behind() {
    let cluster = Cluster::start();
    let (port, directory) = (cluster.port(), cluster.directory().to_owned());
    assert_eq!(cluster.create_database("one"), format!("postgres://postgres@127.0.0.1:{port}/one"));
    assert_eq!(cluster.query("one", "SELECT 1 + 1, 'two'"), "2|two");

    drop(cluster);
    assert!(!directory.exists(), "{} is still there", directory.display());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "the server still accepts");
}

#[test]
fn committed_rows_survive_a_stop_without_a_checkpoint() {
    let mut cluster = Cluster::start();
    let _ = cluster.create_database("kept");
    let _ = cluster.query("kept", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)");
    cluster.stop();
    cluster.start_again();
    assert_eq!(cluster.query("kept", "SELECT n FROM kept"), "7");
}
