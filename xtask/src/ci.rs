//! `cargo xtask ci`: every check a change must pass, in the order in which a mistake shows soonest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{bench, shell, test, tidy};

/// The library without features is at most this many other crates: a service that wants nothing
/// but a bounded stop should not pay for a web framework.
const CORE_CRATES_AT_MOST: usize = 16;

/// Each must compile alone: a feature that leans on another by accident breaks a user's build.
const FEATURE_SETS: &[&str] = &["", "http", "axum08", "tungstenite029", "rustls023", "tonic014"];

#[derive(Args)]
pub struct Options {
    /// Run only these steps
    #[arg(value_name = "STEP", value_parser = step_names())]
    steps: Vec<String>,
    /// Check the dependencies for known vulnerabilities instead: needs cargo-deny and a network
    #[arg(long, conflicts_with = "steps")]
    advisories: bool,
}

struct Step {
    name: &'static str,
    run: fn() -> Result<Done>,
}

enum Done {
    Passed,
    Skipped(String),
}

const STEPS: &[Step] = &[
    Step { name: "fmt", run: fmt },
    Step { name: "tidy", run: || tidy::run().map(passed) },
    Step { name: "clippy", run: clippy },
    Step { name: "features", run: features },
    Step { name: "tree", run: tree },
    Step { name: "docs", run: docs },
    Step { name: "deny", run: deny },
    Step { name: "bench", run: || bench::smoke().map(passed) },
    // Last, so that the test runner's closing lines stand at the end of the output.
    Step { name: "test", run: || test::run().map(passed) },
];

/// Runs the steps, stops at the first that fails, and says how long each took.
pub fn run(options: &Options) -> Result<()> {
    if options.advisories {
        return advisories();
    }
    let chosen = |step: &&Step| {
        options.steps.is_empty() || options.steps.iter().any(|name| name == step.name)
    };
    let begin = Instant::now();
    let mut summary = Vec::new();
    for step in STEPS.iter().filter(chosen) {
        println!("\n=== {}", step.name);
        let started = Instant::now();
        let outcome = (step.run)();
        let took = seconds(started.elapsed());
        match outcome {
            Ok(Done::Passed) => summary.push(format!("{:<9} passed   {took}", step.name)),
            Ok(Done::Skipped(why)) => {
                println!("skipped: {why}");
                summary.push(format!("{:<9} skipped  {took}  {why}", step.name));
            }
            Err(error) => {
                print_summary(&summary);
                println!("{:<9} FAILED   {took}", step.name);
                return Err(error.context(format!("step `{}` failed", step.name)));
            }
        }
    }
    print_summary(&summary);
    println!("ci: all {} steps ended well in {}", summary.len(), seconds(begin.elapsed()));
    Ok(())
}

fn print_summary(lines: &[String]) {
    println!("\n=== summary");
    for line in lines {
        println!("{line}");
    }
}

fn seconds(time: Duration) -> String {
    format!("{:>6.1} s", time.as_secs_f64())
}

fn step_names() -> Vec<&'static str> {
    STEPS.iter().map(|step| step.name).collect()
}

fn passed((): ()) -> Done {
    Done::Passed
}

/// A toolchain installed with the minimal profile has neither rustfmt nor clippy: the tests it can
/// run are still worth running, and the summary says what was left out.
fn without(component: &str) -> Option<Done> {
    let has = shell::read(&mut shell::cargo(&[component, "--version"])).is_ok();
    let why = format!("no cargo {component} here: rustup component add rustfmt clippy");
    (!has).then_some(Done::Skipped(why))
}

fn fmt() -> Result<Done> {
    if let Some(skipped) = without("fmt") {
        return Ok(skipped);
    }
    shell::run(&mut shell::cargo(&["fmt", "--all", "--check"])).map(passed)
}

fn clippy() -> Result<Done> {
    if let Some(skipped) = without("clippy") {
        return Ok(skipped);
    }
    let arguments = ["clippy", "--workspace", "--all-targets", "--all-features", "--"];
    let mut command = shell::cargo(&arguments);
    command.args(["-D", "warnings"]);
    shell::run(&mut command).map(passed)
}

fn features() -> Result<Done> {
    if let Some(skipped) = without("clippy") {
        return Ok(skipped);
    }
    for features in FEATURE_SETS {
        let mut command = shell::cargo(&["clippy", "--package", "lameduck", "--lib"]);
        command.args(["--no-default-features", "--features", features, "--", "-D", "warnings"]);
        shell::run(&mut command)?;
    }
    Ok(Done::Passed)
}

fn docs() -> Result<Done> {
    // Libraries only: the command and the library share the name `lameduck`, and their pages
    // would overwrite each other.
    let mut command = shell::cargo(&["doc", "--workspace", "--lib", "--no-deps", "--all-features"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    shell::run(&mut command).map(passed)
}

fn tree() -> Result<Done> {
    let arguments =
        ["tree", "--package", "lameduck", "--no-default-features", "--edges", "normal,build"];
    let mut command = shell::cargo(&arguments);
    command.args(["--prefix", "none"]);
    let crates = core_crates(&shell::read(&mut command)?);
    println!("tree: the library without features is {} other crates", crates.len());
    check_core(&crates).map(passed)
}

/// The crates below the library in the output of `cargo tree`, each once.
fn core_crates(tree: &str) -> Vec<String> {
    // `(*)` marks a crate that was listed before.
    let lines = tree.lines().skip(1).map(|line| line.trim_end_matches(" (*)").trim());
    let mut crates: Vec<String> =
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    crates.sort_unstable();
    crates.dedup();
    crates
}

fn check_core(crates: &[String]) -> Result<()> {
    if let Some(name) = crates.iter().find(|line| line.contains("(proc-macro)")) {
        bail!("the library without features needs a proc macro: {name}");
    }
    if crates.len() > CORE_CRATES_AT_MOST {
        bail!(
            "the library without features needs {} crates, {CORE_CRATES_AT_MOST} are the most: {}",
            crates.len(),
            crates.join(", ")
        );
    }
    Ok(())
}

fn deny() -> Result<Done> {
    if shell::find_program("cargo-deny").is_none() {
        return Ok(Done::Skipped("cargo-deny is not installed".to_owned()));
    }
    // The tree of every duplicate would bury what matters.
    let arguments =
        ["deny", "--offline", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
    shell::run(&mut shell::cargo(&arguments)).map(passed)
}

/// Apart from the other steps: a vulnerability found today in a dependency is no fault of the
/// change that is checked today, and the database has to be fetched.
fn advisories() -> Result<()> {
    shell::find_program("cargo-deny")
        .context("cargo-deny is not installed: cargo install cargo-deny")?;
    shell::run(&mut shell::cargo(&["deny", "check", "advisories"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str =
        "lameduck v0.1.0 (/somewhere)\nbytes v1.0.0\ntokio v1.0.0\nbytes v1.0.0 (*)\n";

    #[test]
    fn a_crate_that_is_listed_twice_counts_once() {
        assert_eq!(core_crates(TREE), ["bytes v1.0.0", "tokio v1.0.0"]);
        assert!(check_core(&core_crates(TREE)).is_ok());
    }

    #[test]
    fn a_proc_macro_in_the_core_fails() {
        let tree = format!("{TREE}tokio-macros v2.0.0 (proc-macro)\n");
        let error = check_core(&core_crates(&tree)).unwrap_err();
        assert!(error.to_string().contains("tokio-macros"), "{error}");
    }

    #[test]
    fn one_crate_too_many_in_the_core_fails() {
        let crates: Vec<String> = (0..=CORE_CRATES_AT_MOST).map(|n| format!("c{n} v1")).collect();
        assert!(check_core(&crates[1..]).is_ok());
        assert!(check_core(&crates).is_err());
    }
}
