//! A byte stream between a generation and its successor, for what several sessions share and no single one can take along.

use std::ops::RangeInclusive;
use std::sync::Arc;

use tokio::net::UnixStream;

use super::Lifecycle;
use crate::connection::{Arrival, Socket, Stream};
use crate::error::Error;
use crate::handover::Moved;
use crate::takeover::wire::Session;
use crate::work::{Hold, Peer};

/// What a link is called where the request of a session is told.
const REQUEST: &str = "link";

impl Lifecycle {
    /// Waits until a successor accepts that goes on with links or WebSockets of this kind and version; at once while there
    /// is one. Cancel safe.
    pub async fn successor_reads(&self, kind: &str, version: u32) {
        self.shared.handover.moving().asked(kind, version).await;
    }

    /// Opens a byte stream to the successor's [`links`](Lifecycle::links) handler of this kind, which gets `state` with it.
    ///
    /// For what many sessions share: the members of a chat room move one by one, and the room, its history and the next
    /// number, moves over such a link while some members are here and some are there. The order in which one generation
    /// opens links and moves WebSockets is the order in which the successor gets them.
    ///
    /// The stream is no live work: what must be written before this process ends is written by a
    /// [task](Lifecycle::task).
    ///
    /// # Errors
    ///
    /// When there is no successor that reads this kind and version (any more), when there are more than
    /// [`MAX_SESSION`](crate::takeover::wire::MAX_SESSION) bytes of state, and when the system gives no descriptor.
    pub fn link(&self, kind: &str, version: u32, state: Vec<u8>) -> Result<UnixStream, Error> {
        let fail = |error| Error::io("link to the successor", format!("'{kind}'"), error);
        let moving = self.shared.handover.moving();
        let refused = |words: &str| fail(std::io::Error::other(words.to_owned()));
        if !moving.is_asked(kind, version) {
            return Err(refused("none reads it"));
        }
        if state.len() > crate::takeover::wire::MAX_SESSION {
            return Err(refused("its state is too long"));
        }
        let (stays, goes) = UnixStream::pair().map_err(fail)?;
        let server: Arc<str> = Arc::from(kind);
        let guard = self.shared.registry.connect(Arc::clone(&server), Peer::Unix, Hold::Drain);
        let stream = Stream::new(Socket::Unix(goes), guard, Arrival::Open);
        let session =
            Session { kind: kind.to_owned(), version, request: REQUEST.to_owned(), state };
        let moved = Moved { server, stream, unread: Vec::new(), session: Some(Box::new(session)) };
        moving.send(moved).map_err(|_| refused("it is gone"))?;
        Ok(stays)
    }

    /// Gets what predecessors [link](Lifecycle::link) to here: the state, its version, and the stream.
    ///
    /// Call it before [`ready`](Lifecycle::ready): a predecessor is told there what this program goes on with. `handler` is
    /// called in the runtime and spawns what it needs; a link is no live work of this process. When a link could not be
    /// sent after all, this process's own handler gets the other end of it.
    ///
    /// # Errors
    ///
    /// When the kind is taken, has no name or too long a one, or when there are too many kinds.
    pub fn links(
        &self,
        kind: &str,
        versions: RangeInclusive<u32>,
        handler: impl Fn(u32, Vec<u8>, UnixStream) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.shared.handover.goes_on_with(
            kind,
            versions,
            Arc::new(move |stream: Stream, _unread, session: Session| {
                if let Some(stream) = stream.into_unix() {
                    handler(session.version, session.state, stream);
                }
            }),
        )
    }
}
