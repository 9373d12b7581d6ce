//! Clients, and what they see of the end of their WebSocket.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ws::{Message as AxumMessage, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// How long anything a test waits for may take, on a loaded machine.
pub const BOUND: Duration = Duration::from_secs(30);

pub type Client = WebSocketStream<TcpStream>;

/// How a WebSocket ended for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With a close frame: code and reason.
    Closed(u16, String),
    /// With an end of file or a reset, and no word.
    Bare,
}

pub async fn connect(address: SocketAddr, path: &str) -> Client {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, _) = client_async(format!("ws://{address}{path}"), stream).await.unwrap();
    client
}

/// Says something and waits until it comes back.
pub async fn round_trip(client: &mut Client, text: &str) {
    client.send(Message::text(text)).await.unwrap();
    let back = tokio::time::timeout(BOUND, client.next()).await.unwrap();
    assert_eq!(back.unwrap().unwrap(), Message::text(text));
}

/// Reads to the end; the messages before it, how it ended and when.
pub async fn end(client: &mut Client) -> (Vec<Message>, End, Instant) {
    let mut messages = Vec::new();
    let mut end = (End::Bare, Instant::now());
    loop {
        match tokio::time::timeout(BOUND, client.next()).await.expect("the connection ends") {
            Some(Ok(Message::Close(Some(frame)))) => {
                let closed = End::Closed(frame.code.into(), frame.reason.to_string());
                end = (closed, Instant::now());
            }
            Some(Ok(message)) => messages.push(message),
            None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => break,
            Some(Err(_)) => {
                if end.0 == End::Bare {
                    end.1 = Instant::now();
                }
                break;
            }
        }
    }
    (messages, end.0, end.1)
}

/// Sends back what comes, and has never heard of a stop.
pub async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if let AxumMessage::Text(_) | AxumMessage::Binary(_) = message
            && socket.send(message).await.is_err()
        {
            return;
        }
    }
}

pub fn router() -> Router {
    Router::new()
        .route("/echo", get(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) }))
}
