//! The drain signal, and what long-lived work is asked for meanwhile.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::control::View;
use crate::phase::Asked;

/// How long before the cut blocking work that asks is told to stop, if the drain has not begun by then.
pub const LAST_CALL: Duration = Duration::from_secs(1);

/// The drain signal: finish what is in hand, take nothing new.
///
/// It comes once and stays. Cloning is cheap; all clones are the same signal.
///
/// ```
/// # async fn next_job() -> Option<u32> { None }
/// # async fn work(job: u32) {}
/// async fn worker(drain: lameduck::Drain) {
///     while !drain.is_draining() {
///         // Only the wait for a job is given up for the drain, never a job.
///         let job = tokio::select! {
///             job = next_job() => job,
///             () = drain.started() => None,
///         };
///         let Some(job) = job else { return };
///         work(job).await;
///     }
/// }
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// # let life = lameduck::Lifecycle::builder().without_signals().start()?;
/// life.task("worker", worker);
/// # life.stop();
/// # assert_eq!(life.run().await.code(), 0);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Drain {
    pub(super) token: CancellationToken,
    pub(super) view: watch::Receiver<View>,
}

impl Drain {
    /// Waits until the drain begins; returns at once when it has. Cancel safe.
    pub async fn started(&self) {
        self.token.cancelled().await;
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Whether blocking work should end, as a checkpoint between two steps of its loop: it costs two reads of memory.
    ///
    /// It says so with the drain, and [`LAST_CALL`](crate::lifecycle::LAST_CALL) before the cut in any case (half way, when
    /// there are less than twice that): a runtime whose threads are all blocked cannot begin the drain, and work on other
    /// threads still can end where it is whole.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
    /// # let life = lameduck::Lifecycle::builder().without_signals().start()?;
    /// let done = life.blocking("thumbnails", |work| {
    ///     let mut done = 0;
    ///     while done < 1_000_000 && !work.should_stop() {
    ///         done += 1; // A step that is short against the grace period.
    ///     }
    ///     done
    /// });
    /// # life.stop();
    /// # life.run().await;
    /// assert!(done.await.unwrap() <= 1_000_000);
    /// # Ok(()) }
    /// ```
    pub fn should_stop(&self) -> bool {
        if self.is_draining() {
            return true;
        }
        // Written by the control thread, which no runtime can block.
        let last_call = self.view.borrow().ahead_of_cut(LAST_CALL);
        last_call.is_some_and(|at| at <= Instant::now())
    }

    /// What long-lived work is asked for now, of which the drain is only the last step; see [`Asked`].
    pub fn asked(&self) -> Asked {
        self.view.borrow().asked
    }

    /// Waits until something is asked for that `is_it` accepts, and returns it; at once if that is asked for now.
    ///
    /// A state that lasted shorter than a turn of the runtime may be missed. Cancel safe.
    pub async fn asked_for(&self, is_it: impl Fn(Asked) -> bool) -> Asked {
        let mut view = self.view.clone();
        let seen = view.wait_for(|view| is_it(view.asked)).await.map(|view| view.asked);
        // Without a control thread the life is over.
        seen.unwrap_or(Asked::Finish)
    }

    /// When work that is left is cut: the deadline less what closing has reserved. `None` before a stop has begun, and
    /// for a stop without a deadline. A later stop may bring it nearer.
    pub fn cut_at(&self) -> Option<Instant> {
        self.view.borrow().cut_at
    }

    /// Waits until work is cut in no more than `ahead`: the moment for whatever must be done before that. Cancel safe.
    ///
    /// It never comes while nothing has a deadline. When `ahead` is longer than half of the time there was from the
    /// stop to the cut, it comes at that half, so that a short grace period is still one.
    pub async fn nearly_cut(&self, ahead: Duration) {
        let mut view = self.view.clone();
        loop {
            let moment = view.borrow_and_update().ahead_of_cut(ahead);
            let changed = view.changed();
            let changed = match moment {
                Some(moment) => tokio::time::timeout_at(moment.into(), changed).await,
                None => Ok(changed.await),
            };
            match changed {
                Ok(Ok(())) => {}
                // The moment has come, or the life is over.
                Err(_) | Ok(Err(_)) => return,
            }
        }
    }

    /// The signal as a token, for code that speaks `tokio_util`. Cancelling the token does not stop the service.
    pub fn token(&self) -> CancellationToken {
        self.token.child_token()
    }
}
