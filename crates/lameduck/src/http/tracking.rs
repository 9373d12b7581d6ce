//! Wraps a handler: each request is named while it is in hand, and each answer after the stop announces the close.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::header::{CONNECTION, HeaderValue, UPGRADE};
use ::http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::http::farewell::WebSockets;
use crate::http::framing::BodyLength;
use crate::http::wire::Wire;
use crate::websocket::{Care, Handle};
use crate::work::{Clock, Entry, RequestName, Told};

/// A tower service as hyper wants it, for one connection.
pub(crate) struct Tracking<S> {
    service: S,
    wire: Arc<Wire>,
    sockets: Arc<WebSockets>,
}

impl<S> Tracking<S> {
    pub(crate) fn new(service: S, wire: &Arc<Wire>, sockets: &Arc<WebSockets>) -> Tracking<S> {
        Tracking { service, wire: Arc::clone(wire), sockets: Arc::clone(sockets) }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Tracking<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    B: Body,
{
    type Response = Response<Tracked<B>>;
    type Error = S::Error;
    type Future = Answer<S>;

    fn call(&self, mut request: Request<Incoming>) -> Answer<S> {
        self.wire.describe(&mut request);
        let mut begun = Begun::new(&self.wire, &request);
        if asks_for_websocket(&request) {
            let care = Arc::new(Care::new(Arc::clone(self.wire.entry())));
            request.extensions_mut().insert(Handle(Arc::clone(&care)));
            begun.websocket = Some((care, Arc::clone(&self.sockets)));
        }
        let state = AnswerState::Waiting { service: self.service.clone(), request: Some(request) };
        Answer { begun: Some(begun), state }
    }
}

/// One request in hand; it ends when this is dropped, with its answer's body or without.
struct Begun {
    wire: Arc<Wire>,
    slot: usize,
    kind: Kind,
    /// It asks for a WebSocket.
    websocket: Option<(Arc<Care>, Arc<WebSockets>)>,
}

/// Whether the request would make its connection a WebSocket (RFC 6455 §4.2.1).
fn asks_for_websocket<B>(request: &Request<B>) -> bool {
    let names = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    request.version() == Version::HTTP_11 && request.headers().get(UPGRADE).is_some_and(names)
}

/// What of a request decides how its answer ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http1,
    /// Its body may be delimited by the close alone: cut, it must not pass for complete.
    Http10,
    Http2,
    /// An accepted CONNECT turns the connection into a tunnel.
    Connect,
}

impl Begun {
    fn new(wire: &Arc<Wire>, request: &Request<Incoming>) -> Begun {
        let kind = match (request.version(), request.method()) {
            (Version::HTTP_2, _) => Kind::Http2,
            (_, &Method::CONNECT) => Kind::Connect,
            (Version::HTTP_10, _) => Kind::Http10,
            (_, _) => Kind::Http1,
        };
        if kind != Kind::Http2 {
            let body = match request.body().size_hint().exact() {
                Some(length) => BodyLength::Known(length),
                None => BodyLength::Chunked,
            };
            wire.request_begins(body);
        }
        let slot = wire.entry().request_begins(RequestName {
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            since: Clock::now(),
        });
        Begun { wire: Arc::clone(wire), slot, kind, websocket: None }
    }

    fn entry(&self) -> &Entry {
        self.wire.entry()
    }

    /// The answer is about to be written: say that it is the last one, if it is.
    fn mark<B>(&self, response: &mut Response<B>, cx: &mut Context<'_>) {
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS
            || (self.kind == Kind::Connect && response.status().is_success());
        match self.kind {
            Kind::Http2 => {}
            Kind::Http1 | Kind::Http10 | Kind::Connect if upgraded => match &self.websocket {
                Some((care, sockets)) => {
                    let entry = self.entry();
                    entry.becomes_websocket(entry.request_text(self.slot));
                    self.wire.becomes_websocket(Arc::clone(care), sockets.enter(&self.wire));
                }
                None => self.wire.becomes_raw(),
            },
            Kind::Http1 | Kind::Http10 | Kind::Connect => {
                let told = self.entry().told();
                let stops = match told {
                    Told::Serve => self.wire.goes(),
                    // A connection that moves is kept alive: its next answer comes from the successor.
                    Told::Move => !self.wire.can_move() || self.wire.goes(),
                    Told::MarkAnswers | Told::Finish | Told::Force => true,
                };
                if stops && !self.wire.has_more(cx) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    self.wire.announce_close();
                }
            }
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.kind == Kind::Http10 && self.entry().told() == Told::Force {
            self.wire.reset_on_close();
        }
        self.entry().request_ends(self.slot);
    }
}

pin_project! {
    /// The future of one answer.
    pub(crate) struct Answer<S>
    where
        S: Service<Request<Incoming>>,
    {
        begun: Option<Begun>,
        #[pin]
        state: AnswerState<S>,
    }
}

pin_project! {
    #[project = AnswerStateProjected]
    enum AnswerState<S>
    where
        S: Service<Request<Incoming>>,
    {
        Waiting { service: S, request: Option<Request<Incoming>> },
        Called { #[pin] future: S::Future },
    }
}

impl<S, B> Future for Answer<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    B: Body,
{
    type Output = Result<Response<Tracked<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                AnswerStateProjected::Waiting { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let request = request.take().expect("a request is handed to its service once");
                    let future = service.call(request);
                    this.state.set(AnswerState::Called { future });
                }
                AnswerStateProjected::Called { future } => {
                    let mut response = ready!(future.poll(cx))?;
                    let begun = this.begun.take().expect("an answer is given once");
                    begun.mark(&mut response, cx);
                    return Poll::Ready(Ok(response.map(|body| Tracked { body, _begun: begun })));
                }
            }
        }
    }
}

pin_project! {
    /// An answer's body. Its request is in hand until this is dropped.
    pub(crate) struct Tracked<B> {
        #[pin]
        body: B,
        _begun: Begun,
    }
}

impl<B: Body> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
