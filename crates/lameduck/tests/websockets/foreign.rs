//! Clients of other makers: Python's `websockets` and a browser, and which code each of them sees.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::{get, post};
use lameduck::phase::Outcome;
use lameduck::websocket::CloseFrames;
use lameduck::{Builder, Lifecycle};
use lameduck_verify::target::{Ready, Target};
use tokio::sync::mpsc;

use crate::clients::{BOUND, router};
use crate::moves::Directory;

const CLIENT: &str = include_str!("client.py");

/// How many sockets Python opens.
const SOCKETS: usize = 20;

const PAGE: &str = r#"<!doctype html><title>a socket</title><script>
const tell = text => fetch("/told", { method: "POST", body: text });
const socket = new WebSocket("ws://ADDRESS/echo");
socket.onopen = () => tell("open");
socket.onclose = ({ code, reason, wasClean }) => tell(`${code} ${reason}, ${wasClean ? "clean" : "not clean"}`);
</script>"#;

/// Python at work. It is gone when this is dropped.
struct Python(Target);

impl Python {
    async fn connect(address: SocketAddr) -> Python {
        let url = format!("ws://{address}/echo");
        let command = Target::command("python3").args(["-c", CLIENT, &url, &SOCKETS.to_string()]);
        let command = command.ready(Ready::Stdout("open".into())).ready_limit(BOUND);
        let started = tokio::task::spawn_blocking(|| command.start()).await.unwrap();
        Python(started.expect("python3 with websockets: `cargo xtask setup` installs it"))
    }

    /// The code and the reason that every socket got.
    async fn ends(self, code: u16, reason: &str) {
        let said = tokio::task::spawn_blocking(move || {
            self.0
                .wait_stdout("[[", BOUND)
                .unwrap_or_else(|why| panic!("{why}: {}", self.0.stderr()))
        });
        let ends: serde_json::Value = serde_json::from_str(&said.await.unwrap()).unwrap();
        let expected = vec![serde_json::json!([code, reason, 0]); SOCKETS];
        assert_eq!(ends, serde_json::Value::Array(expected));
    }
}

/// A browser with a page that opens a socket, and tells what becomes of it to a server that outlives it.
struct Browser {
    _chromium: Target,
    _profile: Directory,
    told: mpsc::UnboundedReceiver<String>,
}

impl Browser {
    async fn connect(address: SocketAddr) -> Browser {
        let (tell, told) = mpsc::unbounded_channel();
        let page = PAGE.replace("ADDRESS", &address.to_string());
        let app = Router::new().route("/", get(async move || Html(page))).route(
            "/told",
            post(async move |text: String| {
                // Nobody listens any more when the test has ended.
                let _ = tell.send(text);
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(tokio::spawn(async move { axum::serve(listener, app).await }));
        let profile = Directory::new();
        let data = format!("--user-data-dir={}", profile.0.display());
        let flags =
            ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"];
        let command = Target::command("chromium").args(flags).args([
            "--disable-background-networking",
            "--disable-component-update",
            &data,
            &url,
        ]);
        let chromium = command.ready(Ready::Started).start().unwrap();
        let mut browser = Browser { _chromium: chromium, _profile: profile, told };
        assert_eq!(browser.tells().await, "open");
        browser
    }

    async fn tells(&mut self) -> String {
        let told = tokio::time::timeout(2 * BOUND, self.told.recv()).await;
        told.expect("the page tells what it sees").unwrap()
    }
}

fn builder(directory: &Directory) -> Builder {
    Lifecycle::builder()
        .without_signals()
        .linger(Duration::ZERO)
        .grace_period(BOUND)
        .probation(Duration::ZERO)
        .close_frames(CloseFrames::new().close_at_upgrade())
        .control(directory.0.join("control"))
}

async fn serve(builder: Builder) -> (Lifecycle, SocketAddr) {
    // It asks its predecessor, and waits for the answer, on the thread that starts it.
    let life = tokio::task::spawn_blocking(|| builder.start().unwrap()).await.unwrap();
    let listener = life.listen("127.0.0.1:0").await.unwrap();
    let address = listener.address().parse().unwrap();
    life.serve("http", listener, router()).unwrap();
    life.ready();
    (life, address)
}

async fn finished(life: &Lifecycle) -> lameduck::Exit {
    let exit = tokio::time::timeout(2 * BOUND, life.ended()).await.expect("it ends by itself");
    assert_eq!(exit.report().outcome, Outcome::Finished);
    exit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_and_a_browser_see_1001_at_a_stop() {
    let directory = Directory::new();
    let (life, address) = serve(builder(&directory)).await;
    let (python, mut browser) = (Python::connect(address).await, Browser::connect(address).await);
    assert_eq!(life.snapshot().live.websockets, SOCKETS + 1);
    life.stop();
    python.ends(1001, "the server stops").await;
    assert_eq!(browser.tells().await, "1001 the server stops, clean");
    let exit = finished(&life).await;
    assert_eq!(exit.report().tally.websockets_told, 0, "that is about upgrades");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_and_a_browser_see_1012_at_an_upgrade() {
    let directory = Directory::new();
    let (old, address) = serve(builder(&directory)).await;
    let (python, mut browser) = (Python::connect(address).await, Browser::connect(address).await);
    let (new, _) = serve(builder(&directory).take_over()).await;
    python.ends(1012, "a new version serves").await;
    assert_eq!(browser.tells().await, "1012 a new version serves, clean");
    // Nothing holds the old version any more, and it has counted whom it sent away.
    let exit = finished(&old).await;
    assert_eq!(exit.report().tally.websockets_told, SOCKETS as u64 + 1);
    assert_eq!(exit.report().tally.websockets_moved, 0);
    new.stop();
    let _ = finished(&new).await;
}
