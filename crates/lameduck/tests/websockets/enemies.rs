//! Clients that mean harm, or are broken: none of them holds a stop up to its deadline, and none takes others with it.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use lameduck::Lifecycle;
use lameduck::phase::Outcome;
use lameduck::websocket::CloseFrames;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::clients::{BOUND, End, connect, end, round_trip, router};
use crate::moves::masked;

async fn serve(app: Router) -> (Lifecycle, SocketAddr) {
    let life = Lifecycle::builder()
        .without_signals()
        .linger(Duration::ZERO)
        .grace_period(BOUND)
        .close_frames(CloseFrames::new().answer_within(Duration::from_millis(200)))
        .start()
        .unwrap();
    let listener = life.listen("127.0.0.1:0").await.unwrap();
    let address = listener.address().parse().unwrap();
    life.serve("http", listener, app).unwrap();
    life.ready();
    (life, address)
}

/// Stops beside one client that behaves, which must be told as ever.
async fn stops_without_a_cut(life: Lifecycle, address: SocketAddr) {
    let mut good = connect(address, "/echo").await;
    round_trip(&mut good, "hello").await;
    life.stop();
    assert_eq!(end(&mut good).await.1, End::Closed(1001, "the server stops".to_owned()));
    let exit = tokio::time::timeout(2 * BOUND, life.ended()).await.expect("it ends");
    let report = exit.report();
    assert_eq!((report.outcome, report.cut.connections), (Outcome::Finished, 0), "{report}");
}

/// A connection that has become a WebSocket, without a library that would answer for it.
async fn raw(address: SocketAddr) -> TcpStream {
    connect(address, "/echo").await.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_that_goes_on_behind_the_close_frame_does_not_hold_the_stop() {
    let (life, address) = serve(router()).await;
    let (mut read, mut write) = raw(address).await.into_split();
    let pings = masked(0x89, b"are you there?").repeat(100);
    let flood = tokio::spawn(async move { while write.write_all(&pings).await.is_ok() {} });
    let pongs = tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while matches!(read.read(&mut bytes).await, Ok(n) if n > 0) {}
    });
    stops_without_a_cut(life, address).await;
    flood.await.unwrap();
    pongs.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_fragments_never_end_does_not_hold_the_stop() {
    let (life, address) = serve(router()).await;
    let (mut read, mut write) = raw(address).await.into_split();
    write.write_all(&masked(0x01, b"once ")).await.unwrap();
    let fragment = masked(0x00, b"upon a time ");
    let flood = tokio::spawn(async move {
        while write.write_all(&fragment).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    stops_without_a_cut(life, address).await;
    // The close frame came between its fragments.
    let mut all = Vec::new();
    let _ = read.read_to_end(&mut all).await;
    let frame = [&[0x88, 0x12, 0x03, 0xe9][..], b"the server stops"].concat();
    assert_eq!(all, frame);
    flood.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_a_huge_message_does_not_hold_the_stop() {
    let (life, address) = serve(router()).await;
    let mut client = raw(address).await;
    // 2 GiB are announced.
    client.write_all(&[0x82, 0xff, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    client.write_all(&[7; 100_000]).await.unwrap();
    stops_without_a_cut(life, address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_header_that_is_never_finished_does_not_hold_the_stop() {
    let (life, address) = serve(router()).await;
    let mut client = raw(address).await;
    client.write_all(&[0x82]).await.unwrap();
    stops_without_a_cut(life, address).await;
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    assert!(all.starts_with(&[0x88]), "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_websocket_at_all_does_not_hold_the_stop() {
    let (life, address) = serve(router()).await;
    let mut client = raw(address).await;
    // Reserved bits and opcodes, control frames in fragments, lengths beyond 63 bits.
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0x09, 0xff], &[0u8; 9]] {
        // Refused at the first of them, perhaps.
        let _ = client.write_all(garbage).await;
    }
    stops_without_a_cut(life, address).await;
}

/// The client has ended its side without a close frame, and reads on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_half_closes_without_a_frame_does_not_hold_the_stop() {
    let (life, address) = serve(router()).await;
    let mut client = raw(address).await;
    client.shutdown().await.unwrap();
    stops_without_a_cut(life, address).await;
    let _ = client.read_to_end(&mut Vec::new()).await;
}
