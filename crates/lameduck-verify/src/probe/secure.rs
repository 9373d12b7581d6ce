//! TLS under a [`Wire`](super::Wire): what is written is sealed, what is read is opened, and everything else about the
//! wire stays as it is, so that a case need not know which of the two it speaks.
//!
//! The handshake is part of the first write. It can be put off ([`Wire::put_off_handshake`](super::Wire::put_off_handshake))
//! where nobody can answer it yet: the ClientHello then waits in the accept queue, and the request follows by itself while
//! the wire is read.

use crate::address::Place;
use crate::trust::Trust;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a handshake may take within a write.
pub(super) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);

/// What a wire negotiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// The session of one wire.
#[derive(Debug)]
pub(super) struct Session {
    tls: ClientConnection,
    /// The first write waits for the handshake.
    pub(super) is_eager: bool,
    is_broken: bool,
    is_notified: bool,
}

impl Session {
    pub(super) fn new(place: &Place, speaks: Speaks) -> io::Result<Session> {
        let name = ServerName::try_from(place.server_name().to_owned()).map_err(|_| {
            let text = format!("{place}: {:?} is no name of a server", place.server_name());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let mut tls = ClientConnection::new(config(speaks)?, name).map_err(io::Error::other)?;
        // What is written before the handshake has ended waits here; cases write little.
        tls.set_buffer_limit(None);
        Ok(Session { tls, is_eager: true, is_broken: false, is_notified: false })
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking() && !self.is_broken
    }

    /// The peer has said that nothing more comes.
    pub(super) fn is_notified(&self) -> bool {
        self.is_notified
    }

    /// Takes bytes to be sealed.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(bytes)
    }

    /// Sealed bytes for the socket.
    pub(super) fn sealed(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// Opens bytes of the socket; what is plain in them is appended. Says whether they are TLS.
    pub(super) fn open(&mut self, mut sealed: &[u8], plain: &mut Vec<u8>) -> bool {
        while !sealed.is_empty() && !self.is_broken {
            let before = sealed.len();
            self.is_broken |= self.tls.read_tls(&mut sealed).is_err();
            match self.tls.process_new_packets() {
                Ok(state) => self.is_notified |= state.peer_has_closed(),
                Err(_) => self.is_broken = true,
            }
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = self.tls.reader().read(&mut buffer) {
                plain.extend_from_slice(&buffer[..count]);
            }
            // After close_notify nothing is taken any more.
            if before == sealed.len() {
                break;
            }
        }
        !self.is_broken
    }
}

/// What all wires share. Not their tickets: whether a session is resumed is the cases' own to try.
fn config(speaks: Speaks) -> io::Result<Arc<ClientConfig>> {
    static HTTP1: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    static HTTP2: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let (made, protocol): (_, &[u8]) = match speaks {
        Speaks::Http1 => (&HTTP1, b"http/1.1"),
        Speaks::Http2 => (&HTTP2, b"h2"),
    };
    if let Some(config) = made.get() {
        return Ok(Arc::clone(config));
    }
    let mut config = ClientConfig::clone(&*Trust::anybody().client(&[protocol])?);
    config.resumption = Resumption::disabled();
    Ok(Arc::clone(made.get_or_init(|| Arc::new(config))))
}
