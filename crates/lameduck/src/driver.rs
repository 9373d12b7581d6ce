//! The one task that does what only the async runtime can do, and the accept loops it orders about.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use crate::closing::{AllClosed, Resources};
use crate::control::{self, Command, Message};
use crate::error::Error;
use crate::listener::Order;
use crate::phase::Input;
use crate::succeed::wire_listener;
use crate::takeover::wire;
use crate::work::Hold;

/// The accept loops' orders, and whether loops that join later may open at once.
pub(crate) struct Gates {
    state: Mutex<State>,
    position: watch::Sender<Position>,
}

#[derive(Default)]
struct State {
    loops: Vec<Loop>,
    /// The wire names of what a successor accepts from.
    used: BTreeSet<String>,
}

/// One accept loop.
pub(crate) struct Loop {
    pub(crate) server: String,
    pub(crate) given: String,
    pub(crate) unix: bool,
    /// Whether its socket is a predecessor's.
    pub(crate) taken_over: bool,
    pub(crate) hold: Hold,
    pub(crate) orders: mpsc::UnboundedSender<Order>,
}

impl Loop {
    fn wire(&self, index: usize) -> wire::Listener {
        wire_listener(index, &self.server, &self.given, self.unix)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Waiting,
    Open,
    Closed,
}

impl Gates {
    pub(crate) fn new() -> Gates {
        Gates { state: Mutex::default(), position: watch::Sender::new(Position::Waiting) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, joins: Loop) -> Result<(), Error> {
        let mut state = self.lock();
        let position = *self.position.borrow();
        match (joins.hold, position) {
            (Hold::Drain, Position::Waiting) => {}
            // The admin server answers from the start to the very end.
            (Hold::Nothing, _) | (Hold::Drain, Position::Open) => {
                let _ = joins.orders.send(Order::Open);
            }
            (Hold::Drain, Position::Closed) => {
                let name = &joins.server;
                return Err(Error::name(format!("serve '{name}': the service is stopping")));
            }
        }
        state.loops.push(joins);
        Ok(())
    }

    fn open(&self) {
        let state = self.lock();
        for accepting in &state.loops {
            let _ = accepting.orders.send(Order::Open);
        }
        self.position.send_replace(Position::Open);
    }

    /// Returns once the loops have been told to accept.
    pub(crate) async fn opened(&self) {
        // An error means that the sender is gone, which is us.
        let _ = self.position.subscribe().wait_for(|position| *position == Position::Open).await;
    }

    /// What a successor goes on accepting from.
    pub(crate) fn hand_on(&self, used: Vec<String>) {
        self.lock().used = used.into_iter().collect();
    }

    /// The predecessor goes on accepting from what it gave.
    pub(crate) fn hand_back(&self) {
        let mut state = self.lock();
        let loops = state.loops.iter().enumerate();
        let came = loops.filter(|(_, accepting)| accepting.taken_over);
        state.used = came.map(|(index, accepting)| accepting.wire(index).name).collect();
    }

    /// Orders the loops to close and returns their acknowledgements. With a successor, what it uses stays open
    /// there; without, the admin server stays open here.
    fn close(&self, with_successor: bool) -> Vec<oneshot::Receiver<()>> {
        let state = self.lock();
        self.position.send_replace(Position::Closed);
        let mut acks = Vec::new();
        for (index, accepting) in state.loops.iter().enumerate() {
            let shared = with_successor && state.used.contains(&accepting.wire(index).name);
            if accepting.hold == Hold::Nothing && !shared {
                continue;
            }
            let (ack, acked) = oneshot::channel();
            // A loop that is gone drops `ack` here, which acknowledges as well.
            let _ = accepting.orders.send(Order::Close { shared, ack });
            acks.push(acked);
        }
        acks
    }

    /// Gives up the copies that were kept for a way back.
    pub(crate) fn let_go(&self) {
        let state = self.lock();
        for (index, accepting) in state.loops.iter().enumerate() {
            if state.used.contains(&accepting.wire(index).name) {
                let (ack, _) = oneshot::channel();
                let _ = accepting.orders.send(Order::Close { shared: false, ack });
            }
        }
    }

    /// A second descriptor of each listening socket, with its name.
    pub(crate) async fn duplicates(&self) -> io::Result<(Vec<wire::Listener>, Vec<OwnedFd>)> {
        let asked: Vec<_> = {
            let state = self.lock();
            let ask = |(index, accepting): (usize, &Loop)| {
                let (to, answer) = oneshot::channel();
                let _ = accepting.orders.send(Order::Duplicate(to));
                (accepting.wire(index), answer)
            };
            state.loops.iter().enumerate().map(ask).collect()
        };
        let (mut listeners, mut sockets) = (Vec::new(), Vec::new());
        for (listener, answer) in asked {
            // A loop that is gone has no socket to offer.
            if let Ok(socket) = answer.await {
                sockets.push(socket?);
                listeners.push(listener);
            }
        }
        Ok((listeners, sockets))
    }
}

/// Does what the control thread cannot: it waits for accept loops and runs closings.
pub(crate) struct Driver {
    pub(crate) orders: mpsc::UnboundedReceiver<Command>,
    pub(crate) picked_up: Arc<AtomicU64>,
    pub(crate) gates: Arc<Gates>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) control: Arc<control::Sender>,
}

impl Driver {
    pub(crate) async fn run(mut self) {
        while let Some(command) = self.orders.recv().await {
            self.picked_up.fetch_add(1, Ordering::AcqRel);
            match command {
                Command::Accept => self.gates.open(),
                Command::Answer => self.control.send(Message::Alive),
                Command::CloseGate { shared } => {
                    let acks = self.gates.close(shared);
                    let control = Arc::clone(&self.control);
                    drop(tokio::spawn(async move {
                        for ack in acks {
                            // Sent or dropped: either way that loop accepts no more.
                            let _ = ack.await;
                        }
                        control.send(Message::Input(Input::GateClosed));
                    }));
                }
                Command::CloseResources { until } => {
                    let closing = Arc::clone(&self.resources).close_all(until);
                    let control = Arc::clone(&self.control);
                    drop(tokio::spawn(async move {
                        match closing.await {
                            AllClosed::InTime => control.send(Message::Input(Input::Closed)),
                            // The control thread's own clock says so as well, and its word is the outcome: two
                            // clocks that race for it would tell the same end now one way and now the other.
                            AllClosed::DeadlineCame => {}
                        }
                    }));
                }
            }
        }
    }
}
