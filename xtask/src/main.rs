//! The project's own tasks: `cargo xtask ci | test | setup | tidy | bench | scoreboard`.
//!
//! Everything a contributor or a hosted runner does goes through here, so that both do the same.

mod bench;
mod ci;
mod scoreboard;
mod setup;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The project's own tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Every check a change must pass; without names, all steps in order
    Ci(ci::Options),
    /// Install what the tests need, build the workspace, run all tests and doctests
    Test,
    /// Install the real clients and servers the tests and benches use (Debian packages)
    Setup,
    /// The laws of the house: who imports whom, where unsafe may stand, lengths, words, links
    Tidy,
    /// Run the conformance suite against every server it has an adapter for, and write who fails which case
    Scoreboard(scoreboard::Options),
    /// Measure against other servers and print tables
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Ci(options) => ci::run(&options),
        Task::Test => test::run(),
        Task::Setup => setup::run(),
        Task::Tidy => tidy::run(),
        Task::Scoreboard(options) => scoreboard::run(&options),
        Task::Bench(options) => bench::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
