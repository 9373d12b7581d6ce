//! HTTP/2 clients: several closed loops over one connection, each with one stream open at a time.

use super::ledger::{Connections, Known};
use super::reach::{Refusals, Unreached};
use super::stream::{Look, ResetSeen, Stream, look};
use super::{Part, REFUSED_PAUSE};
use crate::address::Scheme;
use crate::fate::Fate;
use crate::trace::{ConnectionEnd, Number};
use bytes::Bytes;
use h2::client::SendRequest;
use std::cell::Cell;
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long the end of a connection may take once its streams have ended.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// So often the connection is given a turn to read what waits at its socket before a stream is opened: a
/// GOAWAY that has come already must be seen, and bytes of other streams must not hold up this one for ever.
const LOOKS: usize = 4;

/// One client: connections one after the other, `streams` loops on each.
pub(super) async fn client(part: Part, streams: usize) {
    let part = Rc::new(part);
    let had_answer: Rc<[Cell<bool>]> = vec![Cell::new(false); streams].into();
    let mut refusals = Refusals::default();
    while !part.shared.is_stopping() {
        let (stream, number) = match refusals.connect(&part).await {
            Ok(connected) => connected,
            Err(Unreached::Again) => continue,
            Err(Unreached::Over) => break,
        };
        if on_connection(&part, stream, number, &had_answer).await == Answers::None {
            // A server that accepts and closes at once must not be asked in a spin.
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
}

/// Whether a connection brought any answer.
#[derive(PartialEq, Eq)]
enum Answers {
    Some,
    None,
}

/// Uses one connection until the server ends it or the run is over.
async fn on_connection(
    part: &Rc<Part>,
    stream: Stream,
    number: Option<Number>,
    had_answer: &Rc<[Cell<bool>]>,
) -> Answers {
    // A second descriptor of the same socket, to look at it while the connection has the first.
    let socket = stream.as_fd().try_clone_to_owned();
    let reset = stream.reset_seen();
    let (socket, (send, connection)) = match (socket, h2::client::handshake(stream).await) {
        (Ok(socket), Ok(both)) => (Rc::new(socket), both),
        (Err(error), _) => return unusable(part, number, &error),
        (_, Err(error)) => return unusable(part, number, &error),
    };
    let mut driver = tokio::task::spawn_local(connection);
    let seen = Rc::new(Seen::default());
    let mut loops = tokio::task::JoinSet::new();
    for place in 0..had_answer.len() {
        let streams = Streams {
            part: part.clone(),
            socket: socket.clone(),
            reset: reset.clone(),
            send: send.clone(),
            number,
            seen: seen.clone(),
            answers: 0,
        };
        loops.spawn_local(streams.run(had_answer.clone(), place));
    }
    drop((send, socket));
    let mut answers = 0;
    while let Some(ended) = loops.join_next().await {
        answers += ended.unwrap_or_default();
    }
    {
        let mut ledger = part.ledger.borrow_mut();
        seen.count(&mut ledger.connections);
        ledger.close(number, seen.end(&reset));
    }
    // With the last handle gone the client says GOAWAY, flushes and closes by itself. How that ends is of no
    // interest: every stream has its fate.
    if tokio::time::timeout(CLOSE_LIMIT, &mut driver).await.is_err() {
        driver.abort();
    }
    if answers > 0 { Answers::Some } else { Answers::None }
}

fn unusable(part: &Part, number: Option<Number>, error: &dyn std::fmt::Display) -> Answers {
    let detail = || format!("HTTP/2 handshake: {error}");
    let fate = Fate::ConnectFailed;
    let known = Known::unsent(number, Instant::now(), fate);
    let mut ledger = part.ledger.borrow_mut();
    ledger.failed(known, part.client, 0, detail);
    ledger.close(number, ConnectionEnd::ClosedByServer);
    Answers::None
}

/// One closed loop.
struct Streams {
    part: Rc<Part>,
    socket: Rc<OwnedFd>,
    reset: ResetSeen,
    send: SendRequest<Bytes>,
    /// In the recording, if there is one.
    number: Option<Number>,
    seen: Rc<Seen>,
    answers: u64,
}

/// What the loops of one connection share.
#[derive(Default)]
struct Seen {
    /// Streams opened by all of them.
    opened: Cell<u64>,
    /// The server said that it takes no more streams.
    go_away: Cell<bool>,
    /// The socket was found closed.
    closed: Cell<bool>,
}

impl Seen {
    fn end(&self, reset: &ResetSeen) -> ConnectionEnd {
        match (reset.is_set(), self.go_away.get() || self.closed.get()) {
            (true, _) => ConnectionEnd::Reset,
            (false, true) => ConnectionEnd::ClosedByServer,
            (false, false) => ConnectionEnd::ClosedByTester,
        }
    }

    fn count(&self, connections: &mut Connections) {
        connections.told_to_close += u64::from(self.go_away.get());
        connections.found_closed += u64::from(self.closed.get() && !self.go_away.get());
    }
}

impl Streams {
    /// Requests until the connection takes no more; how many were answered.
    async fn run(mut self, had_answer: Rc<[Cell<bool>]>, place: usize) -> u64 {
        let request = self.request();
        while !self.part.shared.is_stopping() && self.is_usable().await {
            let begun = Instant::now();
            let first_byte = Cell::new(None);
            let result = self.exchange(request.clone(), &first_byte).await;
            let known = |fate, status| Known {
                connection: self.number,
                intended: None,
                begun,
                first_byte: first_byte.get(),
                fate,
                status,
            };
            match result {
                Ok(status) => {
                    self.part.ledger.borrow_mut().answered(known(Fate::Answered, Some(status)));
                    self.part.shared.answer();
                    self.answers += 1;
                    if !had_answer[place].replace(true) {
                        self.part.shared.first_answer();
                    }
                }
                Err((fate, detail)) => {
                    let (client, ordinal) = (self.part.client, self.seen.opened.get());
                    let known = known(fate, None);
                    self.part.ledger.borrow_mut().failed(known, client, ordinal, || detail);
                }
            }
            if self.part.load.pause > Duration::ZERO {
                tokio::time::sleep(self.part.load.pause).await;
            }
        }
        self.answers
    }

    fn request(&self) -> http::Request<()> {
        let place = &self.part.load.place;
        let scheme = if place.scheme == Scheme::Https { "https" } else { "http" };
        let uri = format!("{scheme}://{}{}", place.host, place.path);
        let uri: http::Uri = uri.parse().expect("a place was checked when it was parsed");
        let mut request = http::Request::new(());
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_2;
        request
    }

    /// The look before a stream is opened: the connection has read what waits, and its peer has not closed.
    async fn is_usable(&mut self) -> bool {
        for _ in 0..LOOKS {
            match look(self.socket.as_fd(), &self.reset) {
                Look::Quiet => break,
                Look::Bytes => tokio::task::yield_now().await,
                Look::Closed | Look::Truncated | Look::Reset => {
                    // The connection notices as well, and ends; no stream is opened on it.
                    self.seen.closed.set(true);
                    return false;
                }
            }
        }
        match poll_fn(|cx| self.send.poll_ready(cx)).await {
            Ok(()) => true,
            Err(error) => {
                let flag = if error.is_go_away() { &self.seen.go_away } else { &self.seen.closed };
                flag.set(true);
                false
            }
        }
    }

    /// The status of a 2xx that came in full.
    async fn exchange(
        &mut self,
        request: http::Request<()>,
        first_byte: &Cell<Option<Instant>>,
    ) -> Result<u16, (Fate, String)> {
        let opened = self.send.send_request(request, true);
        let (response, _) = opened.map_err(|error| (not_opened(&error), error.to_string()))?;
        self.seen.opened.set(self.seen.opened.get() + 1);
        let progress = Cell::new(Progress::Nothing);
        let whole = async {
            let response = response.await?;
            progress.set(Progress::Begun);
            first_byte.set(Some(Instant::now()));
            let status = response.status().as_u16();
            let mut body = response.into_body();
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data?.len())?;
            }
            body.trailers().await?;
            Ok(status)
        };
        let limit = self.part.load.request_limit;
        let timed_out = || (Fate::TimedOut, format!("no whole answer within {limit:?}"));
        let status = tokio::time::timeout(limit, whole).await.map_err(|_| timed_out())?;
        let status = status.map_err(|error| lost(&error, progress.get(), &self.reset))?;
        match Fate::of_status(status) {
            Fate::Answered => Ok(status),
            fate => Err((fate, format!("status {status}"))),
        }
    }
}

/// How much of an answer had come.
#[derive(Clone, Copy)]
enum Progress {
    Nothing,
    Begun,
}

/// A stream that the library did not open: nothing of it was written.
fn not_opened(error: &h2::Error) -> Fate {
    if error.is_go_away() { Fate::GoAwayExcluded } else { Fate::ClosedBeforeSend }
}

/// What an error on an open stream says. The library gives a remote GOAWAY to exactly the streams above its
/// last stream id; the others go on, and get the end of the connection as an I/O error.
fn lost(error: &h2::Error, progress: Progress, reset: &ResetSeen) -> (Fate, String) {
    let excluded = (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
        && error.is_remote();
    let fate = match (progress, error.is_io(), reset.is_set()) {
        (Progress::Nothing, _, _) if excluded => Fate::GoAwayExcluded,
        (Progress::Nothing, true, true) => Fate::ResetBeforeResponse,
        (Progress::Nothing, true, false) => Fate::EofBeforeResponse,
        (Progress::Begun, true, true) => Fate::ResetMidResponse,
        (Progress::Begun, true, false) => Fate::Truncated,
        (_, false, _) if error.is_reset() && error.is_remote() => Fate::StreamReset,
        (_, false, _) => Fate::Malformed,
    };
    (fate, error.to_string())
}
