//! Work that cannot be interrupted: a loop that asks whether to go on, and two pieces of work that do not ask.
//!
//! The loop ends soon after the stop, at a boundary it chose itself. The stubborn ones hold the stop as long as it may
//! last; at the deadline the process leaves without them, names them and says so with its exit code.
//!
//! ```text
//! cargo run -p lameduck --example blocking            # ends at once when it is stopped
//! cargo run -p lameduck --example blocking stubborn   # ends at the deadline, with exit code 3
//! cargo run -p lameduck --example blocking blocked    # the same, with every thread of the runtime blocked besides
//! ```

use std::time::Duration;

use lameduck::{Drain, Error, Exit, Lifecycle};

/// How long a stop may take.
const GRACE: Duration = Duration::from_secs(1);
/// How long one step of the loop takes: short against the grace period.
const STEP: Duration = Duration::from_millis(10);
/// Longer than any stop.
const FOR_EVER: Duration = Duration::from_secs(3600);

#[tokio::main]
async fn main() -> Result<Exit, Error> {
    let life = Lifecycle::builder().grace_period(GRACE).start()?;
    let log = life.log();
    let asked = |word: &str| std::env::args().any(|argument| argument == word);
    let (stubborn, blocked) = (asked("stubborn") || asked("blocked"), asked("blocked"));

    // On a thread of the runtime's, for work that ends soon.
    let thumbnails = life.blocking("thumbnails", count_until_asked);
    // On a thread of its own, for work that lasts.
    let index = life.thread("index", count_until_asked)?;
    if stubborn {
        drop(life.blocking("a call into C", |_| std::thread::sleep(FOR_EVER)));
        drop(life.thread("a driver", |_| std::thread::sleep(FOR_EVER))?);
    }
    life.task("report", |_| async move {
        // Awaited like a task; a panic would be told by its words.
        let done = (thumbnails.await, index.await);
        log.line("done", &format!("Done: {done:?}"));
    });
    life.log().line("working", "Working");
    if blocked {
        life.ready();
        let threads = tokio::runtime::Handle::current().metrics().num_workers();
        for number in 0..threads {
            let name = format!("a handler that blocks, {number}");
            drop(life.task(&name, |_| async { std::thread::sleep(FOR_EVER) }));
        }
    }
    Ok(life.run().await)
}

/// Counts its steps until it is asked to stop: between two of them everything it did is whole.
fn count_until_asked(work: &Drain) -> &'static str {
    let mut steps = 0_u64;
    while !work.should_stop() {
        std::thread::sleep(STEP);
        steps += 1;
    }
    if steps > 0 { "stopped at a boundary" } else { "stopped before the first step" }
}
