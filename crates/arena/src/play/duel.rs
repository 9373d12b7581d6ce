//! Matches: who waits for an opponent moves with the version, and a match that has begun stays with it.
//!
//! The second player's socket is given to the first one's task, which plays the whole match with both.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lameduck::websocket::{Begun, Message, Received, SERVICE_RESTART, WebSocket, WebSockets};
use lameduck::{Asked, Drain, Error, Lifecycle};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::boxes::{Boxes, Player};

/// A close frame's code for "done".
const NORMAL: u16 = 1000;

/// What a player says.
#[derive(Deserialize)]
struct Move {
    line: usize,
}

/// What a player is told.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told<'a> {
    /// Nobody else is there yet.
    Waiting { generation: u32 },
    /// The match begins.
    Begins { r#match: u64, you: Player, generation: u32 },
    /// The board as it is.
    Board {
        lines: &'a [Option<Player>],
        owners: &'a [Option<Player>],
        turn: Player,
        score: [usize; 2],
    },
    /// A move that the rules do not allow.
    Refused { why: &'a str },
    /// The service stops, and the match may be played to its end until then.
    Stopping,
    /// The match is over.
    Over { winner: Player, score: [usize; 2], left: bool },
}

impl Told<'_> {
    fn message(&self) -> Message {
        Message::text(serde_json::to_string(self).expect("strings and numbers"))
    }
}

/// How long a player who waits for another goes on waiting here when a successor serves that does not ask for them.
const MOVES_WITHIN: Duration = Duration::from_secs(1);

/// A player who waits, by ticket, and where the second one's connection is sent.
type Waiting = (u64, oneshot::Sender<WebSocket>);

/// The table with one free seat, at most.
#[derive(Clone)]
struct Lobby {
    waiting: Arc<Mutex<Option<Waiting>>>,
    tickets: Arc<AtomicU64>,
    drain: Drain,
    generation: u32,
}

/// Where a player sits down.
enum Seat {
    /// Alone, until somebody comes.
    First(u64, oneshot::Receiver<WebSocket>),
    /// Opposite of one who waits.
    Second(oneshot::Sender<WebSocket>),
}

pub(super) fn serve(life: &Lifecycle) -> Result<WebSockets, Error> {
    let lobby = Lobby {
        waiting: Arc::default(),
        tickets: Arc::default(),
        drain: life.drain(),
        generation: life.generation(),
    };
    // A player who moves has no state: nothing was played yet.
    life.websockets("match").serve(move |socket, begun| lobby.clone().sit_down(socket, begun))
}

impl Lobby {
    fn seat(&self) -> Seat {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.take() {
            Some((_, first)) => Seat::Second(first),
            None => {
                let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
                let (sender, receiver) = oneshot::channel();
                *waiting = Some((ticket, sender));
                Seat::First(ticket, receiver)
            }
        }
    }

    /// Leaves the seat, unless somebody is sitting down opposite just now.
    fn stand_up(&self, ticket: u64) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = waiting.as_ref().is_some_and(|(waits, _)| *waits == ticket);
        if is_free {
            *waiting = None;
        }
        is_free
    }

    async fn sit_down(self, mut socket: WebSocket, _: Begun) {
        loop {
            match self.seat() {
                Seat::Second(first) => match first.send(socket) {
                    Ok(()) => return,
                    // The first one left in this moment.
                    Err(back) => socket = back,
                },
                Seat::First(ticket, opponent) => return self.wait(socket, ticket, opponent).await,
            }
        }
    }

    async fn wait(
        self,
        mut socket: WebSocket,
        ticket: u64,
        mut opponent: oneshot::Receiver<WebSocket>,
    ) {
        let waiting = Told::Waiting { generation: self.generation };
        if socket.send(waiting.message()).await.is_err() && self.stand_up(ticket) {
            return;
        }
        let lobby = self.clone();
        let mut stranded = std::pin::pin!(async move { lobby.stranded().await });
        loop {
            let leaves = tokio::select! {
                second = &mut opponent => {
                    let Ok(second) = second else { return };
                    return self.play([socket, second], ticket).await;
                }
                received = socket.recv() => match received {
                    Received::Message(_) => None,
                    Received::Move => Some(true),
                    Received::Closed => Some(false),
                },
                () = &mut stranded => Some(true),
            };
            match leaves {
                None => {}
                Some(_) if !self.stand_up(ticket) => {
                    let Ok(second) = (&mut opponent).await else { return };
                    return self.play([socket, second], ticket).await;
                }
                Some(true) => {
                    if let Err(stays) = socket.move_on(Vec::new()).await {
                        stays.close(SERVICE_RESTART, "a new version serves").await;
                    }
                    return;
                }
                Some(false) => return,
            }
        }
    }

    /// New players go to a successor, so nobody comes here any more; one that knows the game asks for this player by
    /// [`Received::Move`] before this ends.
    async fn stranded(&self) {
        loop {
            self.drain.asked_for(|asked| asked == Asked::HandedOver).await;
            tokio::time::sleep(MOVES_WITHIN).await;
            if self.drain.asked() == Asked::HandedOver {
                return;
            }
        }
    }

    /// Plays a match to its end, whatever becomes of the service meanwhile.
    async fn play(self, mut players: [WebSocket; 2], number: u64) {
        let generation = self.generation;
        for (you, player) in players.iter_mut().enumerate() {
            player.label(&format!("match {number}"));
            player.closes_itself();
            let begins = Told::Begins { r#match: number, you, generation };
            // Whoever is gone is met again when the board is shown.
            let _ = player.send(begins.message()).await;
        }
        let mut game = Boxes::new();
        let mut stopping = Box::pin(self.drain.asked_for(|asked| asked == Asked::Finish));
        let mut told = false;
        let mut left = show(&mut players, &game).await;
        while left.is_none() && !game.is_over() {
            let [first, second] = &mut players;
            let (player, received) = tokio::select! {
                received = first.recv() => (0, received),
                received = second.recv() => (1, received),
                _ = &mut stopping, if !told => {
                    told = true;
                    for player in &mut players {
                        let _ = player.send(Told::Stopping.message()).await;
                    }
                    continue;
                }
            };
            match received {
                Received::Message(message) => match draw(&mut game, player, &message) {
                    Ok(()) => left = show(&mut players, &game).await,
                    Err(why) => {
                        let refused = Told::Refused { why };
                        if players[player].send(refused.message()).await.is_err() {
                            left = Some(player);
                        }
                    }
                },
                // A match stays where it began.
                Received::Move => {}
                Received::Closed => left = Some(player),
            }
        }
        let score = game.score();
        let winner = left.map_or(usize::from(score[1] > score[0]), |left| 1 - left);
        let over = Told::Over { winner, score, left: left.is_some() }.message();
        for mut player in players {
            let _ = player.send(over.clone()).await;
            player.close(NORMAL, "the match is over").await;
        }
    }
}

fn draw(game: &mut Boxes, player: Player, message: &Message) -> Result<(), &'static str> {
    let text = message.to_text().map_err(|_| "write {\"line\":N}")?;
    let wanted: Move = serde_json::from_str(text).map_err(|_| "write {\"line\":N}")?;
    game.draw(player, wanted.line).map_err(super::boxes::Refusal::words)
}

/// Shows both the board; who is gone, if anybody is.
async fn show(players: &mut [WebSocket; 2], game: &Boxes) -> Option<Player> {
    let board = Told::Board {
        lines: game.lines(),
        owners: game.owners(),
        turn: game.turn(),
        score: game.score(),
    };
    let message = board.message();
    let mut gone = None;
    for (number, player) in players.iter_mut().enumerate() {
        if player.send(message.clone()).await.is_err() {
            gone = Some(number);
        }
    }
    gone
}
