//! The life of one HTTP connection, from its first byte to its close. One task owns it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tower_service::Service;

use crate::connection::{Age, Arrival, Stream, Wakers};
use crate::handover::{Moved, Moving};
use crate::http::age::Clock;
use crate::http::farewell::WebSockets;
use crate::http::tracking::Tracking;
use crate::http::wire::{Answers, Io, Wire};
use crate::http::{BoxError, FIRST_BYTE, HEAD, Lingers, PING, QUIET, QUIET_IDLE, QUIET_UPLOAD};
use crate::work::{Entry, Side, Told};

/// What every HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// So many bytes of it tell it from a request: `PRI`.
const PREFACE_METHOD: usize = 3;

/// What is read at first, to tell the protocols apart.
const FIRST_READ: usize = 2048;

/// What a client is told whose head did not come in time.
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What all connections of a server have in common.
#[derive(Clone)]
pub(crate) struct Terms {
    /// How long an idle connection is still answered once it was told to go.
    pub(crate) lingers: Lingers,
    /// How old one may become.
    pub(crate) age: Option<Age>,
    /// The way to the successor.
    pub(crate) moving: Moving,
    /// Where those that become WebSockets are known.
    pub(crate) sockets: Arc<WebSockets>,
}

/// Serves one connection, of which `read` was read already, until it closes, moves, is upgraded or is cut.
pub(crate) async fn serve<S, B>(mut stream: Stream, read: Vec<u8>, service: S, terms: Terms)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    // Everything below is polled by this one task: its waker is noted once, not at each wait.
    stream.set_wakers(Wakers::OneTask);
    poll_fn(|cx| {
        stream.entry().polled_by(Side::Read, cx.waker());
        Poll::Ready(())
    })
    .await;
    let lingers = Lingers { at_stop: silence(&stream, terms.lingers.at_stop), ..terms.lingers };
    let mut may_move = MayMove::at_first(&stream);
    let mut read = read;
    loop {
        match first_bytes(&mut stream, &mut read, lingers, may_move, &terms.moving).await {
            First::Idle => {
                let server = Arc::clone(stream.entry().server());
                match terms.moving.send(Moved { server, stream, unread: Vec::new(), session: None })
                {
                    Ok(()) => return,
                    Err(refused) => {
                        stream = refused.stream;
                        may_move = MayMove::No;
                    }
                }
            }
            First::Http1 => {
                let (wire, clock) = (Wire::new(stream, read), Clock::start(terms.age));
                let (cut_at, entry) = (clock.cut_at, Arc::clone(wire.entry()));
                return before(cut_at, entry, http1(wire, service, clock, &terms)).await;
            }
            First::Http2 => {
                let (wire, clock) = (Wire::new(stream, read), Clock::start(terms.age));
                let (cut_at, entry) = (clock.cut_at, Arc::clone(wire.entry()));
                return before(cut_at, entry, http2(wire, service, clock, &terms)).await;
            }
            First::Silent => return Wire::new(stream, Vec::new()).close(QUIET_IDLE).await,
            First::Unfinished => return Wire::new(stream, Vec::new()).close(QUIET).await,
            First::Gone => return,
        }
    }
}

/// Runs a connection to its end, at most until it is cut for its age.
async fn before(cut_at: Option<Instant>, entry: Arc<Entry>, connection: impl Future<Output = ()>) {
    let Some(at) = cut_at else { return connection.await };
    let mut connection = pin!(connection);
    if timeout_at(at, connection.as_mut()).await.is_err() {
        // Before what is left of it is dropped: what is in hand is still known, and learns that this is no end in order.
        entry.cut_for_age();
    }
}

/// How long a connection that is told to go may be silent before its first byte.
pub(crate) fn silence(stream: &Stream, linger: Duration) -> Duration {
    match stream.arrival() {
        Arrival::Open | Arrival::Elsewhere => linger,
        Arrival::AtTheGate => linger.max(FIRST_BYTE),
    }
}

/// How long a head that was begun may take to be finished, once its connection is told to go.
fn rest_of_head(told: Told, lingers: Lingers) -> Duration {
    if told == Told::Move { HEAD.max(lingers.at_upgrade) } else { HEAD }
}

/// Whether a connection may try to move (again).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MayMove {
    Yes,
    /// It was refused: it stays until it has been served once more, and finishes when it is told to.
    No,
    /// Its keys are here. It finishes when others move, without haste.
    Never,
}

impl MayMove {
    fn at_first(stream: &Stream) -> MayMove {
        if stream.is_encrypted() { MayMove::Never } else { MayMove::Yes }
    }

    /// What becomes of it now: where its server has ended with this generation, nobody else can answer what it asks.
    fn along(self, moving: &Moving, entry: &Entry) -> MayMove {
        if entry.told() == Told::Move && moving.leaves_behind(entry.server()) {
            MayMove::Never
        } else {
            self
        }
    }

    /// How long it is still answered without having anything in hand; `None`: as ever.
    fn linger(self, told: Told, lingers: Lingers) -> Option<Duration> {
        match (told, self) {
            (Told::Serve | Told::MarkAnswers, _) => None,
            (Told::Move, MayMove::Yes | MayMove::No) => None,
            (Told::Move, MayMove::Never) => Some(lingers.at_upgrade),
            (Told::Finish | Told::Force, _) => Some(lingers.at_stop),
        }
    }
}

/// A wait that begins when it is first asked: once the connection has been told to go, and has nothing in hand.
pub(crate) struct Patience {
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) fn new() -> Patience {
        Patience { since: None, sleep: None }
    }

    /// Something is in hand: the wait is counted anew once it is not.
    fn begin_anew(&mut self) {
        *self = Patience::new();
    }

    /// Ready `patience` after it was first asked.
    pub(crate) fn poll(&mut self, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.since.get_or_insert_with(Instant::now) + patience;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        sleep.as_mut().poll(cx)
    }
}

enum First {
    Http1,
    Http2,
    /// No byte came, and the connection may go to the successor as it is.
    Idle,
    /// No byte came in time.
    Silent,
    /// An HTTP/2 preface that was not finished.
    Unfinished,
    Gone,
}

/// What the bytes read so far say.
fn protocol(read: &[u8]) -> Option<First> {
    let known = read.len().min(PREFACE.len());
    if read[..known] != PREFACE[..known] {
        Some(First::Http1)
    } else if known == PREFACE.len() {
        Some(First::Http2)
    } else {
        None
    }
}

/// Reads until the protocol is known.
async fn first_bytes(
    stream: &mut Stream,
    read: &mut Vec<u8>,
    lingers: Lingers,
    may_move: MayMove,
    moving: &Moving,
) -> First {
    let mut patience = Patience::new();
    poll_fn(|cx| {
        loop {
            if let Some(first) = protocol(read) {
                return Poll::Ready(first);
            }
            // What is told from here on wakes this task.
            let told = stream.entry().told();
            let may_move = may_move.along(moving, stream.entry());
            // Before it is read: what has come meanwhile was sent to whoever serves.
            if told == Told::Move && may_move == MayMove::Yes && read.is_empty() {
                return Poll::Ready(First::Idle);
            }
            let mut bytes = [0; FIRST_READ];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(First::Gone),
                Poll::Ready(Ok(())) => read.extend_from_slice(buf.filled()),
                Poll::Ready(Err(_)) => return Poll::Ready(First::Gone),
                Poll::Pending => {
                    let silence = may_move.linger(told, lingers);
                    let wait = match read.len() {
                        0 => silence.unwrap_or_default(),
                        // No method of HTTP/1.1 begins like this.
                        n if n >= PREFACE_METHOD
                            && read.starts_with(&PREFACE[..PREFACE_METHOD]) =>
                        {
                            PING
                        }
                        _ => rest_of_head(told, lingers),
                    };
                    // One that cannot move although it is silent is served here until the drain has a bound.
                    let leaves = silence.is_some() || (told == Told::Move && !read.is_empty());
                    let over = leaves && patience.poll(wait, cx).is_ready();
                    return match (over, read.is_empty()) {
                        (false, _) => Poll::Pending,
                        (true, true) => Poll::Ready(First::Silent),
                        (true, false) => Poll::Ready(First::Unfinished),
                    };
                }
            }
            // A first byte came: the wait for the rest has its own bound, counted anew.
            patience = Patience::new();
        }
    })
    .await
}

/// How hyper's part of a connection ended.
enum Rest {
    /// Somebody took the connection over.
    Upgraded,
    /// By the client or after an answer that announced it, or (`Asked::Finish`) because it was idle for the linger; with
    /// the bytes that hyper read and did not use.
    Done(Asked, Vec<u8>),
    /// A head did not become whole in time.
    HalfHead,
}

/// Whether we asked hyper to let the connection go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    /// To close it.
    Finish,
    /// To send it to the successor.
    Move,
}

async fn http1<S, B>(mut wire: Arc<Wire>, service: S, mut clock: Clock, terms: &Terms)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
{
    let mut patience = Patience::new();
    let mut may_move = if wire.can_move() { MayMove::Yes } else { MayMove::Never };
    loop {
        let tracking = Tracking::new(service.clone(), &wire, &terms.sockets);
        let rest =
            http1_until_done(&wire, tracking, terms, &mut patience, &mut may_move, &mut clock)
                .await;
        let (asked, unused) = match rest {
            Rest::Upgraded => return,
            Rest::HalfHead => return time_out(&wire).await,
            Rest::Done(asked, unused) => (asked, unused),
        };
        // Closed for any reason but our asking an idle connection to finish: nothing more is owed.
        if asked == Asked::No || wire.answers() == Answers::CloseAnnounced {
            let quiet = if wire.is_inside_body() { QUIET_UPLOAD } else { QUIET };
            return wire.close(quiet).await;
        }
        wire.rewind(&unused);
        if asked == Asked::Move {
            match move_away(wire, &terms.moving) {
                None => return,
                Some(stays) => {
                    wire = stays;
                    may_move = MayMove::No;
                    continue;
                }
            }
        }
        // A request may have arrived, whole or in part, in the moment the connection was let go.
        let unread = poll_fn(|cx| Poll::Ready(wire.poll_unread(cx))).await;
        if !unread {
            return wire.close(QUIET_IDLE).await;
        }
    }
}

/// Sends an idle connection to the successor; gives it back when it cannot go.
fn move_away(wire: Arc<Wire>, moving: &Moving) -> Option<Arc<Wire>> {
    let server = Arc::clone(wire.entry().server());
    // hyper and the handlers have let go of it: this task holds the only reference.
    let (stream, unread) = wire.try_into_stream().ok()?;
    match moving.send(Moved { server, stream, unread, session: None }) {
        Ok(()) => None,
        Err(refused) => Some(Wire::new(refused.stream, refused.unread)),
    }
}

/// Runs hyper on the connection until it is done with it. Once told to finish, an idle connection has `linger`, and one
/// with a part of a head has [`HEAD`]; both count from when nothing was in hand any more.
async fn http1_until_done<S, B>(
    wire: &Arc<Wire>,
    tracking: Tracking<S>,
    terms: &Terms,
    patience: &mut Patience,
    may_move: &mut MayMove,
    clock: &mut Clock,
) -> Rest
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
{
    let io = TokioIo::new(Io(Arc::clone(wire)));
    let mut connection =
        hyper::server::conn::http1::Builder::new().serve_connection(io, tracking).with_upgrades();
    let mut asked = Asked::No;
    let lingers = terms.lingers;
    // hyper's errors are the client's doing (malformed, gone) or the force: the close is the answer to each.
    let ended = poll_fn(|cx| {
        loop {
            let (entry, told) = (wire.entry(), wire.entry().told());
            let moves = may_move.along(&terms.moving, entry);
            if moves != *may_move {
                // Before hyper is polled: the answer that it is about to write is to say so.
                wire.is_to_go();
            }
            // What has come meanwhile goes with it, unread: it was sent to whoever serves.
            let is_idle = moves == MayMove::Yes && wire.is_between_requests();
            if told == Told::Move && asked == Asked::No && is_idle {
                return Poll::Ready(Ended::Moves);
            }
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(Ended::Hyper);
            }
            let old = clock.is_old(cx).then(|| wire.is_to_go()).map(|()| lingers.at_stop);
            let Some(linger) = moves.linger(told, lingers).or(old) else {
                return if told == Told::Move { poll_move(wire, may_move) } else { Poll::Pending };
            };
            // hyper would announce the close on the answer in hand, whatever was pipelined behind it, and would not
            // linger after it.
            if entry.requests() > 0 || wire.is_write_blocked() {
                patience.begin_anew();
                return Poll::Pending;
            }
            // hyper waits for the rest of a head without a bound.
            if asked == Asked::Finish || wire.is_inside_head() {
                return patience.poll(rest_of_head(told, lingers), cx).map(|()| Ended::HalfHead);
            }
            if patience.poll(linger, cx).is_pending() {
                return Poll::Pending;
            }
            asked = Asked::Finish;
            Pin::new(&mut connection).graceful_shutdown();
        }
    })
    .await;
    match (ended, connection.into_parts()) {
        (Ended::HalfHead, _) => Rest::HalfHead,
        // Nothing was in hand and nothing half written: what hyper read is all it has.
        (Ended::Moves, Some(parts)) => Rest::Done(Asked::Move, parts.read_buf.to_vec()),
        (Ended::Hyper, Some(parts)) => Rest::Done(asked, parts.read_buf.to_vec()),
        (Ended::Hyper | Ended::Moves, None) => Rest::Upgraded,
    }
}

/// Ready when the connection can go to the successor as it is.
fn poll_move(wire: &Wire, may_move: &mut MayMove) -> Poll<Ended> {
    if wire.entry().requests() > 0 {
        // Once it has been served here again, it may ask again.
        *may_move = MayMove::Yes;
    }
    if *may_move == MayMove::Yes && wire.is_between_requests() {
        Poll::Ready(Ended::Moves)
    } else {
        Poll::Pending
    }
}

/// Who ended hyper's part of a connection.
enum Ended {
    Hyper,
    /// We did: hyper would wait for the rest of a head.
    HalfHead,
    /// We did: the successor goes on with it.
    Moves,
}

async fn http2<S, B>(wire: Arc<Wire>, service: S, mut clock: Clock, terms: &Terms)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    wire.becomes_http2();
    let tracking = Tracking::new(service, &wire, &terms.sockets);
    let io = TokioIo::new(Io(Arc::clone(&wire)));
    let mut connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(io, tracking);
    let mut patience = Patience::new();
    let mut asked = Asked::No;
    poll_fn(|cx| {
        let goes = wire.entry().told() >= Told::Move || clock.is_old(cx);
        if asked == Asked::No && goes {
            asked = Asked::Finish;
            wire.expect_ping_acknowledged();
            Pin::new(&mut connection).graceful_shutdown();
        }
        // Asked before hyper is polled: what had ended by then has its frames queued, and the poll writes them. An
        // answer that ends on another worker meanwhile is for the next turn.
        let idle = wire.entry().requests() == 0;
        if Pin::new(&mut connection).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // A client that answered the PING is alive: hyper sends it what is left, as slowly as it reads, and ends.
        if asked == Asked::No || wire.is_ping_acknowledged() {
            return Poll::Pending;
        }
        // For the answer, and for a preface, hyper waits without a bound. We do not; but streams in hand are always
        // waited for, and so is a client that cannot have read the PING behind an answer yet.
        while patience.poll(PING, cx).is_ready() {
            if idle && wire.entry().requests() == 0 && !wire.is_write_blocked() {
                return Poll::Ready(());
            }
            patience.begin_anew();
        }
        Poll::Pending
    })
    .await;
    drop(connection);
    wire.close(QUIET).await;
}

async fn time_out(wire: &Wire) {
    // A few bytes into an empty send buffer: written at once or not at all.
    let _ = poll_fn(|cx| Poll::Ready(wire.poll_write_raw(cx, REQUEST_TIMEOUT))).await;
    wire.close(QUIET).await;
}
