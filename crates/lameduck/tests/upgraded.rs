//! A connection that another protocol took over is live work like any other.
#![cfg(feature = "http")]

use std::time::Duration;

use axum::extract::Request;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderName, StatusCode};
use axum::{Router, routing::get};
use hyper_util::rt::TokioIo;
use lameduck::phase::Outcome;
use lameduck::{Error, Lifecycle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Becomes a protocol that sends back what it gets.
async fn echo(request: Request) -> (StatusCode, [(HeaderName, &'static str); 2]) {
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
        // The client's end of file, or the force.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, "echo")])
}

async fn serve(grace: Duration) -> Result<(Lifecycle, TcpStream), Error> {
    let builder = Lifecycle::builder().without_signals().linger(Duration::ZERO);
    let life = builder.grace_period(grace).start()?;
    let listener = life.listen("127.0.0.1:0").await?;
    let mut client = TcpStream::connect(listener.address()).await.unwrap();
    life.serve("http", listener, Router::new().route("/", get(echo)))?;
    life.ready();
    let head = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", answer.escape_ascii());
    Ok((life, client))
}

async fn round_trip(client: &mut TcpStream) {
    client.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    client.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ping");
}

#[tokio::test]
async fn an_upgraded_connection_is_waited_for() -> Result<(), Error> {
    let (life, mut client) = serve(Duration::from_secs(60)).await?;
    round_trip(&mut client).await;
    life.stop();
    life.drain().started().await;
    for _ in 0..10 {
        round_trip(&mut client).await;
    }
    assert_eq!(life.snapshot().live.connections, 1);
    drop(client);
    let exit = life.run().await;
    assert_eq!((exit.report().outcome, exit.report().finished.connections), (Outcome::Finished, 1));
    Ok(())
}

#[tokio::test]
async fn an_upgraded_connection_is_cut_at_the_deadline_and_named() -> Result<(), Error> {
    let (life, mut client) = serve(Duration::from_millis(200)).await?;
    round_trip(&mut client).await;
    life.stop();
    let exit = life.run().await;
    let report = exit.report();
    assert_eq!((report.outcome, report.cut.connections), (Outcome::DeadlineExceeded, 1));
    assert_eq!(
        report.cut_work[0].peer.as_deref(),
        Some(&*client.local_addr().unwrap().to_string())
    );
    // A reset is as good an end as an end of file: nothing more comes.
    assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0);
    Ok(())
}
