//! The careful closed-loop client beside wrk and h2load, against a server that does next to nothing.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::process::Process;
use super::sample::Sample;
use super::throughput::{rate_of_h2load, rate_of_wrk};
use super::{Bench, existing, grouped, table};
use crate::shell;

const CONNECTIONS: &str = "64";

/// The one the others are compared with.
const REFERENCE: usize = 1;

/// How often the memory of a running client is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A client that has had its time and does not end is broken.
const END_BOUND: Duration = Duration::from_secs(20);

struct Client {
    name: &'static str,
    arguments: fn(&str, &str) -> Vec<String>,
    rate: fn(&str) -> Option<f64>,
}

const CLIENTS: &[Client] = &[
    Client {
        name: "lameduck-load",
        arguments: |url, seconds| {
            let time = format!("{seconds}s");
            let words = ["--target", url, "--connections", CONNECTIONS, "--threads", "1"];
            words.into_iter().chain(["--json", "--duration", &time]).map(str::to_owned).collect()
        },
        rate: |said| serde_json::from_str::<Value>(said).ok()?["rate"].as_f64(),
    },
    Client {
        name: "wrk",
        arguments: |url, seconds| {
            let time = format!("-d{seconds}s");
            ["-t1", "-c", CONNECTIONS, &time, url].map(str::to_owned).to_vec()
        },
        rate: rate_of_wrk,
    },
    Client {
        name: "h2load",
        arguments: |url, seconds| {
            ["--h1", "-t1", "-c", CONNECTIONS, "-D", seconds, url].map(str::to_owned).to_vec()
        },
        rate: rate_of_h2load,
    },
];

pub fn run(bench: &Bench) -> Result<()> {
    if bench.pick(true, false) {
        let build = ["build", "--release", "-p", "lameduck-verify", "--example", "trivial-server"];
        shell::run(&mut shell::cargo(&build))?;
    }
    let server = existing(&bench.programs.join("examples/trivial-server"))?;
    let rounds = bench.pick(8, 1);
    let seconds = bench.pick("3", "1");
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); CLIENTS.len()];
    let mut most: Vec<u64> = vec![0; CLIENTS.len()];
    for round in 0..rounds {
        for turn in 0..CLIENTS.len() {
            let row = (turn + round) % CLIENTS.len();
            let (rate, kib) = one(bench, &CLIENTS[row], &server, seconds)?;
            rates[row].push(rate);
            most[row] = most[row].max(kib);
        }
    }
    println!(
        "HTTP/1.1, {CONNECTIONS} connections, one thread for the client and one for the server; \
         {rounds} interleaved runs of {seconds} s; median, ratio within a round\n"
    );
    let mut shown =
        table(["client", "requests/s", "ratio to wrk", "middle half of the ratios", "most memory"]);
    for ((client, row), kib) in CLIENTS.iter().zip(&rates).zip(most) {
        let ratios = Sample::of_ratios(row, &rates[REFERENCE]);
        shown.add_row([
            client.name.to_owned(),
            grouped(Sample::of(row.iter().copied()).median().round() as u64),
            format!("{:.3}", ratios.median()),
            ratios.middle_half(3),
            format!("{:.1} MB", kib as f64 / 1024.0),
        ]);
    }
    println!("{shown}\n");
    Ok(())
}

/// A client's rate against a server of its own, and the most memory it had.
fn one(
    bench: &Bench,
    client: &Client,
    server: &std::path::Path,
    seconds: &str,
) -> Result<(f64, u64)> {
    let address = super::server::free_address()?;
    let mut command = Command::new(server);
    command.arg(address.to_string()).stdin(Stdio::null()).stderr(Stdio::null());
    let _server = Process::start("trivial-server", &mut command)?;
    super::server::wait_for_address(address)?;
    let program = match client.name {
        "lameduck-load" => bench.program(client.name)?,
        name => shell::find_program(name).with_context(|| format!("{name} is not installed"))?,
    };
    let url = format!("http://{address}/b");
    let mut command = Command::new(program);
    command.args((client.arguments)(&url, seconds)).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::null());
    let mut running = Process::start(client.name, &mut command)?;
    // What they say fits into the pipe, so it is read when they have ended.
    let mut most = 0;
    while !running.ended_within(LOOK)? {
        most = most.max(most_memory(running.pid()).unwrap_or(0));
    }
    running.exit_within(END_BOUND)?;
    let out = running.child.stdout.take().context("standard output is piped")?;
    let said = std::io::read_to_string(out).context("read what the client said")?;
    let rate = (client.rate)(&said).with_context(|| format!("{} said {said}", client.name))?;
    Ok((rate, most))
}

/// `VmHWM` in KiB.
fn most_memory(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}
