//! A small server that stops and upgrades well, written without the library, and one fault at a time in it.
//!
//! Without a fault it is the suite's positive control: every case passes. With a fault it is a negative one: the
//! cases meant for that fault fail, and no others. So it is kept independent of what the suite is there to test.

mod connection;
mod control;
mod fault;
mod http1;
mod http2;
mod log;
mod options;
mod relay;
mod routes;
mod server;
mod supervise;
mod tls;
mod upgrade;
mod websocket;

pub use fault::Fault;

use options::Options;
use std::process::ExitCode;

/// Runs until it is stopped; the exit code is 0 after a clean drain and 3 after a cut. `upgrade PATH` asks one that runs,
/// `supervise …` keeps one running.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((first, [path])) if first == "upgrade" => return control::ask(path),
        Some((first, rest)) if first == "supervise" => return supervise::main(rest),
        Some(_) | None => {}
    }
    let options = match Options::from_command_line() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("misbehave: {error}");
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("misbehave: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> std::io::Result<u8> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    let code = runtime.block_on(server::run(options));
    // What was cut must not hold the exit.
    runtime.shutdown_background();
    log::flush();
    code
}
