//! Leaving when told to, with nothing left behind.

use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// Waits on a thread of its own for INT or TERM; then kills every server that this process started, removes their
/// directories, and calls `leave` with the signal's number.
///
/// For a program, not for a test: it takes both signals away from their defaults.
///
/// # Errors
/// When no handler can be installed or no thread started.
pub fn on_interrupt(leave: impl FnOnce(i32) + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("interrupt".into()).spawn(move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
                _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
            }
        });
        crate::target::abandon();
        crate::stage::remove_scratch();
        leave(number);
    })?;
    Ok(())
}
