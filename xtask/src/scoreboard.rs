//! `cargo xtask scoreboard`: the conformance suite against every server it ships an adapter for, written into the
//! results as a table and a picture. Nothing is left out, our own failures least of all.

mod board;
mod page;
mod picture;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{setup, shell, test};
use board::{Board, Row};

/// The reference service first, then the servers by kind.
const ORDER: &[&str] =
    &["lameduck", "nginx", "haproxy", "go", "axum", "actix", "uvicorn", "gunicorn", "node"];

const RESULTS: &str = "docs/results.md";
const PICTURE: &str = "docs/scoreboard.svg";

#[derive(Args)]
pub struct Options {
    /// Only these adapters; nothing is written then, unless --write is given
    #[arg(value_name = "ADAPTER")]
    adapters: Vec<String>,
    /// Runs each case this many times, and names those whose verdict changes
    #[arg(long, value_name = "N", default_value = "1")]
    repeat: usize,
    /// Only the cases of these groups
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    group: Vec<String>,
    /// Writes the results although not every adapter was run
    #[arg(long)]
    write: bool,
    /// Runs nothing: reads the reports of the runs before
    #[arg(long)]
    last: bool,
}

pub fn run(options: &Options) -> Result<()> {
    if !options.last {
        setup::run()?;
        build()?;
    }
    let programs = shell::target_directory()?.join("release");
    let adapters = adapters(options)?;
    let mut rows = Vec::new();
    let mut missing = Vec::new();
    for adapter in &adapters {
        println!("\n== {adapter}");
        match one(adapter, options, &programs) {
            Ok(row) => {
                println!("{adapter}: {}", row.sentence);
                for line in row.unstable() {
                    println!("  unstable: {line}");
                }
                rows.push(row);
            }
            // A server that cannot be run here is named, and does not keep the others from being tested.
            Err(error) => {
                eprintln!("{adapter}: {error:#}");
                missing.push((adapter.clone(), format!("{error:#}")));
            }
        }
    }
    let board = Board { rows, missing };
    if board.rows.is_empty() {
        bail!("no adapter could be run");
    }
    if (options.adapters.is_empty() && options.group.is_empty()) || options.write {
        write(&board)?;
    }
    Ok(())
}

fn build() -> Result<()> {
    // The servers of the adapters are the machine's own, or built by the adapters.
    let arguments = ["build", "--release", "-p", "lameduck-cli", "--bins"];
    shell::run(&mut shell::cargo(&arguments))
}

/// Every adapter that ships, the known ones in their order.
fn adapters(options: &Options) -> Result<Vec<String>> {
    if !options.adapters.is_empty() {
        return Ok(options.adapters.clone());
    }
    let directory = shell::root().join("crates/lameduck-verify/adapters");
    let entries = std::fs::read_dir(&directory)
        .with_context(|| format!("read {}", directory.display()))?
        .collect::<std::io::Result<Vec<_>>>()?;
    let mut names: Vec<String> = entries
        .iter()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .collect();
    let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    names.sort_by(|one, other| place(one).cmp(&place(other)).then(one.cmp(other)));
    Ok(names)
}

/// Runs the suite against one server. A verdict is no error; a server that cannot be tested is.
fn one(adapter: &str, options: &Options, programs: &Path) -> Result<Row> {
    let scratch = programs.join("scoreboard");
    std::fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    let json = scratch.join(format!("{adapter}.json"));
    if options.last {
        return read(adapter, &json);
    }
    let page = scratch.join(format!("{adapter}.html"));
    let mut command = shell::command(programs.join("lameduck"), &["verify", "--adapter", adapter]);
    command.arg("--json").arg(&json).arg("--html").arg(&page);
    command.args(["--repeat", &options.repeat.to_string()]);
    for group in &options.group {
        command.args(["--group", group]);
    }
    let status = command
        .env("PATH", path(programs)?)
        .stdin(Stdio::null())
        .status()
        .context("start lameduck verify")?;
    // 0 passed, 1 failed, 3 inconclusive: each has a report.
    if !matches!(status.code(), Some(0 | 1 | 3)) {
        bail!("lameduck verify ended with {status}");
    }
    read(adapter, &json)
}

fn read(adapter: &str, report: &Path) -> Result<Row> {
    let text =
        std::fs::read_to_string(report).with_context(|| format!("read {}", report.display()))?;
    Row::read(adapter, &text)
}

/// The command that was just built, and the Python servers of the set-up, before everything else.
fn path(programs: &Path) -> Result<std::ffi::OsString> {
    let rest = test::path_with_python()?;
    let places = [programs.to_path_buf()].into_iter().chain(std::env::split_paths(&rest));
    Ok(std::env::join_paths(places)?)
}

fn write(board: &Board) -> Result<()> {
    let results = shell::root().join(RESULTS);
    let before = match std::fs::read_to_string(&results) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context(RESULTS),
    };
    put(&results, &page::put_in(&before, &page::section(board)))?;
    put(&shell::root().join(PICTURE), &picture::svg(board))?;
    println!("\nwrote {RESULTS} (the section on conformance) and {PICTURE}");
    Ok(())
}

fn put(path: &PathBuf, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
