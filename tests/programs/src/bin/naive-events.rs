//! An event stream that nobody thought of at the stop: it never ends by itself, and an event takes a while to be sent.
//!
//! Under the framework's own graceful shutdown, for ever (`naive-events --port 0`) or until it is given up
//! (`--grace 300`), and with the library under the same handlers (`--lameduck yes`).

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use axum::routing::get;
use http_body::Frame;
use lameduck::Lifecycle;
use tokio::net::TcpListener;
use tokio::time::{Sleep, sleep};

/// How long the second half of an event is away.
const HALF: Duration = Duration::from_millis(100);
/// How long the next event is.
const BETWEEN: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    if arguments.iter().any(|argument| argument == "--lameduck") {
        return with_lameduck().await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (told, tells) = tokio::sync::oneshot::channel::<()>();
    let stop = programs::stop_signal()?;
    programs::announce(listener.local_addr()?)?;
    let served = axum::serve(listener, router(Body::new)).with_graceful_shutdown(async {
        stop.await;
        let _ = told.send(());
    });
    match value("--grace") {
        None => served.await,
        Some(grace) => tokio::select! {
            served = served => served,
            () = async {
                let _ = tells.await;
                sleep(Duration::from_millis(grace)).await;
            } => Ok(()),
        },
    }
}

async fn with_lameduck() -> io::Result<()> {
    let life = Lifecycle::builder().start().map_err(io::Error::other)?;
    let listener = life.listen("127.0.0.1:0").await.map_err(io::Error::other)?;
    let streams = life.streams();
    let app = router(move |halves| Body::new(streams.events(halves)));
    let address = listener.address().parse().map_err(io::Error::other)?;
    life.serve("http", listener, app).map_err(io::Error::other)?;
    programs::announce(address)?;
    match life.run().await.code() {
        0 => Ok(()),
        code => Err(io::Error::other(format!("ended with {code}"))),
    }
}

fn router(body: impl Fn(Halves) -> Body + Clone + Send + Sync + 'static) -> Router {
    let listen = async move || {
        let halves = Halves { number: 0, second: false, pause: Box::pin(sleep(BETWEEN)) };
        let mut response = Response::new(body(halves));
        response.headers_mut().insert(CONTENT_TYPE, "text/event-stream".parse().expect("a value"));
        response
    };
    Router::new().route("/events", get(listen))
}

/// Events in two halves each.
struct Halves {
    number: u64,
    second: bool,
    pause: Pin<Box<Sleep>>,
}

impl http_body::Body for Halves {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.pause.as_mut().poll(cx));
        let (text, pause) = match self.second {
            false => {
                self.number += 1;
                (format!("id: {}\ndata: first half,", self.number), HALF)
            }
            true => (" second half\n\n".to_owned(), BETWEEN),
        };
        self.second = !self.second;
        self.pause = Box::pin(sleep(pause));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))))
    }
}
