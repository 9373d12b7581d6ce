//! `lameduck serve`.

use std::process::ExitCode;
use std::time::Duration;

use crate::complaint::Complaint;
use crate::flags::Serve;
use crate::init;
use crate::operate::print;

/// How long the worker threads may take to let go of what is left once everything that was awaited has ended: the
/// admin server with its socket. A blocking call that hangs does not hold the exit beyond it.
const LET_GO: Duration = Duration::from_millis(100);

/// Runs the reference service until it has stopped.
pub fn run(flags: Serve) -> Result<ExitCode, Complaint> {
    if init::is_called_for() {
        return init::run();
    }
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
    if flags.check {
        let checked = runtime.block_on(arena::check(&flags.into()));
        runtime.shutdown_timeout(LET_GO);
        checked?;
        print("The service could start like this\n");
        return Ok(ExitCode::SUCCESS);
    }
    let ended = runtime.block_on(arena::run(flags.into()));
    runtime.shutdown_timeout(LET_GO);
    Ok(ExitCode::from(ended?.code()))
}
