//! What work is given and what it gives back: the drain signal, and how a task or a blocking call ended.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_util::sync::CancellationToken;

use crate::report::panic_words;

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

    /// The same question, as a checkpoint in a loop of blocking work.
    pub fn should_stop(&self) -> bool {
        self.is_draining()
    }

    /// The signal as a token, for code that speaks `tokio_util`. Cancelling the token does not stop the service.
    pub fn token(&self) -> CancellationToken {
        self.token.child_token()
    }
}

/// How a task ended, which awaiting its [`Task`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEnd {
    /// It returned.
    Finished,
    /// It panicked with these words.
    Panicked(String),
    /// It was aborted, or cut at the deadline.
    Aborted,
}

/// A running task, made by [`Lifecycle::task`](crate::Lifecycle::task).
///
/// Awaiting it tells how the task ended; cancel safe. Dropping it lets the task go on, and the drain still waits for it.
#[derive(Debug)]
pub struct Task {
    pub(super) handle: tokio::task::JoinHandle<TaskEnd>,
}

impl Task {
    /// Drops the task at its next await; it then no longer holds the drain.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl Future for Task {
    type Output = TaskEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TaskEnd> {
        Pin::new(&mut self.handle).poll(cx).map(|end| end.unwrap_or(TaskEnd::Aborted))
    }
}

/// A call on a blocking thread, made by [`Lifecycle::blocking`](crate::Lifecycle::blocking).
///
/// Awaiting it gives what the call returned, or the words of its panic; cancel safe. Dropping it lets the call go on,
/// and the drain still waits for it.
#[derive(Debug)]
pub struct Blocking<T> {
    pub(super) handle: tokio::task::JoinHandle<Result<T, String>>,
}

impl<T> Future for Blocking<T> {
    type Output = Result<T, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(Pin::new(&mut self.handle).poll(cx));
        Poll::Ready(result.unwrap_or_else(|_| Err("the runtime ended first".to_owned())))
    }
}

/// Runs a future and turns a panic into its words.
pub(super) struct CatchPanic<F>(pub(super) Pin<Box<F>>);

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // After a panic the future is never polled again, only dropped.
        let polled = std::panic::AssertUnwindSafe(|| self.0.as_mut().poll(cx));
        match std::panic::catch_unwind(polled) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_words(&*panic).to_owned())),
        }
    }
}
