//! `graphile_worker` 0.14 on the service's own stop: one set of signals, one deadline, and nothing waits for a retry.
//!
//! What the worker does not do by itself: it has one signal, at which it stops claiming and from which its one grace period
//! runs. So at an upgrade it would give a long job to the successor, which does it again. Here that period does not end, and
//! shortly before work is cut the service gives back what the worker holds, uncharged, as the worker itself does at the end
//! of its period. Its jobs run in tasks of their own that outlive it: [`Cut`] ends them before they are given back.

use std::future::{Future, pending};
use std::time::Duration;

use graphile_worker::{Worker, WorkerOptions};
use lameduck::jobs::GIVE_BACK;
use lameduck::{Asked, Drain, Error, Lifecycle};
use sqlx::{Connection, PgConnection};

use crate::{CONCURRENCY, Claims, LOOK_EVERY, MISSED, SIGN_OF_LIFE, runs_again};

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

/// The worker's own grace period, which no job outlives.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is said of a job that was given back.
const INTERRUPTED: &str = "given back at a stop";

/// What a handler finds in its context's extensions, and does its work under.
#[derive(Debug, Clone)]
pub struct Cut(Drain);

impl Cut {
    /// Does `work`. Shortly before the service cuts what is left, the work is dropped and this never returns, so that a
    /// job which is given back in that moment has no effect any more.
    pub async fn before<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            end = work => end,
            () = self.0.nearly_cut(GIVE_BACK) => pending().await,
        }
    }
}

/// Runs a worker until the service stops or a successor works, and again if that one is lost in its probation.
///
/// `options` makes its options anew for each turn; `url` is the database that they name.
///
/// # Errors
///
/// When the life has a task or resource of that name already.
pub fn work(
    life: &Lifecycle,
    url: &str,
    mut options: impl FnMut() -> WorkerOptions + Send + 'static,
) -> Result<(), Error> {
    let (log, url) = (life.log(), url.to_owned());
    life.task("graphile", |drain| async move {
        loop {
            let told = drain.clone();
            let stops = async move {
                told.asked_for(|asked| asked != Asked::Serve).await;
            };
            let options = options()
                .add_extension(Cut(drain.clone()))
                .listen_os_shutdown_signals(false)
                .shutdown_signal(stops)
                .shutdown_grace_period(LONGEST);
            let turn = async {
                let worker = options.init().await.map_err(|error| error.to_string())?;
                turn(&worker, &url, &drain).await
            };
            match turn.await {
                Ok(given) => log.line("graphile", &format!("gave back {given} jobs")),
                Err(error) => log.line("graphile", &format!("the worker ended: {error}")),
            }
            if !runs_again(&drain).await {
                return;
            }
        }
    });
    Ok(())
}

/// Runs the worker to its end or to the cut; how many jobs were given back then.
async fn turn(worker: &Worker, url: &str, drain: &Drain) -> Result<usize, String> {
    let ended = tokio::select! {
        ended = worker.run() => ended.map_err(|error| error.to_string()),
        () = drain.nearly_cut(GIVE_BACK) => Ok(()),
    };
    let given = give_back(worker.worker_id(), url).await.map_err(|error| error.to_string())?;
    ended.map(|()| given)
}

/// Gives back what the worker holds, uncharged and to be had at once, in one transaction.
async fn give_back(worker: &str, url: &str) -> Result<usize, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let held = "SELECT id FROM graphile_worker._private_jobs WHERE locked_by = $1";
    let held: Vec<i64> = sqlx::query_scalar(held).bind(worker).fetch_all(&mut connection).await?;
    if !held.is_empty() {
        // What the worker calls at the end of its own grace period.
        let give = "SELECT graphile_worker._private_return_jobs($1, $2, 0, $3, true)";
        let give = sqlx::query(give).bind(worker).bind(&held).bind(INTERRUPTED);
        give.execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(held.len())
}
