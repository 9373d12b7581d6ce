//! What goes to the control thread, and what it orders of the async runtime.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::conversation::Heard;
use crate::generation::{AttemptId, Closing, Input as GenerationInput, LineId, Queue};
use crate::phase::Input;
use crate::takeover::channel::Channel;
use crate::takeover::wire::{Hello, Why};
use crate::upgrade;

/// What only the async runtime can do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Command {
    /// Let the accept loops accept; answer with [`GenerationInput::GateOpened`].
    OpenGate,
    /// Close the listeners well before work is cut; answer with [`Input::GateClosed`].
    CloseGate { closing: Closing, cut_at: Option<Instant> },
    /// Close the copies kept for a way back, and what the successor does not have well before work is cut; answer with
    /// [`GenerationInput::CopiesClosed`].
    LetGo { cut_at: Option<Instant> },
    /// Close the resources by then; answer with [`Input::Closed`].
    CloseResources { until: Option<Instant> },
    /// Give a sign of life; answer with [`Message::Alive`].
    Answer,
}

/// What happened, on its way to the thread.
pub(crate) enum Message {
    Input(GenerationInput),
    /// The predecessor said something.
    Above(Heard),
    /// A successor did.
    Below(LineId, Heard),
    /// Somebody asks for the service.
    Hello {
        channel: Channel,
        hello: Hello,
    },
    /// Somebody wants an upgrade.
    Upgrade {
        queue: Queue,
        reply: oneshot::Sender<upgrade::Outcome>,
    },
    /// An operator wants this generation to end, and waits for that: if it does already, nothing is to be forced.
    End,
    /// Somebody wants the previous version back.
    RollBack {
        reply: oneshot::Sender<upgrade::RolledBack>,
    },
    /// The process of a successor was started.
    Started {
        attempt: AttemptId,
        process: upgrade::Process,
    },
    /// This is what there is to give to a successor.
    Found(LineId, Result<upgrade::Found, Why>),
    /// No other generation serves: what is left here ends here.
    NowhereToMove,
    /// Closing needs this much of the grace period.
    Reserve(Duration),
    /// The runtime answers.
    Alive,
    /// The last handle is gone before a stop began: nobody is interested any more.
    Abandon,
}

impl From<Input> for Message {
    fn from(input: Input) -> Message {
        Message::Input(GenerationInput::Life(input))
    }
}

/// Sends messages to the thread, from anywhere, without waiting.
pub(crate) struct Sender {
    queue: Mutex<VecDeque<Message>>,
    wake: OwnedFd,
}

impl Sender {
    /// Messages go through `queue`; a byte into `wake` says that there is one.
    pub(super) fn new(wake: OwnedFd) -> Sender {
        Sender { queue: Mutex::default(), wake }
    }

    pub(crate) fn send(&self, message: impl Into<Message>) {
        self.lock().push_back(message.into());
        // A full pipe wakes the thread just as well.
        let _ = rustix::io::write(&self.wake, &[0]);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Message>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Option<Message> {
        self.lock().pop_front()
    }
}
