//! Closes WebSockets: knows which are open, and tells their clients to go, spread over a while.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until, timeout};

use crate::handover::Moving;
use crate::http::QUIET;
use crate::http::frames::close_frame;
use crate::http::websocket::Place;
use crate::http::wire::Wire;
use crate::lifecycle::Drain;
use crate::log::Log;
use crate::phase::Asked;
use crate::websocket::{AtUpgrade, CloseFrames, Farewell, LAST_CALL, MESSAGE_END};

/// The open WebSockets of one server, or of one kind that moves.
pub(crate) struct WebSockets {
    table: Mutex<Table>,
    settings: CloseFrames,
    moving: Option<Kind>,
    log: Arc<Log>,
}

/// A kind of WebSocket that a successor may go on with.
pub(crate) struct Kind {
    pub(crate) moving: Moving,
    pub(crate) name: String,
    pub(crate) version: u32,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Weak<Wire>>,
    /// What one is told that is opened from now on.
    told: Option<(Occasion, Whom)>,
}

/// Why WebSockets are told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Stop,
    Upgrade,
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
        let told = self.sockets.lock().told;
        told.map(|(occasion, _)| self.sockets.farewell(occasion).clone())
    }
}

/// Which WebSockets are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whom {
    /// Those whose handlers do not close them themselves, and that cannot move.
    TheImmovable,
    /// Those whose handlers do not close them themselves.
    TheUnaware,
    Everyone,
}

impl Whom {
    fn includes(self, wire: &Wire) -> bool {
        match self {
            Whom::TheImmovable => !wire.can_move() && !wire.is_closed_by_handler(),
            Whom::TheUnaware => !wire.is_closed_by_handler(),
            Whom::Everyone => true,
        }
    }
}

impl WebSockets {
    pub(crate) fn new(
        settings: CloseFrames,
        moving: Option<Kind>,
        log: Arc<Log>,
    ) -> Arc<WebSockets> {
        Arc::new(WebSockets { table: Mutex::default(), settings, moving, log })
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
            (id, table.told)
        };
        if let Some((occasion, whom)) = told {
            self.tell(Arc::downgrade(wire), occasion, whom.min(Whom::TheUnaware));
        }
        Entered { sockets: Arc::clone(self), id }
    }

    fn farewell(&self, occasion: Occasion) -> &Farewell {
        match occasion {
            Occasion::Stop => &self.settings.stop,
            Occasion::Upgrade => &self.settings.upgrade,
        }
    }

    fn tell(&self, wire: Weak<Wire>, occasion: Occasion, whom: Whom) {
        let farewell = self.farewell(occasion);
        let closing = Closing {
            frame: close_frame(farewell.code, &farewell.reason),
            answer: self.settings.answer,
            occasion,
            whom,
        };
        drop(tokio::spawn(closing.close(wire)));
    }

    /// Tells everyone who is there and was not told before, one after the other.
    async fn tell_all(&self, occasion: Occasion, whom: Whom, left: Option<Duration>) {
        let open: Vec<Weak<Wire>> = {
            let mut table = self.lock();
            table.told = Some((occasion, whom));
            let included = |wire: &&Weak<Wire>| {
                wire.upgrade().is_some_and(|wire| whom.includes(&wire) && !wire.is_told())
            };
            table.open.values().filter(included).cloned().collect()
        };
        self.say(open.len(), occasion);
        let step = self.settings.step(open.len(), left);
        let began = tokio::time::Instant::now();
        for (number, wire) in open.into_iter().enumerate() {
            sleep_until(began + step * number as u32).await;
            self.tell(wire, occasion, whom);
        }
    }

    /// Sees all WebSockets off, when it is time.
    pub(crate) async fn see_off(self: Arc<Self>, drain: Drain) {
        loop {
            match drain.asked_for(|asked| asked >= Asked::HandedOver).await {
                Asked::Finish => {
                    let (stop, left) = (Occasion::Stop, time_left(&drain));
                    let first = self.tell_all(stop, Whom::TheUnaware, left);
                    return self.until_cut(&drain, stop, first).await;
                }
                Asked::HandedOver | Asked::LameDuck | Asked::Serve => {
                    let until_cut = self.at_upgrade(&drain);
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

    /// Tells those who are to go when a successor has taken over. Of a kind that it goes on with, these are the ones that
    /// cannot move, and the others only where all are to go and they have not moved within the time of the spread.
    async fn at_upgrade(&self, drain: &Drain) {
        let upgrade = Occasion::Upgrade;
        let first = async {
            let moves = match &self.moving {
                Some(kind) => kind.moving.with_successor(&kind.name, kind.version).await,
                None => false,
            };
            if moves {
                self.tell_all(upgrade, Whom::TheImmovable, time_left(drain)).await;
            }
            if self.settings.at_upgrade == AtUpgrade::Close {
                if moves {
                    sleep(self.settings.spread).await;
                }
                self.tell_all(upgrade, Whom::TheUnaware, time_left(drain)).await;
            }
        };
        self.until_cut(drain, upgrade, first).await;
    }

    /// Tells some `first`, and everyone shortly before the cut.
    async fn until_cut(&self, drain: &Drain, occasion: Occasion, first: impl Future<Output = ()>) {
        let first = async {
            first.await;
            std::future::pending().await
        };
        let _: Race<(), ()> = race(drain.nearly_cut(LAST_CALL), first).await;
        self.tell_all(occasion, Whom::Everyone, time_left(drain)).await;
    }

    /// A line for the operator, of those that an upgrade sends away.
    fn say(&self, count: usize, occasion: Occasion) {
        if count > 0 && occasion == Occasion::Upgrade {
            let code = self.settings.upgrade.code;
            let words = format!("WebSockets that do not move are told to go ({code}): {count}");
            self.log.line("websockets-told", &words);
        }
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

/// How one WebSocket is told to go.
struct Closing {
    frame: Vec<u8>,
    answer: Duration,
    occasion: Occasion,
    whom: Whom,
}

impl Closing {
    /// Closes one: our frame, the client's answer, an end for the handler. Holds the connection at no time, so that it ends
    /// when its handler lets it go.
    async fn close(self, wire: Weak<Wire>) {
        if !wire.upgrade().is_some_and(|wire| self.whom.includes(&wire)) {
            return;
        }
        let send = |place| {
            let (wire, frame) = (&wire, &self.frame);
            poll_fn(move |cx| match wire.upgrade() {
                Some(wire) => wire.poll_close_websocket(cx, frame, place),
                None => Poll::Ready(Err(std::io::ErrorKind::NotConnected.into())),
            })
        };
        let sent = match timeout(MESSAGE_END, send(Place::BetweenMessages)).await {
            Ok(sent) => Ok(sent),
            Err(_) => timeout(self.answer, send(Place::BetweenFrames)).await,
        };
        // Gone, or in the middle of a frame that the client does not read: it has until the deadline.
        let Ok(Ok(())) = sent else { return };
        if let Some(wire) = wire.upgrade()
            && wire.tell()
            && self.occasion == Occasion::Upgrade
        {
            wire.entry().counters().websocket_told();
        }
        let answered = poll_fn(|cx| match wire.upgrade() {
            Some(wire) => wire.poll_client_closed(cx),
            None => Poll::Ready(()),
        });
        if timeout(self.answer, answered).await.is_err()
            && let Some(wire) = wire.upgrade()
        {
            wire.end_reading();
            let _ = poll_fn(|cx| wire.poll_half_close(cx)).await;
        }
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
