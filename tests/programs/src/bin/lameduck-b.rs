//! The axum application of the other servers, under the library: what the comparisons call
//! `lameduck`.

use std::process::ExitCode;

fn main() -> ExitCode {
    programs::served::main(|_| Ok(()))
}
