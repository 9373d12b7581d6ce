//! `graphile_worker` 0.14 on the service's own stop: one set of signals, one deadline, and nothing waits for a retry.

use std::time::Duration;

use graphile_worker::WorkerOptions;
use lameduck::jobs::{CANCEL_AHEAD, GIVE_BACK};
use lameduck::{Error, Lifecycle};

use crate::{CONCURRENCY, Claims, LOOK_EVERY, MISSED, SIGN_OF_LIFE};

/// The name of the one task here.
pub const TASK: &str = "job";

/// A worker's options, but for its jobs.
#[must_use]
pub fn options(url: &str, claims: Claims) -> WorkerOptions {
    let options = WorkerOptions::default().database_url(url).schema("graphile_worker");
    let options = options.concurrency(CONCURRENCY).poll_interval(LOOK_EVERY);
    match claims {
        Claims::Kept => options,
        Claims::Expire => options
            .heartbeat_interval(SIGN_OF_LIFE)
            .sweep_interval(SIGN_OF_LIFE)
            .sweep_threshold(SIGN_OF_LIFE * MISSED)
            .recovery_delay(Duration::ZERO),
    }
}

/// How long the worker may take from its signal to its end when nothing else bounds it.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs `options` until the service stops or a successor works.
///
/// The worker's own grace period begins with its signal, and it gives back uncharged what is not done at its end. It is
/// set to the service's `grace_period`, less what giving back takes.
///
/// # Errors
///
/// When the life has a task or resource of that name already.
pub fn work(
    life: &Lifecycle,
    options: WorkerOptions,
    grace: Option<Duration>,
) -> Result<(), Error> {
    let drain = life.drain();
    let stops = async move {
        drain.asked_for(|asked| asked != lameduck::Asked::Serve).await;
    };
    let grace = grace.map_or(LONGEST, |grace| grace - (CANCEL_AHEAD + GIVE_BACK).min(grace / 2));
    let options = options
        .listen_os_shutdown_signals(false)
        .shutdown_signal(stops)
        .shutdown_grace_period(grace)
        .shutdown_interrupted_job_retry_delay(Duration::ZERO);
    let log = life.log();
    life.task("graphile", |_| async move {
        let ended = match options.init().await {
            Ok(worker) => worker.run().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = ended {
            log.line("graphile", &format!("the worker ended: {error}"));
        }
    });
    Ok(())
}
