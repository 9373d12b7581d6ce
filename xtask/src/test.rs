//! `cargo xtask test`: the real parts, the build, the doctests, the tests.
//!
//! Works with cargo-nextest (one process a test, which the signal tests like best) and without it.
//! The tests come last, so that the test runner's closing lines close the output as well.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{setup, shell};

/// Installs, builds, tests. The README names this command.
pub fn run() -> Result<()> {
    setup::run()?;
    build()?;
    doctests()?;
    tests()
}

/// Everything at once and with the tests' own dependencies, so that a program which a test of
/// another package starts is there, and no crate is compiled twice for two sets of features.
pub fn build() -> Result<()> {
    shell::run(&mut shell::cargo(&["build", "--workspace", "--all-targets", "--all-features"]))
}

fn doctests() -> Result<()> {
    shell::run(&mut shell::cargo(&["test", "--quiet", "--workspace", "--all-features", "--doc"]))
}

fn tests() -> Result<()> {
    let mut runner = if shell::find_program("cargo-nextest").is_some() {
        shell::cargo(&["nextest", "run", "--workspace", "--all-targets", "--all-features"])
    } else {
        println!("test: cargo-nextest is not installed, so `cargo test` runs the tests");
        shell::cargo(&["test", "--workspace", "--all-targets", "--all-features", "--no-fail-fast"])
    };
    let left_out = LeftOut::new()?;
    let ran = shell::run(
        runner.env("PATH", path_with_python()?).env("LAMEDUCK_LEFT_OUT", &left_out.file),
    );
    left_out.say();
    ran
}

/// The file in which tests that lack something, root above all, leave a line; they count as passed otherwise.
struct LeftOut {
    file: PathBuf,
}

impl LeftOut {
    fn new() -> Result<LeftOut> {
        let file = shell::target_directory()?.join("left-out");
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", file.display()))
            }
            _ => Ok(LeftOut { file }),
        }
    }

    fn say(&self) {
        let lines = std::fs::read_to_string(&self.file).unwrap_or_default();
        if !lines.is_empty() {
            println!("test: {} tests looked at nothing here:\n{lines}", lines.lines().count());
        }
    }
}

/// The search path with the Python programs of the set-up in front.
pub fn path_with_python() -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = [setup::python_programs()?].into_iter().chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(places)?)
}
