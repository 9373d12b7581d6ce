//! Answers that last: an event stream, lines, whatever is sent until somebody ends it.
//!
//! A stream that nobody tells to end holds a stop until the deadline, and is then cut in the middle of an event. Here it
//! is told: it ends behind a whole event, spread over a while so that not all clients come back at once, and an event
//! stream says with its last words when to come back (`retry:`). A browser's `EventSource` then asks the next process, or the
//! successor of an upgrade, for what follows `Last-Event-ID`, and misses nothing.
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
//! use http_body_util::Full;
//! # use bytes::Bytes;
//!
//! # let life = lameduck::Lifecycle::builder().without_signals().start()?;
//! let streams = life.streams();
//! // In a handler; with axum it is `Sse::new(…).into_response().map(|body| Body::new(streams.events(body)))`.
//! let body = streams.events(Full::new(Bytes::from("data: one\n\n")));
//! # drop(body);
//! # Ok(()) }
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::timeout_at;

use crate::lifecycle::{Drain, Lifecycle};
use crate::phase::{Asked, LONGEST};

/// Over how long the ends of streams are spread; half of the time until the cut where that is shorter.
pub const SPREAD: Duration = Duration::from_secs(1);
/// How soon an event stream's client should come back, at the earliest.
pub const RETRY: Duration = Duration::from_millis(100);
/// Over how long clients should come back.
pub const RETRY_SPREAD: Duration = Duration::from_secs(1);

impl Lifecycle {
    /// Streams that end in order when the service stops or is upgraded; see [`Streams`].
    pub fn streams(&self) -> Streams {
        Streams {
            drain: self.drain(),
            begun: Arc::default(),
            open: Arc::clone(&self.shared.registry.streams),
            spread: SPREAD,
            retry: RETRY,
            retry_spread: RETRY_SPREAD,
            upgrade_after: Some(Duration::ZERO),
        }
    }
}

/// Makes bodies end at a boundary, at a stop and at an upgrade; made by [`Lifecycle::streams`].
///
/// Clones share the order in which streams end, so make one for each kind of stream and clone it into the handlers.
///
/// At a stop a stream ends within the [spread](Streams::spread), at the first boundary from its turn on. One whose
/// source stays in the middle of an event is cut at the deadline and named in the report, like any request. At an
/// upgrade the same happens [some time](Streams::after_upgrade) after the successor accepts; a stream whose turn has
/// not come when the successor is lost goes on.
#[derive(Debug, Clone)]
pub struct Streams {
    drain: Drain,
    /// How many streams have begun: a stream's turn follows from its number.
    begun: Arc<AtomicU64>,
    /// How many are under way.
    open: Arc<AtomicUsize>,
    spread: Duration,
    retry: Duration,
    retry_spread: Duration,
    upgrade_after: Option<Duration>,
}

impl Streams {
    /// Over how long the ends are spread. Default [`SPREAD`].
    pub fn spread(mut self, spread: Duration) -> Streams {
        self.spread = spread;
        self
    }

    /// When clients of an event stream should come back: not before `least`, and not all at once but over `spread`.
    /// Default [`RETRY`] and [`RETRY_SPREAD`]. In whole milliseconds, as the protocol has it.
    pub fn retry(mut self, least: Duration, spread: Duration) -> Streams {
        self.retry = least;
        self.retry_spread = spread;
        self
    }

    /// How long after a successor accepts streams begin to end here, and to begin again there. Default: at once.
    pub fn after_upgrade(mut self, time: Duration) -> Streams {
        self.upgrade_after = Some(time);
        self
    }

    /// Streams last through an upgrade, on the old version, until their clients leave or a stop comes.
    pub fn stay_at_upgrade(mut self) -> Streams {
        self.upgrade_after = None;
        self
    }

    /// Server-sent events (`text/event-stream`): ends behind a blank line, and its last words are a `retry:` of its own.
    pub fn events<B: Body<Data = Bytes>>(&self, body: B) -> EndingStream<B> {
        let retry = |turn: Turn| {
            let wait = self.retry.saturating_add(self.retry_spread.mul_f64(turn.again));
            Some(Bytes::from(format!("retry: {}\n\n", wait.as_millis())))
        };
        self.ending(body, Box::new(EventBoundary::default()), retry)
    }

    /// Lines, such as newline-delimited JSON: ends behind a line feed.
    pub fn lines<B: Body<Data = Bytes>>(&self, body: B) -> EndingStream<B> {
        self.ending(body, Box::new(LineBoundary), |_| None)
    }

    /// A protocol of your own: ends where `boundary` says, and `farewell` are its last bytes.
    pub fn chunks<B: Body<Data = Bytes>>(
        &self,
        body: B,
        boundary: impl Boundary,
        farewell: Option<Bytes>,
    ) -> EndingStream<B> {
        self.ending(body, Box::new(boundary), |_| farewell)
    }

    fn ending<B>(
        &self,
        body: B,
        boundary: Box<dyn Boundary>,
        farewell: impl FnOnce(Turn) -> Option<Bytes>,
    ) -> EndingStream<B> {
        let turn = Turn::of(self.begun.fetch_add(1, Ordering::Relaxed));
        EndingStream {
            body,
            turn: Box::pin(self.clone().until_turn(turn.end)),
            boundary,
            is_whole: true,
            farewell: farewell(turn),
            state: State::Open,
            _open: Open::new(&self.open),
        }
    }

    /// Waits until a stream with this place in the order is to end.
    async fn until_turn(self, place: f64) {
        let drain = &self.drain;
        loop {
            let asked = drain.asked_for(|asked| asked >= Asked::HandedOver).await;
            let now = Instant::now();
            let after = match (asked, self.upgrade_after) {
                (Asked::HandedOver, Some(after)) => after,
                (Asked::HandedOver, None) => {
                    drain.asked_for(|asked| asked != Asked::HandedOver).await;
                    continue;
                }
                (_, _) => Duration::ZERO,
            };
            let most = drain.cut_at().map(|at| at.saturating_duration_since(now) / 2);
            let wait =
                after.saturating_add(self.spread.mul_f64(place)).min(most.unwrap_or(LONGEST));
            // A second word (a stop after the upgrade, or the successor's loss) begins the wait anew.
            let changed = drain.asked_for(|again| again != asked);
            match timeout_at((now + wait).into(), changed).await {
                Ok(again) if again != asked => {}
                // Its turn has come, or the life is over.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// A stream's places, between 0 and 1, in the order of the ends and of the returns.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Turn {
    end: f64,
    again: f64,
}

impl Turn {
    /// Multiples of an irrational number lie evenly between 0 and 1, however many there are and whichever of them are
    /// still open: better than dice, and the same in each test. The two numbers have nothing to do with each other, so
    /// who ends late does not come back late as well.
    fn of(number: u64) -> Turn {
        const GOLDEN: f64 = 0.618_033_988_749_894_9;
        const SQUARE_ROOT_OF_2: f64 = 0.414_213_562_373_095_1;
        // 2^32 streams later the order begins again.
        let number = f64::from(number as u32);
        Turn { end: (number * GOLDEN).fract(), again: (number * SQUARE_ROOT_OF_2).fract() }
    }
}

/// Where a stream may end.
pub trait Boundary: Send + 'static {
    /// Takes the next bytes and returns how many of them go up to the last boundary in them, `None` if there is none.
    ///
    /// It sees each byte once, in order, and frames of any length: a boundary may lie across two of them.
    fn last(&mut self, bytes: &[u8]) -> Option<usize>;
}

impl<F: FnMut(&[u8]) -> Option<usize> + Send + 'static> Boundary for F {
    fn last(&mut self, bytes: &[u8]) -> Option<usize> {
        self(bytes)
    }
}

/// Behind each line feed.
struct LineBoundary;

impl Boundary for LineBoundary {
    fn last(&mut self, bytes: &[u8]) -> Option<usize> {
        memchr::memrchr(b'\n', bytes).map(|at| at + 1)
    }
}

/// Behind each blank line; a line ends with CR, LF or both (WHATWG HTML §9.2.5).
struct EventBoundary {
    line_is_empty: bool,
    after_cr: bool,
    /// Whether the last line feed or carriage return ended a blank line.
    blank: bool,
}

impl Default for EventBoundary {
    fn default() -> EventBoundary {
        EventBoundary { line_is_empty: true, after_cr: false, blank: false }
    }
}

impl Boundary for EventBoundary {
    fn last(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut last = None;
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                // The second half of a CR LF, which ends the same line.
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.blank = self.line_is_empty;
                    self.line_is_empty = true;
                    self.after_cr = *byte == b'\r';
                }
                _ => *self = EventBoundary { line_is_empty: false, after_cr: false, blank: false },
            }
            if self.blank {
                last = Some(at + 1);
            }
        }
        last
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its source is read.
    Open,
    /// Its turn has come: it ends at the next boundary.
    Due,
    /// It ends, but has its last words to say.
    Ends,
    /// It has ended.
    Over,
}

pin_project! {
    /// A body that ends at a boundary when its turn has come; made by [`Streams`].
    #[must_use = "a body is sent in an answer"]
    pub struct EndingStream<B> {
        #[pin]
        body: B,
        turn: Pin<Box<dyn Future<Output = ()> + Send>>,
        boundary: Box<dyn Boundary>,
        is_whole: bool,
        farewell: Option<Bytes>,
        state: State,
        _open: Open,
    }
}

/// A stream in the count of those under way.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Open {
        count.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B> std::fmt::Debug for EndingStream<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndingStream").field("state", &self.state).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes>> Body for EndingStream<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        loop {
            match this.state {
                State::Over => return Poll::Ready(None),
                State::Ends => {
                    *this.state = State::Over;
                    let farewell = this.farewell.take();
                    return Poll::Ready(farewell.map(|bytes| Ok(Frame::data(bytes))));
                }
                State::Due if *this.is_whole => *this.state = State::Ends,
                State::Open if this.turn.as_mut().poll(cx).is_ready() => *this.state = State::Due,
                State::Open | State::Due => {
                    let Some(frame) = ready!(this.body.as_mut().poll_frame(cx)?) else {
                        *this.state = State::Over;
                        return Poll::Ready(None);
                    };
                    let mut data = match frame.into_data() {
                        Ok(data) => data,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    };
                    let last = this.boundary.last(&data);
                    if !data.is_empty() {
                        *this.is_whole = last == Some(data.len());
                    }
                    if let (State::Due, Some(last)) = (*this.state, last) {
                        // What follows is the beginning of an event that will be sent whole elsewhere.
                        data.truncate(last);
                        *this.state = State::Ends;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.state {
            State::Over => true,
            State::Ends => false,
            State::Open | State::Due => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        // It may end early and say more: only what it must have sent is known, and that is nothing.
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    #[track_caller]
    fn check(frames: &[&str], expected: &[Option<usize>]) {
        let mut boundary = EventBoundary::default();
        let got: Vec<_> = frames.iter().map(|frame| boundary.last(frame.as_bytes())).collect();
        assert_eq!(got, expected, "{frames:?}");
    }

    #[test]
    fn an_event_ends_behind_a_blank_line_however_it_is_cut_into_frames() {
        check(&["data: 1\n\n"], &[Some(9)]);
        check(&["data: 1\n", "\n", "data: 2"], &[None, Some(1), None]);
        check(&["data: 1\n\ndata: 2"], &[Some(9)]);
        check(&["data: 1\r\n\r\n"], &[Some(11)]);
        check(&["data: 1\r\n\r", "\n", "d"], &[Some(10), Some(1), None]);
        check(&["data: 1\r\r"], &[Some(9)]);
        check(&["data: 1\r", "\n", "\n"], &[None, None, Some(1)]);
        check(&["a\nb\n", ": comment\n\nx"], &[None, Some(11)]);
        check(&["", "\n"], &[None, Some(1)]);
    }

    #[test]
    fn a_line_ends_behind_its_line_feed() {
        assert_eq!(LineBoundary.last(b"{}\n{"), Some(3));
        assert_eq!(LineBoundary.last(b"{"), None);
    }

    type Source =
        Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

    /// What a client gets of a stream whose source sends `before`, and then, the stop having come and its turn with it,
    /// `after`.
    async fn around_a_stop(
        ending: impl FnOnce(&Streams, StreamBody<Source>) -> EndingStream<StreamBody<Source>>,
        before: &'static str,
        after: &'static str,
    ) -> Vec<String> {
        let life = Lifecycle::builder().without_signals().start().unwrap();
        life.ready();
        let (source, frames) = tokio::sync::mpsc::unbounded_channel();
        let frames: Source = Box::pin(futures_util::stream::unfold(frames, |mut frames| async {
            let text: &str = frames.recv().await?;
            Some((Ok(Frame::data(Bytes::from(text))), frames))
        }));
        let mut body = ending(&life.streams().spread(Duration::ZERO), StreamBody::new(frames));
        let text =
            |frame: Frame<Bytes>| String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        let (mut got, mut stopped) = (Vec::new(), false);
        source.send(before).unwrap();
        while let Some(frame) = body.frame().await {
            got.push(text(frame.unwrap()));
            if !stopped {
                stopped = true;
                life.stop();
                life.drain().asked_for(|asked| asked == Asked::Finish).await;
                // Its turn comes while its source has nothing.
                match tokio::time::timeout(Duration::from_secs(1), body.frame()).await {
                    Ok(Some(frame)) => got.push(text(frame.unwrap())),
                    Ok(None) => break,
                    Err(_) => {}
                }
                source.send(after).unwrap();
            }
        }
        got
    }

    /// Records of four bytes, across frames.
    fn records() -> impl Boundary {
        let mut seen = 0;
        move |bytes: &[u8]| {
            let before = seen;
            seen += bytes.len();
            (seen / 4 > before / 4).then(|| seen / 4 * 4 - before)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_protocol_of_ones_own_ends_behind_its_boundary_with_its_farewell() {
        let chunks = |streams: &Streams, body| {
            streams.chunks(body, records(), Some(Bytes::from_static(b"BYE!")))
        };
        let got = around_a_stop(chunks, "aaaabb", "bbcc").await;
        assert_eq!(got, ["aaaabb", "bb", "BYE!"], "what began behind the boundary is not sent");
        assert_eq!(around_a_stop(chunks, "aaaa", "bbbb").await, ["aaaa", "BYE!"]);
        let silent = |streams: &Streams, body| streams.chunks(body, records(), None);
        assert_eq!(around_a_stop(silent, "aa", "aabbbbc").await, ["aa", "aabbbb"]);
    }

    #[tokio::test(start_paused = true)]
    async fn lines_end_behind_a_whole_line() {
        let lines = |streams: &Streams, body| streams.lines(body);
        let got = around_a_stop(lines, "{\"n\":1}\n{\"n\"", ":2}\n{\"n\":3").await;
        assert_eq!(got.concat(), "{\"n\":1}\n{\"n\":2}\n");
    }

    #[tokio::test(start_paused = true)]
    async fn any_time_to_come_back_can_be_chosen() {
        let far = |streams: &Streams, body| {
            streams.clone().retry(Duration::MAX, Duration::MAX).events(body)
        };
        let got = around_a_stop(far, "data: 1\n\n", "data: 2\n\n").await;
        assert_eq!(got[1], format!("retry: {}\n\n", Duration::MAX.as_millis()));
    }

    #[test]
    fn turns_are_spread_evenly_whichever_streams_are_left() {
        // A thousand streams of which every third has ended by itself, in ten windows.
        let left = (0..1_500_u64).filter(|number| number % 3 != 0);
        for place in [|turn: Turn| turn.end, |turn: Turn| turn.again] {
            let mut windows = [0; 10];
            for number in left.clone() {
                windows[(place(Turn::of(number)) * 10.0) as usize] += 1;
            }
            assert!(windows.iter().all(|count| (80..=120).contains(count)), "{windows:?}");
        }
    }
}
