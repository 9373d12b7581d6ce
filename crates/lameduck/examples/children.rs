//! A service that runs another program, which runs a third one: none of them outlives it, whatever ends it.
//!
//! ```text
//! cargo run -p lameduck --example children            # kill it with any signal, -9 too, and look with `ps`
//! cargo run -p lameduck --example children blocked    # the same with a runtime that is blocked at the deadline
//! cargo run -p lameduck --example children naive      # the usual way: both stay behind
//! ```

use std::process::{Command, Stdio};
use std::time::Duration;

use lameduck::{Exit, Lifecycle};

/// How long a stop may take.
const GRACE: Duration = Duration::from_secs(1);
/// Longer than any stop.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// What the first program runs: a second one, and neither wants to hear of TERM.
const SCRIPT: &str = "trap '' TERM; sleep 3600 & echo $$ $!; wait";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<Exit, Box<dyn std::error::Error>> {
    let how = std::env::args().nth(1).unwrap_or_default();
    let life = Lifecycle::builder().grace_period(GRACE).start()?;
    let mut convert = Command::new("sh");
    convert.args(["-c", SCRIPT]).stdin(Stdio::null()).stderr(Stdio::null());
    if how == "naive" {
        drop(convert.spawn()?);
    } else {
        drop(life.child("convert", convert)?);
    }
    life.log().line("working", "Working");
    if how == "blocked" {
        life.task("a handler that blocks", |_| async { std::thread::sleep(FOR_EVER) });
    }
    Ok(life.run().await)
}
