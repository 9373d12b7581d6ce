//! WebSockets: thousands that move in one upgrade while one of them talks, beside an upgrade in which none does; and how
//! evenly thousands of them and of event streams end at one stop.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use serde_json::Value;

use super::memory::resident;
use super::sample::Sample;
use super::subject::{Subject, Upgradable};
use super::websocket::{Came, Socket};
use super::{Bench, grouped, table};

/// Nothing that is waited for takes longer.
const BOUND: Duration = Duration::from_secs(60);
/// Between two lines of who talks: many of them are under way in an upgrade.
const TALKS_EVERY: Duration = Duration::from_millis(2);
/// How long is talked before the upgrade and after it.
const TALKS: Duration = Duration::from_millis(300);

pub fn run(bench: &Bench) -> Result<()> {
    if !bench.wants(Subject::ours().name) {
        return Ok(());
    }
    moves(bench)?;
    ends(bench)
}

/// One upgrade with so many members of the room.
struct Round {
    told: Duration,
    moved: Duration,
    /// From a line to its sight, the longest of all.
    longest: Duration,
    lines: u64,
    before: f64,
    after: f64,
}

fn moves(bench: &Bench) -> Result<()> {
    let counts: &[usize] = bench.pick(&[0, 1_000, 5_000][..], &[0, 100][..]);
    let rounds = bench.pick(5, 1);
    let mut found: Vec<Vec<Round>> = counts.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for turn in 0..counts.len() {
            let at = (turn + round) % counts.len();
            let members = counts[at];
            found[at]
                .push(one_round(bench, members).with_context(|| format!("{members} members"))?);
        }
    }
    let mut shown = table([
        "websockets that move",
        "upgrade told, ms",
        "all moved after that, ms",
        "µs each",
        "longest wait for a line, ms",
        "bytes each, before",
        "after",
    ]);
    for (members, rounds) in counts.iter().zip(&found) {
        let of = |field: &dyn Fn(&Round) -> f64, digits: usize| {
            let sample = Sample::of(rounds.iter().map(field));
            format!("{:.digits$} ({:.digits$})", sample.median(), sample.max())
        };
        let each = |time: Duration| milliseconds(time) * 1_000.0 / (*members).max(1) as f64;
        let or_none = |cell: String| if *members == 0 { "–".to_owned() } else { cell };
        shown.add_row([
            grouped(*members as u64),
            of(&|it| milliseconds(it.told), 0),
            or_none(of(&|it| milliseconds(it.moved), 0)),
            or_none(of(&|it| each(it.told + it.moved), 0)),
            of(&|it| milliseconds(it.longest), 0),
            or_none(of(&|it| it.before, 0)),
            or_none(of(&|it| it.after, 0)),
        ]);
    }
    let lines: u64 = found.iter().flatten().map(|round| round.lines).sum();
    println!(
        "median (greatest) of {rounds}; one more member talked all the while: {} lines, each seen by everybody once \
         and in order\n\n{shown}\n",
        grouped(lines)
    );
    Ok(())
}

fn one_round(bench: &Bench, count: usize) -> Result<Round> {
    let mut running = Subject::ours().start(bench, &["--probation", "0s"])?;
    let empty = resident(running.pid)?;
    let mut members = Vec::with_capacity(count);
    for number in 0..count {
        members.push(Socket::open(running.address, &format!("/chat?name=m{number}&after=0"))?);
    }
    let each = |all: u64| all.saturating_sub(empty) as f64 / count.max(1) as f64;
    let before = each(resident(running.pid)?);
    let mut talker = Socket::open(running.address, "/chat?name=talker&after=0")?;
    let over = AtomicBool::new(false);
    let (told, moved, talked) = std::thread::scope(|threads| {
        let talking = threads.spawn(|| talk(&mut talker, &over));
        std::thread::sleep(TALKS);
        let upgraded = upgrade(&mut running);
        std::thread::sleep(TALKS);
        over.store(true, Ordering::Relaxed);
        let talked = talking.join().expect("it returns its errors");
        let (told, moved) = upgraded?;
        anyhow::Ok((told, moved, talked?))
    })?;
    let after = each(resident(running.pid)?);
    for member in &mut members {
        for number in 1..=talked.lines {
            let line = text(member)?;
            ensure!(line["seq"] == number, "{line} came where line {number} was expected");
        }
    }
    let Talked { longest, lines } = talked;
    Ok(Round { told, moved, longest, lines, before, after })
}

/// How long until the upgrade was told, and from then until no WebSocket was left behind.
fn upgrade(running: &mut Upgradable) -> Result<(Duration, Duration)> {
    let begun = Instant::now();
    running.upgrade()?;
    let told = begun.elapsed();
    let until = Instant::now() + BOUND;
    loop {
        let status: Value = serde_json::from_str(&running.operate(&["status", "--json"])?)?;
        let generations = status["generations"].as_array().context("no generations")?;
        let open = |it: &Value| it["live"]["websockets"].as_u64().unwrap_or(0);
        if generations.iter().skip(1).map(open).sum::<u64>() == 0 {
            return Ok((told, begun.elapsed() - told));
        }
        ensure!(Instant::now() < until, "not all moved: {status}");
    }
}

struct Talked {
    longest: Duration,
    lines: u64,
}

/// Says one line after the other and waits for the sight of each.
fn talk(socket: &mut Socket, over: &AtomicBool) -> Result<Talked> {
    let mut talked = Talked { longest: Duration::ZERO, lines: 0 };
    while !over.load(Ordering::Relaxed) {
        talked.lines += 1;
        let said = Instant::now();
        socket.say(&format!("line {}", talked.lines))?;
        let line = text(socket)?;
        ensure!(line["seq"] == talked.lines, "line {} came back as {line}", talked.lines);
        talked.longest = talked.longest.max(said.elapsed());
        std::thread::sleep(TALKS_EVERY);
    }
    Ok(talked)
}

fn text(socket: &mut Socket) -> Result<Value> {
    match socket.next()? {
        Came::Text(text) => Ok(serde_json::from_str(&text)?),
        Came::Close(code) => bail!("closed with {code}"),
    }
}

/// Event streams and WebSockets at one stop: when each of them heard of it.
fn ends(bench: &Bench) -> Result<()> {
    let count = bench.pick(1_000, 100);
    let rounds = bench.pick(3, 1);
    let mut shown = table([
        "what ends",
        "from the first to the last, ms",
        "most within 100 ms",
        "average in 100 ms",
        "exit after the signal, ms",
    ]);
    for _ in 0..rounds {
        let (streams, sockets, exit) = one_stop(bench, count)?;
        for (name, ends) in [("event streams", streams), ("websockets", sockets)] {
            let spread = Spread::of(ends);
            shown.add_row([
                format!("{} {name}", grouped(count as u64)),
                format!("{:.0}", milliseconds(spread.whole)),
                spread.most.to_string(),
                format!("{:.0}", spread.average),
                format!("{:.0}", milliseconds(exit)),
            ]);
        }
    }
    println!("both kinds at one stop, {rounds} stops; none was cut\n\n{shown}");
    Ok(())
}

/// The windows that the ends are looked at in.
const WINDOW: Duration = Duration::from_millis(100);

struct Spread {
    whole: Duration,
    most: usize,
    average: f64,
}

impl Spread {
    fn of(mut ends: Vec<Instant>) -> Self {
        ends.sort();
        let whole = ends.last().zip(ends.first()).map_or(Duration::ZERO, |(z, a)| *z - *a);
        let within = |from: &Instant| {
            ends.iter().skip_while(|at| *at < from).take_while(|at| **at < *from + WINDOW).count()
        };
        let most = ends.iter().map(within).max().unwrap_or(0);
        let windows = (whole.as_secs_f64() / WINDOW.as_secs_f64()).max(1.0);
        Self { whole, most, average: ends.len() as f64 / windows }
    }
}

fn one_stop(bench: &Bench, count: usize) -> Result<(Vec<Instant>, Vec<Instant>, Duration)> {
    let mut running = Subject::ours().start(bench, &["--grace", "30s"])?;
    let (mut streams, mut sockets) = (Vec::new(), Vec::new());
    for number in 0..count {
        streams.push(listen(running.address)?);
        sockets.push(Socket::open(running.address, &format!("/chat?name=m{number}"))?);
    }
    let stopped = Instant::now();
    running.signal(Signal::TERM)?;
    // Whatever comes first after the stop is the end's beginning: nobody counts and nobody talks.
    let ends = first_words(streams.iter().chain(sockets.iter().map(Socket::stream)))?;
    for mut stream in streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest)?;
        ensure!(rest.ends_with("0\r\n\r\n"), "an event stream ended with {rest:?}");
    }
    for mut socket in sockets {
        let Came::Close(1001) = socket.next()? else { bail!("no close frame 1001") };
        socket.close()?;
    }
    let status = running.exit()?;
    ensure!(status.code() == Some(0), "{status}: {}", running.log()?);
    let (streams, sockets) = ends.split_at(count);
    Ok((streams.to_vec(), sockets.to_vec(), stopped.elapsed()))
}

/// Opens an event stream and reads up to its first words.
fn listen(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, BOUND)?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !read.ends_with(b"retry: 1000\n\n\r\n") {
        stream.read_exact(&mut byte)?;
        read.extend_from_slice(&byte);
    }
    Ok(stream)
}

/// When each of these first had something to read.
fn first_words<'a>(sockets: impl Iterator<Item = &'a TcpStream>) -> Result<Vec<Instant>> {
    let mut waiting: Vec<_> =
        sockets.enumerate().map(|(at, it)| (at, PollFd::new(it, PollFlags::IN))).collect();
    let mut heard: Vec<Option<Instant>> = vec![None; waiting.len()];
    let until = Instant::now() + BOUND;
    while !waiting.is_empty() {
        ensure!(Instant::now() < until, "{} heard nothing of the stop", waiting.len());
        let (places, mut polled): (Vec<usize>, Vec<PollFd<'_>>) = waiting.into_iter().unzip();
        poll(&mut polled, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
        let now = Instant::now();
        waiting = Vec::with_capacity(places.len());
        for (at, it) in places.into_iter().zip(polled) {
            if it.revents().is_empty() {
                waiting.push((at, it));
            } else {
                heard[at] = Some(now);
            }
        }
    }
    heard.into_iter().collect::<Option<_>>().context("everybody heard")
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
