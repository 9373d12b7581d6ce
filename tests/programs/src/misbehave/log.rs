//! Lines on standard error, written by a thread of their own: a reader that reads no more must hold nobody up.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

/// So many lines wait for a reader; what is said beyond is lost.
const LINES: usize = 256;
/// How long the last lines may take at the exit.
const FLUSH_LIMIT: Duration = Duration::from_millis(200);

enum Said {
    Line(String),
    /// Everything before was written.
    Flush(Sender<()>),
}

fn writer() -> &'static SyncSender<Said> {
    static WRITER: OnceLock<SyncSender<Said>> = OnceLock::new();
    WRITER.get_or_init(|| {
        let (to, said) = sync_channel(LINES);
        std::thread::spawn(move || write(&said));
        to
    })
}

fn write(said: &Receiver<Said>) {
    for one in said {
        match one {
            // Where nobody reads there is nobody to be told of it.
            Said::Line(line) => drop(std::io::stderr().write_all(line.as_bytes())),
            Said::Flush(done) => drop(done.send(())),
        }
    }
}

pub(super) fn line(line: String) {
    let _ = writer().try_send(Said::Line(line));
}

/// Waits for what was said, for a while.
pub(super) fn flush() {
    let (done, flushed) = channel();
    if writer().try_send(Said::Flush(done)).is_ok() {
        let _ = flushed.recv_timeout(FLUSH_LIMIT);
    }
}
