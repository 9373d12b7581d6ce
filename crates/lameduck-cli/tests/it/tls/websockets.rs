//! WebSockets behind TLS: the same frames, the same ends; and since they cannot move, they are told to come back.

use futures_util::{SinkExt, StreamExt};
use lameduck_verify::target::{Ready, Signal, Target};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Secure;
use crate::play::{Client, Match, told_that};
use crate::service::{LIMIT, WITH_ADMIN};

const CONTROL: [&str; 4] = ["--control", "run/control", "--probation", "0s"];

const MEMBERS: usize = 50;

/// Python's `websockets`: says when all are open, and how each ended.
const PYTHON: &str = include_str!("../../../../lameduck/tests/websockets/client.py");
/// How many sockets it opens.
const SOCKETS: usize = 20;

/// What comes until the close frame, its code, and that the connection ends in order behind it.
async fn end(client: &mut Client) -> (Vec<Value>, u16) {
    let (mut lines, mut code) = (Vec::new(), 0);
    loop {
        match tokio::time::timeout(LIMIT, client.next()).await.expect("the connection ends") {
            Some(Ok(Message::Text(line))) => lines.push(serde_json::from_str(&line).unwrap()),
            Some(Ok(Message::Close(Some(frame)))) => code = frame.code.into(),
            Some(Ok(other)) => panic!("{other:?}"),
            None | Some(Err(Error::ConnectionClosed)) => return (lines, code),
            // Without close_notify it would be an error of rustls.
            Some(Err(error)) => panic!("after {code}: {error}"),
        }
    }
}

fn numbers(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect()
}

/// Members of the room who have said one thing each and seen it.
async fn members(secure: &Secure) -> Vec<Client> {
    let mut members = Vec::new();
    for number in 1..=MEMBERS {
        let mut client =
            secure.websocket(&format!("/chat?name=m{number}&after={}", number - 1)).await;
        client.send(Message::text("here I am")).await.unwrap();
        let line = client.next().await.unwrap().unwrap();
        let line: Value = serde_json::from_str(line.to_text().unwrap()).unwrap();
        assert_eq!(line["seq"], number);
        members.push(client);
    }
    members
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_behind_tls_are_closed_with_1001_at_a_stop() {
    let mut secure = Secure::start(&["--log", "json"]);
    let members = members(&secure).await;
    secure.service.signal(Signal::TERM);
    for (number, mut member) in members.into_iter().enumerate() {
        let (lines, code) = end(&mut member).await;
        assert_eq!(code, 1001);
        // What was said after it came is what it sees, whole and in order.
        let expected: Vec<u64> = (number as u64 + 2..=MEMBERS as u64).collect();
        assert_eq!(numbers(&lines), expected);
    }
    tokio::task::block_in_place(|| secure.service.ends_clean());
    let report = secure.service.report();
    assert_eq!(report["finished"]["websockets"], MEMBERS, "{report}");
    assert_eq!(report["cut"]["websockets"], 0, "{report}");
}

/// It would move, and its keys are here: it is told so, and misses nothing when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_that_would_move_but_is_behind_tls_gets_1012_and_is_counted() {
    let secure = Secure::start(&[&CONTROL[..], &["--log", "json"]].concat());
    let before = members(&secure).await;
    let mut before = before.into_iter();
    let mut waits = secure.websocket("/match").await;
    told_that(&mut waits, "waiting").await;
    let mut match_begun = Match::begin(waits, secure.websocket("/match").await).await;
    match_begun.play(5).await;
    let mut waits = secure.websocket("/match").await;
    told_that(&mut waits, "waiting").await;
    tokio::task::block_in_place(|| secure.service.upgrade());
    let mut last = before.next().unwrap();
    let (lines, code) = end(&mut last).await;
    assert_eq!((code, numbers(&lines)), (1012, (2..=MEMBERS as u64).collect()));
    for mut member in before {
        assert_eq!(end(&mut member).await.1, 1012);
    }
    assert_eq!(end(&mut waits).await.1, 1012);
    // The room has moved; who comes back asks for what it has not seen.
    let mut back = secure.websocket("/chat?name=back&after=40").await;
    back.send(Message::text("I am back")).await.unwrap();
    for seq in 41..=MEMBERS as u64 + 1 {
        let line = tokio::time::timeout(LIMIT, back.next()).await.unwrap().unwrap().unwrap();
        let line: Value = serde_json::from_str(line.to_text().unwrap()).unwrap();
        assert_eq!(line["seq"], seq);
    }
    // A match is played where it began, and holds its version.
    assert_eq!(match_begun.generation, 1);
    match_begun.finish().await;
    let told = r#""event":"websockets-told""#;
    let line = tokio::task::block_in_place(|| secure.service.target.wait_stderr(told, LIMIT));
    assert!(line.unwrap().contains("(1012)"));
    // The old version's report counts them: the members and who waited, not the match.
    let counted = format!(r#""websockets_told":{}"#, MEMBERS + 1);
    tokio::task::block_in_place(|| secure.service.target.wait_stderr(&counted, LIMIT)).unwrap();
    secure.service.operate("stop", &[]);
}

/// The same counts while the old version still runs, where a scraper finds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_that_move_are_counted_too() {
    let service = crate::service::Service::upgradable(
        &[&["--probation", "0s", "--log", "json"], &WITH_ADMIN[..]].concat(),
    );
    let address = service.addresses[0].clone();
    let mut member = crate::play::connect(&address, "/chat?name=m").await;
    member.send(Message::text("here I am")).await.unwrap();
    member.next().await.unwrap().unwrap();
    tokio::task::block_in_place(|| {
        service.upgrade();
        service.target.wait_stderr(r#""websockets_moved":1,"websockets_told":0"#, LIMIT).unwrap();
        let place = format!("unix:{}:/metrics", service.path(crate::service::ADMIN).display());
        let (_, metrics) = crate::service::get(&place.parse().unwrap());
        assert!(metrics.contains("\nlameduck_websockets_moved_total 0\n"), "{metrics}");
    });
    service.operate("stop", &[]);
}

/// Python's sockets behind TLS, of which each has heard nothing but how it ends.
fn python(secure: &Secure) -> Target {
    let url = format!("wss://{}/chat", secure.service.addresses[0]);
    let command = Target::command("python3").args(["-c", PYTHON, &url, &SOCKETS.to_string()]);
    let command = command.arg(secure.service.path("ca.pem"));
    let started = command.ready(Ready::Stdout("open".into())).ready_limit(LIMIT).start();
    started.expect("python3 with websockets: `cargo xtask setup` installs it")
}

#[track_caller]
fn all_end_with(python: &Target, code: u16, reason: &str) {
    let said = python.wait_stdout("[[", LIMIT);
    let said = said.unwrap_or_else(|why| panic!("{why}: {}", python.stderr()));
    let ends: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(ends, Value::Array(vec![serde_json::json!([code, reason, 0]); SOCKETS]));
}

#[test]
fn python_behind_tls_sees_1001_at_a_stop() {
    let mut secure = Secure::start(&["--log", "json"]);
    let python = python(&secure);
    secure.service.signal(Signal::TERM);
    all_end_with(&python, 1001, "the server stops");
    secure.service.ends_clean();
    let report = secure.service.report();
    assert_eq!(report["finished"]["websockets"], SOCKETS, "{report}");
}

#[test]
fn python_behind_tls_sees_1012_at_an_upgrade() {
    let secure = Secure::start(&[&CONTROL[..], &["--log", "json"]].concat());
    let python = python(&secure);
    secure.service.upgrade();
    all_end_with(&python, 1012, "a new version serves");
    let counted = format!(r#""websockets_told":{SOCKETS}"#);
    secure.service.target.wait_stderr(&counted, LIMIT).unwrap();
    secure.service.operate("stop", &[]);
}
