//! TLS connections that stop halfway: after the ClientHello, or before the close is read.
//!
//! Whose the server's certificate is is not checked, since it says nothing about how a server stops; that the server has
//! its key is.

use super::{End, Wire};
use crate::address::Address;
use crate::trust::Trust;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a TLS connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsEnd {
    /// It is open.
    Open,
    /// `close_notify`, then the end.
    Notified,
    /// The end of the stream without `close_notify`: it may have been cut by anybody.
    Bare,
    /// A reset, or bytes that are not TLS.
    Broken,
}

/// A client on a bare wire.
#[derive(Debug)]
pub struct TlsClient {
    /// The connection.
    pub wire: Wire,
    tls: ClientConnection,
    /// Bytes of the wire that TLS has seen.
    seen: usize,
    plain: Vec<u8>,
    is_broken: bool,
    is_notified: bool,
}

/// What clients share: their tickets.
pub fn config() -> Arc<ClientConfig> {
    Trust::anybody().client(&[b"http/1.1"]).expect("it shows no certificate of its own")
}

impl TlsClient {
    /// Connects and sends the ClientHello; reads nothing.
    pub fn hello(address: &Address, config: &Arc<ClientConfig>) -> io::Result<TlsClient> {
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let wire = Wire::connect(address)?;
        let mut client = TlsClient {
            wire,
            tls,
            seen: 0,
            plain: Vec::new(),
            is_broken: false,
            is_notified: false,
        };
        client.flush()?;
        Ok(client)
    }

    /// Goes on with the handshake to its end; says whether it came to it within `limit`.
    pub fn handshake(&mut self, limit: Duration) -> io::Result<bool> {
        self.wait(|client| !client.tls.is_handshaking(), limit)?;
        Ok(!self.tls.is_handshaking() && !self.is_broken)
    }

    /// Whether the handshake took a session up again.
    pub fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Sends plain bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(bytes)?;
        self.flush()
    }

    /// The plain bytes received so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.plain).into_owned()
    }

    /// How it ended.
    pub fn end(&self) -> TlsEnd {
        match (self.is_broken, self.is_notified, self.wire.end()) {
            (true, _, _) | (_, _, End::Reset) => TlsEnd::Broken,
            (_, true, End::Eof) => TlsEnd::Notified,
            (_, false, End::Eof) => TlsEnd::Bare,
            (_, _, End::Open) => TlsEnd::Open,
        }
    }

    /// Reads until `is_over`, the connection ended or `limit` passed; says whether it is over.
    pub fn wait(
        &mut self,
        is_over: impl Fn(&TlsClient) -> bool,
        limit: Duration,
    ) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            self.process();
            // A peer that has closed takes no more; how it closed is what counts.
            let _ = self.flush();
            if is_over(self) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let is_ended = self.wire.end() != End::Open || self.is_broken;
            if is_ended || left.is_zero() || !self.wire.read_some(left)? {
                self.process();
                return Ok(is_over(self));
            }
        }
    }

    /// Hands to TLS what the wire has received. A wire keeps the first 64 KiB; nothing here reads more.
    fn process(&mut self) {
        let received = self.wire.received().to_vec();
        let mut rest = &received[self.seen..];
        while !rest.is_empty() && !self.is_broken {
            let before = rest.len();
            self.is_broken |= self.tls.read_tls(&mut rest).is_err();
            self.seen += before - rest.len();
            match self.tls.process_new_packets() {
                Ok(state) => self.is_notified |= state.peer_has_closed(),
                Err(_) => self.is_broken = true,
            }
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = self.tls.reader().read(&mut buffer) {
                self.plain.extend_from_slice(&buffer[..count]);
            }
            if before == rest.len() {
                break;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes)?;
        }
        if bytes.is_empty() { Ok(()) } else { self.wire.send(&bytes) }
    }
}
