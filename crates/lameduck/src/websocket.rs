//! WebSockets that end well: named, told, closed with a close frame, and movable to a successor.
//!
//! Every WebSocket that is accepted through [`Lifecycle::serve`](crate::Lifecycle) is known by its frames, whatever library
//! its handler uses: axum's `WebSocketUpgrade`, `hyper::upgrade::on` with any WebSocket library on top. So a handler
//! needs to know nothing of a stop for its client to be told of it:
//!
//! 1. When the drain begins, each client gets a close frame, 1001 ("going away", RFC 6455 §7.4.1), between two messages of
//!    its handler. The frames are [spread](CloseFrames::spread), so that a thousand clients do not come back at once.
//! 2. What the handler writes after that goes nowhere, and what the client still sends is handed to it, up to the
//!    client's own close frame. If that does not come [in time](CloseFrames::answer_within), the handler reads an end of
//!    file.
//! 3. The connection is waited for until its handler lets it go, at most until the deadline, and is cut and named then.
//!
//! At an upgrade WebSockets stay with their generation until they end (or until
//! [`upgrade_grace`](crate::Builder::upgrade_grace)), unless they are [told to go](CloseFrames::close_at_upgrade) with 1012.
//!
//! A handler that wants to say more gets a [`Handle`] from its request's extensions: to give the WebSocket a name of its own,
//! or to close it itself when a game is over rather than when the drain begins.
//!
//! # What is not promised
//!
//! A close frame can be put between two frames, not into one: a client whose handler is in the middle of a frame that the
//! client does not read is cut at the deadline without a frame. WebSockets over HTTP/2 (RFC 8441) are not spoken.

#[cfg(feature = "tungstenite029")]
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::work::Entry;

#[cfg(feature = "tungstenite029")]
pub use session::{
    Begun, Builder, MOVE_FLUSH, Message, Received, STATE_AT_MOST, WebSocket, WebSockets,
    tungstenite,
};

/// [`CloseFrames::spread`] when nothing was said.
pub const CLOSE_SPREAD: Duration = Duration::from_secs(5);

/// Between two close frames at most: a few clients are not spread over the whole time.
pub const CLOSE_STEP: Duration = Duration::from_millis(10);

/// [`CloseFrames::answer_within`] when nothing was said.
pub const CLOSE_ANSWER: Duration = Duration::from_secs(2);

/// How long the end of a message that its handler sends in fragments is waited for before the close frame goes between
/// two of them.
pub const MESSAGE_END: Duration = Duration::from_secs(1);

/// How long before they are cut the WebSockets whose handlers close them themselves get a close frame from us after all;
/// no longer than half of the time there is.
pub const LAST_CALL: Duration = Duration::from_secs(1);

/// The code of a close frame at a stop: going away.
pub const GOING_AWAY: u16 = 1001;

/// The code of a close frame at an upgrade: service restart.
pub const SERVICE_RESTART: u16 = 1012;

/// How WebSockets are closed; see [the module](self).
///
/// ```
/// use std::time::Duration;
/// use lameduck::websocket::CloseFrames;
///
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// let closes = CloseFrames::new().spread(Duration::from_secs(2)).stop(4001, "back in a minute");
/// let life = lameduck::Lifecycle::builder().close_frames(closes).without_signals().start()?;
/// # life.stop();
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrames {
    pub(crate) stop: Farewell,
    pub(crate) upgrade: Farewell,
    pub(crate) at_upgrade: AtUpgrade,
    pub(crate) spread: Duration,
    pub(crate) answer: Duration,
}

/// What a close frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Farewell {
    pub(crate) code: u16,
    pub(crate) reason: String,
}

/// What becomes of WebSockets when a successor has taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtUpgrade {
    Stay,
    Close,
}

impl Default for CloseFrames {
    fn default() -> CloseFrames {
        CloseFrames::new()
    }
}

impl CloseFrames {
    /// 1001 at a stop, nothing at an upgrade, spread over [`CLOSE_SPREAD`], [`CLOSE_ANSWER`] for the answer.
    pub fn new() -> CloseFrames {
        CloseFrames {
            stop: Farewell { code: GOING_AWAY, reason: "the server stops".to_owned() },
            upgrade: Farewell { code: SERVICE_RESTART, reason: "a new version serves".to_owned() },
            at_upgrade: AtUpgrade::Stay,
            spread: CLOSE_SPREAD,
            answer: CLOSE_ANSWER,
        }
    }

    /// What the frame says at a stop: a code (RFC 6455 §7.4) and a reason, of which 123 bytes are sent at most.
    ///
    /// # Panics
    ///
    /// When the code may not stand in a close frame: below 1000, from 1004 to 1006, 1015, from 5000.
    pub fn stop(mut self, code: u16, reason: &str) -> CloseFrames {
        self.stop = Farewell::new(code, reason);
        self
    }

    /// What the frame says when a successor has taken over.
    ///
    /// # Panics
    ///
    /// As [`stop`](CloseFrames::stop).
    pub fn upgrade(mut self, code: u16, reason: &str) -> CloseFrames {
        self.upgrade = Farewell::new(code, reason);
        self
    }

    /// Tells WebSockets to go when a successor has taken over. Without this they stay with their generation until they
    /// end.
    pub fn close_at_upgrade(mut self) -> CloseFrames {
        self.at_upgrade = AtUpgrade::Close;
        self
    }

    /// Over how long the close frames of many WebSockets are spread, evenly. Default [`CLOSE_SPREAD`], 5 s.
    ///
    /// Two frames are no more than [`CLOSE_STEP`] apart, so a few clients are told at once; and all are told within the
    /// first half of what is left of the grace period.
    pub fn spread(mut self, spread: Duration) -> CloseFrames {
        self.spread = spread;
        self
    }

    /// How long a client may take to answer a close frame with its own. Default [`CLOSE_ANSWER`], 2 s.
    pub fn answer_within(mut self, answer: Duration) -> CloseFrames {
        self.answer = answer;
        self
    }

    /// The pause between the close frames of `count` WebSockets, with `left` to the cut.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP has WebSockets"))]
    pub(crate) fn step(&self, count: usize, left: Option<Duration>) -> Duration {
        let whole = left.map_or(self.spread, |left| self.spread.min(left / 2));
        // A thousandfold thousand of them would still be told apart.
        (whole / u32::try_from(count.max(1)).unwrap_or(u32::MAX)).min(CLOSE_STEP)
    }
}

impl Farewell {
    fn new(code: u16, reason: &str) -> Farewell {
        let reserved = matches!(code, 0..1000 | 1004..=1006 | 1015 | 5000..);
        assert!(!reserved, "{code} may not stand in a close frame (RFC 6455 §7.4)");
        Farewell { code, reason: reason.to_owned() }
    }
}

/// Who begins the closing of a WebSocket.
#[derive(Debug)]
pub(crate) struct Care {
    entry: Arc<Entry>,
    by_handler: AtomicBool,
    told: AtomicBool,
}

impl Care {
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP has WebSockets"))]
    pub(crate) fn new(entry: Arc<Entry>) -> Care {
        Care { entry, by_handler: AtomicBool::new(false), told: AtomicBool::new(false) }
    }

    pub(crate) fn by_handler(&self) {
        self.by_handler.store(true, Ordering::Relaxed);
    }

    /// Its client has been told to go; whether that was the first time.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP has WebSockets"))]
    pub(crate) fn tell(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP has WebSockets"))]
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP has WebSockets"))]
    pub(crate) fn is_by_handler(&self) -> bool {
        self.by_handler.load(Ordering::Relaxed)
    }
}

/// What a handler may say about its own WebSocket. It is in the extensions of each request that asks for one.
///
/// ```no_run
/// # mod play { pub async fn to_the_end(_: axum::extract::ws::WebSocket) {} }
/// use axum::Extension;
/// use axum::extract::ws::WebSocketUpgrade;
/// use axum::response::Response;
/// use lameduck::websocket::Handle;
///
/// async fn game(upgrade: WebSocketUpgrade, Extension(own): Extension<Handle>) -> Response {
///     own.label("match 17");
///     own.closes_itself();
///     upgrade.on_upgrade(play::to_the_end)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Handle(pub(crate) Arc<Care>);

impl Handle {
    /// Names it in status and reports, beside the request that began it: `websocket GET /match: match 17`.
    pub fn label(&self, label: &str) {
        self.0.entry.label(label);
    }

    /// The handler closes this WebSocket itself, when what is done over it is done. The library's close frame comes only
    /// [`LAST_CALL`] before the connection would be cut.
    ///
    /// [`Lifecycle::drain`](crate::Lifecycle::drain) tells the handler when to take nothing new.
    pub fn closes_itself(&self) {
        self.0.by_handler();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_window_of_the_spread_has_more_than_its_share() {
        let closes = CloseFrames::new();
        for (count, left) in [(1_000, None), (1_000, Some(Duration::from_secs(4))), (3, None)] {
            let step = closes.step(count, left);
            let whole = step * (count as u32);
            assert!(step <= CLOSE_STEP && whole <= closes.spread, "{step:?}");
            if let Some(left) = left {
                assert!(whole <= left / 2, "{whole:?}");
            }
            // Evenly: any window of 100 ms has the average of the whole and one more.
            let window = Duration::from_millis(100).as_secs_f64() / step.as_secs_f64();
            let average = count as f64 * 0.1 / whole.as_secs_f64().max(0.1);
            assert!(window.ceil() <= 2.0 * average || count < 10, "{window} {average}");
        }
    }

    #[test]
    #[should_panic(expected = "1006 may not stand in a close frame")]
    fn a_code_that_is_never_sent_is_refused() {
        let _ = CloseFrames::new().stop(1006, "");
    }
}
