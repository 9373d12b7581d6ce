//! The one task that does what only the async runtime can do, and the accept loops it orders about.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::closing::{AllClosed, Resources};
use crate::control::{self, Command, Message};
use crate::error::Error;
use crate::generation::{Closing, Input as GateInput};
use crate::listener::{Close, Order};
use crate::phase::Input;
use crate::succeed::wire_listener;
use crate::takeover::wire;
use crate::work::Hold;

/// The accept loops' orders, and whether loops that join later may open at once.
#[derive(Default)]
pub(crate) struct Gates {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    position: Position,
    loops: Vec<Loop>,
    /// The wire names of what a successor accepts from.
    used: BTreeSet<String>,
    /// Whether a successor on probation may give the service back.
    way_back: bool,
    /// Whether there are addresses that it does not have, where this generation goes on accepting until it keeps the service.
    is_aside: bool,
}

/// One accept loop.
pub(crate) struct Loop {
    pub(crate) server: String,
    pub(crate) given: String,
    pub(crate) unix: bool,
    /// Whether somebody else holds its socket too, and goes on.
    pub(crate) shared: bool,
    /// The name a service manager passed it under.
    pub(crate) inherited: Option<String>,
    /// Whether its socket is a predecessor's.
    pub(crate) taken_over: bool,
    pub(crate) hold: Hold,
    pub(crate) orders: mpsc::UnboundedSender<Order>,
}

impl Loop {
    /// A loop that is gone drops the acknowledgement, which acknowledges as well.
    fn close(&self, closing: Closing, cut_at: Option<Instant>) -> oneshot::Receiver<()> {
        let (ack, acked) = oneshot::channel();
        let _ = self.orders.send(Order::Close(Close { closing, cut_at, ack }));
        acked
    }

    fn wire(&self, index: usize) -> wire::Listener {
        wire_listener(index, self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Position {
    #[default]
    Waiting,
    Open,
    Closed,
}

impl Gates {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, joins: Loop) -> Result<(), Error> {
        let mut state = self.lock();
        match (joins.hold, state.position) {
            (Hold::Drain, Position::Waiting) => {}
            // A predecessor still answers on this socket, and its clients would meet the readiness of one that starts.
            (Hold::Nothing, Position::Waiting) if joins.taken_over => {}
            // The admin server answers from the start to the very end.
            (Hold::Nothing, _) | (Hold::Drain, Position::Open) => {
                let (ack, _) = oneshot::channel();
                let _ = joins.orders.send(Order::Open { ack });
            }
            (Hold::Drain, Position::Closed) => {
                let name = &joins.server;
                return Err(Error::name(format!("serve '{name}': the service is stopping")));
            }
        }
        state.loops.push(joins);
        Ok(())
    }

    /// The first server that accepts at this address, as it was asked for.
    pub(crate) fn server_at(&self, given: &str) -> Option<(String, Hold)> {
        let state = self.lock();
        let at = state.loops.iter().find(|accepting| accepting.given == given)?;
        Some((at.server.clone(), at.hold))
    }

    /// Orders the loops to accept and returns their acknowledgements.
    fn open(&self) -> Vec<oneshot::Receiver<()>> {
        let mut state = self.lock();
        state.position = Position::Open;
        state.is_aside = false;
        let open = |accepting: &Loop| {
            let (ack, acked) = oneshot::channel();
            let _ = accepting.orders.send(Order::Open { ack });
            acked
        };
        state.loops.iter().map(open).collect()
    }

    /// What a successor goes on accepting from.
    pub(crate) fn hand_on(&self, used: Vec<String>) {
        let mut state = self.lock();
        state.used = used.into_iter().collect();
        state.way_back = true;
    }

    /// The predecessor goes on accepting from what it gave.
    pub(crate) fn hand_back(&self) {
        let mut state = self.lock();
        state.way_back = false;
        let loops = state.loops.iter().enumerate();
        let came = loops.filter(|(_, accepting)| accepting.taken_over);
        state.used = came.map(|(index, accepting)| accepting.wire(index).name).collect();
    }

    /// Whether connections are still accepted at addresses that the successor does not have.
    pub(crate) fn is_aside(&self) -> bool {
        self.lock().is_aside
    }

    /// Orders the loops to close and returns their acknowledgements. What a successor uses stays open there; what it
    /// does not use is closed through the gate, once there is no way back, but for the admin server, which stays open here.
    fn close(&self, closing: Closing, cut_at: Option<Instant>) -> Vec<oneshot::Receiver<()>> {
        let mut state = self.lock();
        state.position = Position::Closed;
        let may_return = state.way_back && closing == Closing::HandedOver;
        let (mut acks, mut is_aside) = (Vec::new(), false);
        for (index, accepting) in state.loops.iter().enumerate() {
            let is_used = state.used.contains(&accepting.wire(index).name);
            match (is_used, accepting.hold) {
                (true, _) => acks.push(accepting.close(closing, cut_at)),
                (false, Hold::Nothing) => {}
                // Closed now it could not be had back: whoever came next may have bound it.
                (false, Hold::Drain) if may_return => is_aside = true,
                (false, Hold::Drain) => acks.push(accepting.close(Closing::Sole, cut_at)),
            }
        }
        state.is_aside = is_aside;
        acks
    }

    /// Gives up the copies that were kept for a way back, closes what the successor does not have, and returns the
    /// acknowledgements.
    fn let_go(&self, cut_at: Option<Instant>) -> Vec<oneshot::Receiver<()>> {
        let state = self.lock();
        let mut acks = Vec::new();
        for (index, accepting) in state.loops.iter().enumerate() {
            match (state.used.contains(&accepting.wire(index).name), accepting.hold) {
                (true, _) => acks.push(accepting.close(Closing::GivenAway, None)),
                (false, Hold::Drain) if state.is_aside => {
                    acks.push(accepting.close(Closing::Sole, cut_at));
                }
                (false, Hold::Drain | Hold::Nothing) => {}
            }
        }
        acks
    }

    /// What the successor does not have is closed.
    fn nothing_is_aside(&self) {
        self.lock().is_aside = false;
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
                Command::OpenGate => self.tell_when(self.gates.open(), GateInput::GateOpened),
                Command::Answer => self.control.send(Message::Alive),
                Command::CloseGate { closing, cut_at } => {
                    let closed = GateInput::Life(Input::GateClosed);
                    self.tell_when(self.gates.close(closing, cut_at), closed);
                }
                Command::LetGo { cut_at } => {
                    let (acks, gates) = (self.gates.let_go(cut_at), Arc::clone(&self.gates));
                    let control = Arc::clone(&self.control);
                    drop(tokio::spawn(async move {
                        for ack in acks {
                            let _ = ack.await;
                        }
                        gates.nothing_is_aside();
                        control.send(Message::Input(GateInput::CopiesClosed));
                        // Whoever was idle before may end now.
                        control.send(Input::Idle);
                    }));
                }
                Command::CloseResources { until } => {
                    let closing = Arc::clone(&self.resources).close_all(until);
                    let control = Arc::clone(&self.control);
                    drop(tokio::spawn(async move {
                        match closing.await {
                            AllClosed::InTime => control.send(Input::Closed),
                            // The control thread's own clock says so as well, and its word is the outcome: two
                            // clocks that race for it would tell the same end now one way and now the other.
                            AllClosed::DeadlineCame => {}
                        }
                    }));
                }
            }
        }
    }

    /// Tells the control thread when each of these loops has done what it was told, or is gone: either way it accepts as
    /// it should.
    fn tell_when(&self, acks: Vec<oneshot::Receiver<()>>, done: GateInput) {
        let control = Arc::clone(&self.control);
        drop(tokio::spawn(async move {
            for ack in acks {
                let _ = ack.await;
            }
            control.send(Message::Input(done));
        }));
    }
}
