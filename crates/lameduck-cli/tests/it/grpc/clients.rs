//! tonic's own client, and what it is told.

use std::sync::Arc;

use arena::grpc::{AddRequest, NAME, Number, WatchRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::client::Grpc;
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Context, Poll, Service};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;

use crate::service::{self, LIMIT};
use crate::tls::Secure;

/// What the library tells a client whose call it ends; a failed connection has other words.
pub const TOLD: &str = "the service is stopping";

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_timeout(LIMIT)
}

/// Connects over TLS.
#[derive(Clone)]
struct Encrypted {
    address: String,
    connector: TlsConnector,
}

impl Service<Uri> for Encrypted {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Encrypted { address, connector } = self.clone();
        Box::pin(async move {
            let socket = TcpStream::connect(address).await?;
            let name = "localhost".try_into().expect("a name");
            let stream = connector.connect(name, socket).await?;
            // The server's choice, by ALPN.
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Ok(TokioIo::new(stream))
        })
    }
}

/// The same behind TLS.
pub fn secure_channel(secure: &Secure) -> Channel {
    encrypted(&secure.service, &secure.client(b"h2"))
}

pub fn encrypted(service: &service::Service, client: &Arc<ClientConfig>) -> Channel {
    let address = service.addresses[0].clone();
    let connector = TlsConnector::from(Arc::clone(client));
    endpoint(&address).connect_with_connector_lazy(Encrypted { address, connector })
}

/// A channel that connects when it is used, and again when it was told to go.
pub fn channel(service: &service::Service) -> Channel {
    endpoint(&service.addresses[0]).connect_lazy()
}

/// Calls the counter's methods.
#[derive(Clone)]
pub struct Counter(Grpc<Channel>);

impl Counter {
    pub fn new(channel: Channel) -> Counter {
        Counter(Grpc::new(channel))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(format!("not ready: {error}")))
    }

    fn path(method: &str) -> PathAndQuery {
        format!("/{NAME}/{method}").parse().unwrap()
    }

    /// One number. A call that was never sent, because a GOAWAY came first, is sent on the next connection: tonic leaves
    /// that to its user (RFC 9113 §6.8 allows it for every request, since none was processed).
    pub async fn add(&mut self) -> Result<u64, Status> {
        loop {
            match self.add_once().await {
                Err(status) if was_not_sent(&status) => {}
                other => return other,
            }
        }
    }

    pub async fn add_once(&mut self) -> Result<u64, Status> {
        self.add_after(0).await
    }

    /// One number, after so many milliseconds.
    pub async fn add_after(&mut self, wait_ms: u32) -> Result<u64, Status> {
        self.ready().await?;
        let codec = ProstCodec::<AddRequest, Number>::default();
        let request = Request::new(AddRequest { count: 1, wait_ms });
        let answer = self.0.unary(request, Counter::path("Add"), codec).await?;
        Ok(answer.get_ref().num)
    }

    pub async fn watch(&mut self, count: u64, pause_ms: u32) -> Result<Streaming<Number>, Status> {
        self.ready().await?;
        let codec = ProstCodec::<WatchRequest, Number>::default();
        let request = Request::new(WatchRequest { count, pause_ms });
        let answer = self.0.server_streaming(request, Counter::path("Watch"), codec).await?;
        Ok(answer.into_inner())
    }
}

/// Whether the HTTP client says that the request never left it, or the server that it took no notice of it.
pub fn was_not_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        // The library gives a GOAWAY to exactly the streams above its last stream id.
        if error
            .downcast_ref::<h2::Error>()
            .is_some_and(|error| error.is_go_away() && error.is_remote())
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// How a stream ended whose first message was taken: its messages, and its status.
pub async fn end_of(mut numbers: Streaming<Number>) -> (u64, Result<(), Status>) {
    let mut messages = 1;
    loop {
        match numbers.message().await {
            Ok(Some(number)) => {
                messages += 1;
                assert_eq!(number.place, messages, "a message is missing or came twice");
            }
            Ok(None) => return (messages, Ok(())),
            Err(status) => return (messages, Err(status)),
        }
    }
}

/// Whether the server itself said so.
pub fn is_told(status: &Status) -> bool {
    status.code() == tonic::Code::Unavailable && status.message().starts_with(TOLD)
}

pub async fn check(channel: Channel, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await?;
    Ok(answer.get_ref().status())
}

pub async fn watch_health(channel: Channel) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).watch(request).await.unwrap().into_inner()
}
