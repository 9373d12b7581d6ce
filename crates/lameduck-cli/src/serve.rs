//! `lameduck serve`.

use std::process::ExitCode;

use crate::complaint::Complaint;
use crate::flags::Serve;

/// Runs the reference service until it has stopped.
pub fn run(flags: Serve) -> Result<ExitCode, Complaint> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = flags.threads {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build().map_err(|error| {
        Complaint::failed(
            format!("cannot start the worker threads: {error}"),
            "raise the limit of processes (ulimit -u), or write a smaller --threads",
        )
    })?;
    let ended = runtime.block_on(arena::run(flags.into()));
    // Everything that was awaited has ended; a blocking call that was cut must not hold the exit.
    runtime.shutdown_background();
    Ok(ExitCode::from(ended?.code()))
}
