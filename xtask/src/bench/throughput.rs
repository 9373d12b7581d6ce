//! Requests a second: many short runs, each in a fresh process, the order rotated, the ratio taken
//! within each round.

use std::time::Duration;

use anyhow::{Context, Result};

use super::sample::Sample;
use super::server::{Running, Server, Wishes};
use super::{Bench, grouped, table};
use crate::shell;

/// The one the others are compared with: the same handlers under nothing but `axum::serve`.
const REFERENCE: &str = "axum-bare";

struct Protocol {
    title: &'static str,
    servers: &'static [&'static str],
    measure: fn(&Running, Duration) -> Result<f64>,
}

const PROTOCOLS: &[Protocol] = &[
    Protocol {
        title: "HTTP/1.1, 64 connections (wrk)",
        servers: &["lameduck", REFERENCE, "actix-web", "hyper"],
        measure: http1,
    },
    Protocol {
        // actix-web speaks no cleartext HTTP/2 without an HTTP/1.1 upgrade.
        title: "HTTP/2, 16 connections of 8 streams (h2load)",
        servers: &["lameduck", REFERENCE, "hyper"],
        measure: http2,
    },
];

/// The first moments fill caches and connection tables; they are not counted.
const WARM_UP: Duration = Duration::from_secs(1);

pub fn run(bench: &Bench) -> Result<()> {
    let rounds = bench.pick(12, 1);
    let length = Duration::from_secs(bench.pick(2, 1));
    for protocol in PROTOCOLS {
        let servers = bench.servers(protocol.servers)?;
        if servers.is_empty() {
            continue;
        }
        let mut rates: Vec<Vec<f64>> = vec![Vec::new(); servers.len()];
        for round in 0..rounds {
            for turn in 0..servers.len() {
                let row = (turn + round) % servers.len();
                let running = servers[row].start(bench, &Wishes::default())?;
                if bench.pick(true, false) {
                    (protocol.measure)(&running, WARM_UP)?;
                }
                rates[row].push((protocol.measure)(&running, length)?);
            }
        }
        print(protocol.title, &servers, &rates, rounds, length);
    }
    Ok(())
}

fn print(title: &str, servers: &[&Server], rates: &[Vec<f64>], rounds: usize, length: Duration) {
    let seconds = length.as_secs();
    println!("{title}: {rounds} interleaved runs of {seconds} s; median, ratio within a round\n");
    let mut shown =
        table(["server", "requests/s", "ratio to axum-bare", "middle half of the ratios"]);
    let reference = servers.iter().position(|server| server.name == REFERENCE);
    for (server, row) in servers.iter().zip(rates) {
        let median = Sample::of(row.iter().copied()).median();
        let (ratio, spread) = match reference {
            Some(reference) => {
                let ratios = Sample::of_ratios(row, &rates[reference]);
                (format!("{:.3}", ratios.median()), ratios.middle_half(3))
            }
            None => ("–".to_owned(), "–".to_owned()),
        };
        shown.add_row([server.name.to_owned(), grouped(median.round() as u64), ratio, spread]);
    }
    println!("{shown}\n");
}

fn http1(server: &Running, length: Duration) -> Result<f64> {
    let url = format!("http://{}/b", server.address);
    let time = format!("-d{}s", length.as_secs());
    let said = shell::read(&mut shell::command("wrk", &["-t1", "-c64", &time, &url]))?;
    rate_of_wrk(&said).with_context(|| format!("wrk said no rate: {said}"))
}

fn http2(server: &Running, length: Duration) -> Result<f64> {
    let url = format!("http://{}/b", server.address);
    let time = length.as_secs().to_string();
    let arguments = ["-t1", "-c16", "-m8", "-D", &time, &url];
    let said = shell::read(&mut shell::command("h2load", &arguments))?;
    rate_of_h2load(&said).with_context(|| format!("h2load said no rate: {said}"))
}

/// `Requests/sec:  54321.09`
pub fn rate_of_wrk(said: &str) -> Option<f64> {
    said.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok()
}

/// `finished in 2.00s, 54321.09 req/s, 1.23MB/s`; nothing where requests failed, since a server
/// that refuses is no fast server.
pub fn rate_of_h2load(said: &str) -> Option<f64> {
    let requests = said.lines().find(|line| line.starts_with("requests:"))?;
    if !requests.contains(" 0 failed") {
        return None;
    }
    let line = said.lines().find(|line| line.starts_with("finished in"))?;
    line.split(", ").find_map(|part| part.strip_suffix(" req/s"))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found_in_what_the_tools_say() {
        let wrk = "Running 2s test\nRequests/sec:  54321.09\nTransfer/sec:  6.54MB\n";
        assert_eq!(rate_of_wrk(wrk), Some(54321.09));
        let h2load = "finished in 2.00s, 1234.50 req/s, 1.23MB/s\n\
                      requests: 2469 total, 2469 started, 2469 done, 2469 succeeded, 0 failed, 0 errored\n";
        assert_eq!(rate_of_h2load(h2load), Some(1234.5));
    }

    #[test]
    fn a_run_with_failed_requests_has_no_rate() {
        let said = "finished in 2.00s, 1234.50 req/s, 1.23MB/s\n\
                    requests: 2469 total, 2469 started, 2469 done, 0 succeeded, 2469 failed\n";
        assert_eq!(rate_of_h2load(said), None);
        assert_eq!(rate_of_wrk("unable to connect"), None);
    }
}
