//! HTTP/1.1 clients on bare sockets: every byte, end of file and reset is seen, nothing is hidden.

use super::acked::Acked;
use super::ledger::Known;
use super::reach::{Refusals, Unreached};
use super::requests::Requests;
use super::stream::{Look, Stream};
use super::{Mode, Part};
use crate::answer::{Answer, Persistence};
use crate::fate::Fate;
use crate::trace::{ConnectionEnd, Number, end_after};
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
        let reusable = match kept.take() {
            Some(mut kept) => kept.is_usable(&part).await.then_some(kept),
            None => None,
        };
        let mut connection = match reusable {
            Some(kept) => kept,
            None => match refusals.connect(&part).await {
                Ok((stream, number)) => Connection::new(stream, number),
                Err(Unreached::Again) => continue,
                Err(Unreached::Over) => break,
            },
        };
        let request = requests.next();
        let begun = Instant::now();
        let end = connection.exchange(request, &mut buffer, part.load.request_limit).await;
        let known = |fate| Known {
            connection: connection.number,
            intended: None,
            begun,
            first_byte: connection.first_byte,
            fate,
            status: connection.answer.head().map(|head| head.status),
        };
        let fate = match end {
            End::Answered => {
                part.ledger.borrow_mut().answered(known(Fate::Answered));
                part.shared.answer();
                if let Some(acked) = &acked {
                    acked.record(requests.id());
                }
                if !had_answer {
                    had_answer = true;
                    part.shared.first_answer();
                }
                Fate::Answered
            }
            End::Failed(fate, detail) => {
                let ordinal = connection.requests;
                part.ledger.borrow_mut().failed(known(fate), part.client, ordinal, || detail);
                fate
            }
        };
        if connection.is_open && part.load.mode != Mode::NewConnection {
            kept = Some(connection);
        } else {
            let mut ledger = part.ledger.borrow_mut();
            let was_told = connection.was_told;
            ledger.connections.told_to_close += u64::from(!connection.is_open && was_told);
            let end = if was_told { ConnectionEnd::ClosedByServer } else { end_after(fate) };
            ledger.close(connection.number, end);
        }
        if part.load.pause > Duration::ZERO {
            tokio::time::sleep(part.load.pause).await;
        }
    }
}

struct Connection {
    stream: Stream,
    /// In the recording, if there is one.
    number: Option<Number>,
    answer: Answer,
    /// When the first byte of the answer came, if not with its last.
    first_byte: Option<Instant>,
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
    fn new(stream: Stream, number: Option<Number>) -> Connection {
        Connection {
            stream,
            number,
            answer: Answer::default(),
            first_byte: None,
            requests: 0,
            is_open: true,
            was_told: false,
        }
    }

    /// The look before a reuse. Counts what it found.
    async fn is_usable(&mut self, part: &Part) -> bool {
        let look = self.stream.look().await;
        if look == Look::Quiet {
            return true;
        }
        let mut ledger = part.ledger.borrow_mut();
        let end = match look {
            Look::Reset => ConnectionEnd::Reset,
            Look::Bytes => ConnectionEnd::ClosedByTester,
            Look::Quiet | Look::Closed | Look::Truncated => ConnectionEnd::ClosedByServer,
        };
        ledger.close(self.number, end);
        match look {
            Look::Quiet => {}
            Look::Closed => ledger.connections.found_closed += 1,
            Look::Truncated => ledger.connections.found_truncated += 1,
            Look::Reset => ledger.connections.found_reset += 1,
            Look::Bytes => ledger.connections.found_unasked += 1,
        }
        false
    }

    async fn exchange(&mut self, request: &[u8], buffer: &mut [u8], limit: Duration) -> End {
        self.requests += 1;
        self.answer.clear();
        self.first_byte = None;
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
        // TLS may have taken more than the socket has.
        self.stream.flush().await.map_err(|error| (written, error))
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
                Ok(_) => {
                    self.first_byte.get_or_insert_with(Instant::now);
                }
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
