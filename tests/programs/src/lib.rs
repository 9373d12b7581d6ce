//! What the small servers share: their command line, and one axum application, so that servers
//! which are compared answer with the very same handlers.

pub mod app;
pub mod arguments;
pub mod misbehave;
pub mod served;

use std::io::Write;
use std::net::SocketAddr;

/// Tells whoever started this program that connections are accepted from now on.
///
/// # Errors
///
/// When standard output is closed: nobody waits for the line then.
pub fn announce(address: SocketAddr) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    out.flush()
}

/// Installs handlers for TERM and INT, the signals that ask a server to stop; the future ends when
/// one came. Call it before [`announce`]: whoever reads that line may send a signal at once.
///
/// # Errors
///
/// When no handler can be installed.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
