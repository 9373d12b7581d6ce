//! One upgrade looked at closely: how soon the new version answers, how long thousands of idle connections take to move
//! and what they cost, and how soon the service answers again when the new version is killed on its probation.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::client::Connection;
use super::load::Load;
use super::memory::resident;
use super::sample::Sample;
use super::subject::{Subject, Upgradable, version_in};
use super::{Bench, grouped, table};

/// Descriptors that a service needs beside those of its connections.
const SPARE: usize = 200;
/// What one process may hold where the limit of open files is lower than what a test asks for.
const FEW: usize = 1_000;
/// Connections that are asked at once, so that a measured answer waits for few others.
const BATCH: usize = 500;
/// Nothing that is waited for takes longer.
const BOUND: Duration = Duration::from_secs(60);

pub fn run(bench: &Bench) -> Result<()> {
    if !bench.wants(Subject::ours().name) {
        return Ok(());
    }
    first_answers(bench)?;
    moves(bench)?;
    kills(bench)
}

/// From the signal to the first answer of the new version, beside the time a start of its own takes.
fn first_answers(bench: &Bench) -> Result<()> {
    let rounds = bench.pick(40, 2);
    let (mut starts, mut upgrades) = (Vec::new(), Vec::new());
    let mut running = Subject::ours().start(bench, &[])?;
    // Started anew each time, where it finds the database of the time before, as a successor does.
    let mut alone = Subject::ours().start(bench, &[])?;
    for round in 0..rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                starts.push(milliseconds(alone.restart()?));
            } else {
                let begun = Instant::now();
                running.signal(Signal::HUP)?;
                let next = running.version + 1;
                running.wait_for_version(next)?;
                upgrades.push(milliseconds(begun.elapsed()));
                running.pid = active_pid(&running)?;
            }
        }
    }
    let more = upgrades.iter().zip(&starts).map(|(upgrade, start)| upgrade - start);
    let mut shown = table(["ms", "median", "middle half", "greatest"]);
    for (name, values) in [
        ("a start of its own: from its beginning to its first answer", starts.clone()),
        ("an upgrade: from the signal to the first answer of the new version", upgrades.clone()),
        ("the difference within a pair", more.collect()),
    ] {
        let sample = Sample::of(values);
        let median = format!("{:.1}", sample.median());
        shown.add_row([
            name.to_owned(),
            median,
            sample.middle_half(1),
            format!("{:.1}", sample.max()),
        ]);
    }
    println!("{rounds} pairs\n\n{shown}\n");
    Ok(())
}

/// Asks the service which process is active.
fn active_pid(running: &Upgradable) -> Result<u32> {
    let status = status(running)?;
    let active = status["generations"][0]["pid"].as_u64().context("no active generation")?;
    Ok(u32::try_from(active)?)
}

fn status(running: &Upgradable) -> Result<Value> {
    Ok(serde_json::from_str(&running.operate(&["status", "--json"])?)?)
}

fn moves(bench: &Bench) -> Result<()> {
    let most = most_connections();
    let counts = bench.pick([10_000.min(most), most], [FEW.min(most), FEW.min(most)]);
    let rounds = bench.pick(3, 1);
    let mut shown = table([
        "idle connections",
        "upgrade told, ms",
        "all moved after that, ms",
        "all answered on the same connection, ms",
        "bytes a connection, before",
        "after",
    ]);
    for count in counts.into_iter().take(bench.pick(2, 1)) {
        let mut found = Vec::new();
        for _ in 0..rounds {
            found.push(one_move(bench, count).with_context(|| format!("{count} connections"))?);
        }
        let of = |field: fn(&Move) -> f64| {
            let sample = Sample::of(found.iter().map(field));
            format!("{:.0} ({:.0})", sample.median(), sample.max())
        };
        shown.add_row([
            grouped(count as u64),
            of(|it| milliseconds(it.told)),
            of(|it| milliseconds(it.moved)),
            of(|it| milliseconds(it.answered)),
            of(|it| it.before),
            of(|it| it.after),
        ]);
    }
    println!(
        "median (greatest) of {rounds}; resident size of the process that holds them\n\n{shown}\n"
    );
    Ok(())
}

/// As many connections as this process can hold; the service has the same limit.
fn most_connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limit = limit.current.map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX));
    limit.saturating_sub(SPARE).min(60_000)
}

struct Move {
    told: Duration,
    moved: Duration,
    answered: Duration,
    before: f64,
    after: f64,
}

fn one_move(bench: &Bench, count: usize) -> Result<Move> {
    let mut running = Subject::ours().start(bench, &[])?;
    let empty = resident(running.pid)?;
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        let mut connection = Connection::open(running.address)
            .with_context(|| format!("connection {number} of {count}"))?;
        connection.ask("/version")?;
        held.push(connection);
    }
    let each = |all: u64| all.saturating_sub(empty) as f64 / count as f64;
    let before = each(resident(running.pid)?);
    let begun = Instant::now();
    running.upgrade()?;
    let told = begun.elapsed();
    let until = Instant::now() + BOUND;
    while open_in_older_generations(&running)? > 0 {
        if Instant::now() > until {
            bail!("not all moved within {} s: {}", BOUND.as_secs(), status(&running)?);
        }
    }
    let moved = begun.elapsed() - told;
    let after = each(resident(running.pid)?);
    let begun = Instant::now();
    for batch in held.chunks_mut(BATCH) {
        for connection in &mut *batch {
            connection.send("/version")?;
        }
        for connection in batch {
            connection.receive()?;
            let version = version_in(&connection.body())?;
            if version != running.version {
                bail!("answered by version {version}, not {}", running.version);
            }
        }
    }
    Ok(Move { told, moved, answered: begun.elapsed(), before, after })
}

fn open_in_older_generations(running: &Upgradable) -> Result<u64> {
    let status = status(running)?;
    let generations = status["generations"].as_array().context("no generations in the status")?;
    let open = |it: &Value| it["live"]["connections"].as_u64().unwrap_or(0);
    Ok(generations.iter().skip(1).map(open).sum())
}

/// The new version is killed on its probation, at another moment each time, under an open loop: the longest time
/// without an answer is how long the service was away.
fn kills(bench: &Bench) -> Result<()> {
    /// Requests a second, so that a millisecond without an answer is seen.
    const RATE: &str = "2000";
    const LASTING: Duration = Duration::from_millis(1200);
    let rounds = bench.pick(50, 2);
    let (mut silences, mut lost, mut sent) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let mut running = Subject::ours().start(bench, &["--probation", "1h"])?;
        let target = running.url("/version");
        let time = format!("{}ms", LASTING.as_millis());
        let load = Load::start(bench, &target, &["--rate", RATE, "--duration", &time])?;
        load.flow(Duration::from_millis(200))?;
        let first = running.pid;
        running.upgrade()?;
        // The golden section spreads the moments evenly, whatever their number.
        let moment = f64::from(round) * 0.618_034 % 1.0 * 400.0;
        load.flow(Duration::from_secs_f64(moment / 1000.0))?;
        running.signal(Signal::KILL)?;
        let report = load.report(BOUND)?;
        running.pid = first;
        if running.answering_version()? != 1 {
            bail!("the first generation does not serve: {}", running.log()?);
        }
        silences.push(report["longest_silence_ms"].as_f64().context("no silence")?);
        lost.push(report["lost_total"].as_f64().context("no losses")?);
        sent += report["sent"].as_u64().context("nothing sent")?;
    }
    let (silences, lost) = (Sample::of(silences), Sample::of(lost));
    println!(
        "{rounds} kills of a new version on its probation, {RATE} requests a second over 32 kept connections, {} sent\n",
        grouped(sent)
    );
    let mut shown = table(["", "median", "p90", "greatest"]);
    for (name, sample, digits) in
        [("longest time without an answer, ms", &silences, 1), ("requests lost", &lost, 0)]
    {
        let cells = [sample.median(), sample.quantile(0.9), sample.max()];
        let cells = cells.map(|value| format!("{value:.digits$}"));
        shown.add_row([name.to_owned()].into_iter().chain(cells));
    }
    println!("{shown}");
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
