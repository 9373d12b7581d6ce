//! Tries every fault of the server that misbehaves against every case, and says where the table of
//! `tests/meant` is not exact. It takes the better part of an hour.
//!
//! ```text
//! cargo run -p programs --example matrix -- [--workers N] [--only FAULT]…
//! ```

#[path = "../tests/meant/mod.rs"]
#[macro_use]
mod meant;

use lameduck_verify::verdict::Verdict;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

macro_rules! table {
    ($($name:ident: $fault:literal fails $fails:expr, near $near:expr;)*) => {
        const MEANT: &[(&str, &[&str])] = &[$(($fault, &$fails)),*];
    };
}

rows!(table);

/// A verdict that is not the one meant is looked at again: on a busy machine a case may be late.
const LOOKS: usize = 3;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1).cloned()
    };
    let workers = value("--workers").and_then(|count| count.parse().ok()).unwrap_or(4);
    let only = value("--only");
    let program = program();
    let cases = meant::tried(&program);
    let faults = programs::misbehave::Fault::ALL.iter().map(|(name, _)| Some(*name));
    let faults = std::iter::once(None).chain(faults);
    let is_wanted = |fault: &Option<&str>| {
        only.as_deref()
            .is_none_or(|only| only.split(',').any(|name| name == fault.unwrap_or("none")))
    };
    let work: Vec<(Option<&str>, &str)> = faults
        .filter(is_wanted)
        .flat_map(|fault| cases.iter().map(move |case| (fault, *case)))
        .collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(BTreeMap::<String, Vec<String>>::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((fault, case)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(line) = look(&program, *fault, case) {
                        println!("{line}");
                        let mut wrong = wrong.lock().expect("no worker panicked");
                        wrong.entry(fault.unwrap_or("none").to_owned()).or_default().push(line);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no worker panicked");
    println!("{} tried, {} not as meant", work.len(), wrong.values().map(Vec::len).sum::<usize>());
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is not as the table says.
fn look(program: &std::path::Path, fault: Option<&str>, case: &str) -> Option<String> {
    let row = MEANT.iter().find(|(name, _)| Some(*name) == fault);
    let is_meant = row.is_some_and(|(_, fails)| fails.contains(&case) || fails.contains(&"*"));
    let mut seen = Vec::new();
    for _ in 0..LOOKS {
        let (verdict, why) = meant::verdict(program, fault, case);
        let is_caught = matches!(verdict, Verdict::Fail | Verdict::Warn);
        // A fault may keep another case from its state: that case accuses nobody.
        let is_right = is_caught == is_meant && (fault.is_some() || verdict == Verdict::Pass);
        if is_right {
            return None;
        }
        seen.push(format!("{verdict:?}: {why}"));
    }
    let meant = if is_meant { "should fail" } else { "should pass" };
    Some(format!("{} {case} {meant}: {}", fault.unwrap_or("none"), seen.join(" | ")))
}

/// Beside this program's own directory.
fn program() -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    let folder = own.parent().and_then(std::path::Path::parent).expect("target/PROFILE");
    folder.join("misbehave")
}
