//! One WebSocket's frames inside its [`Wire`](super::wire::Wire): what may be handed on, and where our close frame goes.
//!
//! # Invariants
//!
//! 1. Our close frame goes between two frames of the handler, whole, and nothing of the handler's follows it.
//! 2. Whoever waits for room to write is woken, be it the handler or whoever closes: the socket remembers only the
//!    last one, so each of the two waits for both.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::io::AsyncWrite;

use crate::connection::Stream;
use crate::http::farewell::Entered;
use crate::http::frames::{CloseFrame, Frames, frame_length};
use crate::websocket::{Care, Farewell};

/// A frame up to this length is handed on whole, to a handler that may move; one that is longer keeps it from moving until
/// it has come.
pub(crate) const WHOLE_FRAME: u64 = 64 * 1024;

/// Both directions of a WebSocket, and how it ends.
pub(crate) struct WebSocket {
    incoming: Frames,
    outgoing: Outgoing,
    handing: Handing,
    ours: Ours,
    reading: Reading,
    gone: Gone,
    /// Whoever closes, waiting for a boundary or for the client's answer.
    closer: Closer,
    /// The handler, waiting for room to write.
    writer: Option<Waker>,
    pub(crate) care: Arc<Care>,
    entered: Entered,
}

/// What ends the head of the answer that precedes the frames.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What was written: the answer's head, then frames.
struct Outgoing {
    /// What is still to come of the head's end; nothing once frames follow.
    head: &'static [u8],
    frames: Frames,
}

impl Outgoing {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let (Some(awaited), Some((byte, rest))) = (self.head.first(), bytes.split_first()) {
            self.head = match (byte == awaited, *byte == HEAD_END[0]) {
                (true, _) => &self.head[1..],
                (false, true) => &HEAD_END[1..],
                (false, false) => HEAD_END,
            };
            bytes = rest;
        }
        self.frames.pass(bytes);
    }

    fn is_between_frames(&self) -> bool {
        self.head.is_empty() && self.frames.is_between_frames()
    }

    fn is_between_messages(&self) -> bool {
        self.head.is_empty() && self.frames.is_between_messages()
    }

    fn close(&self) -> CloseFrame {
        self.frames.close()
    }

    /// How many of `bytes` may be written before the next place for a close frame.
    fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        // Nothing of a frame is written together with the head: hyper's own part ends with it.
        if self.head.is_empty() { self.frames.rest_of_frame(bytes) } else { bytes.len() }
    }
}

/// How bytes are handed to the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handing {
    /// As they come.
    AsTheyCome,
    /// One whole frame at a time, so that nothing of the next one is in the handler's buffers.
    #[cfg(feature = "tungstenite029")]
    WholeFrames,
}

/// Our own close frame.
enum Ours {
    No,
    Wanted { frame: Vec<u8>, written: usize, place: Place },
    Sent,
}

/// Where a close frame may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    BetweenMessages,
    BetweenFrames,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Open,
    /// The client closed, or has been given up.
    Over,
}

/// Whether the client's side of the byte stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    No,
    Yes,
}

/// Whoever closes, if anybody waits. Woken at the end of the connection too.
struct Closer(Option<Waker>);

impl Closer {
    fn wake(&mut self) {
        if let Some(closer) = self.0.take() {
            closer.wake();
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.wake();
    }
}

/// Wakes two tasks.
struct Both(Waker, Waker);

impl Wake for Both {
    fn wake(self: Arc<Both>) {
        self.0.wake_by_ref();
        self.1.wake_by_ref();
    }
}

fn both(one: &Waker, other: Option<&Waker>) -> Waker {
    match other {
        Some(other) if !other.will_wake(one) => {
            Waker::from(Arc::new(Both(one.clone(), other.clone())))
        }
        Some(_) | None => one.clone(),
    }
}

impl WebSocket {
    pub(crate) fn new(care: Arc<Care>, entered: Entered) -> WebSocket {
        WebSocket {
            incoming: Frames::new(),
            outgoing: Outgoing { head: HEAD_END, frames: Frames::new() },
            handing: Handing::AsTheyCome,
            ours: Ours::No,
            reading: Reading::Open,
            gone: Gone::No,
            closer: Closer(None),
            writer: None,
            care,
            entered,
        }
    }

    /// One that comes from another generation: no head is to be written any more.
    #[cfg(feature = "tungstenite029")]
    pub(crate) fn goes_on(care: Arc<Care>, entered: Entered) -> WebSocket {
        let outgoing = Outgoing { head: &[], frames: Frames::new() };
        let handing = Handing::WholeFrames;
        WebSocket { outgoing, handing, ..WebSocket::new(care, entered) }
    }

    #[cfg(feature = "tungstenite029")]
    pub(crate) fn hand_whole_frames(&mut self, entered: Entered) {
        self.handing = Handing::WholeFrames;
        self.entered = entered;
    }

    /// Whether nothing is under way in either direction and nobody closes.
    #[cfg(feature = "tungstenite029")]
    pub(crate) fn is_between_messages(&self) -> bool {
        self.incoming.is_between_messages()
            && self.outgoing.is_between_messages()
            && self.incoming.close() == CloseFrame::None
            && self.outgoing.close() == CloseFrame::None
            && self.reading == Reading::Open
            && matches!(self.ours, Ours::No)
    }

    /// Whether a close frame was sent, by us or by the handler.
    pub(crate) fn has_closed(&self) -> bool {
        matches!(self.ours, Ours::Sent) || self.outgoing.close() == CloseFrame::Whole
    }

    /// What the client is to be told when the handler lets go of it now.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        self.entered.farewell()
    }

    /// The client has ended its side.
    pub(crate) fn client_is_gone(&mut self) {
        self.gone = Gone::Yes;
        self.wake_closer();
    }

    pub(crate) fn reading_is_over(&self) -> bool {
        self.reading == Reading::Over
    }

    /// How many of the bytes that were read and not handed on may be handed on now; `None` for "read more first".
    pub(crate) fn hands_on(&self, held: &[u8]) -> Option<usize> {
        if self.handing == Handing::AsTheyCome {
            return Some(held.len());
        }
        if self.incoming.is_between_frames() {
            let length = frame_length(held)?;
            if length > held.len() as u64 && length <= WHOLE_FRAME {
                return None;
            }
        }
        Some(self.incoming.rest_of_frame(held))
    }

    /// Notes what was handed on.
    pub(crate) fn handed(&mut self, bytes: &[u8]) {
        self.incoming.pass(bytes);
        if self.incoming.close() == CloseFrame::Whole {
            if matches!(self.ours, Ours::Sent) {
                self.reading = Reading::Over;
            }
            self.wake_closer();
        }
    }

    /// The client will send no more, or nobody will listen to it.
    pub(crate) fn end_reading(&mut self) {
        self.reading = Reading::Over;
        self.wake_closer();
    }

    fn wake_closer(&mut self) {
        self.closer.wake();
    }

    /// The handler writes.
    pub(crate) fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let whole = bufs.iter().map(|buf| buf.len()).sum();
        let polled = self.poll_write_some(stream, cx, bufs, whole);
        self.writer = polled.is_pending().then(|| cx.waker().clone());
        if polled.is_ready() {
            self.wake_closer();
        }
        polled
    }

    fn poll_write_some(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
        whole: usize,
    ) -> Poll<io::Result<usize>> {
        if matches!(self.ours, Ours::No) {
            let written = ready!(Pin::new(stream).poll_write_vectored(cx, bufs))?;
            let mut left = written;
            for buf in bufs {
                let here = left.min(buf.len());
                self.outgoing.pass(&buf[..here]);
                left -= here;
            }
            return Poll::Ready(Ok(written));
        }
        let waker = both(cx.waker(), self.closer.0.as_ref());
        let cx = &mut Context::from_waker(&waker);
        ready!(self.poll_write_ours(stream, cx))?;
        if let Ours::Sent = self.ours {
            // The client was told that nothing follows.
            return Poll::Ready(Ok(whole));
        }
        // Up to the end of the frame under way: ours comes next.
        let Some(buf) = bufs.iter().find(|buf| !buf.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let most = self.outgoing.rest_of_frame(buf);
        let written = ready!(Pin::new(stream).poll_write(cx, &buf[..most]))?;
        self.outgoing.pass(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    /// Writes our frame if it is wanted and this is the place for it; ready as well when it is not.
    fn poll_write_ours(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Ours::Wanted { frame, written, place } = &mut self.ours else {
            return Poll::Ready(Ok(()));
        };
        let is_here = match place {
            Place::BetweenMessages => self.outgoing.is_between_messages(),
            Place::BetweenFrames => self.outgoing.is_between_frames(),
        };
        if *written == 0 && !is_here {
            return Poll::Ready(Ok(()));
        }
        if self.outgoing.close() != CloseFrame::None {
            // The handler was quicker.
            self.ours = Ours::No;
            return Poll::Ready(Ok(()));
        }
        while *written < frame.len() {
            *written += ready!(Pin::new(&mut *stream).poll_write(cx, &frame[*written..]))?;
        }
        self.ours = Ours::Sent;
        Poll::Ready(Ok(()))
    }

    /// Sends this close frame, unless the handler sends one. Ready when one of them was sent.
    pub(crate) fn poll_close(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        frame: &[u8],
        place: Place,
    ) -> Poll<io::Result<()>> {
        match &mut self.ours {
            Ours::Sent => return Poll::Ready(Ok(())),
            Ours::Wanted { place: wanted, .. } => *wanted = place,
            Ours::No => match self.outgoing.close() {
                CloseFrame::Whole => return Poll::Ready(Ok(())),
                CloseFrame::Begun => {
                    self.closer.0 = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                CloseFrame::None => {
                    self.ours = Ours::Wanted { frame: frame.to_vec(), written: 0, place };
                }
            },
        }
        self.closer.0 = Some(cx.waker().clone());
        let waker = both(cx.waker(), self.writer.as_ref());
        ready!(self.poll_write_ours(stream, &mut Context::from_waker(&waker)))?;
        match (&self.ours, self.outgoing.close()) {
            (Ours::Sent, _) | (Ours::No, CloseFrame::Whole) => Poll::Ready(Ok(())),
            (Ours::Wanted { .. } | Ours::No, _) => Poll::Pending,
        }
    }

    /// Ready when the client has closed, with a frame or without.
    pub(crate) fn poll_client_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.incoming.close() == CloseFrame::Whole
            || self.reading == Reading::Over
            || self.gone == Gone::Yes
        {
            return Poll::Ready(());
        }
        self.closer.0 = Some(cx.waker().clone());
        Poll::Pending
    }
}
