//! Establishing connections: what a failure means, and when a server counts as gone.

use super::ledger::Known;
use super::stream::{Bare, Stream};
use super::{CONNECT_LIMIT, Part, REFUSED_PAUSE, Until};
use crate::fate::Fate;
use crate::trace::{Number, end_after};
use std::io;
use std::time::Instant;

/// The refusals in a row that one client met.
#[derive(Default)]
pub(super) struct Refusals {
    count: u32,
    since: Option<Instant>,
}

/// No connection; what the client does now.
pub(super) enum Unreached {
    /// It tries again.
    Again,
    /// Its run is over.
    Over,
}

impl Refusals {
    /// A new connection, or what its absence means. Records a failure and pauses after it.
    pub(super) async fn connect(
        &mut self,
        part: &Part,
    ) -> Result<(Stream, Option<Number>), Unreached> {
        let begun = Instant::now();
        let connection = part.ledger.borrow_mut().open(part.client, begun);
        let attempt = Bare::connect(&part.load.place.address);
        let (fate, detail) = match tokio::time::timeout(CONNECT_LIMIT, attempt).await {
            Ok(Ok(bare)) => {
                *self = Refusals::default();
                part.ledger.borrow_mut().connections.opened += 1;
                match secure(part, bare).await {
                    Ok(stream) => return Ok((stream, connection)),
                    Err(lost) => lost,
                }
            }
            Ok(Err(error)) => (fate_of(&error), format!("connect: {error}")),
            Err(_) => (Fate::ConnectTimedOut, format!("no connection within {CONNECT_LIMIT:?}")),
        };
        let known = Known::unsent(connection, begun, fate);
        part.ledger.borrow_mut().failed(known, part.client, 0, || detail);
        part.ledger.borrow_mut().close(connection, end_after(fate));
        if fate == Fate::Refused && self.is_gone(part.load.until) {
            return Err(Unreached::Over);
        }
        tokio::time::sleep(REFUSED_PAUSE).await;
        Err(Unreached::Again)
    }

    fn is_gone(&mut self, until: Until) -> bool {
        self.count += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        match until {
            Until::Elapsed(_) => false,
            Until::Gone { .. } => {
                self.count >= Until::GONE_REFUSALS && since.elapsed() >= Until::GONE_TIME
            }
        }
    }
}

/// The TLS handshake, where there is to be one. The server had the connection: a failure is a request that it lost.
async fn secure(part: &Part, bare: Bare) -> Result<Stream, (Fate, String)> {
    let Some(config) = &part.tls else { return Ok(Stream::Plain(bare)) };
    let reset = bare.reset_seen();
    let name = part.load.place.server_name();
    let limit = part.load.request_limit;
    let shaken = tokio::time::timeout(limit, Stream::secure(bare, config.clone(), name)).await;
    match shaken {
        Ok(Ok(stream)) => {
            let resumed = u64::from(stream.is_resumed() == Some(true));
            part.ledger.borrow_mut().connections.resumed += resumed;
            Ok(stream)
        }
        Ok(Err(error)) => {
            let fate = match (reset.is_set(), error.kind()) {
                (true, _) => Fate::ResetBeforeResponse,
                (false, io::ErrorKind::UnexpectedEof) => Fate::EofBeforeResponse,
                (false, _) => Fate::Malformed,
            };
            Err((fate, format!("TLS handshake: {error}")))
        }
        Err(_) => Err((Fate::TimedOut, format!("no TLS handshake within {limit:?}"))),
    }
}

/// What an error of connecting says.
pub(super) fn fate_of(error: &io::Error) -> Fate {
    match error.kind() {
        // The path of a Unix socket that was removed is a closed door as well.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Fate::Refused,
        io::ErrorKind::TimedOut => Fate::ConnectTimedOut,
        _ => Fate::ConnectFailed,
    }
}
