//! Careful clients on the command line, closed-loop or (`--rate`) open-loop. Says on stderr when the load flows, and at the end on
//! stdout what became of every request.

use clap::{Parser, ValueEnum};
use lameduck_verify::address::Place;
use lameduck_verify::load::open::Open;
use lameduck_verify::load::{Load, Mode, Report, Running, Trust, Until};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Nothing was lost.
const OK: u8 = 0;
/// The clients could not run: no answer ever came, or the file of ids could not be written.
const FAILED: u8 = 1;
/// A flag or its value is unusable.
const USAGE: u8 = 2;
/// Something was lost.
const LOST: u8 = 4;

/// How long a run lasts when nothing is said.
const DURATION: Duration = Duration::from_secs(5);
/// The bound of `--until-gone` when nothing is said.
const GONE_AT_MOST: Duration = Duration::from_secs(120);

/// Careful clients: they never retry, and they look for a close before they reuse a connection.
///
/// Each client waits for its answer before its next request, unless --rate fixes the times of the requests.
///
/// Prints `started` on stderr once every client has had its first answer. SIGTERM or SIGINT ends the run in
/// order. Exit codes: 0 nothing was lost, 1 could not run, 2 usage, 4 something was lost.
#[derive(Parser)]
#[command(name = "lameduck-load", version)]
struct Flags {
    /// http://HOST:PORT/PATH, https://HOST:PORT/PATH or unix:/SOCKET:/PATH
    #[arg(long)]
    target: String,
    /// Clients, each with a connection of its own
    #[arg(long, default_value = "32", value_parser = count)]
    connections: usize,
    /// What each client does
    #[arg(long, value_enum, default_value = "keep-alive")]
    mode: ModeFlag,
    /// Streams open at a time on each connection (h2 only)
    #[arg(long, default_value = "4", value_parser = count)]
    streams: usize,
    /// Between an answer and the client's next request: 5ms, 1s, 250us
    #[arg(long, default_value = "0ms", value_parser = duration)]
    pause: Duration,
    /// How long to run; with --until-gone the longest time [default: 5s, with --until-gone 120s]
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// End when the server has refused connections for a while
    #[arg(long)]
    until_gone: bool,
    /// Threads that carry the clients [default: half of the cores]
    #[arg(long, value_parser = count)]
    threads: Option<usize>,
    /// Append the id of each acknowledged POST to this file, one a line (post only)
    #[arg(long)]
    acked: Option<PathBuf>,
    /// Trust only the authorities in this PEM file (https; otherwise any certificate is believed)
    #[arg(long)]
    cacert: Option<PathBuf>,
    /// Requests a second, sent at even distances whatever the server does; latencies count from the intended times
    #[arg(long, conflicts_with_all = ["pause", "until_gone", "threads", "acked", "streams", "cacert"])]
    rate: Option<f64>,
    /// One JSON object on stdout instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeFlag {
    /// GET after GET on one kept connection
    KeepAlive,
    /// A connection for each GET
    NewConnection,
    /// POST with {"id":"…",…}, each id once, on one kept connection
    Post,
    /// HTTP/2 with prior knowledge, several streams on each connection
    H2,
}

impl ModeFlag {
    fn mode(self, streams: usize) -> Mode {
        match self {
            ModeFlag::KeepAlive => Mode::KeepAlive,
            ModeFlag::NewConnection => Mode::NewConnection,
            ModeFlag::Post => Mode::Post,
            ModeFlag::H2 => Mode::Http2 { streams },
        }
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(rate) = flags.rate {
        return open_loop(&flags, rate);
    }
    let load = match load(&flags) {
        Ok(load) => load,
        Err(reason) => return complain(USAGE, &reason),
    };
    match load.start().and_then(run_to_the_end) {
        Ok(report) => print(&report, flags.json),
        Err(error) => complain(FAILED, &error.to_string()),
    }
}

fn open_loop(flags: &Flags, rate: f64) -> ExitCode {
    let place: Place = match flags.target.parse() {
        Ok(place) => place,
        Err(error) => return complain(USAGE, &format!("{error}")),
    };
    let load = Open::new(place, flags.mode.mode(flags.streams), rate)
        .connections(flags.connections)
        .lasting(flags.duration.unwrap_or(DURATION));
    let ended = load.start().and_then(|running| {
        let stop = running.stopper();
        until_ended(stop, move || {
            // Every connection is made, and a signal is heard from here on.
            let _ = writeln!(std::io::stderr(), "started");
            running.finish()
        })?
    });
    match ended {
        Ok(report) => {
            let text = if flags.json { report.to_json().to_string() } else { report.to_string() };
            say(&text, report.lost(), report.tally().answered())
        }
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            complain(USAGE, &error.to_string())
        }
        Err(error) => complain(FAILED, &error.to_string()),
    }
}

fn load(flags: &Flags) -> Result<Load, String> {
    let place: Place = flags.target.parse().map_err(|error| format!("{error}"))?;
    if flags.acked.is_some() && flags.mode != ModeFlag::Post {
        return Err("--acked needs --mode post: no other request carries an id".to_owned());
    }
    let until = match flags.until_gone {
        true => Until::Gone { at_most: flags.duration.unwrap_or(GONE_AT_MOST) },
        false => Until::Elapsed(flags.duration.unwrap_or(DURATION)),
    };
    let load = Load::new(place, flags.mode.mode(flags.streams))
        .connections(flags.connections)
        .pause(flags.pause)
        .until(until);
    let load = match &flags.cacert {
        Some(path) => {
            let pem =
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let trust = Trust::authorities(&pem);
            load.trust(trust.map_err(|error| format!("{}: {error}", path.display()))?)
        }
        None => load,
    };
    let load = flags.threads.into_iter().fold(load, Load::threads);
    Ok(flags.acked.iter().fold(load, |load, path| load.acked(path)))
}

fn run_to_the_end(running: Running) -> std::io::Result<Report> {
    let stop = running.stopper();
    until_ended(stop, move || {
        // Longer than any run: the wait ends with the flow or with the clients.
        if running.wait_flowing(Duration::MAX).is_ok() {
            // Nobody may listen: that is no reason to stop.
            let _ = writeln!(std::io::stderr(), "started");
        }
        running.finish()
    })
}

/// Waits for the end of the clients while this thread's runtime listens for signals.
fn until_ended<T: Send + 'static>(
    stop: impl Fn(),
    finish: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut term, mut int) = {
        let _context = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let (ended, mut end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // The receiver waits for as long as this thread runs.
        let _ = ended.send(finish());
    });
    runtime.block_on(async {
        loop {
            tokio::select! {
                report = &mut end => {
                    return report.map_err(|_| std::io::Error::other("a client panicked"));
                }
                _ = term.recv() => stop(),
                _ = int.recv() => stop(),
            }
        }
    })
}

fn print(report: &Report, json: bool) -> ExitCode {
    let text = if json { report.to_json().to_string() } else { report.to_string() };
    let code = say(&text, report.lost(), report.tally().answered());
    match report.unwritten() {
        Some(error) => complain(FAILED, &error.to_string()),
        None => code,
    }
}

fn say(text: &str, lost: u64, answered: u64) -> ExitCode {
    if let Err(error) = writeln!(std::io::stdout(), "{text}") {
        return complain(FAILED, &format!("standard output: {error}"));
    }
    match (lost, answered) {
        (0, 0) => complain(FAILED, "no request was answered"),
        (0, _) => ExitCode::from(OK),
        _ => ExitCode::from(LOST),
    }
}

fn complain(code: u8, reason: &str) -> ExitCode {
    eprintln!("lameduck-load: {reason}");
    ExitCode::from(code)
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("not a whole number".to_owned()),
    }
}

/// A number with its unit. Without a unit it would be guessed at.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("expected a number and a unit: 250us, 5ms, 1.5s, 2m".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number before the unit".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        for text in ["9", "9x", "-1s", "", "ms", "1.2.3s", "99999999999999999999999m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
