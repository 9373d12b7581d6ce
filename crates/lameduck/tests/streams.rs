//! Streams whose clients do not do their part.
#![cfg(feature = "http")]

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::{Router, routing::get};
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use lameduck::phase::Outcome;
use lameduck::{Error, Lifecycle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Shorter than anything a client could wait for.
const GRACE: Duration = Duration::from_millis(500);

/// Far more than the kernel keeps for a connection.
const EVENT: usize = 64 * 1024 * 1024;

/// It is told at a boundary, and its connection takes no byte more: so it is cut, and nobody else waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_that_is_never_read_is_cut_at_the_deadline_and_named() -> Result<(), Error>
{
    let life = Lifecycle::builder().without_signals().grace_period(GRACE).start()?;
    let listener = life.listen("127.0.0.1:0").await?;
    let address = listener.address().to_owned();
    let streams = life.streams();
    let events = async move || {
        let event = Bytes::from(format!("data: {}\n\n", "x".repeat(EVENT)));
        let frames = stream::repeat_with(move || Ok::<_, Infallible>(Frame::data(event.clone())));
        Body::new(streams.events(StreamBody::new(frames)))
    };
    life.serve("http", listener, Router::new().route("/events", get(events)))?;
    life.ready();
    let mut client = TcpStream::connect(&address).await.unwrap();
    client.write_all(b"GET /events HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    // The head has come, and the event behind it is on its way.
    client.read_u8().await.unwrap();
    life.stop();
    let exit = life.run().await;
    let report = exit.report();
    assert_eq!((report.outcome, report.cut.requests), (Outcome::DeadlineExceeded, 1), "{report}");
    assert_eq!(&*report.cut_work[0].name, "GET /events", "{report}");
    drop(client);
    Ok(())
}
