//! Named work of a program's own: tasks and blocking calls, how they start and how they ended.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::{Drain, Lifecycle};
use crate::error::Error;
use crate::panics::{CatchPanic, panic_words};
use crate::work::WorkKind;

impl Lifecycle {
    /// Starts a named background task, which holds the drain until it ends.
    ///
    /// The task gets the drain signal and should end soon after it. A panic is caught and reported; it does not
    /// hold the drain. At the deadline the task is dropped at its next await and named in the report.
    ///
    /// Dropping the [`Task`] lets it go on; awaiting it tells how it ended.
    pub fn task<F, Fut>(&self, name: &str, task: F) -> Task
    where
        F: FnOnce(Drain) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let guard = self.shared.registry.begin(WorkKind::Task, name);
        let id = guard.id();
        let registry = Arc::clone(&self.shared.registry);
        let future = task(self.drain());
        let label = name.to_owned();
        let handle = self.shared.runtime.spawn(async move {
            let _guard = guard;
            match CatchPanic(Box::pin(future)).await {
                Ok(()) => TaskEnd::Finished,
                Err(panic) => {
                    registry.panicked(format!("task {label}: {panic}"));
                    TaskEnd::Panicked(panic)
                }
            }
        });
        self.shared.registry.abort_with(id, handle.abort_handle());
        Task { handle }
    }

    /// Runs `call` on a blocking thread, as a named piece of work that holds the drain until it returns.
    ///
    /// A blocking call cannot be interrupted. Long loops should ask [`Drain::should_stop`]; at the deadline the process
    /// leaves without the call and the report names it. Awaiting the [`Blocking`] gives what the call returned.
    pub fn blocking<F, T>(&self, name: &str, call: F) -> Blocking<T>
    where
        F: FnOnce(&Drain) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (end, run) = self.stubborn("blocking call", name, call);
        drop(self.shared.runtime.spawn_blocking(run));
        Blocking { end }
    }

    /// Runs `work` on an OS thread of its own with this name, as a named piece of work that holds the drain until it
    /// returns. What is told of [`blocking`](Lifecycle::blocking) holds for it.
    ///
    /// For work that lasts: the runtime's blocking threads are shared, and bounded in number.
    ///
    /// # Errors
    ///
    /// When the system gives no thread; nothing has run then.
    pub fn thread<F, T>(&self, name: &str, work: F) -> Result<Blocking<T>, Error>
    where
        F: FnOnce(&Drain) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (end, run) = self.stubborn("thread", name, work);
        // The system's name for a thread cannot hold a zero byte.
        let thread = std::thread::Builder::new().name(name.replace('\0', " "));
        match thread.spawn(run) {
            Ok(_) => Ok(Blocking { end }),
            Err(error) => Err(Error::io("start", format!("thread '{name}'"), error)),
        }
    }

    /// Work that cannot be interrupted, entered by its name, and how it ends.
    fn stubborn<F, T>(
        &self,
        kind: &'static str,
        name: &str,
        work: F,
    ) -> (oneshot::Receiver<Result<T, String>>, impl FnOnce() + Send + 'static)
    where
        F: FnOnce(&Drain) -> T + Send + 'static,
        T: Send + 'static,
    {
        let guard = self.shared.registry.begin(WorkKind::Blocking, name);
        let registry = Arc::clone(&self.shared.registry);
        let (drain, label) = (self.drain(), name.to_owned());
        let (ended, end) = oneshot::channel();
        let run = move || {
            let worked = std::panic::AssertUnwindSafe(|| work(&drain));
            let result = std::panic::catch_unwind(worked).map_err(|panic| {
                let words = panic_words(&*panic).to_owned();
                registry.panicked(format!("{kind} {label}: {words}"));
                words
            });
            drop(guard);
            // Nobody need wait for it.
            let _ = ended.send(result);
        };
        (end, run)
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
    handle: tokio::task::JoinHandle<TaskEnd>,
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

/// A call on a thread of its own or of the runtime's, made by [`Lifecycle::blocking`](crate::Lifecycle::blocking) or
/// [`Lifecycle::thread`](crate::Lifecycle::thread).
///
/// Awaiting it gives what the call returned, or the words of its panic; cancel safe. Dropping it lets the call go on,
/// and the drain still waits for it.
#[derive(Debug)]
pub struct Blocking<T> {
    end: oneshot::Receiver<Result<T, String>>,
}

impl<T> Future for Blocking<T> {
    type Output = Result<T, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(Pin::new(&mut self.end).poll(cx));
        Poll::Ready(result.unwrap_or_else(|_| Err("the runtime ended first".to_owned())))
    }
}
