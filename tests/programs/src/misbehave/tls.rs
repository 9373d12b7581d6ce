//! TLS with a certificate of the process's own.

use super::Fault;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ProducesTickets;
use std::io;
use std::sync::Arc;

/// How long a client may come back with its ticket, in seconds.
const LIFETIME: u32 = 3600;

pub(super) fn acceptor(fault: Option<Fault>) -> io::Result<tokio_rustls::TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    let made = made.map_err(io::Error::other)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let builder = ServerConfig::builder().with_no_client_auth();
    let mut config =
        builder.with_single_cert(vec![made.cert.der().clone()], key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let owner = if fault == Some(Fault::NoResumption) { std::process::id() } else { 0 };
    config.ticketer = Arc::new(OpenTickets { owner });
    Ok(Arc::new(config).into())
}

/// Tickets that every generation can read, since nothing hides their contents: right for loopback tests and for
/// nothing else.
#[derive(Debug)]
struct OpenTickets {
    owner: u32,
}

impl ProducesTickets for OpenTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        Some([&self.owner.to_be_bytes(), plain].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        Some(ticket.strip_prefix(&self.owner.to_be_bytes())?.to_vec())
    }
}
