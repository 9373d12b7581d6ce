//! What lasts longer than a request: a game for two, which ends on the version it began on, and a chat room, which moves.
//!
//! | request | answer |
//! |---|---|
//! | `GET /match` | a WebSocket: one side of a game of dots and boxes ([`boxes`]) |
//! | `GET /chat?name=NAME&after=SEQ` | a WebSocket: a member of the room ([`room`]), who has seen it up to SEQ |
//! | `GET /game`, `GET /room` | a page for each |

pub mod boxes;
mod chat;
mod duel;
pub mod room;

use axum::Router;
use axum::extract::Request;
use axum::response::{Html, Response};
use axum::routing::get;
use lameduck::{Error, Lifecycle};

/// The routes, and the tasks behind them.
pub(crate) fn router(life: &Lifecycle) -> Result<Router, Error> {
    let games = duel::serve(life)?;
    let chat = chat::serve(life)?;
    Ok(Router::new()
        .route(
            "/match",
            get(move |request: Request| async move { games.accept(request) as Response }),
        )
        .route(
            "/chat",
            get(move |request: Request| async move { chat.accept(request) as Response }),
        )
        .route("/game", get(async || Html(include_str!("game.html"))))
        .route("/room", get(async || Html(include_str!("room.html")))))
}
