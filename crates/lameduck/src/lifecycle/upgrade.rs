//! What an upgrade takes of a program: the states that move, and the wish for one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Lifecycle;
use crate::control::Message;
use crate::error::Error;
use crate::generation::{Input as GenerationInput, Queue};
use crate::shared::Cells;
use crate::states::Origin;
use crate::takeover::successor;
use crate::takeover::wire::{MAX_TEXT, Status};
use crate::text::printable;
use crate::upgrade::Outcome;

impl Lifecycle {
    /// Says that this start takes long: a predecessor waits at least `more` from now, and logs what for. Nothing
    /// happens without a predecessor, or after [`ready`](Lifecycle::ready).
    ///
    /// However often it is said, a predecessor waits no longer than
    /// [`TAKEOVER_LONGEST`](crate::takeover::TAKEOVER_LONGEST).
    pub fn still_starting(&self, doing: &str, more: Duration) {
        let status = Status { text: printable(doing, MAX_TEXT), extend: more };
        let status = successor::Input::Status(status);
        self.shared.control.send(Message::Input(GenerationInput::Above(status)));
    }

    /// Counters that all generations of this service go on counting: `count` cells under a name.
    ///
    /// The second value says whether a predecessor left them or they begin here at zero. See [`shared`](crate::shared).
    ///
    /// # Errors
    ///
    /// When the name is taken, when a predecessor's cells have another version or number, or when the system gives
    /// no memory.
    pub fn cells(&self, name: &str, version: u32, count: usize) -> Result<(Cells, Origin), Error> {
        self.shared.states.cells(name, version, count)
    }

    /// Offers a successor a state: `save` writes it when one asks.
    ///
    /// It is called in the runtime, must not block, and has [`STATE_TIMEOUT`](crate::takeover::STATE_TIMEOUT) together
    /// with the other states. It may write [`MAX_STATE_SIZE`](crate::takeover::wire::MAX_STATE_SIZE) bytes at most; more
    /// fails the upgrade, which changes nothing.
    ///
    /// # Errors
    ///
    /// When the name is taken, or too many states are kept.
    pub fn offer_state(
        &self,
        name: &str,
        version: u32,
        save: impl Fn() -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.shared.states.blob(name, version, Arc::new(save))
    }

    /// Takes the state that a predecessor offered under `name`, with its version; `None` if there is none (any more).
    ///
    /// # Errors
    ///
    /// When its version is not among those that can be read: return it from `main`, and the upgrade fails before
    /// anything has changed.
    pub fn take_state(
        &self,
        name: &str,
        readable: std::ops::RangeInclusive<u32>,
    ) -> Result<Option<(u32, Vec<u8>)>, Error> {
        self.shared.states.read_blob(name, &readable)
    }

    /// The session tickets of this life, for its TLS servers: their keys are a predecessor's if there is one, and move to
    /// a successor. Each call gives the same ones.
    ///
    /// # Errors
    ///
    /// When the state [`tickets::STATE`](crate::tickets::STATE) is used for something else, or a predecessor's has a
    /// version that cannot be read.
    #[cfg(feature = "rustls023")]
    pub fn tickets(&self) -> Result<crate::tickets::Tickets, Error> {
        use crate::tickets::{STATE, Tickets, VERSION};
        use std::sync::PoisonError;
        let mut tickets = self.shared.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tickets) = &*tickets {
            return Ok(tickets.clone());
        }
        let left = self.take_state(STATE, VERSION..=VERSION)?;
        let made = Tickets::new(left.as_ref().map(|(_, blob)| &blob[..]));
        let offered = made.clone();
        self.offer_state(STATE, VERSION, move || offered.save())?;
        Ok(tickets.insert(made).clone())
    }

    /// Starts the program anew and hands over to it, as SIGHUP and `lameduck upgrade` do.
    ///
    /// Returns the successor's process id and generation once it accepts. This generation then finishes what it has in
    /// hand and ends. Cancel safe: whoever stops waiting does not stop the upgrade.
    ///
    /// # Errors
    ///
    /// Without a control socket ([`Builder::control`](crate::Builder::control)), and when the successor fails: then nothing has changed.
    pub async fn upgrade(&self) -> Result<(u32, u32), Error> {
        let fail = |why: String| Error::name(format!("upgrade: {why}"));
        if self.shared.upgrades.is_none() {
            return Err(fail("there is no control socket".to_owned()));
        }
        let (reply, outcome) = oneshot::channel();
        self.shared.control.send(Message::Upgrade { queue: Queue::Refuse, reply });
        match outcome.await {
            Ok(Outcome::Upgraded(successor)) => Ok((successor.pid, successor.generation)),
            Ok(Outcome::Failed(why)) => Err(fail(why.text)),
            // Only who waits for one that is under way is told to ask again.
            Ok(Outcome::AskAgain) | Err(_) => Err(fail("the service is ending".to_owned())),
        }
    }
}
