//! Event streams over stops and upgrades: ended behind a whole event, taken up again, and no event missed (loss 12).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use lameduck_verify::probe::{Until, Wire, watch};
use lameduck_verify::target::{Ready, Signal, Target};
use serde_json::Value;

use crate::service::{ADMIN, LIMIT, Service, User, WITH_ADMIN, get, let_pass, new_directory};
use crate::upgrade::WITH_CONTROL;

/// Event streams at a stop.
const MANY: usize = 1_000;
/// How long a server that is to end and does not is watched.
const WATCHED: Duration = Duration::from_secs(2);
/// How long streams are read between two looks at them.
const STEP: Duration = Duration::from_millis(10);
/// How often the count goes on while streams are read.
const COUNT_EVERY: Duration = Duration::from_millis(2);

const ASK: &str = "GET /events HTTP/1.1\r\nhost: test\r\n";

/// Opens streams one after the other, so that they are at different places of an event.
#[track_caller]
fn listen(service: &Service, streams: usize) -> Vec<Wire> {
    let place = service.place("/events");
    let open = |_| {
        let mut wire = Wire::connect(&place.address).unwrap();
        wire.request(&place.get(""));
        wire
    };
    let mut opened: Vec<Wire> = (0..streams).map(open).collect();
    // Not before each has begun to bring something: a request that was not read yet is another loss.
    let deadline = Instant::now() + LIMIT;
    while !opened.iter().all(|wire| wire.received().windows(4).any(|end| end == b"\r\n\r\n")) {
        assert!(Instant::now() < deadline, "not every stream has begun");
        assert!(!watch(&mut opened, Until::Closed, STEP).unwrap(), "all streams have ended");
    }
    opened
}

/// What a stream has brought: its text, and whether its end was said.
fn text(wire: &Wire) -> (String, bool) {
    let received = String::from_utf8(wire.received().to_vec()).unwrap();
    let (head, mut rest) = received.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let mut text = String::new();
    while let Some((size, chunk)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (text, true);
        }
        let Some(data) = chunk.get(..size) else { break };
        text.push_str(data);
        rest = chunk[size..].strip_prefix("\r\n").unwrap_or_default();
    }
    (text, false)
}

#[test]
fn a_naive_event_stream_holds_the_stop_for_ever() {
    let mut service = Service::program("naive-events", &[]);
    let mut streams = listen(&service, 1);
    service.signal(Signal::TERM);
    assert!(!watch(&mut streams, Until::Closed, WATCHED).unwrap());
    assert!(service.target.is_running());
}

#[test]
fn a_naive_event_stream_that_is_given_up_ends_within_an_event() {
    let mut service = Service::program("naive-events", &["--grace", "300"]);
    let mut streams = listen(&service, 20);
    service.signal(Signal::TERM);
    assert!(watch(&mut streams, Until::Closed, LIMIT).unwrap());
    let ends: Vec<_> = streams.iter().map(text).collect();
    assert!(ends.iter().all(|(_, is_said)| !is_said), "{ends:?}");
    assert!(ends.iter().any(|(text, _)| !text.ends_with("\n\n")), "{ends:?}");
}

#[test]
fn the_same_event_stream_ends_behind_an_event() {
    let mut service = Service::program("naive-events", &["--lameduck"]);
    let mut streams = listen(&service, 20);
    service.signal(Signal::TERM);
    assert!(watch(&mut streams, Until::Closed, LIMIT).unwrap());
    for (text, is_said) in streams.iter().map(text) {
        assert!(is_said && text.ends_with("\n\n"), "{text:?}");
        let last = text.trim_end().rsplit_once("\n\n").unwrap().1;
        assert!(last.starts_with("retry: "), "{text:?}");
    }
    service.ends_clean();
}

#[test]
fn a_thousand_event_streams_end_behind_an_event_at_a_stop() {
    let mut service = Service::start(&WITH_ADMIN);
    let mut streams = listen(&service, MANY);
    let place = service.place("/b");
    service.wait_in_hand(MANY as u64);
    let counted = AtomicBool::new(false);
    thread::scope(|threads| {
        // Events go out until the last moment.
        threads.spawn(|| {
            while !counted.load(Ordering::Relaxed) {
                let Ok(mut wire) = Wire::connect(&place.address) else { return };
                wire.request(&place.get("connection: close\r\n"));
                let _ = watch(std::slice::from_mut(&mut wire), Until::Closed, LIMIT);
                let_pass(COUNT_EVERY);
            }
        });
        assert!(!watch(&mut streams, Until::Closed, Duration::from_millis(300)).unwrap());
        service.signal(Signal::TERM);
        assert!(watch(&mut streams, Until::Closed, LIMIT).unwrap());
        counted.store(true, Ordering::Relaxed);
    });
    service.ends_clean();
    let mut retries = Vec::new();
    for (text, is_said) in streams.iter().map(text) {
        assert!(is_said && text.ends_with("\n\n"), "{text:?}");
        let ids: Vec<u64> = ids_in(&text);
        assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{text:?}");
        let last = text.trim_end().rsplit_once("retry: ").unwrap().1;
        retries.push(last.parse::<u64>().unwrap());
    }
    assert!(retries.iter().all(|retry| (100..=1_100).contains(retry)), "{retries:?}");
    let early = retries.iter().filter(|retry| **retry < 600).count();
    assert!((MANY * 4 / 10..=MANY * 6 / 10).contains(&early), "{early} of {MANY} come back early");
}

/// Both kinds at one stop, and what becomes of each is counted. How evenly they ended is printed; a busy machine would make
/// a bound on it lie, and `cargo xtask bench sockets` measures it on a quiet one.
#[test]
fn a_thousand_event_streams_and_a_thousand_websockets_end_in_order_at_one_stop() {
    let mut service = Service::start(&[&WITH_ADMIN[..], &["--log", "json"]].concat());
    let place = service.place("/events");
    let mut streams = Vec::new();
    let mut sockets = Vec::new();
    for number in 0..MANY {
        let mut stream = Wire::connect(&place.address).unwrap();
        stream.request(&place.get(""));
        streams.push(stream);
        let mut socket = Wire::connect(&place.address).unwrap();
        let fields = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                      sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        socket.request(&service.place(&format!("/chat?name=m{number}")).get(fields));
        sockets.push(socket);
    }
    service.wait_status(|status| {
        let live = &status["live"];
        live["websockets"] == MANY && live["requests"] == MANY && live["streams"] == MANY
    });
    let place = format!("unix:{}:/metrics", service.path(ADMIN).display()).parse().unwrap();
    let (_, metrics) = get(&place);
    for open in ["websockets", "streams"] {
        assert!(metrics.contains(&format!("\nlameduck_{open} {MANY}\n")), "{metrics}");
    }
    let mut all = streams;
    all.append(&mut sockets);
    service.signal(Signal::TERM);
    assert!(watch(&mut all, Until::Closed, LIMIT).unwrap());
    let exit = service.ends_clean();
    for stream in &all[..MANY] {
        let (text, is_said) = text(stream);
        assert!(is_said && text.contains("retry: "), "{text:?}");
    }
    for socket in &all[MANY..] {
        let frame = [&[0x88, 0x12, 0x03, 0xe9][..], b"the server stops"].concat();
        assert!(socket.received().ends_with(&frame), "{:?}", socket.received());
    }
    let report = service.report();
    assert_eq!(report["finished"]["websockets"], MANY, "{report}");
    assert_eq!(report["finished"]["requests"], MANY, "{report}");
    assert_eq!(report["cut_work"], serde_json::json!([]), "{report}");
    eprintln!("{MANY} of each ended, and the process {:?} after the signal", exit.elapsed);
}

fn ids_in(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
}

/// A client as a browser is one: it comes back when it was told to, and says what it has seen.
struct Listener<'a> {
    address: &'a str,
    ids: Vec<u64>,
    retry: Duration,
    /// How often a stream ended and was taken up again.
    ended: usize,
    /// How often on the very connection it ended on.
    reused: usize,
    reader: Option<BufReader<TcpStream>>,
}

impl<'a> Listener<'a> {
    fn new(address: &'a str) -> Listener<'a> {
        let (ids, retry) = (Vec::new(), Duration::ZERO);
        Listener { address, ids, retry, ended: 0, reused: 0, reader: None }
    }

    /// Reads streams until the last number has come.
    fn until(mut self, last: &AtomicU64) -> Listener<'a> {
        let deadline = Instant::now() + LIMIT * 3;
        while self.read(last).is_none() {
            assert!(Instant::now() < deadline, "after {:?} of {last:?}", self.ids.last());
            self.ended += 1;
            let_pass(self.retry);
        }
        self
    }

    /// Reads one stream to its end, or to the last number.
    fn read(&mut self, last: &AtomicU64) -> Option<()> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.connect()?,
        };
        let after = self.ids.last().map(|id| format!("last-event-id: {id}\r\n"));
        let ask = format!("{ASK}{}\r\n", after.unwrap_or_default());
        reader.get_mut().write_all(ask.as_bytes()).ok()?;
        let mut line = String::new();
        let mut closes = false;
        while line != "\r\n" {
            line.clear();
            // Gone between two requests, which is not an event's loss: the next connection asks again.
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            closes |= line.eq_ignore_ascii_case("connection: close\r\n");
        }
        loop {
            line.clear();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                if !closes {
                    self.reused += 1;
                    self.reader = Some(reader);
                }
                return None;
            }
            let text = String::from_utf8(chunk[..size].to_vec()).unwrap();
            assert!(text.ends_with("\n\n"), "half an event: {text:?}");
            for retry in text.lines().filter_map(|line| line.strip_prefix("retry: ")) {
                self.retry = Duration::from_millis(retry.parse().unwrap());
            }
            self.ids.extend(ids_in(&text));
            let wanted = last.load(Ordering::Relaxed);
            if self.ids.last().is_some_and(|id| *id >= wanted) {
                return Some(());
            }
        }
    }

    fn connect(&self) -> Option<BufReader<TcpStream>> {
        // Between two runs nobody listens.
        let stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Some(BufReader::new(stream))
    }
}

/// Counts until it is told to stop, and tells the last number.
fn count(service: &Mutex<Option<Service>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let place = service.lock().unwrap().as_ref().map(|service| service.place("/b"));
        if let Some(place) = place
            && let Ok(mut wire) = Wire::connect(&place.address)
        {
            wire.request(&place.get("connection: close\r\n"));
            let _ = watch(std::slice::from_mut(&mut wire), Until::Closed, LIMIT);
        }
        let_pass(COUNT_EVERY);
    }
}

/// Five upgrades and five stops with a start, one after the other, and the last number that was counted.
fn upgrades_and_restarts(service: &Mutex<Option<Service>>, times: usize) -> u64 {
    let flags = [&WITH_CONTROL[..], &["--probation", "0s"]].concat();
    for _ in 0..times {
        let_pass(Duration::from_millis(300));
        service.lock().unwrap().as_ref().unwrap().upgrade();
        let_pass(Duration::from_millis(300));
        let taken = service.lock().unwrap().take();
        let mut before = taken.unwrap();
        let address = before.addresses[0].clone();
        assert_eq!(before.operate("stop", &[]).code, Some(0));
        before.leaves_no_process();
        let after = Service::start_in(before.into_directory(), User::Same, &[&address], &flags);
        *service.lock().unwrap() = Some(after);
    }
    let_pass(Duration::from_millis(300));
    let text = service.lock().unwrap().as_ref().unwrap().get("/b").1;
    serde_json::from_str::<Value>(&text).unwrap()["num"].as_u64().unwrap()
}

#[track_caller]
fn is_whole(ids: &[u64], last: u64) {
    assert!(ids.last().is_some_and(|id| *id >= last), "{ids:?}");
    for pair in ids.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "an event is missing or came twice");
    }
}

#[test]
fn no_event_is_missed_or_comes_twice_over_stops_and_upgrades() {
    const LISTENERS: usize = 20;
    let flags = [&WITH_CONTROL[..], &["--probation", "0s"]].concat();
    let service = Service::start(&flags);
    let address = service.addresses[0].clone();
    let service = Mutex::new(Some(service));
    let (stop, last) = (AtomicBool::new(false), AtomicU64::new(u64::MAX));
    thread::scope(|threads| {
        let listeners: Vec<_> = (0..LISTENERS)
            .map(|_| threads.spawn(|| Listener::new(&address).until(&last)))
            .collect();
        threads.spawn(|| count(&service, &stop));
        last.store(upgrades_and_restarts(&service, 5), Ordering::Relaxed);
        let listeners: Vec<_> =
            listeners.into_iter().map(|listener| listener.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        let last = last.load(Ordering::Relaxed);
        for listener in &listeners {
            is_whole(&listener.ids, last);
            // Once for each run; a stream whose turn after an upgrade had not come when the stop did ended once for both.
            assert!(listener.ended >= 5, "streams ended {} times", listener.ended);
        }
        let reused: usize = listeners.iter().map(|listener| listener.reused).sum();
        let events: usize = listeners.iter().map(|listener| listener.ids.len()).sum();
        eprintln!("{events} events, {reused} times on the connection before");
        assert!(reused > 0, "no connection moved");
    });
}

const PAGE: &str = r#"<!doctype html><title>events</title><script>
const ids = [];
const source = new EventSource("http://ADDRESS/events");
source.onmessage = event => ids.push(event.lastEventId);
setInterval(() => { if (ids.length) fetch("/ids", {method: "POST", body: ids.splice(0).join("\n")}); }, 50);
</script>"#;

/// Serves the page and collects what it tells, on threads that end with the test.
fn page(events: String) -> (String, Arc<Mutex<Vec<u64>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let collected = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&collected);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (to, page) = (Arc::clone(&to), PAGE.replace("ADDRESS", &events));
            thread::spawn(move || visit(client.unwrap(), &page, &to));
        }
    });
    (url, collected)
}

/// Answers one connection of the browser.
fn visit(client: TcpStream, page: &str, collected: &Mutex<Vec<u64>>) -> Option<()> {
    let mut reader = BufReader::new(client);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
        }
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut body).ok()?;
        let ids = String::from_utf8(body).unwrap();
        collected.lock().unwrap().extend(ids.lines().map(|id| id.parse::<u64>().unwrap()));
        let page = if head.starts_with("GET / ") { page } else { "" };
        let length = page.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{page}"
        );
        reader.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

#[test]
fn a_browser_misses_no_event_over_stops_and_upgrades() {
    let flags = [&WITH_CONTROL[..], &["--probation", "0s"]].concat();
    let service = Service::start(&flags);
    let (url, collected) = page(service.addresses[0].clone());
    let profile = new_directory();
    let profile = format!("--user-data-dir={}", profile.path().display());
    let flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ];
    let browser = Target::command("chromium").args(flags).args([&profile, &url]);
    let browser = browser.ready(Ready::Started).start().unwrap();
    let service = Mutex::new(Some(service));
    let stop = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| count(&service, &stop));
        let wait = |what: &dyn Fn(&[u64]) -> bool| {
            let deadline = Instant::now() + LIMIT * 2;
            while !what(&collected.lock().unwrap()) {
                let said = browser.stderr();
                assert!(Instant::now() < deadline, "{:?}: {said}", collected.lock().unwrap());
                let_pass(Duration::from_millis(20));
            }
        };
        wait(&|ids| !ids.is_empty());
        let last = upgrades_and_restarts(&service, 2);
        wait(&|ids| ids.iter().any(|id| *id >= last));
        stop.store(true, Ordering::Relaxed);
        is_whole(&collected.lock().unwrap(), last);
    });
}

/// Comes back as fast as it can, and drops what it is given: how often it was answered, and what it saw instead, until
/// nobody listens any more.
fn hurries(address: &str) -> (u64, Vec<String>) {
    let (mut answered, mut unanswered) = (0, Vec::new());
    // Between the gate and the close nobody answers its SYN; then it is refused.
    while let Ok(mut client) = TcpStream::connect(address) {
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let mut status = [0; 12];
        let asked = client.write_all(format!("{ASK}last-event-id: 0\r\n\r\n").as_bytes());
        match asked.and_then(|()| client.read_exact(&mut status)) {
            Ok(()) if &status == b"HTTP/1.1 200" => answered += 1,
            Ok(()) => unanswered.push(String::from_utf8_lossy(&status).into_owned()),
            Err(error) => unanswered.push(error.to_string()),
        }
    }
    (answered, unanswered)
}

/// Clients that heed no `retry:` hold neither a stop nor an upgrade, and each time they are answered.
#[test]
fn event_stream_clients_that_come_back_in_a_tight_loop_hold_nothing() {
    const CLIENTS: usize = 16;
    let mut service = Service::upgradable(&["--probation", "0s"]);
    let address = service.addresses[0].clone();
    thread::scope(|threads| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| threads.spawn(|| hurries(&address))).collect();
        for generation in 2..=4 {
            service.upgrade();
            service.wait_answers_from(generation);
            service.wait_generations(1);
        }
        let ended = service.operate("stop", &[]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        service.leaves_no_process();
        for client in clients {
            let (answered, unanswered) = client.join().unwrap();
            assert!(answered > 0);
            assert_eq!(unanswered, [""; 0], "beside {answered} answers");
        }
    });
}
