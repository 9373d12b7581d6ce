//! Sends the connections that can move to the successor, one message each; and when that is gone, to the generation that
//! serves then.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::passing::tell;
use crate::conversation::{SEND, is_of_one_message, unless};
use crate::generations::Place;
use crate::handover::{Handover, Moved};
use crate::operate::ADOPT;
use crate::takeover::channel::{AsyncChannel, Came};
use crate::takeover::wire::{Connection, Message};

/// How often the generation that serves is looked for: at the moment of another upgrade it may not serve yet.
pub const SEEK: u32 = 5;

/// How long to wait between two looks.
pub const SEEK_PAUSE: Duration = Duration::from_millis(50);

/// Why connections do not move any more.
pub(super) enum Ended {
    /// Nobody needs the way any more: the service came back, or everything has moved.
    Closed,
    /// There is no other generation that serves.
    Nowhere,
}

/// Whether whoever is at the other end has said which sessions it goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sessions {
    /// It has, and only such ones were sent off.
    Announced,
    /// It has not: sessions go on here.
    Unread,
}

/// How one conversation ended.
enum Way {
    Closed,
    Lost,
}

/// Moves connections on, over one conversation after the other.
pub(super) struct Mover {
    pub(super) handover: Arc<Handover>,
    pub(super) place: Place,
    pub(super) own: u32,
    /// Told when the service comes back.
    pub(super) over: CancellationToken,
}

impl Mover {
    /// Begins with the successor, whose end `left` tells. While the next one is looked for, connections wait here.
    pub(super) async fn run(
        self,
        successor: Arc<AsyncChannel>,
        mut moving: mpsc::UnboundedReceiver<Moved>,
        left: CancellationToken,
    ) -> Ended {
        let mut kept = None;
        let announced = Sessions::Announced;
        let mut way =
            self.send(&successor, announced, &mut moving, &mut kept, left.cancelled()).await;
        drop(successor);
        while let Way::Lost = way {
            let Some((newest, servers)) = self.seek().await else {
                self.give_back(kept, moving);
                return Ended::Nowhere;
            };
            self.handover.leads_to(servers);
            way = self.send(&newest, Sessions::Unread, &mut moving, &mut kept, ends(&newest)).await;
        }
        Ended::Closed
    }

    /// Sends idle connections off until nothing holds the way any more, or nobody is at its other end. The one that could
    /// not be sent is kept.
    async fn send(
        &self,
        channel: &AsyncChannel,
        sessions: Sessions,
        moving: &mut mpsc::UnboundedReceiver<Moved>,
        kept: &mut Option<Moved>,
        ends: impl Future<Output = ()>,
    ) -> Way {
        let mut ends = pin!(ends);
        loop {
            if kept.is_none() {
                match unless(ends.as_mut(), moving.recv()).await {
                    Some(Some(moved)) => *kept = Some(moved),
                    Some(None) => return Way::Closed,
                    None => return Way::Lost,
                }
            }
            if sessions == Sessions::Unread
                && let Some(moved) = kept.take_if(|moved| moved.session.is_some())
            {
                self.handover.give_back(moved);
            }
            // Sent off before it was known that nobody goes on with it there.
            if let Some(moved) = kept.take_if(|moved| !self.may_go(moved)) {
                self.handover.give_back(moved);
            }
            let Some(moved) = kept.as_ref() else { continue };
            let message = Message::Connection(Connection {
                server: moved.server.to_string(),
                peer: moved.stream.entry().peer().to_string(),
                unread: moved.unread.clone(),
                spilled: None,
                session: moved.session.as_deref().cloned(),
            });
            let sent = channel.send_within(SEND, &message, &[moved.stream.as_fd()]).await;
            match sent {
                Ok(()) => {
                    moved.stream.entry().is_sent();
                    *kept = None;
                }
                // No other way could tell it either: it is served here again, and the next one is sent.
                Err(error) if is_of_one_message(&error) => {
                    moved.stream.entry().cannot_move();
                    kept.take().into_iter().for_each(|moved| self.handover.give_back(moved));
                }
                Err(_) => return Way::Lost,
            }
        }
    }

    fn may_go(&self, moved: &Moved) -> bool {
        moved.session.is_some() || self.handover.leads_on(&moved.server)
    }

    /// Nobody takes them: they are served here again.
    fn give_back(&self, kept: Option<Moved>, mut moving: mpsc::UnboundedReceiver<Moved>) {
        // When the service has come back the way may be another's already; this one is closed then.
        if !self.over.is_cancelled() {
            self.handover.nobody_takes();
        }
        kept.into_iter().for_each(|moved| self.handover.give_back(moved));
        while let Ok(moved) = moving.try_recv() {
            self.handover.give_back(moved);
        }
    }

    /// The generation that serves now, if it goes on with our connections, and its servers, if it says.
    async fn seek(&self) -> Option<(AsyncChannel, Option<Vec<String>>)> {
        for _ in 0..SEEK {
            if self.place.leads_to(self.own) || self.over.is_cancelled() {
                return None;
            }
            if let Ok(Ok((newest, words))) =
                tokio::time::timeout(SEND, tell(&self.place, self.own, ADOPT)).await
            {
                // As `Reply` to ADOPT has them; one of before that was said has no words.
                let servers = words.lines().map(str::to_owned).collect();
                return Some((newest, (!words.is_empty()).then_some(servers)));
            }
            tokio::time::sleep(SEEK_PAUSE).await;
        }
        None
    }
}

/// Returns when the other end is gone.
async fn ends(channel: &AsyncChannel) {
    while let Ok(Came::Message(..)) = channel.receive().await {}
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::net::UnixStream;

    use super::*;
    use crate::connection::{Arrival, Socket, Stream};
    use crate::handover::GoesOn;
    use crate::takeover::wire::MAX_NAME;
    use crate::work::{Hold, Peer, Registry};

    fn moved(server: &str) -> Moved {
        let (ours, _) = UnixStream::pair().unwrap();
        let server: Arc<str> = Arc::from(server);
        let guard = Registry::new().connect(Arc::clone(&server), Peer::Unix, Hold::Drain);
        let stream = Stream::new(Socket::Unix(ours), guard, Arrival::Open);
        Moved { server, stream, unread: Vec::new(), session: None }
    }

    /// The way is there, and the others go on it.
    #[tokio::test]
    async fn a_connection_that_no_message_can_tell_is_served_here_again_and_holds_up_no_other() {
        let (here, there) = AsyncChannel::pair().unwrap();
        let handover = Arc::new(Handover::default());
        let odd = "x".repeat(MAX_NAME + 1);
        let (served, mut is_served) = mpsc::unbounded_channel();
        let serve = Arc::new(move |stream: Stream, _| served.send(stream).unwrap());
        handover.serves(Arc::from(odd.as_str()), serve, GoesOn::WithHttp);
        let (way, moving) = (handover.open(Vec::new(), None), handover.moving());
        for server in [&odd, "http"] {
            assert!(moving.send(moved(server)).is_ok());
        }
        let place = Place::at(Path::new("/nonexistent/control")).unwrap();
        let over = CancellationToken::new();
        let mover = Mover { handover: Arc::clone(&handover), place, own: 1, over };
        let moves = tokio::spawn(mover.run(Arc::new(here), way, CancellationToken::new()));
        let stream = is_served.recv().await.unwrap();
        assert_eq!(&**stream.entry().server(), odd);
        let again = Moved { stream, ..moved(&odd) };
        assert!(moving.send(again).is_err(), "it does not go round and round");
        let Ok(Came::Message(Message::Connection(sent), _)) = there.receive().await else {
            panic!("the other one has moved")
        };
        assert_eq!(sent.server, "http");
        handover.close();
        assert!(matches!(moves.await.unwrap(), Ended::Closed));
    }
}
