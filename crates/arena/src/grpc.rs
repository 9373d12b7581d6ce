//! The counter over gRPC, on the same port as everything else, and `grpc.health.v1` beside it.
//!
//! The messages and methods are those of `proto/counter.proto`; they are written out here, so that no build needs protoc.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::post;
use futures_util::{Stream, StreamExt, stream};
use lameduck::{Drain, Lifecycle};
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Response, Status};
use tonic_prost::ProstCodec;

use crate::counter::Counter;

/// The service's full name.
pub const NAME: &str = "arena.v1.Counter";

/// What is added, as in `counter.proto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddRequest {
    /// How many numbers to take; none is one.
    #[prost(uint32, tag = "1")]
    pub count: u32,
    /// Milliseconds to wait before.
    #[prost(uint32, tag = "2")]
    pub wait_ms: u32,
}

/// What a stream sends, and how often.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchRequest {
    /// How many messages to send; none is without an end.
    #[prost(uint64, tag = "1")]
    pub count: u64,
    /// Milliseconds between two of them.
    #[prost(uint32, tag = "2")]
    pub pause_ms: u32,
}

/// Where the counter stands.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Number {
    /// The last number that was given out.
    #[prost(uint64, tag = "1")]
    pub num: u64,
    /// The place of this message in its stream, from 1.
    #[prost(uint64, tag = "2")]
    pub place: u64,
}

/// More numbers than this at once are a mistake.
const COUNT_LIMIT: u32 = 1000;

/// The counter's methods, and the health of everything.
pub(crate) fn router(counter: &Arc<Counter>, life: &Lifecycle) -> Router {
    let health = lameduck::tonic::health(life, &[NAME]);
    let add = Add(Arc::clone(counter));
    let watch = Watch { counter: Arc::clone(counter), drain: life.drain() };
    let adding = move |request: Request<Body>| async move {
        Grpc::new(ProstCodec::default()).unary(add, request).await
    };
    let watching = move |request: Request<Body>| async move {
        Grpc::new(ProstCodec::default()).server_streaming(watch, request).await
    };
    Router::new()
        .route(&format!("/{NAME}/Add"), post(adding))
        .route(&format!("/{NAME}/Watch"), post(watching))
        .route_service("/grpc.health.v1.Health/{method}", health)
}

/// Takes numbers and answers with the last one.
#[derive(Clone)]
struct Add(Arc<Counter>);

impl UnaryService<AddRequest> for Add {
    type Response = Number;
    type Future = BoxFuture<Response<Number>, Status>;

    fn call(&mut self, request: tonic::Request<AddRequest>) -> Self::Future {
        let counter = Arc::clone(&self.0);
        let AddRequest { count, wait_ms } = request.into_inner();
        Box::pin(async move {
            if count > COUNT_LIMIT {
                let why = format!("count is {count}; {COUNT_LIMIT} are the most");
                return Err(Status::invalid_argument(why));
            }
            tokio::time::sleep(Duration::from_millis(wait_ms.into())).await;
            let mut num = counter.next();
            for _ in 1..count {
                num = counter.next();
            }
            Ok(Response::new(Number { num, place: 1 }))
        })
    }
}

/// Tells where the counter stands, again and again.
#[derive(Clone)]
struct Watch {
    counter: Arc<Counter>,
    drain: Drain,
}

type Numbers = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;

impl ServerStreamingService<WatchRequest> for Watch {
    type Response = Number;
    type ResponseStream = Numbers;
    type Future = BoxFuture<Response<Numbers>, Status>;

    fn call(&mut self, request: tonic::Request<WatchRequest>) -> Self::Future {
        let WatchRequest { count, pause_ms } = request.into_inner();
        let (counter, drain) = (Arc::clone(&self.counter), self.drain.clone());
        let pause = Duration::from_millis(pause_ms.into());
        let numbers = stream::unfold(0, move |sent| {
            let counter = Arc::clone(&counter);
            async move {
                if sent > 0 {
                    tokio::time::sleep(pause).await;
                }
                let place = sent + 1;
                Some((Ok(Number { num: counter.current(), place }), place))
            }
        });
        let numbers: Numbers = match usize::try_from(count) {
            // Without an end: it is told to go, and its client asks whoever serves then.
            Ok(0) | Err(_) => Box::pin(lameduck::tonic::until_drain(drain, numbers)),
            Ok(count) => Box::pin(numbers.take(count)),
        };
        Box::pin(async move { Ok(Response::new(numbers)) })
    }
}
