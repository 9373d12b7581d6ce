//! WebSockets that move: the client keeps its connection, and nothing is lost on the way.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use axum::{Router, routing::get};
use futures_util::{SinkExt, StreamExt};
use lameduck::phase::{Asked, Outcome};
use lameduck::websocket::{Begun, Received, WebSocket};
use lameduck::work::WorkKind;
use lameduck::{Builder, Lifecycle};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::clients::{BOUND, Client, End, connect, end};

/// A directory for this user alone, removed when dropped.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lameduck-websockets-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers each message with its number, and the generation.
async fn count(mut socket: WebSocket, begun: Begun, generation: u32) {
    let mut number = match begun {
        Begun::Here(_) => 0,
        Begun::Moved { version, state } => {
            assert_eq!(version, 1);
            u64::from_le_bytes(state.try_into().unwrap())
        }
    };
    loop {
        match socket.recv().await {
            Received::Message(message) => {
                number += 1;
                let said = format!("{generation}:{number}:{message}");
                if socket.send(said).await.is_err() {
                    return;
                }
            }
            Received::Move => match socket.move_on(number.to_le_bytes().to_vec()).await {
                Ok(()) => return,
                Err(stays) => socket = *stays,
            },
            Received::Closed => return,
        }
    }
}

struct Service {
    directory: Directory,
    address: SocketAddr,
}

fn builder(directory: &Path) -> Builder {
    Lifecycle::builder()
        .without_signals()
        .linger(Duration::ZERO)
        .grace_period(BOUND)
        .probation(Duration::ZERO)
        .control(directory.join("control"))
}

/// One more generation of the service, of which the last one sends WebSockets of kind `count` that read `reads`.
async fn generation(
    service: &mut Service,
    reads: Option<std::ops::RangeInclusive<u32>>,
) -> Lifecycle {
    let mut building = builder(&service.directory.0);
    if service.address.port() != 0 {
        building = building.take_over();
    }
    // It asks its predecessor, and waits for the answer, on the thread that starts it.
    let life = tokio::task::spawn_blocking(|| building.start().unwrap()).await.unwrap();
    let generation = life.generation();
    let mut app = Router::new();
    if let Some(reads) = reads {
        let counting = life.websockets("count").reads(reads);
        let counting = counting.serve(move |socket, begun| count(socket, begun, generation));
        let counting = counting.unwrap();
        let route =
            get(move |request: Request| async move { counting.accept(request) as Response });
        app = app.route("/count", route);
    }
    let listener = life.listen("127.0.0.1:0").await.unwrap();
    service.address = listener.address().parse().unwrap();
    life.serve("http", listener, app).unwrap();
    life.ready();
    life
}

fn service() -> Service {
    let address = "127.0.0.1:0".parse().unwrap();
    Service { directory: Directory::new(), address }
}

async fn handed_over(life: &Lifecycle) {
    let handed_over = life.drain();
    let handed_over = handed_over.asked_for(|asked| asked == Asked::HandedOver);
    tokio::time::timeout(BOUND, handed_over).await.expect("the successor accepts");
}

async fn answer(client: &mut Client) -> String {
    let came = tokio::time::timeout(BOUND, client.next()).await.expect("an answer comes");
    came.unwrap().unwrap().into_text().unwrap().to_string()
}

async fn stopped(life: Lifecycle) -> lameduck::Exit {
    life.stop();
    tokio::time::timeout(2 * BOUND, life.ended()).await.expect("it ends by its deadline")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_moves_through_many_upgrades_and_nothing_is_lost() {
    const UPGRADES: u32 = 10;
    const BURST: u64 = 50;
    let mut service = service();
    let mut life = generation(&mut service, Some(1..=1)).await;
    let mut client = connect(service.address, "/count").await;
    let (mut sent, mut came) = (0, 0);
    for upgrade in 1..=UPGRADES {
        // Some of these are read by the old generation, and the rest travels unread.
        for _ in 0..BURST {
            sent += 1;
            client.feed(Message::text(format!("message {sent}"))).await.unwrap();
        }
        client.flush().await.unwrap();
        let next = generation(&mut service, Some(1..=1)).await;
        handed_over(&life).await;
        // The predecessor has nothing left, since its only connection moved, and ends by itself.
        let exit = tokio::time::timeout(BOUND, life.ended()).await.expect("it ends by itself");
        assert_eq!(exit.report().outcome, Outcome::Finished);
        life = next;
        sent += 1;
        client.send(Message::text(format!("message {sent}"))).await.unwrap();
        while came < sent {
            came += 1;
            let answer = answer(&mut client).await;
            let (by, rest) = answer.split_once(':').unwrap();
            assert_eq!(rest, format!("{came}:message {came}"));
            assert!(by.parse::<u32>().unwrap() <= upgrade + 1);
        }
    }
    let snapshot = life.snapshot();
    assert_eq!((snapshot.generation, snapshot.live.websockets), (UPGRADES + 1, 1));
    assert_eq!(
        (snapshot.work[0].kind, &*snapshot.work[0].name),
        (WorkKind::WebSocket, "GET /count")
    );
    let stopping = tokio::spawn(stopped(life));
    let (_, how, _) = end(&mut client).await;
    assert_eq!(how, End::Closed(1001, "the server stops".to_owned()));
    assert_eq!(stopping.await.unwrap().report().outcome, Outcome::Finished);
}

/// The client is in the middle of a frame, of which the old generation has read a part: the part travels along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_frame_travels_along() {
    let mut service = service();
    let first = generation(&mut service, Some(1..=1)).await;
    let mut client = connect(service.address, "/count").await;
    client.send(Message::text("one")).await.unwrap();
    assert_eq!(answer(&mut client).await, "1:1:one");
    let frame = masked(0x81, b"two");
    client.get_mut().write_all(&frame[..4]).await.unwrap();
    let second = generation(&mut service, Some(1..=1)).await;
    let _ = tokio::time::timeout(BOUND, first.ended()).await.expect("it ends by itself");
    client.get_mut().write_all(&frame[4..]).await.unwrap();
    assert_eq!(answer(&mut client).await, "2:2:two");
    drop(client);
    assert_eq!(stopped(second).await.report().outcome, Outcome::Finished);
}

pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    // A mask of zeros leaves the payload as it is.
    let mut frame = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend(payload);
    frame
}

/// A message in fragments: the first one is in the old generation's hands, so it stays until the last one has come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_in_fragments_is_received_whole_before_its_websocket_moves() {
    let mut service = service();
    let first = generation(&mut service, Some(1..=1)).await;
    let mut client = connect(service.address, "/count").await;
    // The pong tells that the fragment before it was read.
    client.get_mut().write_all(&masked(0x01, b"one, ")).await.unwrap();
    client.get_mut().write_all(&masked(0x89, b"?")).await.unwrap();
    let pong = tokio::time::timeout(BOUND, client.next()).await.unwrap().unwrap().unwrap();
    assert!(pong.is_pong(), "{pong:?}");
    let second = generation(&mut service, Some(1..=1)).await;
    handed_over(&first).await;
    client.get_mut().write_all(&masked(0x80, b"whole")).await.unwrap();
    assert_eq!(answer(&mut client).await, "1:1:one, whole");
    let _ = tokio::time::timeout(BOUND, first.ended()).await.expect("it ends by itself");
    client.send(Message::text("two")).await.unwrap();
    assert_eq!(answer(&mut client).await, "2:2:two");
    drop(client);
    assert_eq!(stopped(second).await.report().outcome, Outcome::Finished);
}

/// Neither an older program, which says nothing of sessions, nor one that reads other versions is sent any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_stays_when_the_successor_cannot_go_on_with_it() {
    for reads in [None, Some(2..=3)] {
        let mut service = service();
        let first = generation(&mut service, Some(1..=1)).await;
        let mut client = connect(service.address, "/count").await;
        let second = generation(&mut service, reads).await;
        handed_over(&first).await;
        for number in 1..=10 {
            client.send(Message::text("stays")).await.unwrap();
            assert_eq!(answer(&mut client).await, format!("1:{number}:stays"));
        }
        client.close(None).await.unwrap();
        let _ = end(&mut client).await;
        let _ = tokio::time::timeout(BOUND, first.ended()).await.expect("it ends by itself");
        assert_eq!(stopped(second).await.report().outcome, Outcome::Finished);
    }
}
