//! TLS in front of HTTP: a configuration that can be replaced while it is used, and what a session tells (feature
//! `rustls023`).
//!
//! The configuration is the user's [`rustls::ServerConfig`]; no process-wide provider is installed. What is ours:
//!
//! * a handshake under way at a stop, one whose first bytes wait in the accept queue too, is finished and its request
//!   answered; one that never ends is bounded by [`TLS_HANDSHAKE`] and, at a stop, [`TLS_HANDSHAKE_AT_STOP`];
//! * every close in order begins with close_notify (RFC 8446 §6.1), so that a client can tell it from a truncation;
//! * session tickets resume after an upgrade: their keys [move](crate::tickets);
//! * certificates are replaced by [`Tls::reload`], for handshakes from then on.
//!
//! **What does not move.** The keys of a session are in its process, so a TLS connection stays with its generation, as
//! HTTP/2 does. At an upgrade each answer on it says `Connection: close`; an idle one is answered for
//! [`upgrade_linger`](crate::Builder::upgrade_linger) and then closed. A client reconnects at most once an upgrade, and
//! resumes when it does.

use std::sync::{Arc, PoisonError, RwLock};

use ::http::{Request, Response};
use hyper::body::Incoming;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tower_service::Service;

use crate::connection::Arrival;
use crate::error::Error;
use crate::http::{BoxError, connection, handshake};
use crate::lifecycle::Lifecycle;
use crate::listener::Listener;
use crate::tickets::Tickets;

pub use crate::http::{TLS_HANDSHAKE, TLS_HANDSHAKE_AT_STOP};

/// The protocols we speak, the better one first (RFC 7301).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The TLS configuration of a server, which can be replaced while the server runs. Clones are the same one.
///
/// Made by [`Lifecycle::tls`].
#[derive(Clone)]
pub struct Tls {
    current: Arc<RwLock<Arc<ServerConfig>>>,
    tickets: Tickets,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Takes another configuration, with new certificates say, for handshakes from now on. Nothing else notices.
    ///
    /// It is completed as [`Lifecycle::tls`] tells.
    pub fn reload(&self, config: ServerConfig) {
        let config = Arc::new(completed(config, &self.tickets));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// The configuration that the next handshake uses.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn completed(mut config: ServerConfig, tickets: &Tickets) -> ServerConfig {
    if config.alpn_protocols.is_empty() {
        config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    }
    if !config.ticketer.enabled() {
        config.ticketer = Arc::new(tickets.clone());
    }
    config
}

/// What a request's connection knows of its client; in the request's extensions on a server with TLS.
#[derive(Debug, Clone)]
pub struct Session {
    /// The name the client asked for (SNI).
    pub server_name: Option<String>,
    /// The client's certificate chain, its own first, when it was asked for one and it was verified.
    pub client_certificates: Vec<CertificateDer<'static>>,
    /// Whether the session was resumed with a ticket.
    pub resumed: bool,
}

impl Session {
    pub(crate) fn of(connection: &rustls::ServerConnection) -> Session {
        let certificates = connection.peer_certificates().unwrap_or_default();
        Session {
            server_name: connection.server_name().map(str::to_owned),
            client_certificates: certificates.iter().map(|one| one.clone().into_owned()).collect(),
            resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        }
    }
}

impl Lifecycle {
    /// Completes a TLS configuration so that it can be served from and [replaced](Tls::reload).
    ///
    /// Without protocols (ALPN) it offers `h2` and `http/1.1`; without a ticketer of its own it gets the
    /// [tickets](Lifecycle::tickets) of this life, whose keys move to a successor. Nothing else is changed.
    ///
    /// # Errors
    ///
    /// When the state [`tickets::STATE`](crate::tickets::STATE) is used for something else.
    pub fn tls(&self, config: ServerConfig) -> Result<Tls, Error> {
        let tickets = self.tickets()?;
        let config = Arc::new(completed(config, &tickets));
        Ok(Tls { current: Arc::new(RwLock::new(config)), tickets })
    }

    /// Serves `service` on `listener` behind TLS: HTTP/2 and HTTP/1.1, as the client chooses.
    ///
    /// Everything that [`serve`](Lifecycle::serve) promises at a stop holds here too; what is different at an upgrade is
    /// told by the [module](crate::http::tls). A handler finds the [`Session`] in its request's extensions.
    ///
    /// # Errors
    ///
    /// As [`serve`](Lifecycle::serve).
    ///
    /// ```no_run
    /// # async fn example(life: lameduck::Lifecycle, app: axum::Router, config: rustls::ServerConfig)
    /// # -> Result<(), lameduck::Error> {
    /// let tls = life.tls(config)?;
    /// life.serve_tls("https", life.listen("0.0.0.0:8443").await?, &tls, app)?;
    /// // Later, with new certificates: tls.reload(config);
    /// # Ok(()) }
    /// ```
    pub fn serve_tls<S, B>(
        &self,
        name: &str,
        listener: Listener,
        tls: &Tls,
        service: S,
    ) -> Result<(), Error>
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
        let tls = tls.clone();
        self.serve_each(name, listener, move |stream, read, terms| {
            let (config, service) = (tls.config(), service.clone());
            async move {
                let stream = match stream.arrival() {
                    // A predecessor without TLS began it, and its client knows no other way to speak.
                    Arrival::Elsewhere => Some(stream),
                    Arrival::Open | Arrival::AtTheGate => {
                        handshake::shake_hands(stream, config, terms.lingers.at_stop).await
                    }
                };
                if let Some(stream) = stream {
                    connection::serve(stream, read, service, terms).await;
                }
            }
        })
    }
}
