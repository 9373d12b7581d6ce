//! Closes WebSockets: knows which are open, and tells their clients to go, spread over a while.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use crate::http::QUIET;
use crate::http::frames::close_frame;
use crate::http::websocket::Place;
use crate::http::wire::Wire;
use crate::lifecycle::Drain;
use crate::phase::Asked;
use crate::websocket::{AtUpgrade, CloseFrames, Farewell, LAST_CALL, MESSAGE_END};

/// The open WebSockets of one server.
pub(crate) struct WebSockets {
    table: Mutex<Table>,
    settings: CloseFrames,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Weak<Wire>>,
    /// What one is told that is opened from now on.
    told: Option<Farewell>,
}

/// Keeps a WebSocket in the table.
pub(crate) struct Entered {
    sockets: Arc<WebSockets>,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.sockets.lock().open.remove(&self.id);
    }
}

impl Entered {
    /// What a client is told whose handler drops its connection now without a word; `None` while the service goes on.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        self.sockets.lock().told.clone()
    }
}

/// Which WebSockets are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// Those whose handlers do not close them themselves.
    TheUnaware,
    Everyone,
}

impl WebSockets {
    pub(crate) fn new(settings: CloseFrames) -> Arc<WebSockets> {
        Arc::new(WebSockets { table: Mutex::default(), settings })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters one that is about to begin.
    pub(crate) fn enter(self: &Arc<Self>, wire: &Arc<Wire>) -> Entered {
        let (id, told) = {
            let mut table = self.lock();
            let id = table.next;
            table.next += 1;
            table.open.insert(id, Arc::downgrade(wire));
            (id, table.told.clone())
        };
        if let Some(farewell) = told {
            self.tell(Arc::downgrade(wire), &farewell, Whom::TheUnaware);
        }
        Entered { sockets: Arc::clone(self), id }
    }

    fn tell(&self, wire: Weak<Wire>, farewell: &Farewell, whom: Whom) {
        let frame = close_frame(farewell.code, &farewell.reason);
        drop(tokio::spawn(close(wire, frame, self.settings.answer, whom)));
    }

    /// Tells everyone who is there, one after the other.
    async fn tell_all(&self, farewell: &Farewell, whom: Whom, left: Option<Duration>) {
        let open: Vec<Weak<Wire>> = {
            let mut table = self.lock();
            table.told = Some(farewell.clone());
            table.open.values().cloned().collect()
        };
        let step = self.settings.step(open.len(), left);
        let began = tokio::time::Instant::now();
        for (number, wire) in open.into_iter().enumerate() {
            sleep_until(began + step * number as u32).await;
            self.tell(wire, farewell, whom);
        }
    }

    /// Sees all WebSockets off, when it is time.
    pub(crate) async fn see_off(self: Arc<Self>, drain: Drain) {
        loop {
            match drain.asked_for(|asked| asked >= Asked::HandedOver).await {
                Asked::Finish => return self.until_cut(&drain, &self.settings.stop, true).await,
                Asked::HandedOver | Asked::LameDuck | Asked::Serve => {
                    let tell = self.settings.at_upgrade == AtUpgrade::Close;
                    let until_cut = self.until_cut(&drain, &self.settings.upgrade, tell);
                    // The successor is lost and the service goes on, or this generation is told to stop.
                    let otherwise = drain.asked_for(|asked| asked != Asked::HandedOver);
                    match race(until_cut, otherwise).await {
                        Race::First(()) => return,
                        Race::Second(_) => self.lock().told = None,
                    }
                }
            }
        }
    }

    /// Tells those who do not care for themselves, if anybody is to be told yet, and everyone shortly before the cut.
    async fn until_cut(&self, drain: &Drain, farewell: &Farewell, tell: bool) {
        let tell_first = async {
            if tell {
                self.tell_all(farewell, Whom::TheUnaware, time_left(drain)).await;
            }
            std::future::pending().await
        };
        let _: Race<(), ()> = race(drain.nearly_cut(LAST_CALL), tell_first).await;
        self.tell_all(farewell, Whom::Everyone, time_left(drain)).await;
    }
}

/// Which of two came first.
pub(super) enum Race<A, B> {
    First(A),
    Second(B),
}

/// Waits for one of two; the first one if both have come.
pub(super) async fn race<A, B>(
    one: impl Future<Output = A>,
    other: impl Future<Output = B>,
) -> Race<A, B> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(one) => Poll::Ready(Race::First(one)),
        Poll::Pending => other.as_mut().poll(cx).map(Race::Second),
    })
    .await
}

fn time_left(drain: &Drain) -> Option<Duration> {
    drain.cut_at().map(|at| at.saturating_duration_since(Instant::now()))
}

/// Closes one: our frame, the client's answer, an end for the handler. Holds the connection at no time, so that it ends
/// when its handler lets it go.
async fn close(wire: Weak<Wire>, frame: Vec<u8>, answer: Duration, whom: Whom) {
    let by_handler = wire.upgrade().is_none_or(|wire| wire.is_closed_by_handler());
    if by_handler && whom == Whom::TheUnaware {
        return;
    }
    let send = |place| {
        let (wire, frame) = (&wire, &frame);
        poll_fn(move |cx| match wire.upgrade() {
            Some(wire) => wire.poll_close_websocket(cx, frame, place),
            None => Poll::Ready(Err(std::io::ErrorKind::NotConnected.into())),
        })
    };
    let sent = match timeout(MESSAGE_END, send(Place::BetweenMessages)).await {
        Ok(sent) => Ok(sent),
        Err(_) => timeout(answer, send(Place::BetweenFrames)).await,
    };
    // Gone, or in the middle of a frame that the client does not read: it has until the deadline.
    let Ok(Ok(())) = sent else { return };
    let answered = poll_fn(|cx| match wire.upgrade() {
        Some(wire) => wire.poll_client_closed(cx),
        None => Poll::Ready(()),
    });
    if timeout(answer, answered).await.is_err()
        && let Some(wire) = wire.upgrade()
    {
        wire.end_reading();
        let _ = poll_fn(|cx| wire.poll_half_close(cx)).await;
    }
}

/// The end of a WebSocket whose handler let it go while the service ends: the client hears the reason, and no reset
/// erases it.
pub(crate) async fn part(wire: Arc<Wire>) {
    if let Some(farewell) = wire.farewell() {
        let frame = close_frame(farewell.code, &farewell.reason);
        let send = poll_fn(|cx| wire.poll_close_websocket(cx, &frame, Place::BetweenFrames));
        let _ = timeout(QUIET, send).await;
    }
    wire.close(QUIET).await;
}
