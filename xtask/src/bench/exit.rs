//! How long an exit takes: after the last answer, with nothing to do, with clients that are in
//! the way, and at the deadline.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::epoll;

use super::client::Connection;
use super::sample::Sample;
use super::server::{Running, Server, Wishes};
use super::{Bench, table};

const PEERS: &[&str] = &["go", "axum", "actix-web", "lameduck", "lameduck-serve"];

/// Beyond this a server "does not exit"; the table says so.
const EXIT_BOUND: Duration = Duration::from_secs(20);
/// How long the request in flight takes.
const IN_FLIGHT: Duration = Duration::from_millis(300);
/// The request has certainly reached its handler by then.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// The deadline of the last table.
const GRACE: Duration = Duration::from_secs(2);
/// What the client that never reads asks for: more than any socket buffer holds.
const DOWNLOAD: &str = "/download?bytes=67108864";

pub fn run(bench: &Bench) -> Result<()> {
    quiet_exits(bench)?;
    crowded_exits(bench)?;
    deadlines(bench)
}

/// A way to end, in milliseconds.
struct Ending {
    title: &'static str,
    measure: fn(&Bench, &Server) -> Result<f64>,
}

const ENDINGS: &[Ending] = &[
    Ending { title: "after the last answer", measure: after_the_last_answer },
    Ending { title: "idle", measure: idle },
    Ending { title: "one silent connection", measure: with_a_silent_connection },
    Ending { title: "one idle kept-alive connection", measure: with_an_idle_connection },
];

fn quiet_exits(bench: &Bench) -> Result<()> {
    let rounds = bench.pick(20, 1);
    // In the smoke run only our own: waiting for another server's polling proves nothing.
    let names = bench.pick(PEERS, &["lameduck", "lameduck-serve"]);
    let servers = bench.servers(names)?;
    if servers.is_empty() {
        return Ok(());
    }
    println!("median (greatest) of {rounds}, ms\n");
    let mut shown = table(["server"].into_iter().chain(ENDINGS.iter().map(|it| it.title)));
    for server in servers {
        let mut cells = vec![server.name.to_owned()];
        for ending in ENDINGS {
            cells.push(times(bench, server, ending, rounds)?);
        }
        shown.add_row(cells);
    }
    println!("{shown}\n");
    Ok(())
}

fn times(bench: &Bench, server: &Server, ending: &Ending, rounds: usize) -> Result<String> {
    let mut values = Vec::new();
    for _ in 0..rounds {
        let value = (ending.measure)(bench, server)
            .with_context(|| format!("{}, {}", server.name, ending.title))?;
        values.push(value);
        // A server that waits for seconds does so each time; three runs say as much as twenty.
        if value > 3_000.0 && values.len() >= 3 {
            break;
        }
    }
    let sample = Sample::of(values);
    if sample.median() >= milliseconds(EXIT_BOUND) {
        return Ok(format!("over {:.0}", milliseconds(EXIT_BOUND)));
    }
    Ok(format!("{:.1} ({:.1})", sample.median(), sample.max()))
}

fn after_the_last_answer(bench: &Bench, server: &Server) -> Result<f64> {
    let wishes = Wishes { slow: Some(IN_FLIGHT), ..Wishes::default() };
    let mut running = server.start(bench, &wishes)?;
    let mut connection = Connection::open(running.address)?;
    connection.send("/a")?;
    if running.process.ended_within(UNDER_WAY)? {
        bail!("the server ended before it was asked to");
    }
    running.stop()?;
    connection.receive()?;
    let answered = Instant::now();
    connection.close();
    exit_since(&mut running, answered)
}

fn idle(bench: &Bench, server: &Server) -> Result<f64> {
    let mut running = server.start(bench, &Wishes::default())?;
    time_to_exit(&mut running)
}

fn with_a_silent_connection(bench: &Bench, server: &Server) -> Result<f64> {
    let mut running = server.start(bench, &Wishes::default())?;
    let silent = Connection::open(running.address)?;
    let time = time_to_exit(&mut running)?;
    silent.close();
    Ok(time)
}

fn with_an_idle_connection(bench: &Bench, server: &Server) -> Result<f64> {
    let mut running = server.start(bench, &Wishes::default())?;
    let mut idle = Connection::open(running.address)?;
    idle.ask("/b")?;
    let time = time_to_exit(&mut running)?;
    idle.close();
    Ok(time)
}

fn time_to_exit(running: &mut Running) -> Result<f64> {
    let begin = Instant::now();
    running.stop()?;
    exit_since(running, begin)
}

/// The time until the exit, at most the bound: then the server is killed.
fn exit_since(running: &mut Running, begin: Instant) -> Result<f64> {
    if running.process.ended_within(EXIT_BOUND)? {
        return Ok(milliseconds(begin.elapsed()));
    }
    Ok(milliseconds(EXIT_BOUND))
}

fn crowded_exits(bench: &Bench) -> Result<()> {
    let crowd = bench.pick(10_000, 500);
    let servers = bench.servers(&["axum", "lameduck"])?;
    if servers.is_empty() {
        return Ok(());
    }
    println!("{crowd} idle kept-alive connections, ms\n");
    let mut shown = table(["server", "clients close when told", "clients never close"]);
    for server in servers {
        let polite = crowded_exit(bench, server, crowd, Crowd::ClosesWhenTold)?;
        let deaf = crowded_exit(bench, server, crowd, Crowd::NeverCloses)?;
        shown.add_row([server.name.to_owned(), format!("{polite:.0}"), format!("{deaf:.0}")]);
    }
    println!("{shown}\n");
    Ok(())
}

#[derive(Clone, Copy)]
enum Crowd {
    ClosesWhenTold,
    NeverCloses,
}

fn crowded_exit(bench: &Bench, server: &Server, size: usize, crowd: Crowd) -> Result<f64> {
    let mut running = server.start(bench, &Wishes::default())?;
    let mut connections = Vec::with_capacity(size);
    for number in 0..size {
        let mut connection = Connection::open(running.address)
            .with_context(|| format!("connection {number} of {size}"))?;
        connection.ask("/b")?;
        connections.push(Some(connection));
    }
    match crowd {
        Crowd::NeverCloses => time_to_exit(&mut running),
        Crowd::ClosesWhenTold => {
            let epoll = watch(&connections)?;
            // Beside each other: the server may be gone before the last client has closed.
            std::thread::scope(|scope| {
                let closing = scope.spawn(|| close_when_told(&epoll, &mut connections));
                let time = time_to_exit(&mut running)?;
                match closing.join() {
                    Ok(closed) => closed.map(|()| time),
                    Err(_) => bail!("the clients' thread panicked"),
                }
            })
        }
    }
}

fn watch(connections: &[Option<Connection>]) -> Result<std::os::fd::OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("create an epoll")?;
    for (number, connection) in connections.iter().flatten().enumerate() {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&epoll, connection.stream(), data, flags).context("watch a connection")?;
    }
    Ok(epoll)
}

/// An idle client has nothing to hear but the end of its connection, and closes its side then.
fn close_when_told(
    epoll: &std::os::fd::OwnedFd,
    connections: &mut [Option<Connection>],
) -> Result<()> {
    /// Ends reported in one call.
    const BATCH: usize = 1024;
    let mut open = connections.len();
    let until = Instant::now() + EXIT_BOUND;
    while open > 0 {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("{open} connections were never closed");
        }
        let left = rustix::event::Timespec::try_from(left).context("a bound of centuries")?;
        let mut events = Vec::with_capacity(BATCH);
        epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&left))
            .context("wait for the ends of connections")?;
        for event in events {
            let number = usize::try_from(event.data.u64())?;
            if let Some(connection) = connections.get_mut(number).and_then(Option::take) {
                connection.close();
                open -= 1;
            }
        }
    }
    Ok(())
}

/// Something that would hold the exit for ever.
struct Obstacle {
    title: &'static str,
    server: &'static str,
    /// Requests, each on a connection of its own, of which no answer is read.
    requests: &'static [&'static str],
}

const OBSTACLES: &[Obstacle] = &[
    Obstacle {
        title: "a handler that never ends",
        server: "lameduck",
        requests: &["/a?ms=600000"],
    },
    Obstacle {
        title: "a client that never reads 64 MiB",
        server: "lameduck",
        requests: &[DOWNLOAD],
    },
    Obstacle {
        title: "every runtime thread blocked",
        server: "lameduck",
        requests: &["/block", "/block", "/block", "/block"],
    },
    Obstacle { title: "a closing hook that hangs", server: "hanging-hook", requests: &[] },
];

fn deadlines(bench: &Bench) -> Result<()> {
    let mut rows = Vec::new();
    for obstacle in OBSTACLES {
        for server in bench.servers(&[obstacle.server])? {
            let row = at_the_deadline(bench, server, obstacle)
                .with_context(|| format!("{}, {}", server.name, obstacle.title))?;
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    println!("deadline {} s: gone after, and the exit code\n", GRACE.as_secs());
    let mut shown = table(["in the way", "seconds", "exit code"]);
    shown.add_rows(rows);
    println!("{shown}");
    Ok(())
}

fn at_the_deadline(bench: &Bench, server: &Server, obstacle: &Obstacle) -> Result<[String; 3]> {
    let wishes = Wishes { grace: Some(GRACE), threads: Some(2), ..Wishes::default() };
    let mut running = server.start(bench, &wishes)?;
    let mut held = Vec::new();
    for path in obstacle.requests {
        let mut connection = Connection::open(running.address)?;
        connection.send(path)?;
        held.push(connection);
    }
    if running.process.ended_within(UNDER_WAY)? {
        bail!("the server ended before it was asked to");
    }
    let begin = Instant::now();
    running.stop()?;
    if !running.process.ended_within(EXIT_BOUND)? {
        let over = format!("over {}", EXIT_BOUND.as_secs());
        return Ok([obstacle.title.to_owned(), over, "still runs".to_owned()]);
    }
    let time = format!("{:.3}", begin.elapsed().as_secs_f64());
    let status = running.process.exit_within(EXIT_BOUND)?;
    let code = status.code().map_or_else(|| status.to_string(), |code| code.to_string());
    Ok([obstacle.title.to_owned(), time, code])
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
