//! Serves HTTP/1.1 and cleartext HTTP/2 on the same port, and stops without losing a request.
//!
//! The protocol engines are hyper's. What is ours is the accept loop and the life of a connection:
//!
//! * every answer from the stop on says `Connection: close`, also for handlers that began before it; of pipelined
//!   requests the last one says it;
//! * an idle kept-alive connection is answered for the linger before it is closed, counted from its last answer; a
//!   half-sent head has [`HEAD`] to be finished; a connection accepted at the gate has [`FIRST_BYTE`] for its first byte;
//! * HTTP/2 gets its two GOAWAYs (RFC 9113 §6.8), and a client that never answers the PING between them is waited for no
//!   longer than [`PING`];
//! * each close is a half-close and a read to the end (RFC 9112 §9.6), bounded by [`QUIET`] and [`LINGERING`], so that no
//!   reset erases an answer;
//! * at the deadline reads and writes fail, at the byte stream.
//!
//! What no server can save: a request that a client sends while the server's close is on the wire, after the linger. Its
//! client sees an end of file and no handler has run.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::Incoming;
use tower_service::Service;

use crate::connection::Stream;
use crate::error::Error;
use crate::handover::GoesOn;
use crate::http::farewell::WebSockets;
use crate::lifecycle::Lifecycle;
use crate::listener::Listener;
use crate::work::Hold;

pub(crate) mod admin;
mod age;
mod connection;
pub(crate) mod farewell;
mod frames;
mod framing;
#[cfg(feature = "tonic014")]
mod grpc;
#[cfg(feature = "rustls023")]
mod handshake;
mod inbound;
pub mod streams;
#[cfg(feature = "rustls023")]
pub mod tls;
mod tracking;
mod websocket;
pub(crate) mod wire;

/// How long a head that is half sent when the drain begins, or after the last answer of its connection, may take to be
/// finished.
pub const HEAD: Duration = Duration::from_millis(800);

/// How long a connection that was accepted while the gate closed may take to its first byte.
///
/// Where the kernel refuses the gate's filter, its first packets may have been dropped with the gate shut; TCP sends them again after 200 ms, then 400 ms later
/// (RFC 6298 with Linux's minimum).
pub const FIRST_BYTE: Duration = Duration::from_millis(700);

/// How long an HTTP/2 client may take to answer the PING between the two GOAWAYs, and to finish its preface.
pub const PING: Duration = Duration::from_millis(500);

/// After a half-close: how long nothing may come before the connection is closed.
pub const QUIET: Duration = Duration::from_millis(200);

/// The same for a client that was answered within its upload: it goes on sending, perhaps not steadily, and looks for
/// the answer when it is done.
pub const QUIET_UPLOAD: Duration = Duration::from_secs(1);

/// The same for a connection that was idle: nothing of ours is on the wire that a reset could erase.
pub const QUIET_IDLE: Duration = Duration::from_millis(50);

/// How long after a half-close what still comes is read, all in all.
pub const LINGERING: Duration = Duration::from_secs(5);

/// Pipelined requests of one connection that are answered after the stop began.
pub const PIPELINED: u32 = 256;

/// How long a TLS handshake may take, from accept to its end.
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a TLS handshake under way may still take once its connection is told to finish.
pub const TLS_HANDSHAKE_AT_STOP: Duration = Duration::from_secs(1);

/// How long before the cut a gRPC call that still lasts is ended with a status; at most half of the time there is.
pub const GRPC_STATUS: Duration = Duration::from_millis(250);

/// How long an idle connection is still answered once it is told to go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lingers {
    pub(crate) at_stop: Duration,
    /// Where it cannot move: nobody waits for this process to end.
    pub(crate) at_upgrade: Duration,
}

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Lifecycle {
    /// Serves `service` on `listener`: any tower service or axum `Router`, over HTTP/1.1 and cleartext HTTP/2.
    ///
    /// Returns at once. Accepting begins when the lifecycle is ready; several listeners may be served. The name is what
    /// reports call its idle connections. What is promised at a stop, and within which bounds, is told by the
    /// [module](self).
    ///
    /// # Errors
    ///
    /// When the lifecycle has stopped accepting already, and when the name has not 1 to 64 bytes or a control character in
    /// it: a successor is told it, and it stands in reports.
    ///
    /// ```no_run
    /// # async fn example(life: lameduck::Lifecycle, app: axum::Router) -> Result<(), lameduck::Error> {
    /// let listener = life.listen("127.0.0.1:8080").await?;
    /// life.serve("http", listener, app)?;
    /// # Ok(()) }
    /// ```
    pub fn serve<S, B>(&self, name: &str, listener: Listener, service: S) -> Result<(), Error>
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Future<Output = Result<Response<B>, S::Error>> + Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        #[cfg(feature = "tonic014")]
        let service = self.with_status(service);
        self.serve_each(name, listener, move |stream, read, terms| {
            connection::serve(stream, read, service.clone(), terms)
        })
    }

    /// Runs what `connection` makes of each connection, and sees the WebSockets among them off when the drain begins.
    fn serve_each<C>(
        &self,
        name: &str,
        listener: Listener,
        connection: impl Fn(Stream, Vec<u8>, connection::Terms) -> C + Send + Sync + 'static,
    ) -> Result<(), Error>
    where
        C: Future<Output = ()> + Send + 'static,
    {
        let terms = self.terms();
        let seen_off = Arc::clone(&terms.sockets).see_off(self.drain());
        self.accept(name, listener, Hold::Drain, GoesOn::WithHttp, move |stream, read| {
            drop(tokio::spawn(connection(stream, read, terms.clone())));
        })?;
        self.shared.handover.answers_probes(name);
        drop(self.shared.runtime.spawn(seen_off));
        Ok(())
    }

    fn terms(&self) -> connection::Terms {
        connection::Terms {
            lingers: self.lingers(),
            age: self.shared.settings.age,
            moving: self.shared.handover.moving(),
            sockets: WebSockets::new(self.shared.settings.close_frames.clone(), None, self.log()),
        }
    }

    #[cfg(feature = "tonic014")]
    fn with_status<S>(&self, service: S) -> grpc::WithStatus<S> {
        let drain = self.drain();
        let nearly = move || -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
            let drain = drain.clone();
            Box::pin(async move { drain.nearly_cut(GRPC_STATUS).await })
        };
        let registry = std::sync::Arc::clone(&self.shared.registry);
        grpc::WithStatus {
            service,
            cut: grpc::Cut { nearly: std::sync::Arc::new(nearly), registry },
        }
    }

    fn lingers(&self) -> Lingers {
        let settings = &self.shared.settings;
        Lingers { at_stop: settings.linger, at_upgrade: settings.upgrade_linger }
    }
}
