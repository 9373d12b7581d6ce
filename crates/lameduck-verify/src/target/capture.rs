//! What a process writes, read by a thread so that the process never waits for a reader.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{ioctl_fionread, read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So much is kept of a stream; what comes later is read and thrown away, so that a chatty server neither
/// blocks nor fills the memory of the tester.
const CAPTURE_BYTES: usize = 16 * 1024 * 1024;

/// A stream that is read to its end in the background.
#[derive(Clone, Debug)]
pub(super) struct Capture {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Read by whoever holds the state, so that no byte is on the way between the two.
    stream: Option<OwnedFd>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// All that was read, kept or not.
    read: u64,
    /// The other end is closed everywhere.
    closed: bool,
}

impl Capture {
    /// Reads `stream`; one that is absent has ended.
    pub(super) fn of(stream: Option<impl Into<OwnedFd>>) -> Capture {
        let stream = stream.map(Into::into);
        let state = State { bytes: Vec::new(), read: 0, closed: stream.is_none() };
        let shared = Shared { stream, state: Mutex::new(state), changed: Condvar::new() };
        let shared = Arc::new(shared);
        if shared.stream.is_some() {
            let shared = shared.clone();
            // The thread ends with the last process that holds the other end. Nobody waits for it: a
            // descendant that outlives the server must not hold up the tester.
            std::thread::spawn(move || shared.read_to_the_end());
        }
        Capture { shared }
    }

    /// Takes in whatever has been written by now.
    pub(super) fn catch_up(&self) {
        self.shared.catch_up();
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().bytes).into_owned()
    }

    /// The first whole line with `text`, or why there is none.
    pub(super) fn wait_line(&self, text: &str, limit: Duration) -> Result<String, &'static str> {
        // Each line is looked at once, however much comes and however often this is woken.
        let (mut looked, mut found) = (0, None);
        let is_absent = |state: &mut State| {
            let fresh = &state.bytes[looked..];
            if let Some(last) = fresh.iter().rposition(|byte| *byte == b'\n') {
                found = line(&fresh[..last], text);
                looked += last + 1;
            }
            !state.closed && found.is_none()
        };
        let state = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(state, limit, is_absent);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        match found {
            Some(line) => Ok(line),
            None if timeout.timed_out() => Err("in time it did not say"),
            None => Err("it ended and never said"),
        }
    }

    /// Waits for the end of the stream; says whether it came.
    pub(super) fn wait_closed(&self, limit: Duration) -> bool {
        let state = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(state, limit, |state| !state.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_to_the_end(&self) {
        let Some(stream) = &self.stream else { return };
        loop {
            // Interrupted or not: what there is shows when it is read.
            let _ = poll(&mut [PollFd::new(stream, PollFlags::IN)], None);
            if !self.read_some(stream, &mut self.lock()) {
                return;
            }
        }
    }

    fn catch_up(&self) {
        let Some(stream) = &self.stream else { return };
        let mut state = self.lock();
        // Others may go on writing: as much as is there now, and no more.
        let until = ioctl_fionread(stream).unwrap_or(0);
        let mut count = 0;
        while count < until && !state.closed {
            let before = state.read;
            self.read_some(stream, &mut state);
            count += state.read - before;
        }
    }

    /// Reads once if there is something, or the end; says whether more may come.
    fn read_some(&self, stream: &OwnedFd, state: &mut State) -> bool {
        let mut ready = [PollFd::new(stream, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if state.closed || !poll(&mut ready, Some(&now)).is_ok_and(|ready| ready > 0) {
            return !state.closed;
        }
        let mut buffer = [0; 16 * 1024];
        // An error on a pipe is as final as its end.
        let count = read(stream, &mut buffer).unwrap_or(0);
        let room = CAPTURE_BYTES.saturating_sub(state.bytes.len());
        state.bytes.extend_from_slice(&buffer[..count.min(room)]);
        state.read += count as u64;
        state.closed = count == 0;
        self.changed.notify_all();
        !state.closed
    }
}

/// The first of these lines that has the text.
fn line(whole: &[u8], text: &str) -> Option<String> {
    let mut lines = whole.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
    lines.find(|line| line.contains(text)).map(|line| line.trim_end().to_owned())
}
