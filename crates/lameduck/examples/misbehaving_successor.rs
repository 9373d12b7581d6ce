//! A service whose next generation can be told how to misbehave: what the tests of the upgrade run.
//!
//! `misbehaving_successor CONTROL WISHES ADDRESS…`. `WISHES` is a file with one wish a line, read at each start, so that
//! a service that runs well can be given a successor that does not. The wishes are matched in [`Wishes::read`].

use std::io::Write;
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
    let arguments: Vec<String> = arguments.collect();
    if arguments.last().is_some_and(|last| last == CHECK) {
        return check(&wishes);
    }
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
    let served = runtime.block_on(serve(control, arguments, &wishes));
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

/// The argument that asks this program to look at itself and end.
const CHECK: &str = "--check";

fn check(wishes: &Wishes) -> ExitCode {
    eprintln!("checking myself, process {}", std::process::id());
    if wishes.has("check-first hang") {
        std::thread::sleep(FOR_EVER);
    }
    let code = wishes.number("check-first").unwrap_or_default();
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// One more socket of an address (`SO_REUSEPORT`).
fn one_of_a_group(address: &str) -> Result<lameduck::Listener, lameduck::Error> {
    use socket2::{Domain, SockAddr, Socket, Type};
    let address: std::net::SocketAddr = address.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("the option is there");
    socket.set_nonblocking(true).expect("a flag can be set");
    socket.bind(&SockAddr::from(address)).expect("the address is free");
    socket.listen(1024).expect("a socket can listen");
    lameduck::Listener::from_tcp(
        tokio::net::TcpListener::from_std(socket.into()).expect("a runtime"),
    )
}

/// Memory that is there, and not only promised.
fn eat(mebibytes: u64) {
    let bytes = usize::try_from(mebibytes).expect("it fits") * 1024 * 1024;
    vec![1u8; bytes].leak();
}

/// A life with the times that are wished for.
fn timed(wishes: &Wishes) -> lameduck::Builder {
    let mut builder = Lifecycle::builder();
    if let Some(probation) = wishes.duration("probation") {
        builder = builder.probation(probation);
    }
    if let Some(takeover) = wishes.duration("takeover-timeout") {
        builder = builder.takeover_timeout(takeover);
    }
    if let Some(grace) = wishes.duration("upgrade-grace") {
        builder = builder.upgrade_grace(grace);
    }
    if let Some(linger) = wishes.duration("upgrade-linger") {
        builder = builder.upgrade_linger(linger);
    }
    builder
}

async fn serve(
    control: String,
    addresses: Vec<String>,
    wishes: &Wishes,
) -> Result<Exit, lameduck::Error> {
    let mut builder = timed(wishes)
        .grace_period(Duration::from_secs(9))
        .version(wishes.value("version").unwrap_or("1"))
        .control(control);
    if let Some(most) = wishes.number("max-generations") {
        builder = builder.max_generations(usize::try_from(most).unwrap_or(usize::MAX));
    }
    if let Some(mebibytes) = wishes.number("eat") {
        eat(mebibytes);
    }
    if wishes.has("no-memory-check") {
        builder = builder.no_memory_check();
    }
    if wishes.value("check-first").is_some() {
        builder = builder.check_first([CHECK]);
    }
    if let Some(path) = wishes.value("probe") {
        builder = builder.probe(path);
    }
    if wishes.has("take-over") {
        builder = builder.take_over();
    }
    let life = builder.start()?;
    let version = u32::try_from(wishes.number("cells").unwrap_or(1)).unwrap_or(u32::MAX);
    let (count, _) = life.cells("count", version, 1)?;
    let app = app(life.generation(), count, Health::of(wishes));
    if wishes.has("child") {
        let mut family = std::process::Command::new("sh");
        family.args(["-c", "sleep 3600 & sleep 3600"]);
        let child = life.child("family", family)?;
        eprintln!("Generation {} has child {} .", life.generation(), child.id());
    }
    if let Some(what) = wishes.value("check") {
        let passes = what == "pass";
        let hangs = what == "hang";
        life.check("myself", move || async move {
            if hangs {
                tokio::time::sleep(FOR_EVER).await;
            }
            passes.then_some(()).ok_or("unwell, as I was told")
        })?;
    }
    let mut addresses = addresses;
    if wishes.has("inherited") {
        let passed = life.inherited()?;
        addresses.retain(|given| passed.iter().all(|(_, listener)| listener.address() != given));
        for (name, listener) in passed {
            life.serve(&name, listener, app.clone())?;
        }
    }
    if let Some(count) = wishes.number("own-group") {
        let address = addresses.remove(0);
        for _ in 0..count {
            life.serve("group", one_of_a_group(&address)?, app.clone())?;
        }
    }
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

/// How `/health` is answered.
#[derive(Clone, Copy)]
struct Health {
    status: u16,
    after: Duration,
}

impl Health {
    fn of(wishes: &Wishes) -> Health {
        let status = wishes.number("health").and_then(|code| u16::try_from(code).ok());
        let after = match wishes.has("health hang") {
            true => FOR_EVER,
            false => wishes.duration("health-after").unwrap_or_default(),
        };
        Health { status: status.unwrap_or(200), after }
    }

    async fn answer(self) -> Response {
        eprintln!("asked for my health");
        tokio::time::sleep(self.after).await;
        let mut response = Response::new("as I was told".into());
        *response.status_mut() = self.status.try_into().expect("a status");
        response
    }
}

fn app(generation: u32, count: lameduck::shared::Cells, health: Health) -> Router {
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
        .route("/health", get(move || health.answer()))
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
        socket.send(&Message::Ready(Ready { used, ..Ready::default() }));
        socket.committed();
        // As one does that is about to say that it accepts; its own socket is nowhere.
        std::fs::remove_file(control).expect("the name is there");
        std::os::unix::fs::symlink("control.g2", control).expect("a symlink");
        return;
    }
    if what == "ready-and-leave" {
        let used = socket.offered();
        socket.send(&Message::Ready(Ready { used, ..Ready::default() }));
        socket.committed();
        // Somebody else holds the conversation, so its end is never heard.
        let held = std::process::Stdio::from(socket.0);
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("3600").stdin(held);
        sleep.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        #[expect(clippy::zombie_processes, reason = "it outlives this process")]
        sleep.spawn().expect("a process");
        return;
    }
    if let Some(answer) = what.strip_prefix("probe-") {
        return socket.answer_a_probe(answer);
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

    /// Asks to be probed, and answers as nobody should.
    fn answer_a_probe(&self, how: &str) {
        let used = self.offered();
        let probe = Some("/health".to_owned());
        self.send(&Message::Ready(Ready { used, probe, ..Ready::default() }));
        let mut asked = std::os::unix::net::UnixStream::from(self.probed());
        asked.set_nonblocking(false).expect("a socket");
        eprintln!("asked for my health");
        // The predecessor may have enough of it at any time.
        let _ = match how {
            "garbage" => asked.write_all(b"what a lovely day\r\n"),
            "half" => asked.write_all(b"HTTP/1.1 2"),
            "endless" => {
                let begun = asked.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                while asked.write_all(b"and another thing, ").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                begun
            }
            "accepting" => {
                self.send(&Message::Accepting);
                Ok(())
            }
            _ => Ok(()),
        };
        match how {
            "crash" => return,
            "silent" | "accepting" => std::thread::sleep(FOR_EVER),
            _ => {}
        }
        drop(asked);
        std::thread::sleep(FOR_EVER);
    }

    /// The socket of a probe.
    fn probed(&self) -> OwnedFd {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let mut frame = vec![0; wire::MAX_FRAME];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut into = [std::io::IoSliceMut::new(&mut frame)];
        let came = recvmsg(&self.0, &mut into, &mut beside, RecvFlags::empty()).expect("a probe");
        let message = wire::decode(&frame[..came.bytes], 1);
        assert!(matches!(message, Ok(Received::Message(Message::Probe))), "{message:?}");
        let sockets = beside.drain().filter_map(|one| match one {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        sockets.flatten().next().expect("a socket beside it")
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
