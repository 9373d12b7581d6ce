//! Instructions a server executes for one request, counted by valgrind: a number that noise does
//! not touch. Two runs with different numbers of requests; start and stop fall out of the slope.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::client::Connection;
use super::server::{Server, Wishes};
use super::{Bench, grouped, table};
use crate::shell;

const REFERENCE: &str = "axum";
// `axum` stops gracefully, so that its count is complete; for a request it is `axum::serve`.
const SERVERS: &[&str] = &["lameduck", REFERENCE, "hyper"];

/// Ways to ask for the same thing many times.
struct Way {
    title: &'static str,
    ask: fn(SocketAddr, usize) -> Result<()>,
}

const WAYS: &[Way] = &[
    Way { title: "HTTP/1.1, kept-alive", ask: kept_alive },
    Way { title: "HTTP/1.1, a connection each", ask: connection_each },
    Way { title: "HTTP/2, one stream at a time", ask: http2 },
];

/// A server under valgrind is some fifty times slower.
const EXIT_BOUND: Duration = Duration::from_secs(60);

pub fn run(bench: &Bench) -> Result<()> {
    let (few, many) = bench.pick((500, 2_500), (20, 60));
    let ways = bench.pick(WAYS, &WAYS[..1]);
    let servers = bench.servers(bench.pick(SERVERS, &SERVERS[..2]))?;
    if servers.is_empty() {
        return Ok(());
    }
    let mut rows = Vec::new();
    for server in &servers {
        let mut row = Vec::new();
        for way in ways {
            let less = count(bench, server, way, few)?;
            let more = count(bench, server, way, many)?;
            row.push(more.saturating_sub(less) as f64 / (many - few) as f64);
        }
        rows.push(row);
    }
    println!("one thread, callgrind, slope between {few} and {many} requests\n");
    let reference = servers.iter().position(|server| server.name == REFERENCE);
    let mut shown = table(["server"].into_iter().chain(ways.iter().map(|way| way.title)));
    for (server, row) in servers.iter().zip(&rows) {
        let cells = row.iter().enumerate().map(|(column, value)| {
            let number = grouped(value.round() as u64);
            match reference {
                Some(at) => format!("{number} ({:.3})", value / rows[at][column]),
                None => number,
            }
        });
        shown.add_row([server.name.to_owned()].into_iter().chain(cells));
    }
    println!("{shown}\n(in brackets: the ratio to {REFERENCE})");
    Ok(())
}

/// All instructions of a server from its start to its end.
fn count(bench: &Bench, server: &Server, way: &Way, requests: usize) -> Result<u64> {
    let out = bench.scratch.join(format!("callgrind-{}", server.name));
    let under = ["valgrind", "--tool=callgrind", "--quiet"].map(str::to_owned);
    let file = format!("--callgrind-out-file={}", out.display());
    let wishes = Wishes {
        threads: Some(1),
        under: under.into_iter().chain([file]).collect(),
        ..Wishes::default()
    };
    let mut running = server.start(bench, &wishes)?;
    (way.ask)(running.address, requests)
        .with_context(|| format!("{} requests to {}", requests, server.name))?;
    running.time_of_stop(EXIT_BOUND)?;
    let text = std::fs::read_to_string(&out).with_context(|| format!("read {}", out.display()))?;
    total(&text).with_context(|| format!("no total in {}", out.display()))
}

/// `totals: 123456`
fn total(callgrind: &str) -> Option<u64> {
    callgrind.lines().find_map(|line| line.strip_prefix("totals:"))?.trim().parse().ok()
}

fn kept_alive(address: SocketAddr, requests: usize) -> Result<()> {
    let mut connection = Connection::open(address)?;
    for _ in 0..requests {
        connection.ask("/b")?;
    }
    connection.close();
    Ok(())
}

fn connection_each(address: SocketAddr, requests: usize) -> Result<()> {
    for _ in 0..requests {
        let mut connection = Connection::open(address)?;
        connection.ask("/b")?;
        connection.close();
    }
    Ok(())
}

fn http2(address: SocketAddr, requests: usize) -> Result<()> {
    let requests = requests.to_string();
    let url = format!("http://{address}/b");
    let said = shell::read(&mut shell::command("h2load", &["-n", &requests, "-c1", "-m1", &url]))?;
    if !said.contains(&format!("{requests} succeeded")) {
        bail!("h2load said: {said}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn the_total_is_found() {
        assert_eq!(total("events: Ir\nfn=(1)\n1 5\ntotals: 123456\n"), Some(123_456));
        assert_eq!(total("events: Ir\n"), None);
    }
}
