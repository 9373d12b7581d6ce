//! The part of a resource that runs beside the requests until the resource is closed.
//!
//! Not a task of the lifecycle, on purpose: a task is told to end when the drain *begins*, and the counter and the
//! orders are needed until the last request has been answered. They end when they are closed, which the lifecycle
//! does after their last user.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::store::StoreError;

/// Told to stop, by a word or by the loss of its owner.
pub(crate) type Stop = oneshot::Receiver<()>;

/// A running part; it ends when it is closed or dropped.
#[derive(Debug)]
pub(crate) struct Background {
    name: &'static str,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    end: JoinHandle<Result<(), StoreError>>,
}

impl Background {
    pub(crate) fn start<F>(name: &'static str, part: impl FnOnce(Stop) -> F) -> Self
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let end = tokio::spawn(part(stopped));
        Self { name, running: Mutex::new(Some(Running { stop, end })) }
    }

    /// Tells the part to stop and waits until it has; how long is up to the part, so put a deadline around it. A
    /// second call has nothing to wait for.
    pub(crate) async fn close(&self) -> Result<(), String> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { stop, end }) = running else { return Ok(()) };
        // A part that ended by itself does not listen any more; its end says how.
        let _ = stop.send(());
        match end.await {
            Ok(result) => result.map_err(|error| format!("{}: {error}", self.name)),
            Err(panic) => Err(format!("{}: {panic}", self.name)),
        }
    }
}
