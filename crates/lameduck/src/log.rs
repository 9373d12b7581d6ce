//! The few lines a stop prints, on standard error, as text or as JSON.
//!
//! A line is written only when standard error takes it within [`WRITE_BOUND`]: a full pipe or a stopped terminal
//! must not hold the deadline. Lines that do not fit are counted and the count is told with the next one.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::json;

/// How long a line may wait for standard error to take it.
pub const WRITE_BOUND: Duration = Duration::from_millis(20);

/// What poll(2) promises for a pipe that is writable: this much without blocking (pipe(7), `PIPE_BUF`).
const CHUNK: usize = 4096;

/// How the built-in log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// Nothing is printed.
    Silent,
}

/// The built-in log on standard error, to which programs may add lines of their own in the same format.
#[derive(Debug)]
pub struct Log {
    format: LogFormat,
    dropped: AtomicU64,
}

impl Log {
    pub(crate) fn new(format: LogFormat) -> Log {
        Log { format, dropped: AtomicU64::new(0) }
    }

    /// The format the log is written in.
    pub fn format(&self) -> LogFormat {
        self.format
    }

    /// Writes one line: as it is in text, as `{"time":…,"pid":…,"event":EVENT,"message":…}` in JSON.
    ///
    /// A line that standard error does not take within 20 ms is dropped and counted; the count is told with the next.
    pub fn line(&self, event: &str, message: &str) {
        match self.format {
            LogFormat::Silent => {}
            LogFormat::Text => self.write(&format!("{message}\n")),
            LogFormat::Json => {
                let object = begun().string("event", event).string("message", message);
                self.write(&format!("{}\n", object.end()));
            }
        }
    }

    /// Writes `text` in text format, or `object`'s fields after the time and the process in JSON.
    pub(crate) fn block(&self, text: &str, object: impl FnOnce() -> String) {
        match self.format {
            LogFormat::Silent => {}
            LogFormat::Text => self.write(text),
            LogFormat::Json => {
                let object = object();
                let fields = object.strip_prefix('{').unwrap_or(&object);
                let begun = begun().end();
                let begun = begun.strip_suffix('}').unwrap_or(&begun);
                self.write(&format!("{begun},{fields}\n"));
            }
        }
    }

    /// Writes what another process wrote.
    pub(crate) fn pass_on(&self, bytes: &[u8]) {
        if self.format != LogFormat::Silent && !write_bounded(bytes) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(&self, text: &str) {
        let missed = self.dropped.swap(0, Ordering::Relaxed);
        let told = match (missed, self.format) {
            (0, _) => String::new(),
            (n, LogFormat::Json) => {
                let object = begun().string("event", "lines-dropped").number("count", n);
                format!("{}\n", object.end())
            }
            (n, LogFormat::Text | LogFormat::Silent) => {
                format!("({n} lines dropped: standard error was full)\n")
            }
        };
        if !write_bounded((told + text).as_bytes()) {
            self.dropped.fetch_add(missed + 1, Ordering::Relaxed);
        }
    }
}

/// What each object begins with: two generations write to one standard error.
fn begun() -> json::Object {
    json::Object::new().string("time", &now_rfc3339()).number("pid", u64::from(std::process::id()))
}

/// Writes to standard error without its lock, which another thread may hold while it blocks on a full pipe.
fn write_bounded(mut bytes: &[u8]) -> bool {
    let stderr = rustix::stdio::stderr();
    let bound = Timespec { tv_sec: 0, tv_nsec: i64::from(WRITE_BOUND.subsec_nanos()) };
    while !bytes.is_empty() {
        let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
        match poll(&mut ready, Some(&bound)) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return false,
        }
        match rustix::io::write(stderr, &bytes[..bytes.len().min(CHUNK)]) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// The time of day, UTC, as RFC 3339 with milliseconds.
fn now_rfc3339() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(since)
}

fn rfc3339(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date, counting years from March so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let mut text = String::with_capacity(24);
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3_600,
        of_day / 60 % 60,
        of_day % 60,
        since_1970.subsec_millis()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_written_as_rfc3339() {
        assert_eq!(rfc3339(Duration::ZERO), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Duration::from_millis(951_782_400_123)), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(Duration::from_secs(1_795_338_411)), "2026-11-22T09:06:51.000Z");
    }
}
