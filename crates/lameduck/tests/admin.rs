//! The admin server stands beside the service: what it is asked is not the service's work.
#![cfg(feature = "http")]

use axum::{Router, routing::get};
use lameduck::{Error, Lifecycle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends one request and reads to the end of the connection.
async fn ask(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn what_the_admin_server_is_asked_is_not_counted_as_served() -> Result<(), Error> {
    let life = Lifecycle::builder().without_signals().start()?;
    let (service, admin) = (life.listen("127.0.0.1:0").await?, life.listen("127.0.0.1:0").await?);
    let (at, asked_at) = (service.address().to_owned(), admin.address().to_owned());
    life.serve("http", service, Router::new().route("/", get(async || "hello")))?;
    life.serve_admin(admin, |_| {})?;
    life.ready();

    assert!(ask(&at, "/").await.ends_with("hello"));
    for path in ["/livez", "/readyz", "/status", "/metrics"] {
        assert!(ask(&asked_at, path).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    assert_eq!(life.snapshot().served, 1);
    assert!(ask(&asked_at, "/metrics").await.contains("\nlameduck_requests_total 1\n"));
    life.stop();
    let exit = life.run().await;
    assert_eq!(exit.report().finished.requests, 0);
    Ok(())
}
