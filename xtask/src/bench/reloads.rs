//! Upgrades under load, beside the reloads of nginx and HAProxy: what careful clients lose and how often they have to
//! connect again, and how the latency of an open loop changes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::load::Load;
use super::sample::Sample;
use super::subject::{SUBJECTS, Subject, Upgradable};
use super::{Bench, grouped, table};

/// What the clients are told for each kind of load, and whether they ask where HTTP/2 is spoken.
struct Kind {
    title: &'static str,
    flags: &'static [&'static str],
    /// These keep their HTTP/1.1 connections: how often they connect anew is told.
    keeps: bool,
}

const KINDS: &[Kind] = &[
    Kind { title: "new connection each", flags: &["--mode", "new-connection"], keeps: false },
    Kind { title: "kept-alive", flags: &["--mode", "keep-alive"], keeps: true },
    Kind {
        title: "kept-alive, 5 ms pauses",
        flags: &["--mode", "keep-alive", "--pause", "5ms"],
        keeps: true,
    },
    Kind { title: "POST", flags: &["--mode", "post"], keeps: true },
    Kind { title: "HTTP/2", flags: &["--mode", "h2"], keeps: false },
];

const CLIENTS: u64 = 32;
/// Between two upgrades under closed-loop load.
const PAUSE: Duration = Duration::from_millis(100);
/// The end of a load takes no longer: its clients finish the request they are at.
const END_BOUND: Duration = Duration::from_secs(30);

/// Requests a second of the open loop: a fraction of what any of the servers can do, so that a queue tells of an
/// upgrade and not of the load.
const RATE: &str = "1000";
/// Between two upgrades under the open loop.
const RHYTHM: Duration = Duration::from_secs(1);

pub fn run(bench: &Bench) -> Result<()> {
    let subjects: Vec<&Subject> =
        SUBJECTS.iter().filter(|subject| bench.wants(subject.name)).collect();
    if subjects.is_empty() {
        return Ok(());
    }
    losses(bench, &subjects)?;
    latencies(bench, &subjects)
}

/// What the clients of one kind found over some upgrades.
struct Found {
    sent: u64,
    lost: u64,
    not_sent: u64,
    reconnects: u64,
    classes: String,
}

fn losses(bench: &Bench, subjects: &[&Subject]) -> Result<()> {
    let upgrades = u32::try_from(bench.pick(bench.stops, 2))?;
    println!(
        "{upgrades} upgrades each, {CLIENTS} closed-loop careful clients: requests lost of those sent; \
         what was not sent, and may be sent again; connections made anew by clients that keep theirs\n"
    );
    let mut rows: Vec<Vec<Found>> = subjects.iter().map(|_| Vec::new()).collect();
    for kind in KINDS {
        for (subject, row) in subjects.iter().zip(&mut rows) {
            let found = under_load(bench, subject, kind, upgrades);
            row.push(found.with_context(|| format!("{}, {}", subject.name, kind.title))?);
        }
    }
    let mut shown = table(["server"].into_iter().chain(KINDS.iter().map(|kind| kind.title)));
    for (subject, row) in subjects.iter().zip(&rows) {
        let cells = row.iter().zip(KINDS).map(|(found, kind)| {
            let mut cell = format!("{} of {}", grouped(found.lost), grouped(found.sent));
            if found.not_sent > 0 {
                cell += &format!("; {} not sent", grouped(found.not_sent));
            }
            if kind.keeps {
                cell += &format!("; {} anew", grouped(found.reconnects));
            }
            cell
        });
        shown.add_row([subject.name.to_owned()].into_iter().chain(cells));
    }
    println!("{shown}");
    for (subject, row) in subjects.iter().zip(&rows) {
        for (found, kind) in row.iter().zip(KINDS).filter(|(found, _)| found.lost > 0) {
            println!("  {}, {}: {}", subject.name, kind.title, found.classes);
        }
    }
    println!();
    Ok(())
}

fn under_load(bench: &Bench, subject: &Subject, kind: &Kind, upgrades: u32) -> Result<Found> {
    let mut running = subject.start(bench, &[])?;
    let (path, orders) = subject.paths();
    let target = match kind.title {
        "POST" => running.url(orders),
        "HTTP/2" => running.http2_url(path),
        _ => running.url(path),
    };
    let clients = CLIENTS.to_string();
    let arguments = [&["--connections", &clients, "--duration", "10m"], kind.flags].concat();
    let load = Load::start(bench, &target, &arguments)?;
    for _ in 0..upgrades {
        load.flow(PAUSE)?;
        running.upgrade()?;
    }
    load.flow(PAUSE)?;
    load.stop()?;
    let report = load.report(END_BOUND)?;
    let count = |value: &Value, name: &str| {
        value[name].as_u64().with_context(|| format!("lameduck-load says no `{name}`"))
    };
    Ok(Found {
        sent: count(&report, "sent")?,
        lost: count(&report, "lost_total")?,
        not_sent: count(&report, "not_sent")?,
        reconnects: count(&report["connections"], "opened")?.saturating_sub(CLIENTS),
        classes: report["lost"].to_string(),
    })
}

/// Percentiles of one run of the open loop, in microseconds.
#[derive(Default)]
struct Latencies {
    p50: Vec<f64>,
    p99: Vec<f64>,
    p999: Vec<f64>,
    lag: Vec<f64>,
}

fn latencies(bench: &Bench, subjects: &[&Subject]) -> Result<()> {
    let rounds = bench.pick(4, 1);
    let lasting = Duration::from_secs(bench.pick(5, 2));
    println!(
        "{rounds} pairs of runs of {} s, {RATE} requests a second over {CLIENTS} kept connections, an upgrade each second \
         in one run of each pair; latency from the intended time of sending, us, median of the runs\n",
        lasting.as_secs()
    );
    let mut shown = table([
        "server",
        "p50",
        "p99",
        "p99.9",
        "p50 +",
        "p99 +",
        "p99.9 +",
        "ratio p50",
        "ratio p99",
        "ratio p99.9",
        "own lag p99.9",
    ]);
    let mut calm: Vec<Latencies> = subjects.iter().map(|_| Latencies::default()).collect();
    let mut stirred: Vec<Latencies> = subjects.iter().map(|_| Latencies::default()).collect();
    for round in 0..rounds {
        for (at, subject) in subjects.iter().enumerate() {
            // Which comes first rotates, so that what slows the machine down meets both alike.
            for turn in 0..2 {
                let upgraded = (round + turn) % 2 == 1;
                let into = if upgraded { &mut stirred[at] } else { &mut calm[at] };
                open_loop(bench, subject, lasting, upgraded, into)
                    .with_context(|| format!("{}, open loop", subject.name))?;
            }
        }
    }
    for (at, subject) in subjects.iter().enumerate() {
        let median = |values: &[f64]| format!("{:.0}", Sample::of(values.iter().copied()).median());
        let ratio = |with: &[f64], without: &[f64]| {
            format!("{:.2}", Sample::of_ratios(with, without).median())
        };
        let (without, with) = (&calm[at], &stirred[at]);
        shown.add_row([
            subject.name.to_owned(),
            median(&without.p50),
            median(&without.p99),
            median(&without.p999),
            median(&with.p50),
            median(&with.p99),
            median(&with.p999),
            ratio(&with.p50, &without.p50),
            ratio(&with.p99, &without.p99),
            ratio(&with.p999, &without.p999),
            median(&with.lag),
        ]);
    }
    println!("{shown}\n(+ with upgrades)");
    Ok(())
}

fn open_loop(
    bench: &Bench,
    subject: &Subject,
    lasting: Duration,
    upgraded: bool,
    into: &mut Latencies,
) -> Result<()> {
    let mut running = subject.start(bench, &[])?;
    let target = running.url(subject.paths().0);
    let (clients, time) = (CLIENTS.to_string(), format!("{}s", lasting.as_secs()));
    let arguments = ["--rate", RATE, "--connections", &clients, "--duration", &time];
    let load = Load::start(bench, &target, &arguments)?;
    let begun = Instant::now();
    if upgraded {
        upgrade_in_rhythm(&load, &mut running, begun, lasting)?;
    }
    let report = load.report(lasting + END_BOUND)?;
    let number = |value: &Value| value.as_f64().context("lameduck-load says no latency");
    into.p50.push(number(&report["latency_us"]["p50"])?);
    into.p99.push(number(&report["latency_us"]["p99"])?);
    into.p999.push(number(&report["latency_us"]["p999"])?);
    into.lag.push(number(&report["lag_us"]["p999"])?);
    Ok(())
}

fn upgrade_in_rhythm(
    load: &Load,
    running: &mut Upgradable,
    begun: Instant,
    lasting: Duration,
) -> Result<()> {
    let mut next = begun + RHYTHM / 2;
    while next + RHYTHM / 4 < begun + lasting {
        load.flow(next.saturating_duration_since(Instant::now()))?;
        running.upgrade()?;
        next += RHYTHM;
    }
    Ok(())
}
