//! Members of the room: each is a WebSocket that moves with its place in the conversation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lameduck::websocket::tungstenite::protocol::WebSocketConfig;
use lameduck::websocket::{Begun, Received, WebSocket, WebSockets};
use lameduck::{Error, Lifecycle};
use serde::{Deserialize, Serialize};

use super::room::Room;

/// Lines before it that a new member is shown.
const SHOWN_AT_FIRST: u64 = 20;
/// The longest thing that can be said, in bytes; what is beyond it is cut.
pub const TEXT_AT_MOST: usize = 500;
/// The longest message that is taken at all, in bytes: one whose fragments never end is not kept until it is whole.
const MESSAGE_AT_MOST: usize = 64 * 1024;
/// The longest name.
const NAME_AT_MOST: usize = 40;
/// A close frame's code for one who reads too slowly.
const TRY_AGAIN_LATER: u16 = 1013;

/// What moves with a member.
#[derive(Debug, Serialize, Deserialize)]
struct Member {
    name: String,
    /// The last line that was sent to it.
    seen: u64,
}

pub(super) fn serve(life: &Lifecycle) -> Result<WebSockets, Error> {
    let room = Room::start(life)?;
    let generation = life.generation();
    let guests = Arc::new(AtomicU64::new(1));
    let sizes = WebSocketConfig::default().max_message_size(Some(MESSAGE_AT_MOST));
    let sizes = sizes.max_frame_size(Some(MESSAGE_AT_MOST));
    life.websockets("chat").config(sizes).serve(move |socket, begun| {
        let (room, guests) = (Arc::clone(&room), Arc::clone(&guests));
        async move {
            let _present = room.enter();
            let (latest, _) = room.ready().await;
            let member = match begun {
                Begun::Moved { state, .. } => serde_json::from_slice(&state).ok(),
                Begun::Here(request) => {
                    let number = guests.fetch_add(1, Ordering::Relaxed);
                    let name = named(request.uri.query())
                        .unwrap_or_else(|| format!("guest {generation}.{number}"));
                    let seen = seen(request.uri.query(), latest, room.given_out());
                    Some(Member { name, seen: seen.max(room.before_all()) })
                }
            };
            if let Some(member) = member {
                member.take_part(&room, socket).await;
            }
        }
    })
}

/// The last number it has, in `after=…`, so that one who comes back misses nothing; who is new is shown a little.
fn seen(query: Option<&str>, latest: u64, given_out: u64) -> u64 {
    let value =
        query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("after=")));
    let after = value.and_then(|value| value.parse().ok());
    // Nobody is ahead of what was given out, unless the room began anew; of what is known here one may be, after a rollback.
    after.unwrap_or_else(|| latest.saturating_sub(SHOWN_AT_FIRST)).min(given_out)
}

/// The name in `name=…`, with `%20` and `+` for a space and nothing else that is encoded.
fn named(query: Option<&str>) -> Option<String> {
    let value = query?.split('&').find_map(|pair| pair.strip_prefix("name="))?;
    let name = cut(&value.replace("%20", " ").replace('+', " "), NAME_AT_MOST).trim().to_owned();
    (!name.is_empty()).then_some(name)
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Member {
    async fn take_part(mut self, room: &Room, mut socket: WebSocket) {
        socket.label(&self.name);
        let (_, mut news) = room.ready().await;
        // One who was in the room before its history begins sees it from there.
        self.seen = self.seen.max(room.before_all());
        loop {
            let Some(lines) = room.after(self.seen) else {
                return socket.close(TRY_AGAIN_LATER, "you read too slowly").await;
            };
            let any = !lines.is_empty();
            for line in lines {
                if socket.feed(lameduck::websocket::Message::Text(line)).await.is_err() {
                    return;
                }
                self.seen += 1;
            }
            if any && socket.flush().await.is_err() {
                return;
            }
            tokio::select! {
                received = socket.recv() => match received {
                    Received::Message(message) => {
                        if let Ok(text) = message.to_text() {
                            room.say(&self.name, cut(text, TEXT_AT_MOST));
                        }
                    }
                    Received::Move if !room.given().await => {}
                    Received::Move => {
                        let state = serde_json::to_vec(&self).expect("a name and a number");
                        match socket.move_on(state).await {
                            Ok(()) => return,
                            Err(stays) => socket = *stays,
                        }
                    }
                    Received::Closed => return,
                },
                _ = news.changed() => {}
            }
        }
    }
}
