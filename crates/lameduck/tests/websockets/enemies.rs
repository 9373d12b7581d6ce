//! Clients that mean harm, or are broken: none of them holds a stop up to its deadline, and none takes others with it.

use std::net::SocketAddr;
use std::time::Duration;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::routing::get;
use lameduck::phase::Outcome;
use lameduck::websocket::CloseFrames;
use lameduck::work::WorkKind;
use lameduck::{Builder, Lifecycle, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::JoinHandle;

use crate::clients::{BOUND, End, connect, end, round_trip, router};
use crate::moves::{Directory, masked};

fn builder() -> Builder {
    Lifecycle::builder()
        .without_signals()
        .linger(Duration::ZERO)
        .grace_period(BOUND)
        .close_frames(CloseFrames::new().answer_within(Duration::from_millis(200)))
}

async fn serve(app: Router) -> (Lifecycle, SocketAddr) {
    serve_with(builder(), app).await
}

pub async fn serve_with(builder: Builder, app: Router) -> (Lifecycle, SocketAddr) {
    // It asks its predecessor, if it has one, on the thread that starts it.
    let life = tokio::task::spawn_blocking(|| builder.start().unwrap()).await.unwrap();
    let listener = life.listen("127.0.0.1:0").await.unwrap();
    let address = listener.address().parse().unwrap();
    life.serve("http", listener, app).unwrap();
    life.ready();
    (life, address)
}

/// Stops beside one client that behaves, which must be told as ever.
pub async fn stops_without_a_cut(life: Lifecycle, address: SocketAddr) {
    let mut good = connect(address, "/echo").await;
    round_trip(&mut good, "hello").await;
    life.stop();
    assert_eq!(end(&mut good).await.1, End::Closed(1001, "the server stops".to_owned()));
    let exit = tokio::time::timeout(2 * BOUND, life.ended()).await.expect("it ends");
    let report = exit.report();
    assert_eq!((report.outcome, report.cut.connections), (Outcome::Finished, 0), "{report}");
}

/// A connection that has become a WebSocket, without a library that would answer for it.
pub async fn raw(address: SocketAddr) -> TcpStream {
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

/// A client in the middle of a message whose fragments never end: what it reads, and its writing, which ends with the
/// connection.
async fn tells_without_an_end(address: SocketAddr) -> (OwnedReadHalf, JoinHandle<()>) {
    let (read, mut write) = raw(address).await.into_split();
    write.write_all(&masked(0x01, b"once ")).await.unwrap();
    let fragment = masked(0x00, b"upon a time ");
    let writing = tokio::spawn(async move {
        while write.write_all(&fragment).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    (read, writing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_fragments_never_end_does_not_hold_the_stop() {
    let (life, address) = serve(router()).await;
    let (mut read, flood) = tells_without_an_end(address).await;
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

/// A handler that sends frames of 4 MiB without an end, and counts those that it is rid of.
fn flood(sent: &Arc<AtomicUsize>) -> Router {
    const LARGE: usize = 4 << 20;
    let sent = Arc::clone(sent);
    let handler = async move |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async move |mut socket| {
            let large = Message::Binary(Bytes::from(vec![7; LARGE]));
            while socket.send(large.clone()).await.is_ok() {
                sent.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    Router::new().route("/flood", get(handler))
}

/// More than both ends of a connection keep in the kernel.
const FRAMES_AT_MOST: usize = 8;

/// One byte after the other, slower than any frame.
async fn reads_slowly(address: SocketAddr) -> tokio::task::JoinHandle<()> {
    let mut client = connect(address, "/flood").await.into_inner();
    client.readable().await.unwrap();
    tokio::spawn(async move {
        let mut byte = [0];
        while matches!(client.read(&mut byte).await, Ok(1)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

/// It ended by its deadline, and counted and named the one it cut.
async fn has_cut_one(life: Lifecycle, sent: &AtomicUsize) {
    let exit = tokio::time::timeout(2 * BOUND, life.ended()).await.expect("it ends by a deadline");
    let report = exit.report();
    assert_eq!((report.outcome, report.cut.websockets), (Outcome::DeadlineExceeded, 1), "{report}");
    let cut = &report.cut_work[0];
    assert_eq!((cut.kind, &*cut.name), (WorkKind::WebSocket, "GET /flood"), "{report}");
    // Nothing is kept for a client that does not take it.
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent <= FRAMES_AT_MOST, "{sent} frames for one who reads nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_endless_large_frames_is_cut_at_the_deadline_and_counted() {
    let sent = Arc::default();
    let builder = builder().grace_period(Duration::from_secs(1));
    let (life, address) = serve_with(builder, flood(&sent)).await;
    let reading = reads_slowly(address).await;
    life.stop();
    has_cut_one(life, &sent).await;
    reading.abort();
}

/// One generation of a service whose WebSockets go at an upgrade, with a deadline.
pub fn upgradable(directory: &Directory, grace: Duration) -> Builder {
    let closes = CloseFrames::new().answer_within(Duration::from_millis(200)).close_at_upgrade();
    let builder = builder().close_frames(closes.spread(Duration::ZERO)).upgrade_grace(grace);
    builder.probation(Duration::ZERO).control(directory.0.join("control"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_endless_large_frames_holds_an_old_version_no_longer_than_its_grace() {
    let (directory, sent) = (Directory::new(), Arc::default());
    let upgradable = || upgradable(&directory, Duration::from_secs(1));
    let (old, address) = serve_with(upgradable(), flood(&sent)).await;
    let reading = reads_slowly(address).await;
    let (new, _) = serve_with(upgradable().take_over(), router()).await;
    has_cut_one(old, &sent).await;
    reading.abort();
    stops_without_a_cut(new, address).await;
}

/// An upgrade beside a client whose message has no end; the old version's report.
async fn upgraded_beside_a_message_without_an_end(grace: Duration) -> Report {
    let directory = Directory::new();
    let (old, address) = serve_with(upgradable(&directory, grace), router()).await;
    let (mut read, writing) = tells_without_an_end(address).await;
    let (new, _) = serve_with(upgradable(&directory, grace).take_over(), router()).await;
    let exit = tokio::time::timeout(2 * BOUND, old.ended()).await.expect("it ends");
    let mut all = Vec::new();
    let _ = read.read_to_end(&mut all).await;
    assert_eq!(all, [&[0x88, 0x16, 0x03, 0xf4][..], b"a new version serves"].concat());
    writing.await.unwrap();
    stops_without_a_cut(new, address).await;
    exit.report().clone()
}

/// Its handler waits for the end of the message; the close frame and its bounds do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_fragments_never_end_does_not_hold_an_old_version() {
    let report = upgraded_beside_a_message_without_an_end(BOUND).await;
    assert_eq!((report.outcome, report.cut.websockets), (Outcome::Finished, 0), "{report}");
    assert_eq!(report.tally.websockets_told, 1, "{report}");
}

/// Everyone is told shortly before the cut, and who was told before is not told again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_told_to_go_and_stays_until_the_cut_is_counted_once() {
    let report = upgraded_beside_a_message_without_an_end(Duration::from_millis(600)).await;
    assert_eq!((report.outcome, report.cut.websockets), (Outcome::DeadlineExceeded, 1), "{report}");
    assert_eq!(report.tally.websockets_told, 1, "{report}");
}
