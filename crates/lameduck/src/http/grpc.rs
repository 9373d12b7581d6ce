//! Ends gRPC calls with a status before they are cut, so that no client is left with a reset.
//!
//! A gRPC client learns how a call ended from its trailers (gRPC over HTTP/2, "Responses"). A call that lasts until the
//! deadline is ended [`GRPC_STATUS`] before it with UNAVAILABLE, which tells its client to try elsewhere. It still counts
//! as cut, and the report names it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use ::http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::work::Registry;

const GRPC: &[u8] = b"application/grpc";
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
/// UNAVAILABLE.
const UNAVAILABLE: &str = "14";
const STOPPING: &str = "the service is stopping";

type Moment = Pin<Box<dyn Future<Output = ()> + Send>>;

/// When calls are about to be cut, and who counts those that were.
#[derive(Clone)]
pub(crate) struct Cut {
    pub(crate) nearly: Arc<dyn Fn() -> Moment + Send + Sync>,
    pub(crate) registry: Arc<Registry>,
}

/// A service whose gRPC calls end with a status. Anything else passes through.
#[derive(Clone)]
pub(crate) struct WithStatus<S> {
    pub(crate) service: S,
    pub(crate) cut: Cut,
}

/// What becomes of one call when its time is up.
struct Ending {
    nearly: Moment,
    registry: Arc<Registry>,
    name: String,
}

impl Ending {
    fn of<B>(request: &Request<B>, cut: &Cut) -> Option<Ending> {
        let kind = request.headers().get(CONTENT_TYPE)?;
        kind.as_bytes().starts_with(GRPC).then(|| Ending {
            nearly: (cut.nearly)(),
            registry: Arc::clone(&cut.registry),
            name: format!("{} {}", request.method(), request.uri().path()),
        })
    }

    /// Ready once, when the call is to end now; it has been counted as cut then.
    fn poll(ending: &mut Option<Ending>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(running) = ending else { return Poll::Pending };
        ready!(running.nearly.as_mut().poll(cx));
        running.registry.cut_request(&running.name);
        *ending = None;
        Poll::Ready(())
    }
}

fn status() -> HeaderMap {
    HeaderMap::from_iter([
        (STATUS.parse().expect("a name"), HeaderValue::from_static(UNAVAILABLE)),
        (MESSAGE.parse().expect("a name"), HeaderValue::from_static(STOPPING)),
    ])
}

impl<S, B> Service<Request<Incoming>> for WithStatus<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    B: Body,
{
    type Response = Response<Answer<B>>;
    type Error = S::Error;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Call<S::Future> {
        let ending = Ending::of(&request, &self.cut);
        Call { future: self.service.call(request), ending }
    }
}

pin_project! {
    /// A call whose answer has not begun.
    pub(crate) struct Call<F> {
        #[pin]
        future: F,
        ending: Option<Ending>,
    }
}

impl<F, B, E> Future for Call<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<Answer<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.future.poll(cx) {
            let ending = this.ending.take();
            return Poll::Ready(answer.map(|answer| answer.map(|body| Answer::new(body, ending))));
        }
        ready!(Ending::poll(this.ending, cx));
        // The answer has not begun: the status is its head.
        let mut answer = Response::new(Answer { body: None, ending: None, ended: true });
        *answer.headers_mut() = status();
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Poll::Ready(Ok(answer))
    }
}

pin_project! {
    /// The body of an answer, which ends with a status when its time is up.
    pub(crate) struct Answer<B> {
        #[pin]
        body: Option<B>,
        ending: Option<Ending>,
        ended: bool,
    }
}

impl<B> Answer<B> {
    fn new(body: B, ending: Option<Ending>) -> Answer<B> {
        Answer { body: Some(body), ending, ended: false }
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = body.poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(Ending::poll(this.ending, cx));
        // Whoever makes the messages is told by this that nobody wants them any more.
        this.body.set(None);
        *this.ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(status()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().map_or(self.ended, Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
