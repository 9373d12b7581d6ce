//! The admin server stands beside the service: what it is asked is not the service's work.
#![cfg(feature = "http")]

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::{Router, routing::get};
use http_body::Frame;
use http_body_util::StreamBody;
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

#[tokio::test]
async fn a_stream_is_counted_until_its_client_leaves() -> Result<(), Error> {
    let life = Lifecycle::builder().without_signals().start()?;
    let (service, admin) = (life.listen("127.0.0.1:0").await?, life.listen("127.0.0.1:0").await?);
    let (at, asked_at) = (service.address().to_owned(), admin.address().to_owned());
    let streams = life.streams();
    let events = async move || {
        let never =
            StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>());
        Body::new(streams.events(never))
    };
    life.serve("http", service, Router::new().route("/events", get(events)))?;
    life.serve_admin(admin, |_| {})?;
    life.ready();

    assert!(ask(&asked_at, "/metrics").await.contains("\nlameduck_streams 0\n"));
    let mut stream = TcpStream::connect(&at).await.unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    // Its head is there, so it has begun.
    stream.read_u8().await.unwrap();
    assert_eq!(life.snapshot().live.streams, 1);
    assert!(ask(&asked_at, "/metrics").await.contains("\nlameduck_streams 1\n"));
    drop(stream);
    while life.snapshot().live.streams > 0 {
        tokio::task::yield_now().await;
    }
    Ok(())
}
