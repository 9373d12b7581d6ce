//! The accept loop: takes what the kernel has queued until it is told to close.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::errors::{AcceptErrors, BACK_OFF, BACK_OFF_MOST, lasts};
use super::path::Keeper;
use super::{Listener, gate};
use crate::connection::{Arrival, Socket, Stream};
use crate::generation::Closing;
use crate::work::{Hold, Peer, Registry};

/// What an accept loop is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Accept, or accept again. `ack` is sent when this loop does, or dropped when it is gone.
    Open { ack: oneshot::Sender<()> },
    /// Answer with a second descriptor of the socket, for a successor.
    Duplicate(oneshot::Sender<io::Result<OwnedFd>>),
    /// Stop accepting.
    Close(Close),
}

/// The order to stop accepting.
#[derive(Debug)]
pub(crate) struct Close {
    pub(crate) closing: Closing,
    /// When work is cut: the gate leaves time before.
    pub(crate) cut_at: Option<Instant>,
    /// Sent, or dropped, when no connection can be accepted any more.
    pub(crate) ack: oneshot::Sender<()>,
}

/// What a server does with a connection of which some bytes may have been read already.
pub(crate) type Handler = Arc<dyn Fn(Stream, Vec<u8>) + Send + Sync>;

/// Everything an accept loop needs besides its listener.
pub(crate) struct Accepting {
    pub(crate) server: Arc<str>,
    pub(crate) hold: Hold,
    pub(crate) registry: Arc<Registry>,
    pub(crate) errors: Arc<AcceptErrors>,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
}

enum Event {
    Order(Option<Order>),
    Accepted(io::Result<(Socket, Peer)>),
}

impl Accepting {
    /// Accepts until told to close, and hands each connection to `serve`.
    pub(crate) async fn run(mut self, mut listener: Listener, serve: Handler) {
        // Clients wait in the kernel's queue until the lifecycle is ready, and while a successor is on probation.
        while let Some(order) = self.orders.recv().await {
            match order {
                Order::Open { ack } => {
                    let _ = ack.send(());
                }
                Order::Duplicate(to) => {
                    let _ = to.send(listener.duplicate());
                    continue;
                }
                Order::Close(close) => {
                    drop(listener);
                    drop(close);
                    return;
                }
            }
            listener.path_belongs_to(Keeper::Us);
            match self.accept_until_close(&listener, &serve).await {
                Some(Close { closing: Closing::HandedOver, ack, .. }) => {
                    // The successor accepts from this socket; the copy stays for a rollback.
                    listener.path_belongs_to(Keeper::Other);
                    let _ = ack.send(());
                }
                Some(Close { closing: Closing::GivenAway, ack, .. }) => {
                    listener.path_belongs_to(Keeper::Other);
                    drop(listener);
                    let _ = ack.send(());
                    return;
                }
                Some(Close { closing: Closing::Sole, cut_at, ack }) => {
                    if listener.origin.is_sole().await {
                        let (errors, registry) = (&*self.errors, &*self.registry);
                        let terms = gate::Terms { errors, registry, cut_at };
                        gate::close(&mut listener, terms, |socket, peer| {
                            self.hand_on(socket, peer, Arrival::AtTheGate, &serve);
                        })
                        .await;
                    }
                    drop(listener);
                    let _ = ack.send(());
                    return;
                }
                None => return,
            }
        }
    }

    /// Accepts until told to close; `None` means that nobody gives orders any more.
    async fn accept_until_close(&mut self, listener: &Listener, serve: &Handler) -> Option<Close> {
        loop {
            match self.accept_until_order(listener, serve).await? {
                Order::Open { ack } => {
                    let _ = ack.send(());
                }
                Order::Duplicate(to) => {
                    let _ = to.send(listener.duplicate());
                }
                Order::Close(close) => return Some(close),
            }
        }
    }

    /// Accepts connections until an order comes; `None` means that nobody gives orders any more.
    async fn accept_until_order(&mut self, listener: &Listener, serve: &Handler) -> Option<Order> {
        let mut pause = BACK_OFF;
        loop {
            let event = std::future::poll_fn(|cx| {
                if let Poll::Ready(order) = self.orders.poll_recv(cx) {
                    return Poll::Ready(Event::Order(order));
                }
                listener.poll_accept(cx).map(Event::Accepted)
            })
            .await;
            match event {
                Event::Order(order) => return order,
                Event::Accepted(Ok((socket, peer))) => {
                    pause = BACK_OFF;
                    self.hand_on(socket, peer, Arrival::Open, serve);
                }
                Event::Accepted(Err(error)) => {
                    self.errors.add();
                    if lasts(&error) {
                        if let Some(order) = self.order_within(pause).await {
                            return order;
                        }
                        pause = (pause * 2).min(BACK_OFF_MOST);
                    }
                }
            }
        }
    }

    /// Waits `pause` out unless an order comes first.
    async fn order_within(&mut self, pause: Duration) -> Option<Option<Order>> {
        tokio::time::timeout(pause, self.orders.recv()).await.ok()
    }

    fn hand_on(&self, socket: Socket, peer: Peer, arrival: Arrival, serve: &Handler) {
        if let Socket::Tcp(stream) = &socket {
            // Answers are written whole: waiting to fill a segment only adds latency. A peer that is
            // gone already makes this fail, and the first read tells.
            let _ = stream.set_nodelay(true);
        }
        let guard = self.registry.connect(Arc::clone(&self.server), peer, self.hold);
        serve(Stream::new(socket, guard, arrival), Vec::new());
    }
}
