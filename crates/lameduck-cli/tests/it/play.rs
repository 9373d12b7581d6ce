//! Matches that end where they began, and a room that moves, on the real binary.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::service::{LIMIT, Service, WITH_ADMIN};

/// Bytes in both directions, encrypted or not.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub type Client = WebSocketStream<Box<dyn Duplex>>;

pub async fn connect(address: &str, path: &str) -> Client {
    let stream = TcpStream::connect(address.parse::<SocketAddr>().unwrap()).await.unwrap();
    open(Box::new(stream), address, path).await
}

/// Makes a connection a WebSocket.
pub async fn open(stream: Box<dyn Duplex>, address: &str, path: &str) -> Client {
    client_async(format!("ws://{address}{path}"), stream).await.unwrap().0
}

async fn told(client: &mut Client) -> Value {
    let message = tokio::time::timeout(LIMIT, client.next()).await.expect("something is told");
    let message = message.expect("the connection stays").unwrap();
    serde_json::from_str(message.to_text().unwrap()).unwrap_or_else(|_| panic!("{message:?}"))
}

pub async fn told_that(client: &mut Client, what: &str) -> Value {
    let said = told(client).await;
    assert_eq!(said["type"], what, "{said}");
    said
}

/// Both players of a match that has begun.
pub struct Match {
    players: [Client; 2],
    pub generation: u64,
}

impl Match {
    /// The first of the two waits already.
    pub async fn begin(mut first: Client, mut second: Client) -> Match {
        let begins = told_that(&mut first, "begins").await;
        told_that(&mut second, "begins").await;
        let generation = begins["generation"].as_u64().unwrap();
        Match { players: [first, second], generation }
    }

    /// Draws lines in order until `most` are drawn or the match is over.
    pub async fn play(&mut self, most: usize) {
        loop {
            let [first, second] = &mut self.players;
            let board = told_that(first, "board").await;
            assert_eq!(told_that(second, "board").await, board);
            let drawn = board["lines"].as_array().unwrap().iter().filter(|line| !line.is_null());
            let (drawn, turn) = (drawn.count(), board["turn"].as_u64().unwrap());
            if drawn == 24 {
                return;
            }
            self.players[turn as usize]
                .send(Message::text(json!({"line": drawn}).to_string()))
                .await
                .unwrap();
            if drawn + 1 == most {
                return;
            }
        }
    }

    /// Plays the rest, which ends in order.
    pub async fn finish(mut self) {
        self.play(24).await;
        for player in &mut self.players {
            let mut said = told(player).await;
            while said["type"] == "board" {
                said = told(player).await;
            }
            assert_eq!((&said["type"], &said["left"]), (&json!("over"), &json!(false)), "{said}");
            let score: Vec<u64> = serde_json::from_value(said["score"].clone()).unwrap();
            assert_eq!(score.iter().sum::<u64>(), 9);
            match tokio::time::timeout(LIMIT, player.next()).await.unwrap() {
                Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1000),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_match_ends_on_the_version_it_began_on_through_three_upgrades() {
    let service = Service::upgradable(&[&["--probation", "0s"], &WITH_ADMIN[..]].concat());
    let address = service.addresses[0].clone();
    let mut matches = Vec::new();
    for generation in 1..=4 {
        let mut waits = connect(&address, "/match").await;
        told_that(&mut waits, "waiting").await;
        let mut begun = Match::begin(waits, connect(&address, "/match").await).await;
        assert_eq!(begun.generation, generation);
        begun.play(5).await;
        matches.push(begun);
        let named = service.status().to_string();
        assert!(named.contains("GET /match: match"), "{named}");
        if generation < 4 {
            tokio::task::block_in_place(|| service.upgrade());
            tokio::task::block_in_place(|| service.wait_answers_from(generation + 1));
        }
    }
    assert_eq!(service.status()["generations"].as_array().unwrap().len(), 4);
    for begun in matches {
        begun.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_player_who_waits_for_an_opponent_moves_with_the_version() {
    let service = Service::upgradable(&["--probation", "0s"]);
    let address = service.addresses[0].clone();
    let mut waits = connect(&address, "/match").await;
    assert_eq!(told_that(&mut waits, "waiting").await["generation"], 1);
    for generation in 2..=4 {
        tokio::task::block_in_place(|| service.upgrade());
        // On the connection that it has had all the time.
        assert_eq!(told_that(&mut waits, "waiting").await["generation"], generation);
    }
    let begun = Match::begin(waits, connect(&address, "/match").await).await;
    assert_eq!(begun.generation, 4);
    begun.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_stop_a_match_is_played_to_its_end_and_who_waits_is_told_to_go() {
    let mut service = Service::upgradable(&["--grace", "20s"]);
    let address = service.addresses[0].clone();
    let mut first = connect(&address, "/match").await;
    told_that(&mut first, "waiting").await;
    let mut begun = Match::begin(first, connect(&address, "/match").await).await;
    begun.play(5).await;
    let mut waits = connect(&address, "/match").await;
    told_that(&mut waits, "waiting").await;
    service.target.signal(lameduck_verify::target::Signal::TERM).unwrap();
    match tokio::time::timeout(LIMIT, waits.next()).await.unwrap() {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
    let _ = waits.next().await;
    for player in &mut begun.players {
        let mut said = told(player).await;
        while said["type"] == "board" {
            said = told(player).await;
        }
        assert_eq!(said["type"], "stopping");
    }
    // The boards that were told meanwhile have been read: the next move is told anew.
    let turn = 5 % 2;
    let move_five = json!({"line": 5}).to_string();
    begun.players[turn].send(Message::text(move_five)).await.unwrap();
    begun.finish().await;
    let end = tokio::task::block_in_place(|| service.wait());
    assert_eq!(end.code, Some(0), "{}", service.target.stderr());
}

/// How many members and lines; `LAMEDUCK_MEMBERS` asks for more than the few of a quick run.
fn members() -> usize {
    const FEW: usize = 100;
    std::env::var("LAMEDUCK_MEMBERS").map_or(FEW, |text| text.parse().unwrap())
}

/// Says `lines` things, one after the other was seen, and reads everything until it is told to stop: each line has the next
/// number, and its own come once and in order.
async fn member(
    mut client: Client,
    name: String,
    lines: usize,
    mut stop: tokio::sync::watch::Receiver<Option<u64>>,
    said_all: mpsc::UnboundedSender<()>,
) -> u64 {
    let (mut last, mut mine, mut sent) = (None, 0, 0);
    loop {
        if sent == mine && sent < lines {
            client.send(Message::text(format!("{name} {sent}"))).await.unwrap();
            sent += 1;
        }
        let until = *stop.borrow_and_update();
        if until.is_some_and(|until| last >= Some(until)) {
            return last.unwrap_or(0);
        }
        tokio::select! {
            message = client.next() => {
                let message = message.expect("nobody is disconnected").unwrap();
                let line: Value = serde_json::from_str(message.to_text().unwrap())
                    .unwrap_or_else(|_| panic!("{name}: {message:?}"));
                let seq = line["seq"].as_u64().unwrap();
                assert!(last.is_none_or(|last| seq == last + 1), "{name}: {seq} after {last:?}");
                last = Some(seq);
                if line["from"] == json!(name) {
                    assert_eq!(line["text"], json!(format!("{name} {mine}")));
                    mine += 1;
                    if mine == lines {
                        said_all.send(()).unwrap();
                    }
                }
            }
            _ = stop.changed() => {}
        }
    }
}

/// One who is in the middle of a message stays with its version, as every member over TLS does. What it says is numbered
/// by the successor, which has the room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_who_cannot_move_is_still_heard_after_an_upgrade() {
    let service = Service::upgradable(&["--probation", "0s"]);
    let mut stays = connect(&service.addresses[0], "/chat").await;
    stays.send(Message::text("one")).await.unwrap();
    assert_eq!(told(&mut stays).await["text"], "one");
    let half = |text: &'static str, code, is_last| {
        Message::Frame(Frame::message(text, OpCode::Data(code), is_last))
    };
    stays.send(half("tw", Data::Text, false)).await.unwrap();
    // The pong says that the half was read.
    stays.send(Message::Ping("read?".into())).await.unwrap();
    assert!(matches!(stays.next().await, Some(Ok(Message::Pong(_)))));
    tokio::task::block_in_place(|| service.upgrade());
    let mut other = connect(&service.addresses[0], "/chat").await;
    assert_eq!(told(&mut other).await["text"], "one");
    stays.send(half("o", Data::Continue, true)).await.unwrap();
    for member in [&mut stays, &mut other] {
        let line = told(member).await;
        assert_eq!((&line["seq"], &line["text"]), (&json!(2), &json!("two")), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_room_moves_through_ten_upgrades_and_loses_nothing() {
    const UPGRADES: u64 = 10;
    const LINES: usize = 5;
    let members = members();
    let service = Service::upgradable(&["--probation", "0s", "--max-generations", "20"]);
    let address = service.addresses[0].clone();
    let (stop, stopped) = tokio::sync::watch::channel(None);
    let (said_all, mut all_said) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for number in 0..members {
        let name = format!("member{number}");
        let client = connect(&address, &format!("/chat?name={name}")).await;
        tasks.push(tokio::spawn(member(client, name, LINES, stopped.clone(), said_all.clone())));
    }
    for generation in 2..=UPGRADES + 1 {
        tokio::task::block_in_place(|| service.upgrade());
        tokio::task::block_in_place(|| service.wait_answers_from(generation));
    }
    for _ in 0..members {
        let all = tokio::time::timeout(3 * LIMIT, all_said.recv()).await;
        all.expect("everybody sees what it said").unwrap();
    }
    // Nobody joined after the first line could be out of sight: the numbers are the count.
    let whole = (members * LINES) as u64;
    stop.send(Some(whole)).unwrap();
    for task in tasks {
        let last = tokio::time::timeout(LIMIT, task).await.expect("everybody sees all").unwrap();
        assert_eq!(last, whole);
    }
    let status = service.status();
    let newest = &status["generations"][0];
    assert_eq!(newest["generation"], UPGRADES + 1);
}

/// A member as the page is one: comes back when its connection ends, says what it has seen, and sees each number once; the
/// last line it waits for, and how often it had to come back. No close frame but with this code comes.
async fn returning(address: String, name: String, last: &'static str, goes: Option<u16>) -> usize {
    let (mut seen, mut returns) = (0, 0);
    loop {
        let mut client = connect(&address, &format!("/chat?name={name}&after={seen}")).await;
        loop {
            match tokio::time::timeout(LIMIT, client.next()).await.expect("something is told") {
                Some(Ok(Message::Text(line))) => {
                    let line: Value = serde_json::from_str(&line).unwrap();
                    assert_eq!(line["seq"], seen + 1, "{name}: {line}");
                    seen += 1;
                    if line["text"] == json!(last) {
                        return returns;
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.as_ref().map(|frame| frame.code.into());
                    assert!(goes.is_some() && code == goes, "{name} was closed: {frame:?}");
                }
                Some(Ok(_)) => {}
                // Its process was killed.
                None | Some(Err(_)) => break,
            }
        }
        returns += 1;
    }
}

/// Says something in the room until it is seen there, on as many connections as that takes.
async fn say(address: &str, text: &str) {
    loop {
        // Whoever has seen more than there is has seen everything.
        let mut client = connect(address, &format!("/chat?name=speaker&after={}", u64::MAX)).await;
        if client.send(Message::text(text)).await.is_err() {
            continue;
        }
        while let Some(Ok(Message::Text(line))) = client.next().await {
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["text"] == json!(text) {
                return;
            }
        }
    }
}

/// The version that leaves lets its members go, and the one before has the room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_goes_on_after_a_rollback() {
    const MEMBERS: usize = 50;
    const LAST: &str = "that was all";
    let service = Service::upgradable(&["--probation", "1h"]);
    let address = service.addresses[0].clone();
    let member = |number| returning(address.clone(), format!("m{number}"), LAST, Some(1001));
    let members: Vec<_> = (0..MEMBERS).map(|number| tokio::spawn(member(number))).collect();
    for generation in 2..=4 {
        say(&address, "before").await;
        tokio::task::block_in_place(|| service.upgrade());
        say(&address, "between").await;
        let back = tokio::task::block_in_place(|| service.operate("rollback", &[]));
        assert_eq!(back.code, Some(0), "{generation}: {back:?}");
    }
    say(&address, LAST).await;
    for member in members {
        tokio::time::timeout(LIMIT, member).await.expect("it sees all").unwrap();
    }
    service.operate("stop", &[]);
}

/// The most memory that a process ever had, in KiB.
fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A member whose message never ends, for as long as it is let.
async fn floods(address: String) {
    let mut member = connect(&address, "/chat").await;
    let begins = Frame::message("once", OpCode::Data(Data::Text), false);
    member.send(Message::Frame(begins)).await.unwrap();
    let fragment = Frame::message(vec![b'x'; 32 * 1024], OpCode::Data(Data::Continue), false);
    while member.send(Message::Frame(fragment.clone())).await.is_ok() {}
}

/// It is let go; it holds no memory, no upgrade and no stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_whose_message_never_ends_cost_no_memory_and_hold_nothing() {
    const MEMBERS: usize = 8;
    /// KiB for all of them; by default a message is kept up to 64 MiB, so that they would fill 512 MiB.
    const AT_MOST: u64 = 100 * 1024;
    let mut service = Service::upgradable(&["--probation", "0s"]);
    let address = service.addresses[0].clone();
    let floods = || (0..MEMBERS).map(|_| tokio::spawn(floods(address.clone()))).collect::<Vec<_>>();
    let before = most_memory(service.target.pid());
    for flood in floods() {
        tokio::time::timeout(LIMIT, flood).await.expect("it is let go").unwrap();
    }
    let grown = most_memory(service.target.pid()) - before;
    assert!(grown < AT_MOST, "{grown} KiB more for {MEMBERS} members");
    let flooding = floods();
    tokio::task::block_in_place(|| {
        service.upgrade();
        service.wait_generations(1);
    });
    for flood in flooding {
        flood.await.unwrap();
    }
    let _flooding = floods();
    tokio::task::block_in_place(|| {
        let ended = service.operate("stop", &[]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        service.leaves_no_process();
    });
}
