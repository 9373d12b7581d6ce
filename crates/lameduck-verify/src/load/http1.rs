//! HTTP/1.1 clients on bare sockets: every byte, end of file and reset is seen, nothing is hidden.

use super::acked::Acked;
use super::reach::{Refusals, Unreached};
use super::requests::Requests;
use super::stream::{Look, Stream};
use super::{Mode, Part};
use crate::answer::{Answer, Persistence};
use crate::fate::Fate;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What one read may take: most answers come whole, and a long one needs few reads.
const READ_BYTES: usize = 16 * 1024;

/// One client: a request, its answer, a pause, again.
pub(super) async fn client(part: Part, acked: Option<Arc<Acked>>) {
    let mut requests = Requests::new(&part.load.place, part.load.mode, part.client);
    let mut refusals = Refusals::default();
    let mut kept: Option<Connection> = None;
    let mut buffer = vec![0u8; READ_BYTES];
    let mut had_answer = false;
    while !part.shared.is_stopping() {
        let mut connection = match kept.take().filter(|kept| kept.is_usable(&part)) {
            Some(kept) => kept,
            None => match refusals.connect(&part).await {
                Ok(stream) => Connection::new(stream),
                Err(Unreached::Again) => continue,
                Err(Unreached::Over) => break,
            },
        };
        let request = requests.next();
        let begun = Instant::now();
        let end = connection.exchange(request, &mut buffer, part.load.request_limit).await;
        match end {
            End::Answered => {
                part.ledger.borrow_mut().answered(begun.elapsed());
                if let Some(acked) = &acked {
                    acked.record(requests.id());
                }
                if !had_answer {
                    had_answer = true;
                    part.shared.first_answer();
                }
            }
            End::Failed(fate, detail) => {
                let ordinal = connection.requests;
                part.ledger.borrow_mut().failed(fate, part.client, ordinal, || detail);
            }
        }
        if connection.is_open {
            kept = Some(connection).filter(|_| part.load.mode != Mode::NewConnection);
        } else if connection.was_told {
            part.ledger.borrow_mut().connections.told_to_close += 1;
        }
        if part.load.pause > Duration::ZERO {
            tokio::time::sleep(part.load.pause).await;
        }
    }
}

struct Connection {
    stream: Stream,
    answer: Answer,
    /// Requests begun on it, with the present one.
    requests: u64,
    /// It may carry another request.
    is_open: bool,
    /// The server announced that it closes.
    was_told: bool,
}

enum End {
    Answered,
    Failed(Fate, String),
}

/// Why nothing more can be read.
enum Stop {
    Eof,
    Error(io::Error),
}

impl Connection {
    fn new(stream: Stream) -> Connection {
        let answer = Answer::default();
        Connection { stream, answer, requests: 0, is_open: true, was_told: false }
    }

    /// The look before a reuse. Counts what it found.
    fn is_usable(&self, part: &Part) -> bool {
        let look = self.stream.look();
        let mut ledger = part.ledger.borrow_mut();
        match look {
            Look::Quiet => return true,
            Look::Closed => ledger.connections.found_closed += 1,
            Look::Reset => ledger.connections.found_reset += 1,
            Look::Bytes => ledger.connections.found_unasked += 1,
        }
        false
    }

    async fn exchange(&mut self, request: &[u8], buffer: &mut [u8], limit: Duration) -> End {
        self.requests += 1;
        self.answer.clear();
        self.is_open = false;
        let exchange = async {
            if let Err((written, error)) = self.write(request).await
                && written == 0
                && self.requests > 1
            {
                let detail = format!("write: {error}");
                return End::Failed(Fate::ClosedBeforeSend, detail);
            }
            // After a failed write an answer may still be there to read: a server may answer early and close.
            self.read(buffer).await
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(end) => end,
            Err(_) => {
                let seen = if self.answer.has_begun() { "part of an answer" } else { "nothing" };
                End::Failed(Fate::TimedOut, format!("{seen} within {limit:?}"))
            }
        }
    }

    async fn write(&mut self, request: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < request.len() {
            match self.stream.write(&request[written..]).await {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }

    async fn read(&mut self, buffer: &mut [u8]) -> End {
        loop {
            let count = match self.stream.read(buffer).await {
                Ok(0) => return self.stopped(Stop::Eof),
                Ok(count) => count,
                Err(error) => return self.stopped(Stop::Error(error)),
            };
            match self.answer.feed(&buffer[..count]) {
                Err(malformed) => return End::Failed(Fate::Malformed, malformed.0.to_owned()),
                Ok(used) if self.answer.is_complete() => return self.completed(used == count),
                Ok(_) => {}
            }
        }
    }

    /// The answer is whole; `alone` means that nothing came after it.
    fn completed(&mut self, alone: bool) -> End {
        let head = self.answer.head().expect("a complete answer has a head");
        self.was_told = head.persistence == Persistence::Close;
        // What follows an answer before the next request belongs to nobody: such a connection is not reused.
        self.is_open = !self.was_told && alone;
        match Fate::of_status(head.status) {
            Fate::Answered => End::Answered,
            fate => End::Failed(fate, format!("status {}", head.status)),
        }
    }

    fn stopped(&mut self, stop: Stop) -> End {
        let is_reset = self.stream.reset_seen().is_set();
        let detail = match &stop {
            Stop::Eof if !is_reset && self.answer.end_of_file() => return self.completed(true),
            Stop::Eof if is_reset => "reset while the request was written".to_owned(),
            Stop::Eof => "end of file".to_owned(),
            Stop::Error(error) => error.to_string(),
        };
        let fate = match is_reset {
            true => self.fate_of_close(Fate::ResetBeforeResponse, Fate::ResetMidResponse),
            false => self.fate_of_close(Fate::EofBeforeResponse, Fate::Truncated),
        };
        End::Failed(fate, format!("{detail} after {} bytes of the body", self.answer.body_bytes()))
    }

    fn fate_of_close(&self, before: Fate, within: Fate) -> Fate {
        match (self.answer.has_begun(), self.requests) {
            (true, _) => within,
            (false, 1) => before,
            (false, _) => Fate::IdleCloseRace,
        }
    }
}
