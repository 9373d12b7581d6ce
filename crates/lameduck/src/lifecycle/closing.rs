//! What a program closes after all work has ended, and whether the grace period has room for it.

use std::future::Future;
use std::time::Duration;

use super::Lifecycle;
use crate::closing::{CloseOutcome, Turn};
use crate::control::Message;
use crate::error::Error;

impl Lifecycle {
    /// Registers a resource that is closed after all work, and gives it back.
    ///
    /// `close` may return nothing or a result whose error is reported. Resources registered this way close in parallel;
    /// use [`on_close`](Lifecycle::on_close) to say what one uses, and its budget.
    ///
    /// # Panics
    ///
    /// When the name is taken, or [`RESOURCES_AT_MOST`](crate::closing::RESOURCES_AT_MOST) are registered:
    /// [`on_close`](Lifecycle::on_close) returns an error instead.
    pub fn resource<T, F, Fut>(&self, name: &str, value: T, close: F) -> T
    where
        T: Clone + Send + 'static,
        F: FnOnce(T) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: CloseOutcome,
    {
        let closed = value.clone();
        let registered = self.on_close(name).run(move || close(closed));
        assert!(
            registered.is_ok(),
            "{}",
            registered.err().map_or_else(String::new, |e| e.to_string())
        );
        value
    }

    /// Registers something to do after all work has ended, in order with other resources; see [`Closing`].
    pub fn on_close(&self, name: &str) -> Closing<'_> {
        Closing {
            life: self,
            name: name.to_owned(),
            uses: Vec::new(),
            budget: None,
            turn: Turn::Ordered,
        }
    }
}

/// Something to close after all work has ended, in the making; [`Lifecycle::on_close`] begins it.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// # use std::time::Duration;
/// # let life = lameduck::Lifecycle::builder().without_signals().start()?;
/// life.on_close("database").budget(Duration::from_secs(2)).run(|| async { Ok::<(), String>(()) })?;
/// // Written before the database closes, and not at all if that is not registered:
/// life.on_close("counter").uses(["database"]).run(|| async {})?;
/// life.on_close("logs").last().run(|| async {})?;
/// assert!(life.on_close("cache").uses(["reddis"]).run(|| async {}).is_err());
/// # Ok(()) }
/// ```
#[must_use = "nothing is registered before `run`"]
pub struct Closing<'a> {
    life: &'a Lifecycle,
    name: String,
    uses: Vec<String>,
    budget: Option<Duration>,
    turn: Turn,
}

impl Closing<'_> {
    /// What this one uses: those close only after it.
    pub fn uses<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.uses.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// How long it may take, reserved at the end of the grace period: work is forced that much earlier.
    ///
    /// Without a budget it may take what is left of the grace period, at most
    /// [`DEFAULT_BUDGET`](crate::closing::DEFAULT_BUDGET), and [`AFTER_FORCE`](super::AFTER_FORCE) once the stop was forced.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Closes after everything that is not last itself: the place of log and telemetry flushes.
    pub fn last(mut self) -> Self {
        self.turn = Turn::Last;
        self
    }

    /// Registers it.
    ///
    /// # Errors
    ///
    /// When the name is taken, something used is not registered, or lame duck and closing budgets no longer fit into
    /// the grace period.
    pub fn run<F, Fut>(self, close: F) -> Result<(), Error>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: CloseOutcome,
    {
        let shared = &self.life.shared;
        shared.resources.register(
            &self.name,
            &self.uses,
            self.budget,
            self.turn,
            Box::new(move || Box::pin(async move { close().await.into_result() })),
        )?;
        let reserve = shared.resources.reserve();
        if let Err(refused) = fits(shared.settings.grace, shared.settings.lame_duck, reserve) {
            // Refused means as if it had never been registered.
            shared.resources.forget(&self.name);
            return Err(refused);
        }
        shared.control.send(Message::Reserve(reserve));
        Ok(())
    }
}

/// Whether lame duck and closing leave any time to drain.
pub(super) fn fits(
    grace: Option<Duration>,
    lame_duck: Duration,
    reserve: Duration,
) -> Result<(), Error> {
    let Some(grace) = grace else { return Ok(()) };
    if lame_duck.saturating_add(reserve) <= grace {
        return Ok(());
    }
    let closing = match reserve {
        Duration::ZERO => String::new(),
        reserve => format!(" and closing budgets of {reserve:?}"),
    };
    Err(Error::budget(format!(
        "fit a lame duck of {lame_duck:?}{closing} into a grace period of {grace:?}"
    )))
}
