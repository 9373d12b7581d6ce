//! WebSockets that move: a handler that opts in hands its state and its socket to the successor, and its client keeps its
//! connection through the upgrade.
//!
//! # Invariants
//!
//! 1. A WebSocket moves between two messages, in both directions: what the handler has sent is written, and what it has not
//!    received travels unread.
//! 2. What cannot move stays with its handler, which is told so and goes on.

use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version, request};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::connection::Stream;
use crate::error::Error;
use crate::handover::{Moved, Moving};
use crate::http::farewell::{self, WebSockets as Table};
use crate::http::wire::{Io, Wire};
use crate::lifecycle::Lifecycle;
use crate::panics::CatchPanic;
use crate::takeover::wire::{MAX_ADDRESS, MAX_SESSION, Session};
use crate::text::cut;
use crate::websocket::Care;
use crate::work::Registry;

pub use tokio_tungstenite::tungstenite::{self, Message};

/// How long what a handler has sent may take to be written before its WebSocket moves; a client that reads more slowly
/// keeps it where it is.
pub const MOVE_FLUSH: Duration = Duration::from_secs(1);

/// How often a WebSocket is let go of by those who look at it for a moment, before it is said to stay.
const LET_GO_ROUNDS: usize = 1_000;

/// The state that moves with one WebSocket at most, in bytes.
pub const STATE_AT_MOST: usize = MAX_SESSION;

/// How a handler came by its WebSocket.
#[derive(Debug)]
pub enum Begun {
    /// A client asked for it here, with this request.
    Here(Box<request::Parts>),
    /// A predecessor sent it, with the state that its handler gave it.
    Moved {
        /// The version of the state.
        version: u32,
        /// The state.
        state: Vec<u8>,
    },
}

/// What [`WebSocket::recv`] comes back with.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// A message, text or binary.
    Message(Message),
    /// A successor goes on with WebSockets of this kind: [move it](WebSocket::move_on), or go on here.
    ///
    /// Never said of one behind TLS, which cannot move.
    Move,
    /// The client has closed, or is gone. Nothing more comes.
    Closed,
}

type Handled = Pin<Box<dyn Future<Output = ()> + Send>>;
type Handler = Arc<dyn Fn(WebSocket, Begun) -> Handled + Send + Sync>;

/// WebSockets of one kind, in the making; [`Lifecycle::websockets`] begins it.
#[must_use = "nothing is served before `serve`"]
pub struct Builder {
    life: Lifecycle,
    kind: String,
    version: u32,
    reads: RangeInclusive<u32>,
    config: WebSocketConfig,
}

impl Builder {
    /// The version of the state that handlers of this program write. Default 1.
    ///
    /// A WebSocket moves only to a successor that [reads](Builder::reads) this version.
    pub fn version(mut self, version: u32) -> Builder {
        self.version = version;
        self
    }

    /// The versions of the state that handlers of this program can read. Default 1 alone.
    pub fn reads(mut self, versions: RangeInclusive<u32>) -> Builder {
        self.reads = versions;
        self
    }

    /// Sizes of messages, frames and buffers; tungstenite's own by default.
    pub fn config(mut self, config: WebSocketConfig) -> Builder {
        self.config = config;
        self
    }

    /// Serves them with `handler`: those that begin here and those that a predecessor sends.
    ///
    /// Call it before [`Lifecycle::ready`]: a predecessor is told there what this program goes on with.
    ///
    /// # Errors
    ///
    /// When the kind is taken, has no name or too long a one, or when there are too many kinds.
    pub fn serve<F, Fut>(self, handler: F) -> Result<WebSockets, Error>
    where
        F: Fn(WebSocket, Begun) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let shared = &self.life.shared;
        let moves = farewell::Kind {
            moving: shared.handover.moving(),
            name: self.kind.clone(),
            version: self.version,
        };
        let closes = shared.settings.close_frames.clone();
        let table = Table::new(closes, Some(moves), self.life.log());
        drop(shared.runtime.spawn(Arc::clone(&table).see_off(self.life.drain())));
        let kind = Arc::new(Kind {
            name: self.kind,
            version: self.version,
            config: self.config,
            handler: Arc::new(move |socket, begun| Box::pin(handler(socket, begun))),
            moving: shared.handover.moving(),
            registry: Arc::clone(&shared.registry),
            table,
            runtime: shared.runtime.clone(),
        });
        let arrives = Arc::clone(&kind);
        shared.handover.goes_on_with(
            &kind.name,
            self.reads,
            Arc::new(move |stream, unread, session| arrives.arrived(stream, unread, session)),
        )?;
        Ok(WebSockets(kind))
    }
}

struct Kind {
    name: String,
    version: u32,
    config: WebSocketConfig,
    handler: Handler,
    moving: Moving,
    registry: Arc<Registry>,
    table: Arc<Table>,
    runtime: tokio::runtime::Handle,
}

/// WebSockets of one kind, made by [`Builder::serve`]: accepts them from requests. Cheap to clone.
#[derive(Clone)]
pub struct WebSockets(Arc<Kind>);

impl Lifecycle {
    /// Begins a kind of WebSockets that can move to a successor; see [`Builder`] and [`WebSocket`].
    ///
    /// ```no_run
    /// use axum::extract::Request;
    /// use axum::response::Response;
    /// use axum::{Router, routing::get};
    /// use lameduck::websocket::{Begun, Received, WebSocket};
    ///
    /// /// Numbers what its client says, through any number of upgrades.
    /// async fn count(mut socket: WebSocket, begun: Begun) {
    ///     let mut number = match begun {
    ///         Begun::Here(_) => 0,
    ///         Begun::Moved { state, .. } => u64::from_le_bytes(state.try_into().unwrap_or_default()),
    ///     };
    ///     loop {
    ///         match socket.recv().await {
    ///             Received::Message(_) => {
    ///                 number += 1;
    ///                 if socket.send(number.to_string()).await.is_err() {
    ///                     return;
    ///                 }
    ///             }
    ///             Received::Move => match socket.move_on(number.to_le_bytes().to_vec()).await {
    ///                 Ok(()) => return,
    ///                 Err(stays) => socket = *stays,
    ///             },
    ///             Received::Closed => return,
    ///         }
    ///     }
    /// }
    ///
    /// # fn example(life: &lameduck::Lifecycle) -> Result<Router, lameduck::Error> {
    /// let counting = life.websockets("count").serve(count)?;
    /// let app = Router::new().route(
    ///     "/count",
    ///     get(move |request: Request| async move { counting.accept(request) as Response }),
    /// );
    /// # Ok(app) }
    /// ```
    pub fn websockets(&self, kind: &str) -> Builder {
        Builder {
            life: self.clone(),
            kind: kind.to_owned(),
            version: 1,
            reads: 1..=1,
            config: WebSocketConfig::default(),
        }
    }
}

/// What is wrong with a request for a WebSocket (RFC 6455 §4.2).
fn check<B>(request: &Request<B>) -> Result<HeaderValue, StatusCode> {
    let is = |name, word: &str| {
        let values = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
        values.flat_map(|v| v.split(',')).any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    let asks = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && is(CONNECTION, "upgrade")
        && is(UPGRADE, "websocket");
    if !asks || !is(SEC_WEBSOCKET_VERSION, "13") {
        return Err(StatusCode::UPGRADE_REQUIRED);
    }
    let key = request.headers().get(SEC_WEBSOCKET_KEY).ok_or(StatusCode::BAD_REQUEST)?;
    // Base64 of base 64 characters and digits: always a header's value.
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| StatusCode::BAD_REQUEST)
}

impl WebSockets {
    /// Answers a request for a WebSocket, and runs the handler once it is one. What is no such request is answered 426 or
    /// 400.
    ///
    /// The request must have come over [`Lifecycle::serve`]. A subprotocol is the caller's to choose: put its header into
    /// the answer.
    pub fn accept<B, C: Default>(&self, mut request: Request<B>) -> Response<C> {
        let mut response = Response::new(C::default());
        let accept = match check(&request) {
            Ok(accept) => accept,
            Err(status) => {
                *response.status_mut() = status;
                let headers = response.headers_mut();
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                return response;
            }
        };
        let upgrading = hyper::upgrade::on(&mut request);
        let begun = Begun::Here(Box::new(request.into_parts().0));
        let kind = Arc::clone(&self.0);
        drop(self.0.runtime.spawn(async move {
            // An error is a client that went away before it had its answer.
            let Ok(upgraded) = upgrading.await else { return };
            // Another server's connection has no wire of ours: it is closed.
            let Ok(parts) = upgraded.downcast::<TokioIo<Io>>() else { return };
            let wire = parts.io.into_inner().wire();
            wire.hand_whole_frames(&parts.read_buf, kind.table.enter(&wire));
            kind.run(wire, begun).await;
        }));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        response
    }
}

impl Kind {
    /// A session comes from the predecessor, or back from the way to the successor.
    fn arrived(self: &Arc<Self>, stream: Stream, unread: Vec<u8>, session: Session) {
        let Session { version, request, state, .. } = session;
        let wire = self.wire(stream, unread, request);
        let kind = Arc::clone(self);
        drop(self.runtime.spawn(async move {
            kind.run(wire, Begun::Moved { version, state }).await;
        }));
    }

    fn wire(&self, stream: Stream, unread: Vec<u8>, request: String) -> Arc<Wire> {
        stream.entry().becomes_websocket(request);
        let care = Arc::new(Care::new(Arc::clone(stream.entry())));
        let wire = Wire::new(stream, unread);
        wire.goes_on_as_websocket(care, self.table.enter(&wire));
        wire
    }

    async fn run(self: Arc<Self>, wire: Arc<Wire>, begun: Begun) {
        let (registry, name) = (Arc::clone(&self.registry), self.name.clone());
        let handler = Arc::clone(&self.handler);
        let socket = self.socket(wire).await;
        if let Err(panic) = CatchPanic(handler(socket, begun)).await {
            registry.panicked(format!("websocket {name}: {panic}"));
        }
    }

    async fn socket(self: Arc<Self>, wire: Arc<Wire>) -> WebSocket {
        let stream =
            WebSocketStream::from_raw_socket(Io(wire), Role::Server, Some(self.config)).await;
        let asked = Asked::new(&self, &stream.get_ref().0);
        WebSocket { stream, asked, kind: self }
    }
}

/// Whether to move, and how often that was said.
enum Asked {
    Wait(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Said, and not done: again after the next message.
    Stays,
    /// It cannot move.
    Never,
}

impl Asked {
    fn new(kind: &Kind, wire: &Wire) -> Asked {
        if !wire.can_move() {
            return Asked::Never;
        }
        let (moving, name, version) = (kind.moving.clone(), kind.name.clone(), kind.version);
        Asked::Wait(Box::pin(async move { moving.asked(&name, version).await }))
    }
}

/// A WebSocket whose handler may move it to a successor.
///
/// It is live work until it is dropped, and gets a close frame at a stop as every other does.
pub struct WebSocket {
    stream: WebSocketStream<Io>,
    asked: Asked,
    kind: Arc<Kind>,
}

impl std::fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebSocket({}, {:?})", self.kind.name, self.stream.get_ref().0.entry())
    }
}

impl WebSocket {
    /// The next message, or the word that it is time to move. Cancel safe: what it did not give back comes again.
    ///
    /// Pings are answered and not told. [`Received::Move`] comes as soon as a successor accepts, before messages that wait;
    /// those go along, unread. After a [`move_on`](WebSocket::move_on) that did not succeed it comes again behind the next
    /// message.
    pub async fn recv(&mut self) -> Received {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if let Asked::Wait(asked) = &mut self.asked
            && asked.as_mut().poll(cx).is_ready()
        {
            self.asked = Asked::Stays;
            return Poll::Ready(Received::Move);
        }
        loop {
            let message = std::task::ready!(self.stream.poll_next_unpin(cx));
            let Some(Ok(message)) = message else { return Poll::Ready(Received::Closed) };
            if let Asked::Stays = self.asked {
                self.asked = Asked::new(&self.kind, &self.stream.get_ref().0);
            }
            match message {
                Message::Text(_) | Message::Binary(_) => {
                    return Poll::Ready(Received::Message(message));
                }
                // Answered by the next write or read; the end comes behind a close.
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Sends a message and waits until it is written.
    ///
    /// Cancelled, it may or may not be sent; never in part.
    ///
    /// # Errors
    ///
    /// When the connection has ended.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), tungstenite::Error> {
        self.stream.send(message.into()).await
    }

    /// Takes a message to be sent with the next [`flush`](WebSocket::flush) or [`send`](WebSocket::send).
    ///
    /// # Errors
    ///
    /// When the connection has ended.
    pub async fn feed(&mut self, message: impl Into<Message>) -> Result<(), tungstenite::Error> {
        self.stream.feed(message.into()).await
    }

    /// Writes what was fed. Cancel safe.
    ///
    /// # Errors
    ///
    /// When the connection has ended.
    pub async fn flush(&mut self) -> Result<(), tungstenite::Error> {
        self.stream.flush().await
    }

    /// Closes with a code and a reason, and reads to the client's own close frame; what it still sends is thrown away. Waits
    /// no longer than [`CLOSE_ANSWER`](super::CLOSE_ANSWER).
    pub async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        let closing = async {
            if self.stream.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        };
        let _ = timeout(super::CLOSE_ANSWER, closing).await;
    }

    /// Names it in status and reports, beside the request that began it.
    pub fn label(&self, label: &str) {
        self.stream.get_ref().0.entry().label(label);
    }

    /// The handler closes it itself; see [`Handle::closes_itself`](super::Handle::closes_itself).
    pub fn closes_itself(&self) {
        self.stream.get_ref().0.is_closed_by_its_handler();
    }

    /// Moves it to the successor, whose handler of the same kind goes on with `state`, of the [version](Builder::version)
    /// that this program writes.
    ///
    /// What was sent is written first, within [`MOVE_FLUSH`]; what the client sent and was not received here is received
    /// there. Nothing is lost, doubled or reordered.
    ///
    /// Cancelled, the WebSocket is dropped.
    ///
    /// # Errors
    ///
    /// The WebSocket itself, to go on with here: when there is no successor (any more), when its client is in the middle
    /// of a message in fragments or of a very long frame, reads too slowly or is closing, or when there are more than
    /// [`STATE_AT_MOST`] bytes of state.
    pub async fn move_on(mut self, state: Vec<u8>) -> Result<(), Box<WebSocket>> {
        let ready = state.len() <= STATE_AT_MOST
            && self.stream.get_ref().0.can_move()
            && self.kind.moving.is_asked(&self.kind.name, self.kind.version)
            && matches!(timeout(MOVE_FLUSH, self.stream.flush()).await, Ok(Ok(())));
        let taken = ready.then(|| self.stream.get_ref().0.take_websocket()).flatten();
        let Some(taken) = taken else { return Err(Box::new(self)) };
        let WebSocket { stream, kind, .. } = self;
        let mut wire = stream.into_inner().wire();
        for _ in 0..LET_GO_ROUNDS {
            match Wire::try_into_stream(wire) {
                Ok((stream, unread)) => return kind.send(stream, unread, state).await,
                // Somebody just looks whether to close it.
                Err(held) => wire = held,
            }
            tokio::task::yield_now().await;
        }
        wire.put_back_websocket(taken);
        Err(Box::new(kind.stays(wire).await))
    }
}

impl Kind {
    async fn send(
        self: Arc<Self>,
        stream: Stream,
        unread: Vec<u8>,
        state: Vec<u8>,
    ) -> Result<(), Box<WebSocket>> {
        let request = cut(&stream.entry().websocket_request(), MAX_ADDRESS).to_owned();
        let session = Session { kind: self.name.clone(), version: self.version, request, state };
        let server = Arc::clone(stream.entry().server());
        let moved = Moved { server, stream, unread, session: Some(Box::new(session)) };
        match self.moving.send(moved) {
            Ok(()) => Ok(()),
            Err(Moved { stream, unread, session, .. }) => {
                let request = session.map(|session| session.request).unwrap_or_default();
                let wire = self.wire(stream, unread, request);
                Err(Box::new(self.stays(wire).await))
            }
        }
    }

    async fn stays(self: Arc<Self>, wire: Arc<Wire>) -> WebSocket {
        let mut socket = self.socket(wire).await;
        if let Asked::Wait(_) = socket.asked {
            socket.asked = Asked::Stays;
        }
        socket
    }
}
