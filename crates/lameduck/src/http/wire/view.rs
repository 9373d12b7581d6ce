//! A connection's bytes as hyper sees them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(feature = "tungstenite029")]
use super::Dropped;
use super::{Owner, Wire};
use crate::http::farewell;

/// hyper's view of a [`Wire`]. Its shutdown does nothing before an upgrade: how a connection closes is decided above
/// hyper.
pub(crate) struct Io(pub(crate) Arc<Wire>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.lock().read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.lock();
        if let Some(websocket) = &mut state.websocket {
            return websocket.poll_write(&mut state.stream, cx, bufs);
        }
        if state.writing.puts_off(bufs, self.0.entry(), cx) {
            return Poll::Pending;
        }
        let result = Pin::new(&mut state.stream).poll_write_vectored(cx, bufs);
        state.writing.wrote(bufs, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.can_move() {
            // The kernel has what was written.
            return Poll::Ready(Ok(()));
        }
        let mut state = self.0.lock();
        let flushed = Pin::new(&mut state.stream).poll_flush(cx);
        // Records wait to be written.
        state.writing.flushed(&flushed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        match state.owner {
            Owner::Server => Poll::Ready(Ok(())),
            Owner::Upgraded => Pin::new(&mut state.stream).poll_shutdown(cx),
        }
    }
}

#[cfg(feature = "tungstenite029")]
impl Io {
    /// Its wire, to be held by whoever asks.
    pub(crate) fn wire(self) -> Arc<Wire> {
        let wire = Arc::clone(&self.0);
        wire.lock().dropped = Dropped::ByUs;
        drop(self);
        wire.lock().dropped = Dropped::ByHandler;
        wire
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if !self.0.is_left_behind() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(farewell::part(Arc::clone(&self.0))));
        }
    }
}
