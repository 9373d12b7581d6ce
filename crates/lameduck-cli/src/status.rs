//! `lameduck status`: each generation of a running service in a row.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use lameduck::operate::Verb;
use serde_json::Value;

use crate::complaint::Complaint;
use crate::flags::Status;
use crate::operate::{ask, counts, left_behind};

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Puts a terminal's cursor to the upper left and clears what is below.
const REDRAW: &str = "\x1b[H\x1b[2J";
const HEADS: [&str; 8] =
    ["", "generation", "pid", "version", "phase", "age", "live work", "time left"];

/// Asks once, or each second until the service is gone. When the generation that served is gone and older ones are not,
/// they are told all the same.
pub fn run(flags: &Status) -> Result<ExitCode, Complaint> {
    let redraws = flags.watch && !flags.json && std::io::stdout().is_terminal();
    loop {
        let control = &flags.control.path;
        let (answer, complaint) = match ask(control, Verb::Status, &[]) {
            Ok(answer) => (answer, None),
            Err(complaint) => match left_behind(control).last() {
                Some((_, socket)) => (ask(socket, Verb::Status, &[])?, Some(complaint)),
                None => return Err(complaint),
            },
        };
        let text = match (flags.json, serde_json::from_str::<Value>(&answer.text)) {
            (true, Ok(_)) => format!("{}\n", answer.text),
            (false, Ok(status)) => table(&status),
            (_, Err(_)) => {
                let message = format!("status failed: {}", answer.text);
                return Err(Complaint::failed(message, "is the service as new as this command?"));
            }
        };
        let text = if redraws { format!("{REDRAW}{text}") } else { text };
        let printed = std::io::stdout().lock().write_all(text.as_bytes());
        if let Some(complaint) = complaint {
            return Err(complaint);
        }
        if !flags.watch || printed.is_err() {
            // A closed pipe has read what it wanted.
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

/// The generations, newest first; `*` marks the active one, which accepts.
fn table(status: &Value) -> String {
    let generations = status["generations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows = vec![HEADS.map(str::to_owned)];
    // One that is just ending has nothing to say of itself.
    rows.extend(generations.iter().filter(|generation| generation.is_object()).map(|generation| {
        let mark = if generation["generation"] == status["active"] { "*" } else { "" };
        row(mark, generation)
    }));
    let widths: [usize; HEADS.len()] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

fn row(mark: &str, generation: &Value) -> [String; HEADS.len()] {
    let text = |key: &str| match &generation[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let time = |key: &str| generation[key].as_f64().map(|ms| time(ms / 1000.0));
    let drains = !matches!(generation["phase"].as_str(), Some("starting" | "serving") | None);
    let left = time("left_ms").unwrap_or_else(|| match (drains, &generation["pid"]) {
        // Without an answer nothing is known.
        (_, Value::Null) | (false, _) => "-".to_owned(),
        (true, _) => "unlimited".to_owned(),
    });
    let live = match &generation["live"] {
        Value::Null => "-".to_owned(),
        live => counts(live),
    };
    let age = time("uptime_ms").unwrap_or_else(|| "-".to_owned());
    let phase = match generation["phase"].as_str() {
        // The steps of one phase, which only a log tells apart.
        Some("gate" | "settle" | "finish") => "draining".to_owned(),
        _ => text("phase"),
    };
    let [number, pid, version] = ["generation", "pid", "version"].map(text);
    [mark.to_owned(), number, pid, version, phase, age, live, left]
}

/// Seconds as people read them: the two largest units.
fn time(seconds: f64) -> String {
    let whole = seconds as u64;
    match (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, _) => format!("{seconds:.1} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_for_each_generation_and_a_mark_for_the_active_one() {
        let status = json!({
            "active": 12,
            "generations": [
                { "generation": 12, "phase": "serving", "pid": 40001, "version": "1.1.0",
                  "uptime_ms": 2_140.0, "left_ms": null, "live": { "requests": 2, "connections": 31 } },
                { "generation": 11, "phase": "finish", "pid": 977, "version": "1.0.0",
                  "uptime_ms": 3_725_000.0, "left_ms": null, "live": { "requests": 1 } },
                { "generation": 10, "phase": "draining", "pid": 976, "version": "1.0.0",
                  "uptime_ms": 90_061_000.0, "left_ms": 61_000.0, "live": {} },
                null,
                { "generation": 9, "phase": "not answering" },
            ],
        });
        assert_eq!(
            table(&status),
            "   generation  pid    version  phase          age        live work                   time left\n\
             *  12          40001  1.1.0    serving        2.1 s      2 requests, 31 connections  -\n   \
                11          977    1.0.0    draining       1 h 2 min  1 request                   unlimited\n   \
                10          976    1.0.0    draining       1 d 1 h    nothing                     1 min 1 s\n   \
                9           -      -        not answering  -          -                           -\n"
        );
    }
}
