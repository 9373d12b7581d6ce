//! What a connection does that has become a WebSocket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::{Dropped, State, Wire};
use crate::http::farewell::Entered;
use crate::http::websocket::{Place, WebSocket};
use crate::websocket::{Care, Farewell};
use crate::work::{Side, Told};

impl State {
    /// Hands on what a WebSocket's handler may have: nothing once the client has closed, and to one that may move whole
    /// frames only.
    pub(super) fn read_websocket(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let Some(websocket) = &mut self.websocket else { return Poll::Ready(Ok(())) };
            if websocket.reading_is_over() || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let held = &self.held[self.handed..];
            if let (false, Some(may)) = (held.is_empty(), websocket.hands_on(held)) {
                let taken = &held[..may.min(buf.remaining())];
                websocket.handed(taken);
                buf.put_slice(taken);
                let taken = taken.len();
                self.hand_on(taken);
                return Poll::Ready(Ok(()));
            }
            // Read where the handler wants it, which is all there is to do as long as whole frames come.
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            let came = &buf.filled()[before..];
            if came.is_empty() {
                websocket.client_is_gone();
                // A part of a frame: its handler knows what to make of it.
                let most = self.held().min(buf.remaining());
                buf.put_slice(&self.held[self.handed..self.handed + most]);
                self.handed += most;
                return Poll::Ready(Ok(()));
            }
            if held.is_empty() && websocket.hands_on(came) == Some(came.len()) {
                websocket.handed(came);
                return Poll::Ready(Ok(()));
            }
            self.held.drain(..self.handed);
            self.handed = 0;
            self.held.extend_from_slice(came);
            buf.set_filled(before);
        }
    }
}

impl Wire {
    /// From now on the bytes are a WebSocket's.
    pub(crate) fn becomes_websocket(&self, care: Arc<Care>, entered: Entered) {
        self.becomes_raw();
        self.lock().websocket = Some(Box::new(WebSocket::new(care, entered)));
    }

    /// It comes from another generation, as a WebSocket.
    #[cfg(feature = "tungstenite029")]
    pub(crate) fn goes_on_as_websocket(&self, care: Arc<Care>, entered: Entered) {
        self.becomes_raw();
        self.lock().websocket = Some(Box::new(WebSocket::goes_on(care, entered)));
    }

    /// Its handler may move it: `unused` was read already, one frame is handed on at a time, and it is entered with others
    /// of its kind.
    #[cfg(feature = "tungstenite029")]
    pub(crate) fn hand_whole_frames(&self, unused: &[u8], entered: Entered) {
        self.rewind(unused);
        let mut state = self.lock();
        state.framing.let_through();
        if let Some(websocket) = &mut state.websocket {
            websocket.hand_whole_frames(entered);
        }
    }

    #[cfg(feature = "tungstenite029")]
    pub(crate) fn is_closed_by_its_handler(&self) {
        if let Some(websocket) = &self.lock().websocket {
            websocket.care.by_handler();
        }
    }

    /// Makes a byte stream of it again, if it is between two messages.
    #[cfg(feature = "tungstenite029")]
    pub(crate) fn take_websocket(&self) -> Option<Box<WebSocket>> {
        let mut state = self.lock();
        let between = state.websocket.as_ref().is_some_and(|it| it.is_between_messages());
        if between { state.websocket.take() } else { None }
    }

    #[cfg(feature = "tungstenite029")]
    pub(crate) fn put_back_websocket(&self, websocket: Box<WebSocket>) {
        self.lock().websocket = Some(websocket);
    }

    /// Whether nobody is to close this WebSocket but its handler, or there is none any more.
    pub(crate) fn is_closed_by_handler(&self) -> bool {
        let state = self.lock();
        state.websocket.as_ref().is_none_or(|websocket| websocket.care.is_by_handler())
    }

    /// Notes that the client has been told to go; whether that was the first time.
    pub(crate) fn tell(&self) -> bool {
        self.lock().websocket.as_ref().is_some_and(|websocket| websocket.care.tell())
    }

    /// Whether the client has been told to go.
    pub(crate) fn is_told(&self) -> bool {
        self.lock().websocket.as_ref().is_some_and(|websocket| websocket.care.is_told())
    }

    /// Sends a close frame; ready when one was sent, this or the handler's.
    pub(crate) fn poll_close_websocket(
        &self,
        cx: &mut Context<'_>,
        frame: &[u8],
        place: Place,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.lock();
        match &mut state.websocket {
            Some(websocket) => websocket.poll_close(&mut state.stream, cx, frame, place),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Ready when the WebSocket's client has closed, as far as its handler has read.
    pub(crate) fn poll_client_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.lock().websocket {
            Some(websocket) => websocket.poll_client_closed(cx),
            None => Poll::Ready(()),
        }
    }

    /// The handler reads an end of file from now on.
    pub(crate) fn end_reading(&self) {
        if let Some(websocket) = &mut self.lock().websocket {
            websocket.end_reading();
        }
        self.entry.wake(Side::Read);
    }

    /// The handler lets go of it: whether the client is still owed an end in order.
    pub(super) fn is_left_behind(&self) -> bool {
        let state = self.lock();
        let ended =
            |websocket: &WebSocket| websocket.has_closed() || websocket.farewell().is_some();
        state.dropped == Dropped::ByHandler
            && state.websocket.as_deref().is_some_and(ended)
            && self.entry.told() != Told::Force
    }

    /// What a client is still to be told whose handler let go of it.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        self.lock().websocket.as_ref().and_then(|websocket| websocket.farewell())
    }
}
