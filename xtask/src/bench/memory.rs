//! Memory a server holds for one idle kept-alive connection.

use anyhow::{Context, Result};

use super::client::Connection;
use super::sample::Sample;
use super::server::{Server, Wishes};
use super::{Bench, table};

const REFERENCE: &str = "axum-bare";
const SERVERS: &[&str] = &["lameduck", REFERENCE, "hyper"];

pub fn run(bench: &Bench) -> Result<()> {
    let connections = bench.pick(2_000, 200);
    let rounds = bench.pick(5, 1);
    let servers = bench.servers(SERVERS)?;
    if servers.is_empty() {
        return Ok(());
    }
    let mut sizes: Vec<Vec<f64>> = vec![Vec::new(); servers.len()];
    for round in 0..rounds {
        for turn in 0..servers.len() {
            let row = (turn + round) % servers.len();
            sizes[row].push(bytes_for_each(bench, servers[row], connections)?);
        }
    }
    println!("{connections} connections, each answered once, {rounds} processes; resident size\n");
    let reference = servers.iter().position(|server| server.name == REFERENCE);
    let mut shown = table(["server", "bytes a connection", "ratio to axum-bare"]);
    for (server, row) in servers.iter().zip(&sizes) {
        let ratio = reference.map_or("–".to_owned(), |at| {
            format!("{:.3}", Sample::of_ratios(row, &sizes[at]).median())
        });
        let median = Sample::of(row.iter().copied()).median();
        shown.add_row([server.name.to_owned(), format!("{median:.0}"), ratio]);
    }
    println!("{shown}");
    Ok(())
}

fn bytes_for_each(bench: &Bench, server: &Server, connections: usize) -> Result<f64> {
    let running = server.start(bench, &Wishes::default())?;
    let before = resident(running.process.pid())?;
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut connection = Connection::open(running.address)?;
        connection.ask("/b")?;
        held.push(connection);
    }
    let after = resident(running.process.pid())?;
    Ok(after.saturating_sub(before) as f64 / connections as f64)
}

/// The resident size in bytes, as the kernel counts it.
pub fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    kibibytes(&text).map(|size| size * 1024).with_context(|| format!("no VmRSS in {path}"))
}

fn kibibytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::kibibytes;

    #[test]
    fn the_resident_size_is_found() {
        assert_eq!(kibibytes("VmPeak:\t 9 kB\nVmRSS:\t    5120 kB\n"), Some(5120));
        assert_eq!(kibibytes("VmPeak:\t 9 kB\n"), None);
    }
}
