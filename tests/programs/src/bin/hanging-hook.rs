//! Misbehaves on purpose: a resource whose closing never ends, so that only the deadline does.

use std::future::pending;
use std::process::ExitCode;

fn main() -> ExitCode {
    programs::served::main(|life| life.on_close("hanging").run(pending::<Result<(), String>>))
}
