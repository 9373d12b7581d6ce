//! Sends the connections that can move to the successor, one message each.

use std::io;

use tokio::sync::mpsc;

use crate::conversation::SEND;
use crate::handover::{Handover, Moved};
use crate::takeover::channel::AsyncChannel;
use crate::takeover::wire::{Connection, Message};

/// Sends idle connections off until nothing holds the way any more.
pub(super) async fn send_connections(
    channel: &AsyncChannel,
    mut moving: mpsc::UnboundedReceiver<Moved>,
    handover: &Handover,
) -> io::Result<()> {
    while let Some(moved) = moving.recv().await {
        let message = Message::Connection(Connection {
            server: moved.server.to_string(),
            peer: moved.stream.entry().peer().to_string(),
            unread: moved.unread.clone(),
            spilled: None,
            session: moved.session.as_deref().cloned(),
        });
        let sent = channel.send_within(SEND, &message, &[moved.stream.as_fd()]).await;
        if let Err(error) = sent {
            // The successor is gone: this connection and those behind it are served here again.
            handover.close();
            handover.give_back(moved);
            while let Ok(moved) = moving.try_recv() {
                handover.give_back(moved);
            }
            return Err(error);
        }
    }
    Ok(())
}
