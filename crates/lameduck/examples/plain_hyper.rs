//! A service written for plain hyper, without a framework.
//!
//! The library serves tower services, since those are what frameworks hand out; [`Tower`] makes one of any service
//! written for hyper, such as a `service_fn`. The loop around `serve_connection` that a hyper program has goes away,
//! and with it its half of a graceful shutdown.
//!
//! ```text
//! cargo run -p lameduck --features http --example plain_hyper -- 127.0.0.1:8080
//! ```

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use lameduck::{Error, Exit, Lifecycle};

#[tokio::main]
async fn main() -> Result<Exit, Error> {
    let life = Lifecycle::builder().start()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let listener = life.listen(&address).await?;
    life.log().line("listening", &format!("Listening on {}", listener.address()));
    life.serve("http", listener, Tower(service_fn(answer)))?;
    Ok(life.run().await)
}

/// The handler, as it was: `GET` is greeted, `POST` gets back what it sent.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let mut response = Response::new(Full::default());
    match *request.method() {
        Method::GET => *response.body_mut() = Full::from("hello\n"),
        Method::POST => *response.body_mut() = request.collect().await?.to_bytes().into(),
        _ => *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
    }
    Ok(response)
}

/// A hyper service seen as a tower service. It is always ready: hyper's services have no readiness of their own.
#[derive(Clone)]
struct Tower<S>(S);

impl<S> tower_service::Service<Request<Incoming>> for Tower<S>
where
    S: hyper::service::Service<Request<Incoming>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> S::Future {
        self.0.call(request)
    }
}
