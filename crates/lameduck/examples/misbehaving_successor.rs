//! A service whose next generation can be told how to misbehave: what the tests of the upgrade run.
//!
//! `misbehaving_successor CONTROL WISHES ADDRESS…`. `WISHES` is a file with one wish a line, read at each start, so that
//! a service that runs well can be given a successor that does not. The wishes are matched in [`Wishes::read`].

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::response::Response;
use axum::routing::{any, get};
use lameduck::takeover::wire::{self, Hello, Message, PROTOCOLS, Protocols, Ready, Received};
use lameduck::{Exit, Lifecycle};
use rustix::process::{Resource, Rlimit, setrlimit};

/// How long one that hangs does so: longer than anybody waits for it.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// How long the slow answer takes.
const SLOW: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Wishes(Vec<String>);

impl Wishes {
    fn read(path: &str) -> Wishes {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Wishes(text.lines().map(str::to_owned).collect())
    }

    fn has(&self, wish: &str) -> bool {
        self.0.iter().any(|line| line == wish)
    }

    /// What stands behind this word.
    fn value(&self, wish: &str) -> Option<&str> {
        self.0.iter().find_map(|line| line.strip_prefix(wish)?.strip_prefix(' '))
    }

    fn number(&self, wish: &str) -> Option<u64> {
        self.value(wish)?.parse().ok()
    }

    fn duration(&self, wish: &str) -> Option<Duration> {
        self.number(wish).map(Duration::from_millis)
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(control), Some(wishes)) = (arguments.next(), arguments.next()) else {
        panic!("usage: misbehaving_successor CONTROL WISHES ADDRESS…");
    };
    let wishes = Wishes::read(&wishes);
    if let Some(code) = wishes.number("exit") {
        eprintln!("leaving at once, as I was told");
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    assert!(!wishes.has("panic"), "panicking as I was told");
    if wishes.has("hang") {
        std::thread::sleep(FOR_EVER);
    }
    if let Some(what) = wishes.value("raw") {
        misspeak(what, Path::new(&control));
        return ExitCode::SUCCESS;
    }
    if let Some(most) = wishes.number("descriptors") {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(Resource::Nofile, limit).expect("a limit may be lowered");
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().worker_threads(2).build().expect("a runtime");
    let served = runtime.block_on(serve(control, arguments.collect(), &wishes));
    // As `#[tokio::main]` does it: what was open is closed before the error is told.
    drop(runtime);
    match served {
        Ok(exit) => std::process::Termination::report(exit),
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(
    control: String,
    addresses: Vec<String>,
    wishes: &Wishes,
) -> Result<Exit, lameduck::Error> {
    let mut builder = Lifecycle::builder()
        .grace_period(Duration::from_secs(9))
        .version(wishes.value("version").unwrap_or("1"))
        .control(control);
    if let Some(probation) = wishes.duration("probation") {
        builder = builder.probation(probation);
    }
    if let Some(takeover) = wishes.duration("takeover-timeout") {
        builder = builder.takeover_timeout(takeover);
    }
    if let Some(grace) = wishes.duration("upgrade-grace") {
        builder = builder.upgrade_grace(grace);
    }
    if let Some(most) = wishes.number("max-generations") {
        builder = builder.max_generations(usize::try_from(most).unwrap_or(usize::MAX));
    }
    if wishes.has("take-over") {
        builder = builder.take_over();
    }
    let life = builder.start()?;
    let version = u32::try_from(wishes.number("cells").unwrap_or(1)).unwrap_or(u32::MAX);
    let (count, _) = life.cells("count", version, 1)?;
    let app = app(life.generation(), count);
    let kept =
        addresses.iter().map(String::as_str).filter(|given| wishes.value("drop") != Some(given));
    for address in kept.chain(wishes.value("add")) {
        let listener = life.listen(address).await?;
        life.serve(address, listener, app.clone())?;
    }
    if let Some(admin) = wishes.value("admin") {
        life.serve_admin(life.listen(admin).await?, |_| {})?;
    }
    assert!(!wishes.has("panic-late"), "panicking late, as I was told");
    if let Some(slow) = wishes.duration("slow") {
        life.still_starting("warming up", slow + Duration::from_secs(5));
        tokio::time::sleep(slow).await;
    }
    if wishes.has("hang-late") {
        tokio::time::sleep(FOR_EVER).await;
    }
    if let Some(after) = wishes.duration("crash-after") {
        let mut readiness = life.readiness();
        drop(tokio::spawn(async move {
            readiness.ready().await;
            tokio::time::sleep(after).await;
            std::process::abort();
        }));
    }
    life.log().line("listening", &format!("Generation {} listens", life.generation()));
    Ok(life.run().await)
}

fn app(generation: u32, count: lameduck::shared::Cells) -> Router {
    let here = move || format!("generation {generation}, pid {}", std::process::id());
    let root = move || {
        let number = count.get(0).fetch_add(1, Ordering::Relaxed) + 1;
        std::future::ready(format!("{}, number {number}\n", here()))
    };
    let slow = move || async move {
        tokio::time::sleep(SLOW).await;
        here()
    };
    let size = move |body: Bytes| async move { format!("{}, {} bytes\n", here(), body.len()) };
    // Sends back what comes, as it comes: a stream that its client paces and ends.
    let echo = async |request: axum::extract::Request| Response::new(request.into_body());
    Router::new()
        .route("/", any(root))
        .route("/slow", get(slow))
        .route("/size", any(size))
        .route("/echo", any(echo))
}

/// Takes over in its own words.
fn misspeak(what: &str, control: &Path) {
    let socket = Raw::connect(control);
    if what == "listen" {
        return socket.tell();
    }
    let protocols = match what {
        "protocol" => Protocols { oldest: 900, newest: 901 },
        _ => PROTOCOLS,
    };
    if what == "garbage" {
        socket.send_bytes(b"what a lovely day");
    } else {
        let program = "raw".to_owned();
        socket.send(&Message::Hello(Hello {
            protocols,
            program,
            pid: std::process::id(),
            generation: None,
        }));
    }
    if what == "ready-and-hang" {
        let used = socket.offered();
        socket.send(&Message::Ready(Ready { used, ..Ready::default() }));
    }
    if what == "garbage-late" {
        socket.offered();
        socket.send_bytes(&[0xff; 64]);
    }
    if what == "crash-with-name" {
        let used = socket.offered();
        socket.send(&Message::Ready(Ready {
            used,
            dropped: Vec::new(),
            added: Vec::new(),
            sessions: Vec::new(),
        }));
        socket.committed();
        // As one does that is about to say that it accepts; its own socket is nowhere.
        std::fs::remove_file(control).expect("the name is there");
        std::os::unix::fs::symlink("control.g2", control).expect("a symlink");
        return;
    }
    if what == "crash-between" {
        let used = socket.offered();
        socket.send(&Message::Ready(Ready { used, ..Ready::default() }));
        return;
    }
    std::thread::sleep(FOR_EVER);
}

struct Raw(OwnedFd);

impl Raw {
    fn connect(control: &Path) -> Raw {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
        let raw = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
        let address = SocketAddrUnix::new(control).expect("a path that fits");
        connect(&raw, &address).expect("the predecessor answers");
        Raw(raw)
    }

    fn send(&self, message: &Message) {
        self.send_bytes(&wire::encode(message, PROTOCOLS.newest).expect("a message that fits"));
    }

    fn send_bytes(&self, bytes: &[u8]) {
        rustix::io::write(&self.0, bytes).expect("the predecessor takes it");
    }

    /// Passes on what is said without being asked.
    fn tell(&self) {
        let mut frame = vec![0; wire::MAX_FRAME];
        let length = rustix::io::read(&self.0, &mut frame).expect("a frame");
        match wire::decode(&frame[..length], 0) {
            Ok(Received::Message(Message::Refuse(why))) => eprintln!("told: {why}"),
            other => eprintln!("told: {other:?}"),
        }
    }

    fn committed(&self) {
        let mut frame = vec![0; wire::MAX_FRAME];
        let length = rustix::io::read(&self.0, &mut frame).expect("a commit");
        let came = wire::decode(&frame[..length], 0);
        assert!(matches!(came, Ok(Received::Message(Message::Commit(_)))), "{came:?}");
    }

    /// Reads the whole offer, without its descriptors, and returns the names in it.
    fn offered(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut frame = vec![0; wire::MAX_FRAME];
        loop {
            let length = rustix::io::read(&self.0, &mut frame).expect("an offer");
            // Descriptors that nobody takes are not there for the reader: each frame may have had any number.
            let offer = (0..=wire::MAX_DESCRIPTORS).find_map(|descriptors| {
                match wire::decode(&frame[..length], descriptors) {
                    Ok(Received::Message(Message::Offer(offer))) => Some(offer),
                    Ok(_) | Err(_) => None,
                }
            });
            let offer = offer.expect("an offer");
            names.extend(offer.listeners.into_iter().map(|listener| listener.name));
            if offer.last {
                return names;
            }
        }
    }
}
