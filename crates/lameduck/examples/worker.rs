//! A worker without a network: it takes pieces of work from a queue and loses none of them when it is stopped.
//!
//! A task finishes the piece in hand and leaves the rest in the queue. A blocking call asks between two steps whether
//! to go on. What both write to closes after them, in the order of use: first the summary is written into the
//! ledger, then the ledger is flushed.
//!
//! ```text
//! cargo run -p lameduck --example worker
//! ```

use std::collections::VecDeque;
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lameduck::{Drain, Error, Exit, Lifecycle, Log};

/// Pieces in the queue at the start.
const PIECES: usize = 1_000;
/// How long one piece takes.
const PIECE: Duration = Duration::from_millis(50);
/// How long one step of the blocking call takes.
const STEP: Duration = Duration::from_millis(20);
/// How long the ledger may take to be flushed: kept free at the end of the grace period.
const FLUSH: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<Exit, Error> {
    let life = Lifecycle::builder().grace_period(Duration::from_secs(9)).start()?;
    let shop = Arc::new(Shop {
        queue: Mutex::new((1..=PIECES).collect()),
        ledger: Mutex::new(BufWriter::new(io::stdout())),
        log: life.log(),
    });

    let closed = Arc::clone(&shop);
    life.on_close("ledger").budget(FLUSH).run(async move || closed.ledger().flush())?;
    let closed = Arc::clone(&shop);
    life.on_close("summary").uses(["ledger"]).run(async move || closed.summary())?;

    let shared = Arc::clone(&shop);
    life.task("pieces", |drain| work(shared, drain));
    life.blocking("index", move |drain| index(&shop, drain));
    Ok(life.run().await)
}

/// What the worker works with.
struct Shop {
    queue: Mutex<VecDeque<usize>>,
    /// Standard output in the place of a file. It is buffered: what nobody flushes is lost.
    ledger: Mutex<BufWriter<Stdout>>,
    log: Arc<Log>,
}

/// Takes pieces until the drain begins. The drain cancels nothing: the piece in hand is finished.
async fn work(shop: Arc<Shop>, drain: Drain) {
    while !drain.is_draining() {
        let Some(piece) = shop.take() else { return };
        shop.log.line("piece", &format!("took piece {piece}"));
        tokio::time::sleep(PIECE).await;
        shop.note(&format!("finished piece {piece}"));
    }
}

/// Blocking work in steps, as a library without async would do it.
fn index(shop: &Shop, drain: &Drain) {
    let mut steps = 0;
    while !drain.should_stop() {
        std::thread::sleep(STEP);
        steps += 1;
    }
    shop.note(&format!("indexed {steps} steps"));
}

impl Shop {
    fn take(&self) -> Option<usize> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn ledger(&self) -> MutexGuard<'_, BufWriter<Stdout>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, line: &str) {
        // A full disk shows again when the ledger is flushed, and there it is reported.
        let _ = writeln!(self.ledger(), "{line}");
    }

    fn summary(&self) -> io::Result<()> {
        let left = self.queue.lock().unwrap_or_else(PoisonError::into_inner).len();
        writeln!(self.ledger(), "gave back {left} pieces")
    }
}
