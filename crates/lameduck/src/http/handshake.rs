//! The TLS handshake of one connection: what it may take, and what becomes of one that fails.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::connection::{Handshake, Stream, Wakers};
use crate::http::connection::{Patience, silence};
use crate::http::wire::Wire;
use crate::http::{QUIET, QUIET_IDLE, TLS_HANDSHAKE, TLS_HANDSHAKE_AT_STOP};
use crate::work::{Side, Told};

/// The encrypted stream; `None` when there is none, and the connection has been closed.
pub(crate) async fn shake_hands(
    mut stream: Stream,
    config: Arc<rustls::ServerConfig>,
    linger: Duration,
) -> Option<Stream> {
    stream.set_wakers(Wakers::OneTask);
    poll_fn(|cx| {
        stream.entry().polled_by(Side::Read, cx.waker());
        Poll::Ready(())
    })
    .await;
    let bound = Instant::now() + TLS_HANDSHAKE;
    let silence = silence(&stream, linger);
    match first_byte(&mut stream, silence, bound).await {
        FirstByte::Came => {}
        FirstByte::Never => {
            Wire::new(stream, Vec::new()).close(QUIET_IDLE).await;
            return None;
        }
        FirstByte::Gone => return None,
    }
    let handshake = stream.handshake(config).ok()?;
    match whole(handshake, bound).await? {
        Ok(encrypted) => Some(encrypted),
        Err(bare) => {
            // The alert says why. It must not be erased by a reset.
            Wire::new(bare, Vec::new()).close(QUIET).await;
            None
        }
    }
}

enum FirstByte {
    Came,
    /// None within its bound.
    Never,
    Gone,
}

/// Waits for a first byte: `silence` once the connection is told to go, until `bound` before.
async fn first_byte(stream: &mut Stream, silence: Duration, bound: Instant) -> FirstByte {
    let (mut at_stop, mut overall) = (Patience::new(), Box::pin(sleep_until(bound)));
    poll_fn(|cx| {
        match stream.poll_heard(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(FirstByte::Came),
            Poll::Ready(Err(_)) => return Poll::Ready(FirstByte::Gone),
            Poll::Pending => {}
        }
        let told_to_go = stream.entry().told() >= Told::Finish;
        let over = told_to_go && at_stop.poll(silence, cx).is_ready();
        if over || overall.as_mut().poll(cx).is_ready() {
            return Poll::Ready(FirstByte::Never);
        }
        Poll::Pending
    })
    .await
}

/// Waits for the end of the handshake; `None` when it took too long or was cut. While the service stops it has
/// [`TLS_HANDSHAKE_AT_STOP`], counted from when the connection is told to go.
async fn whole(mut handshake: Handshake, bound: Instant) -> Option<Result<Stream, Stream>> {
    let (mut at_stop, mut overall) = (Patience::new(), Box::pin(sleep_until(bound)));
    poll_fn(|cx| {
        let told = handshake.told();
        if told == Told::Force {
            return Poll::Ready(None);
        }
        if let Poll::Ready(done) = handshake.poll(cx) {
            return Poll::Ready(Some(done));
        }
        let over = told >= Told::Finish && at_stop.poll(TLS_HANDSHAKE_AT_STOP, cx).is_ready();
        if over || overall.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}
