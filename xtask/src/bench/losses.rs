//! Stops under the load of careful clients: how many requests were sent and never answered.
//!
//! The clients (`lameduck-load`) look for a close before they reuse a connection and never retry;
//! a request that could not be sent does not count as lost.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use super::load::Load;
use super::server::{Server, Wishes};
use super::{Bench, grouped, table};

// `lameduck` is the application of `axum` under the library, `lameduck-serve` the reference service.
const SERVERS: &[&str] = &["go", "axum", "actix-web", "nginx", "lameduck", "lameduck-serve"];

/// What the careful client is told for each kind of load.
struct Kind {
    title: &'static str,
    mode: &'static str,
    pause: &'static str,
}

const KINDS: &[Kind] = &[
    Kind { title: "kept-alive", mode: "keep-alive", pause: "0ms" },
    Kind { title: "kept-alive, 5 ms pauses", mode: "keep-alive", pause: "5ms" },
    Kind { title: "new connection each", mode: "new-connection", pause: "0ms" },
];

const CLIENTS: usize = 24;
/// The load flows for this long before the stop …
const FLOW: Duration = Duration::from_millis(300);
/// … and a little longer each time, so that no stop meets the clients in the same step.
const FLOW_STEP: Duration = Duration::from_millis(37);
/// Go waits at most nine seconds, actix-web thirty.
const EXIT_BOUND: Duration = Duration::from_secs(40);

/// What became of the requests of several stops.
#[derive(Default)]
struct Tally {
    sent: u64,
    lost: BTreeMap<String, u64>,
}

pub fn run(bench: &Bench) -> Result<()> {
    let servers = bench.servers(SERVERS)?;
    if servers.is_empty() {
        return Ok(());
    }
    let mut tallies: Vec<Vec<Tally>> = Vec::new();
    tallies.resize_with(servers.len(), || KINDS.iter().map(|_| Tally::default()).collect());
    for stop in 0..bench.stops {
        for (column, kind) in KINDS.iter().enumerate() {
            for turn in 0..servers.len() {
                // The order rotates, so that no server always runs after the same one.
                let row = (turn + stop) % servers.len();
                stop_under_load(bench, servers[row], kind, stop, &mut tallies[row][column])
                    .with_context(|| format!("{}, {}", servers[row].name, kind.title))?;
            }
        }
    }
    print(bench, &servers, &tallies);
    Ok(())
}

fn stop_under_load(
    bench: &Bench,
    server: &Server,
    kind: &Kind,
    stop: usize,
    tally: &mut Tally,
) -> Result<()> {
    let mut running = server.start(bench, &Wishes::default())?;
    let target = format!("http://{}/b", running.address);
    let clients = CLIENTS.to_string();
    let load = Load::start(
        bench,
        &target,
        &["--connections", &clients, "--mode", kind.mode, "--pause", kind.pause, "--until-gone"],
    )?;
    let flow = FLOW + FLOW_STEP * u32::try_from(stop)?;
    load.flow(flow)?;
    running.time_of_stop(EXIT_BOUND)?;
    let text = load.end(EXIT_BOUND)?;
    tally.add(&text)
}

impl Tally {
    /// Adds what one run of the client printed.
    fn add(&mut self, text: &str) -> Result<()> {
        let run: serde_json::Value = serde_json::from_str(text)
            .with_context(|| format!("read what lameduck-load found: `{}`", text.trim()))?;
        self.sent += run["sent"].as_u64().context("lameduck-load says no `sent`")?;
        let lost = run["lost"].as_object().context("lameduck-load says no `lost`")?;
        for (class, count) in lost {
            let count = count.as_u64().with_context(|| format!("`{class}` is no number"))?;
            if count > 0 {
                *self.lost.entry(class.clone()).or_default() += count;
            }
        }
        Ok(())
    }

    fn lost(&self) -> u64 {
        self.lost.values().sum()
    }
}

fn print(bench: &Bench, servers: &[&Server], tallies: &[Vec<Tally>]) {
    println!(
        "{} stops each, {CLIENTS} closed-loop careful clients; requests lost, of those sent\n",
        bench.stops
    );
    let mut shown = table(["server"].into_iter().chain(KINDS.iter().map(|kind| kind.title)));
    for (server, row) in servers.iter().zip(tallies) {
        let cells = row.iter().map(|tally| format!("{} of {}", tally.lost(), grouped(tally.sent)));
        shown.add_row([server.name.to_owned()].into_iter().chain(cells));
    }
    println!("{shown}");
    for (server, row) in servers.iter().zip(tallies) {
        for (kind, tally) in KINDS.iter().zip(row).filter(|(_, tally)| tally.lost() > 0) {
            let classes: Vec<String> =
                tally.lost.iter().map(|(class, count)| format!("{class} {count}")).collect();
            println!("  {}, {}: {}", server.name, kind.title, classes.join(", "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn runs_add_up_by_class() {
        let mut tally = Tally::default();
        tally.add(r#"{"sent": 100, "lost": {"RESET": 2, "EOF": 0}}"#).unwrap();
        tally.add(r#"{"sent": 50, "lost": {"RESET": 1, "TIMED_OUT": 4}}"#).unwrap();
        assert_eq!((tally.sent, tally.lost()), (150, 7));
        assert_eq!(tally.lost.get("RESET"), Some(&3));
        assert_eq!(tally.lost.get("EOF"), None);
    }

    #[test]
    fn words_that_are_no_result_are_an_error() {
        assert!(Tally::default().add("error: no such host").is_err());
        assert!(Tally::default().add(r#"{"lost": {}}"#).is_err());
    }
}
