//! `cargo xtask bench`: what is measured, never asserted.
//!
//! The machine is noisy and has few processors, so every comparison is made of many short runs
//! whose order rotates, each in a fresh process, and ratios are taken between neighbours in time.

mod client;
mod clients;
mod exit;
mod instructions;
mod load;
mod losses;
mod memory;
mod process;
mod reloads;
mod sample;
mod server;
mod sockets;
mod subject;
mod throughput;
mod upgrade;
mod websocket;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};

use crate::{setup, shell, test};
use server::Server;

#[derive(Args)]
pub struct Options {
    /// What to measure; everything where nothing is named
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
    /// Small numbers and the debug build: shows that the benches work, not how fast anything is
    #[arg(long)]
    smoke: bool,
    /// Stops (`losses`) or upgrades (`reloads`) for each server and kind of load [default: 6, with --smoke 1]
    #[arg(long, value_name = "N")]
    stops: Option<usize>,
    /// Only these servers
    #[arg(long, value_name = "SERVER", value_delimiter = ',', value_parser = server_names())]
    servers: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Requests lost at a stop under load
    Losses,
    /// Requests answered in a second, HTTP/1.1 and HTTP/2
    Throughput,
    /// Instructions executed for one request
    Instructions,
    /// Memory for one idle connection
    Memory,
    /// How long an exit takes
    Exit,
    /// The careful client beside wrk and h2load
    Client,
    /// An upgrade: the first answer, idle connections, a new version that is killed
    Upgrade,
    /// WebSockets that move in an upgrade; event streams and WebSockets that end at a stop
    Sockets,
    /// Upgrades under load beside the reloads of nginx and HAProxy
    Reloads,
}

/// How thoroughly to measure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Full,
    Smoke,
}

/// What every bench is given.
struct Bench {
    depth: Depth,
    stops: usize,
    /// Where cargo put the programs.
    programs: PathBuf,
    /// Programs not built by cargo, and each server's own directory while it runs.
    scratch: PathBuf,
    only: Vec<String>,
}

/// Those that are stopped and those that are upgraded.
fn server_names() -> Vec<&'static str> {
    let stopped = server::names();
    let upgraded = subject::names().filter(|name| !stopped.contains(name));
    stopped.iter().copied().chain(upgraded).collect()
}

pub fn run(options: &Options) -> Result<()> {
    let bench = Bench::prepare(options)?;
    let chosen = |name: Name| options.names.is_empty() || options.names.contains(&name);
    for (name, title, run) in BENCHES {
        if chosen(*name) {
            println!("\n== {title}");
            let begin = Instant::now();
            run(&bench).with_context(|| format!("bench: {title}"))?;
            println!("({:.0} s)", begin.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

type RunBench = fn(&Bench) -> Result<()>;

const BENCHES: &[(Name, &str, RunBench)] = &[
    (Name::Losses, "requests lost at a stop under load", losses::run),
    (Name::Throughput, "requests a second, GET /b", throughput::run),
    (Name::Instructions, "instructions for one GET /b", instructions::run),
    (Name::Memory, "memory for one idle kept-alive connection", memory::run),
    (Name::Exit, "how long an exit takes", exit::run),
    (Name::Client, "requests a second of the clients themselves", clients::run),
    (Name::Upgrade, "one upgrade of lameduck serve", upgrade::run),
    (Name::Sockets, "websockets and event streams of lameduck serve", sockets::run),
    (Name::Reloads, "upgrades under load", reloads::run),
];

/// What `ci` runs: every bench with small numbers.
pub fn smoke() -> Result<()> {
    run(&Options { names: Vec::new(), smoke: true, stops: None, servers: Vec::new() })
}

impl Bench {
    fn prepare(options: &Options) -> Result<Self> {
        setup::run()?;
        let target = shell::target_directory()?;
        let (depth, directory) = if options.smoke {
            // The build the tests need anyway.
            test::build()?;
            (Depth::Smoke, "debug")
        } else {
            let arguments = ["build", "--release", "--workspace", "--bins", "--all-features"];
            shell::run(&mut shell::cargo(&arguments))?;
            (Depth::Full, "release")
        };
        let scratch = target.join("bench");
        std::fs::create_dir_all(&scratch)
            .with_context(|| format!("create {}", scratch.display()))?;
        server::build_go(&scratch)?;
        process::raise_file_limit()?;
        Ok(Self {
            depth,
            stops: options.stops.unwrap_or(if options.smoke { 1 } else { 6 }),
            programs: target.join(directory),
            scratch,
            only: options.servers.clone(),
        })
    }

    /// Of two numbers the one that fits the depth.
    fn pick<T>(&self, full: T, smoke: T) -> T {
        match self.depth {
            Depth::Full => full,
            Depth::Smoke => smoke,
        }
    }

    /// Those of a bench's servers that were asked for, which may be none.
    fn servers(&self, names: &[&str]) -> Result<Vec<&'static Server>> {
        names.iter().filter(|name| self.wants(name)).map(|name| Server::named(name)).collect()
    }

    /// Whether this server was asked for.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// A program cargo built, or an error that names the place where it should be.
    fn program(&self, name: &str) -> Result<PathBuf> {
        existing(&self.programs.join(name))
    }
}

fn existing(path: &Path) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("no program {}", path.display());
    }
    Ok(path.to_path_buf())
}

/// A table whose first column is text and whose other columns are numbers; it is valid Markdown.
fn table<H: Display>(heading: impl IntoIterator<Item = H>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(heading.into_iter().map(|cell| cell.to_string()));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// 1234567 as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
