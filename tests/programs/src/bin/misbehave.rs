//! A server that is correct, and with `--fault NAME` wrong in exactly one way: what a conformance suite must catch.

use std::process::ExitCode;

fn main() -> ExitCode {
    programs::misbehave::main()
}
