//! The chat room: one order of everything said, however many generations its members are on.
//!
//! One generation is the room's home and gives out the numbers. At an upgrade the home moves to the successor over a
//! [link](lameduck::Lifecycle::link), with the history; the old generation is a relay from then on: what its members still
//! say goes up the link to be numbered, and what was numbered comes down to be shown. So whoever moves later, or never,
//! misses nothing.
//!
//! Invariants:
//!
//! 1. Each number is given to one line, by the home of that moment, and there is one home at most: the old one ceases
//!    before its link is opened, the new one begins when it arrives. Only while a version that gives the service back lets
//!    its members go are there two, which take their numbers from the same memory.
//! 2. A generation has the lines of its history in the order of their numbers, without a gap.
//! 3. A number whose line died with the generation that gave it out is told as lost, so that nobody takes the gap for his own.
//! 4. A relay's process does not end before what its members said has gone up the link.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lameduck::shared::Cells;
use lameduck::states::Origin;
use lameduck::websocket::tungstenite::Utf8Bytes;
use lameduck::{Asked, Drain, Error, Lifecycle};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// The kind of the link, and the version of what goes over it.
const LINK: &str = "room";
const VERSION: u32 = 1;
/// Lines that a member may be behind; one that is further behind is closed.
pub const HISTORY: usize = 4096;
/// How long a successor waits for the room before it begins one of its own, counted on from the last number.
pub const ROOM_ARRIVES: Duration = Duration::from_secs(5);

/// One line as members get it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Line {
    /// Its number: each is one more than the one before.
    pub seq: u64,
    /// Who said it.
    pub from: String,
    /// What was said.
    pub text: String,
}

/// In the place of a line that died with the generation that numbered it.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
struct Lost {
    seq: u64,
    lost: bool,
}

fn lost(seq: u64) -> Utf8Bytes {
    serde_json::to_string(&Lost { seq, lost: true }).expect("a number").into()
}

/// What every line has.
#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// Something said, without a number yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Said {
    from: String,
    text: String,
}

enum Role {
    /// A successor that has not been given the room yet.
    Awaiting,
    /// Gives out the numbers.
    Home,
    /// The successor does.
    Relay(mpsc::UnboundedSender<Said>),
}

struct Inner {
    role: Role,
    /// As sent to members, in order; the last one has the number `latest`.
    history: VecDeque<Utf8Bytes>,
    latest: u64,
    /// Said when there was nobody to number it; a line of somebody who came when all others had left.
    unsaid: Vec<Said>,
}

impl Inner {
    /// The numbers up to this one that did not come here are told as lost.
    fn lose_up_to(&mut self, seq: u64) {
        let oldest = seq.saturating_sub(HISTORY as u64);
        if oldest > self.latest {
            self.latest = oldest;
            self.history.clear();
        }
        while self.latest < seq {
            self.push(lost(self.latest + 1));
        }
    }

    /// The text of the next number.
    fn push(&mut self, text: Utf8Bytes) {
        self.history.push_back(text);
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        self.latest += 1;
    }
}

/// One generation's part of the room.
pub struct Room {
    inner: Mutex<Inner>,
    /// The last number, whenever it grows; `None` before this generation has the room.
    latest: watch::Sender<Option<u64>>,
    /// Members and links that may still say something.
    present: watch::Sender<usize>,
    /// Whether the room was given to the successor that there is, or that was tried.
    given: watch::Sender<bool>,
    /// The last number given out by any generation.
    home: Cells,
}

/// Somebody who may say something.
pub(super) struct Present(Arc<Room>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.present.send_modify(|present| *present -= 1);
    }
}

impl Room {
    pub(super) fn start(life: &Lifecycle) -> Result<Arc<Room>, Error> {
        let (home, origin) = life.cells(LINK, VERSION, 1)?;
        let room = Arc::new(Room {
            inner: Mutex::new(Inner {
                role: Role::Awaiting,
                history: VecDeque::new(),
                latest: home.get(0).load(Ordering::SeqCst),
                unsaid: Vec::new(),
            }),
            latest: watch::Sender::new(None),
            present: watch::Sender::new(0),
            given: watch::Sender::new(false),
            home,
        });
        let arrives = Arc::clone(&room);
        life.links(LINK, VERSION..=VERSION, move |_, _, stream| {
            drop(tokio::spawn(Arc::clone(&arrives).predecessor(stream)));
        })?;
        let (kept, lives) = (Arc::clone(&room), life.clone());
        if origin == Origin::Fresh {
            room.becomes_home();
        }
        let drain = life.drain();
        drop(tokio::spawn(async move { kept.keep(lives, drain).await }));
        Ok(room)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(self: &Arc<Room>) -> Present {
        self.present.send_modify(|present| *present += 1);
        Present(Arc::clone(self))
    }

    /// Waits until this generation has the room; the last number then, and news of each later one.
    pub(super) async fn ready(&self) -> (u64, watch::Receiver<Option<u64>>) {
        let mut news = self.latest.subscribe();
        let latest = news.wait_for(Option::is_some).await.map_or(0, |latest| latest.unwrap_or(0));
        (latest, news)
    }

    /// Waits until the room has been given to the successor, which a member must not overtake: it holds this process until
    /// then. False when that does not happen within [`ROOM_ARRIVES`].
    pub(super) async fn given(&self) -> bool {
        let mut given = self.given.subscribe();
        timeout(ROOM_ARRIVES, given.wait_for(|given| *given)).await.is_ok()
    }

    /// What was said after `seq`; `None` when that is further back than the history.
    pub(super) fn after(&self, seq: u64) -> Option<Vec<Utf8Bytes>> {
        let inner = self.lock();
        let behind = usize::try_from(inner.latest.saturating_sub(seq)).ok()?;
        let from = inner.history.len().checked_sub(behind)?;
        Some(inner.history.iter().skip(from).cloned().collect())
    }

    /// The number before the first that is still known.
    pub(super) fn before_all(&self) -> u64 {
        let inner = self.lock();
        inner.latest - inner.history.len() as u64
    }

    /// The last number that any generation gave out.
    pub(super) fn given_out(&self) -> u64 {
        self.home.get(0).load(Ordering::SeqCst)
    }

    /// Says something.
    pub(super) fn say(&self, from: &str, text: &str) {
        self.said(Said { from: from.to_owned(), text: text.to_owned() });
    }

    fn said(&self, said: Said) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Role::Relay(up) = &inner.role {
            // The relay has ended, and whoever is home then has not been found out yet.
            if let Err(unsaid) = up.send(said) {
                inner.unsaid.push(unsaid.0);
            }
            return;
        }
        // From the memory that all generations share: after a rollback the version that leaves may still have members.
        let seq = self.home.get(0).fetch_add(1, Ordering::SeqCst) + 1;
        let line = Line { seq, from: said.from, text: said.text };
        let text = serde_json::to_string(&line).expect("strings and a number");
        inner.lose_up_to(seq - 1);
        self.append(inner, seq, text.into());
    }

    fn append(&self, inner: &mut Inner, seq: u64, text: Utf8Bytes) {
        if seq <= inner.latest {
            return;
        }
        inner.push(text);
        self.home.get(0).fetch_max(seq, Ordering::SeqCst);
        self.latest.send_replace(Some(seq));
    }

    fn becomes_home(&self) {
        let mut inner = self.lock();
        inner.role = Role::Home;
        // A generation that was lost may have given out numbers that never came here.
        let given_out = self.home.get(0).load(Ordering::SeqCst);
        inner.lose_up_to(given_out);
        self.latest.send_replace(Some(inner.latest));
    }

    /// Gives the room to each successor, until there is one that keeps it.
    async fn keep(self: Arc<Room>, life: Lifecycle, drain: Drain) {
        let stops = |asked| asked == Asked::Finish;
        if self.latest.borrow().is_none() {
            life.readiness().ready().await;
            tokio::select! {
                _ = timeout(ROOM_ARRIVES, self.ready()) => {}
                // Members who wait for the room read nothing, and would hold the stop up.
                _ = drain.asked_for(stops) => {}
            }
            if self.latest.borrow().is_none() {
                self.becomes_home();
            }
        }
        loop {
            tokio::select! {
                biased;
                _ = drain.asked_for(stops) => return,
                // Known before the hand-over is, so that the room goes first.
                () = life.successor_reads(LINK, VERSION) => {}
                // One that does not know the room: the members here keep it to themselves.
                () = self.nobody_is_left(&drain) => match comes_back(&drain).await {
                    true => continue,
                    false => return,
                },
            }
            // Looked at from before the room goes, so that it is not missed.
            let mut comes_back = std::pin::pin!(comes_back(&drain));
            let (up, said) = mpsc::unbounded_channel();
            let before = {
                let mut inner = self.lock();
                inner.role = Role::Relay(up);
                (inner.history.iter().cloned().collect::<Vec<_>>(), inner.latest)
            };
            let lost = match life.link(LINK, VERSION, Vec::new()) {
                Ok(stream) => {
                    let (tell, over) = oneshot::channel();
                    let relay = Arc::clone(&self);
                    // It holds the process from before the first member leaves it.
                    life.task("chat room", move |drain| async move {
                        let _ = tell.send(relay.relay(stream, said, before, &drain).await);
                    });
                    self.given.send_replace(true);
                    let mut over = std::pin::pin!(over);
                    let mut back = None;
                    let over = loop {
                        tokio::select! {
                            biased;
                            over = &mut over => break over,
                            is_back = &mut comes_back, if back.is_none() => back = Some(is_back),
                        }
                    };
                    match over {
                        Ok(Err(said)) => Some(said),
                        // All have gone over, or (unsent) the process ends by force. Nobody says anything here any more.
                        Ok(Ok(())) | Err(_) => {
                            let is_back = match back {
                                Some(is_back) => is_back,
                                None => comes_back.await,
                            };
                            if !is_back {
                                return;
                            }
                            None
                        }
                    }
                }
                Err(_) => Some(said),
            };
            // The successor is lost, with whatever it said that did not come here.
            self.becomes_home();
            self.given.send_replace(false);
            if let Some(mut said) = lost {
                said.close();
                while let Ok(said) = said.try_recv() {
                    self.said(said);
                }
            }
            let unsaid = std::mem::take(&mut self.lock().unsaid);
            unsaid.into_iter().for_each(|said| self.said(said));
            // The way is closed when its end has been noticed.
            tokio::task::yield_now().await;
        }
    }

    async fn nobody_is_left(&self, drain: &Drain) {
        drain.asked_for(|asked| asked == Asked::HandedOver).await;
        // Whoever moves leaves, and comes in again over there.
        is_empty(&mut self.present.subscribe()).await;
    }

    /// Gives the room to the successor, and passes on what is said here until nobody is left. An error is the loss of the
    /// successor, with what was not passed on.
    async fn relay(
        &self,
        stream: UnixStream,
        mut said: mpsc::UnboundedReceiver<Said>,
        (history, latest): (Vec<Utf8Bytes>, u64),
        drain: &Drain,
    ) -> Result<(), mpsc::UnboundedReceiver<Said>> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut head = format!("{latest} {}\n", history.len());
        for line in history {
            head.push_str(&line);
            head.push('\n');
        }
        if write.write_all(head.as_bytes()).await.is_err() {
            return Err(said);
        }
        let mut present = self.present.subscribe();
        loop {
            tokio::select! {
                biased;
                next = said.recv() => {
                    let Some(next) = next else { return Ok(()) };
                    let mut line = serde_json::to_string(&next).expect("strings");
                    line.push('\n');
                    if write.write_all(line.as_bytes()).await.is_err() {
                        return Err(said);
                    }
                }
                line = lines.next_line() => match line {
                    Ok(Some(line)) => self.numbered(&line),
                    Ok(None) | Err(_) => return Err(said),
                },
                // Everything said was passed on: that branch comes first.
                () = is_empty(&mut present) => break,
                _ = drain.asked_for(|asked| asked == Asked::Finish) => break,
            }
        }
        let _ = write.shutdown().await;
        while let Ok(Some(line)) = lines.next_line().await {
            self.numbered(&line);
        }
        Ok(())
    }

    fn numbered(&self, line: &str) {
        // Kept as it came: a line, or a number whose line is lost.
        if let Ok(Numbered { seq }) = serde_json::from_str(line) {
            self.append(&mut self.lock(), seq, line.into());
        }
    }

    /// A predecessor gives the room, and goes on as a relay.
    async fn predecessor(self: Arc<Room>, stream: UnixStream) {
        let _present = self.enter();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let Some(mut shown) = self.take_room(&mut lines).await else { return };
        let mut news = self.latest.subscribe();
        loop {
            // One that is too far behind is told each number that it cannot be told any more.
            let known = self.before_all().max(shown);
            let missed = (shown + 1..=known).map(lost);
            for line in missed.chain(self.after(known).unwrap_or_default()) {
                shown += 1;
                if write.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => {
                        if let Ok(said) = serde_json::from_str(&line) {
                            self.said(said);
                        }
                    }
                    Ok(None) | Err(_) => return,
                },
                _ = news.changed() => {}
            }
        }
    }

    async fn take_room(
        &self,
        lines: &mut tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    ) -> Option<u64> {
        let head = lines.next_line().await.ok()??;
        let (latest, count) = head.split_once(' ')?;
        let (latest, count): (u64, usize) = (latest.parse().ok()?, count.parse().ok()?);
        let mut history = VecDeque::new();
        for _ in 0..count.min(HISTORY) {
            history.push_back(lines.next_line().await.ok()??.into());
        }
        let mut inner = self.lock();
        match inner.role {
            Role::Awaiting => {
                inner.history = history;
                inner.latest = latest;
                inner.role = Role::Home;
                self.latest.send_replace(Some(latest));
                Some(latest)
            }
            // It came too late: who is left over there goes on in the room of here.
            Role::Home => Some(inner.latest),
            // Our own link, which could not be sent.
            Role::Relay(_) => None,
        }
    }
}

/// Waits until the service has been given to a successor and comes back; false when this process stops instead.
async fn comes_back(drain: &Drain) -> bool {
    let went = drain.asked_for(|asked| asked >= Asked::HandedOver).await;
    went == Asked::HandedOver
        && matches!(
            drain.asked_for(|asked| asked != Asked::HandedOver).await,
            Asked::Serve | Asked::LameDuck
        )
}

/// Waits until nobody may say anything more.
async fn is_empty(present: &mut watch::Receiver<usize>) {
    // An error is the end of the room.
    let _ = present.wait_for(|present| *present == 0).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(room: &Room, after: u64) -> Vec<String> {
        room.after(after).unwrap().iter().map(ToString::to_string).collect()
    }

    /// A successor that had the room died with lines that never came back here.
    #[tokio::test]
    async fn numbers_that_died_with_their_generation_are_told_as_lost_and_nobody_is_out_of_sight() {
        let life = Lifecycle::builder().without_signals().start().unwrap();
        let room = Room::start(&life).unwrap();
        room.say("ann", "one");
        room.home.get(0).fetch_max(3, Ordering::SeqCst);
        room.becomes_home();
        room.say("ann", "four");
        let one = r#"{"seq":1,"from":"ann","text":"one"}"#;
        let four = r#"{"seq":4,"from":"ann","text":"four"}"#;
        let all = [one, r#"{"seq":2,"lost":true}"#, r#"{"seq":3,"lost":true}"#, four];
        assert_eq!(shown(&room, 0), all);
        assert_eq!(shown(&room, 3), [four]);
        // More than the room remembers: who was there sees it from where it begins.
        let many = 10 * HISTORY as u64;
        room.home.get(0).fetch_max(many, Ordering::SeqCst);
        room.becomes_home();
        assert_eq!(room.after(4), None);
        assert_eq!((room.before_all(), shown(&room, many).len()), (many - HISTORY as u64, 0));
        life.stop();
        let _ = life.ended().await;
    }
}
