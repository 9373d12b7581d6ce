//! gRPC services of [tonic](https://docs.rs/tonic) on the same loop as everything else, and the health service that turns
//! first (feature `tonic014`).
//!
//! There is no gRPC server here: `Routes::into_axum_router()`, or any tonic service, is served by
//! [`Lifecycle::serve`](crate::Lifecycle::serve) and [`serve_tls`](crate::Lifecycle::serve_tls) on the same port as the
//! rest, and everything that holds for HTTP/2 holds for it. Besides:
//!
//! * [`health`] is `grpc.health.v1`: NOT_SERVING first of all at a stop, with `/readyz` and before the gate closes; still
//!   SERVING at an upgrade, since a successor does;
//! * a call that lasts until the deadline ends [`GRPC_STATUS`](crate::http::GRPC_STATUS) before it with UNAVAILABLE, not
//!   with a reset, and counts as cut;
//! * [`until_drain`] ends an endless stream at the boundary of a message, at a stop as at an upgrade.
//!
//! ```no_run
//! # async fn example(life: lameduck::Lifecycle) -> Result<(), lameduck::Error> {
//! let routes = tonic::service::Routes::new(lameduck::tonic::health(&life, &["my.v1.Service"]));
//! life.serve("grpc", life.listen("127.0.0.1:50051").await?, routes.into_axum_router())?;
//! # Ok(()) }
//! ```

use std::pin::Pin;
use std::sync::Arc;

use ::tonic::{Request, Response, Status, async_trait};
use futures_util::Stream;
use futures_util::stream;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::lifecycle::{Drain, Lifecycle};
use crate::phase::Asked;
use crate::readiness::Readiness;

/// The health service of a life: SERVING as long as the service asks for new work.
///
/// It answers for the whole server (the empty name) and for the services named here; for another one it says NOT_FOUND,
/// as the protocol wants. A `Watch` is told of each change, and ends with UNAVAILABLE when the drain begins, or when a
/// successor has taken over: its client then watches the successor.
pub fn health(life: &Lifecycle, services: &[&str]) -> HealthServer<Health> {
    let services = services.iter().map(|name| (*name).to_owned()).collect();
    HealthServer::new(Health { readiness: life.readiness(), drain: life.drain(), services })
}

/// What [`health`] serves.
#[derive(Debug, Clone)]
pub struct Health {
    readiness: Readiness,
    drain: Drain,
    services: Arc<[String]>,
}

fn serving(readiness: &Readiness) -> ServingStatus {
    if readiness.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn told(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

impl Health {
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.iter().any(|known| known == service)
    }

    /// Returns when the status has changed from `last`; an error when there is nobody left to watch.
    async fn changed(&mut self, last: ServingStatus) -> Result<ServingStatus, Status> {
        let now = serving(&self.readiness);
        if now != last {
            return Ok(now);
        }
        let mut readiness = self.readiness.clone();
        let change = async {
            match last {
                ServingStatus::Serving => readiness.not_ready().await,
                ServingStatus::NotServing | ServingStatus::Unknown => readiness.ready().await,
                // Services are named once: one that is not known stays so.
                ServingStatus::ServiceUnknown => std::future::pending().await,
            }
        };
        let (mut change, mut end) =
            (std::pin::pin!(change), std::pin::pin!(told_to_go(&self.drain)));
        let changed = std::future::poll_fn(|cx| {
            use std::future::Future;
            use std::task::Poll;
            // The change first: a stop shows both, and NOT_SERVING must have been said.
            if change.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            end.as_mut().poll(cx).map(|()| false)
        });
        match changed.await && serving(&self.readiness) != last {
            true => Ok(serving(&self.readiness)),
            false => {
                told_to_go(&self.drain).await;
                Err(leaving())
            }
        }
    }
}

#[async_trait]
impl tonic_health::pb::health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("no such service here"));
        }
        Ok(Response::new(told(serving(&self.readiness))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let first = match self.knows(&request.get_ref().service) {
            true => serving(&self.readiness),
            false => ServingStatus::ServiceUnknown,
        };
        let told_last = (self.clone(), None);
        let changes = stream::unfold(Some(told_last), move |watching| async move {
            let (mut health, last) = watching?;
            let next = match last {
                None => Ok(first),
                Some(last) => health.changed(last).await,
            };
            match next {
                Ok(status) => Some((Ok(told(status)), Some((health, Some(status))))),
                Err(end) => Some((Err(end), None)),
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

/// Waits until whoever asks again meets somebody else: a successor that serves, or nobody.
async fn told_to_go(drain: &Drain) {
    drain.asked_for(|asked| asked >= Asked::HandedOver).await;
}

/// What a stream is ended with: its client may try again, and meets whoever serves then.
fn leaving() -> Status {
    Status::unavailable("the service is stopping or was handed over: ask again")
}

/// The same messages until the drain begins or a successor has taken over; then UNAVAILABLE, which ends the stream at the
/// boundary of a message, so that its client asks whoever serves then.
///
/// Without this a stream goes on for as long as it lasts, on the generation
/// it began on, and at the deadline it is ended all the same.
///
/// ```
/// # fn numbers() -> impl futures_util::Stream<Item = Result<u64, tonic::Status>> { futures_util::stream::empty() }
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// # let life = lameduck::Lifecycle::builder().without_signals().start()?;
/// let answer = tonic::Response::new(lameduck::tonic::until_drain(life.drain(), numbers()));
/// # drop(answer);
/// # Ok(()) }
/// ```
pub fn until_drain<T, S>(
    drain: Drain,
    messages: S,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static
where
    S: Stream<Item = Result<T, Status>> + Send + 'static,
    T: Send + 'static,
{
    use futures_util::StreamExt;
    let first = Some((drain, Box::pin(messages)));
    stream::unfold(first, |going_on| async move {
        let (drain, mut messages) = going_on?;
        let next = {
            let (mut next, mut end) = (messages.next(), std::pin::pin!(told_to_go(&drain)));
            std::future::poll_fn(|cx| {
                use std::future::Future;
                use std::task::Poll;
                if end.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(Err(leaving())));
                }
                Pin::new(&mut next).poll(cx)
            })
            .await
        };
        match next? {
            Ok(message) => Some((Ok(message), Some((drain, messages)))),
            Err(end) => Some((Err(end), None)),
        }
    })
}
