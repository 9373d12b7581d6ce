//! Group commit: one task owns SQLite's writer and commits, each time, whatever has come in meanwhile.
//!
//! A commit costs one sync of the disk whether it holds one order or a hundred. Nobody waits for a group to fill:
//! a lone order is committed at once, and under load the groups grow by themselves.

use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot};

use super::{ORDERS_PER_COMMIT, Order, PlaceError, Placed, QUEUE_WAIT, QUEUED_ORDERS};
use crate::background::{Background, Stop};
use crate::store::{Sqlite, StoreError};

#[derive(Debug)]
pub(crate) struct GroupCommit {
    queue: mpsc::Sender<Pending>,
    writer: Background,
}

/// An order and whoever waits for its fate.
#[derive(Debug)]
struct Pending {
    order: Order,
    fate: oneshot::Sender<Result<Placed, StoreError>>,
}

impl GroupCommit {
    pub(super) fn start(sqlite: Sqlite) -> Self {
        let (queue, pending) = mpsc::channel(QUEUED_ORDERS);
        let writer = Background::start("orders", |stop| write(sqlite, pending, stop));
        Self { queue, writer }
    }

    pub(super) async fn place(&self, order: Order) -> Result<Placed, PlaceError> {
        let (fate, told) = oneshot::channel();
        match self.queue.send_timeout(Pending { order, fate }, QUEUE_WAIT).await {
            Ok(()) => {}
            Err(SendTimeoutError::Timeout(_)) => return Err(PlaceError::Busy),
            Err(SendTimeoutError::Closed(_)) => return Err(PlaceError::Closed),
        }
        match told.await {
            Ok(fate) => fate.map_err(PlaceError::Store),
            Err(_) => Err(PlaceError::Untold),
        }
    }

    pub(super) async fn close(&self) -> Result<(), String> {
        self.writer.close().await
    }
}

/// Commits groups until it is told to stop and the queue is empty.
async fn write(
    sqlite: Sqlite,
    mut queue: mpsc::Receiver<Pending>,
    mut stop: Stop,
) -> Result<(), StoreError> {
    let mut group = Vec::with_capacity(ORDERS_PER_COMMIT);
    let mut stopping = false;
    loop {
        let taken = tokio::select! {
            taken = queue.recv_many(&mut group, ORDERS_PER_COMMIT) => taken,
            _ = &mut stop, if !stopping => {
                // Closing keeps what is queued; once that is written the next receive returns nothing.
                queue.close();
                stopping = true;
                continue;
            }
        };
        if taken == 0 {
            return Ok(());
        }
        commit(&sqlite, &mut group).await;
    }
}

async fn commit(sqlite: &Sqlite, group: &mut Vec<Pending>) {
    let (orders, waiting): (Vec<_>, Vec<_>) =
        group.drain(..).map(|pending| (pending.order, pending.fate)).unzip();
    let fates: Vec<_> = match sqlite.place_all(&orders).await {
        Ok(placed) => placed.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error); orders.len()],
    };
    assert_eq!(fates.len(), waiting.len(), "each order of a group has one fate");
    for (waiting, fate) in waiting.into_iter().zip(fates) {
        // Whoever hung up meanwhile can ask again with the same id.
        let _ = waiting.send(fate);
    }
}
