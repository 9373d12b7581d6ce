//! What happens to the task that upgrades, and what the control thread has to say to it.

use std::io;
use std::process::ExitStatus;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::phase::Refusal;
use crate::takeover::channel::{Came, Channel};
use crate::takeover::wire::Hello;

/// Events that may wait for the task.
pub(crate) const EVENTS: usize = 256;

/// What came of an upgrade: the successor, or why not.
pub(crate) type Outcome = Result<Successor, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Successor {
    pub(crate) pid: u32,
    pub(crate) generation: u32,
}

/// What the machine decided.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Decision {
    Admit,
    Refuse(Refusal),
    /// Nothing new comes here any more: it all goes to the successor.
    HandedOver,
    /// The service is ours again.
    Resumed,
    /// There is no way back any more.
    Confirmed,
    /// This generation was told to stop, and not by a successor.
    Stopping,
}

/// What happens to the task.
pub(crate) enum Event {
    /// Somebody wants an upgrade.
    Upgrade {
        queue: Queue,
        reply: oneshot::Sender<Outcome>,
    },
    /// A successor introduces itself.
    Hello {
        channel: Channel,
        hello: Hello,
    },
    /// A successor said something, or its conversation ended.
    Said {
        attempt: u64,
        came: io::Result<Came>,
    },
    /// A successor's process is gone.
    Exited {
        attempt: u64,
        status: io::Result<ExitStatus>,
    },
    /// A wait may be over.
    Due {
        attempt: u64,
    },
    Decided(Decision),
    /// Everything has ended here: `gone` is told when no unwanted successor is left, which has until then to leave.
    Leaving {
        until: Instant,
        gone: oneshot::Sender<()>,
    },
    /// Every connection that could move has.
    NothingLeft {
        attempt: u64,
    },
}

/// What to do with an upgrade while another is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    Wait,
    Refuse,
}

/// What the control thread has to say: it never waits, so it is passed on.
pub(crate) enum FromControl {
    Decided(Decision),
    /// A signal asks for an upgrade.
    Upgrade,
}

/// Passes on what the control thread says.
pub(crate) async fn forward(
    mut from: mpsc::UnboundedReceiver<FromControl>,
    to: mpsc::WeakSender<Event>,
) {
    while let Some(said) = from.recv().await {
        let event = match said {
            FromControl::Decided(decision) => Event::Decided(decision),
            FromControl::Upgrade => {
                // Nobody waits for it: the log tells what came of it.
                let (reply, _) = oneshot::channel();
                Event::Upgrade { queue: Queue::Refuse, reply }
            }
        };
        let Some(to) = to.upgrade() else { return };
        let _ = to.send(event).await;
    }
}
