//! A worker of a queue as a process of its own, to be stopped, upgraded and killed.
//!
//! `queue-worker QUEUE URL EFFECTS CLAIMS CONTROL [PROBATION]` with a path for its control socket, or `naive` for the program
//! that is written without a thought for its end. `CLAIMS` says what becomes of a dead worker's claims: `kept` for as long as
//! the queue does by itself, or `expire` after about a second. `PROBATION` is in seconds, and none unless it is given.

use std::path::PathBuf;
use std::time::Duration;

use apalis::prelude::*;
use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt as _;
use graphile_worker::{IntoTaskHandlerResult, TaskHandler, WorkerContext, WorkerOptions};
use lameduck::jobs::JobEnd;
use lameduck::{Exit, Lifecycle};
use queues::apalis::{Drained, Storage, postgres_storage, sqlite_storage};
use queues::effects::{Effects, Job};
use queues::nats::{CONSUMER, Delivery, Messages};
use queues::{CONCURRENCY, Claims, GRACE, graphile};
use sqlx::{PgPool, SqlitePool};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the arguments say.
struct Arguments {
    queue: String,
    url: String,
    effects: PathBuf,
    claims: Claims,
    control: String,
    probation: Duration,
}

impl Arguments {
    fn read() -> Option<Arguments> {
        let mut words = std::env::args().skip(1);
        Some(Arguments {
            queue: words.next()?,
            url: words.next()?,
            effects: words.next()?.into(),
            claims: if words.next()? == "expire" { Claims::Expire } else { Claims::Kept },
            control: words.next()?,
            probation: Duration::from_secs(words.next().map_or(Some(0), |text| text.parse().ok())?),
        })
    }
}

#[tokio::main]
async fn main() -> Result<Exit, Failure> {
    const USAGE: &str = "queue-worker QUEUE URL EFFECTS CLAIMS CONTROL [PROBATION]";
    let arguments = Arguments::read().ok_or(USAGE)?;
    let effects = Effects::open(&arguments.effects).await?;
    if arguments.control == "naive" {
        naive(&arguments, effects).await
    } else {
        drained(&arguments, effects).await
    }
}

/// An `apalis` worker by this name.
macro_rules! apalis_worker {
    ($name:expr, $storage:expr, $effects:expr) => {
        WorkerBuilder::new($name)
            .backend($storage)
            .concurrency(CONCURRENCY)
            .data($effects)
            .build(apalis_job)
    };
}

async fn apalis_job(job: Job, effects: Data<Effects>, attempt: Attempt) -> Result<(), BoxDynError> {
    let attempt = i64::try_from(attempt.current())?;
    Ok(effects.perform(&job, attempt).await?)
}

/// A job of `graphile_worker`, which has its own trait for them.
#[derive(serde::Serialize, serde::Deserialize)]
struct Graphile(Job);

impl TaskHandler for Graphile {
    const IDENTIFIER: &'static str = graphile::TASK;

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let effects = context.extensions().get::<Effects>().expect("it was given").clone();
        let attempt = i64::from(*context.job().attempts());
        let work = effects.perform(&self.0, attempt);
        let done = match context.extensions().get::<graphile::Cut>() {
            Some(cut) => cut.before(work).await,
            None => work.await,
        };
        done.map_err(|error| error.to_string())
    }
}

fn graphile_options(url: &str, claims: Claims, effects: Effects) -> WorkerOptions {
    graphile::options(url, claims).add_extension(effects).define_job::<Graphile>()
}

async fn nats(url: &str) -> Result<(async_nats::Client, PullConsumer), Failure> {
    let client = async_nats::connect(url).await?;
    let stream = jetstream::new(client.clone()).get_stream(CONSUMER).await?;
    Ok((client, stream.get_consumer(CONSUMER).await?))
}

/// Ends where nothing is half done when it is asked to.
async fn deliver(
    effects: Effects,
    delivery: Delivery,
    cancel: CancellationToken,
) -> Result<JobEnd, Failure> {
    let job: Job = serde_json::from_str(&delivery.text())?;
    effects.begin(&job, delivery.times()).await?;
    let take = tokio::time::sleep(Duration::from_millis(job.take_ms));
    if cancel.run_until_cancelled(take).await.is_none() {
        return Ok(JobEnd::Unfinished);
    }
    effects.end(&job).await?;
    Ok(JobEnd::Ended)
}

async fn drained(arguments: &Arguments, effects: Effects) -> Result<Exit, Failure> {
    let life = Lifecycle::builder().grace_period(GRACE).control(&arguments.control);
    let life = life.probation(arguments.probation).start()?;
    let closed = effects.clone();
    life.on_close("effects").run(move || async move { closed.pool().close().await })?;
    // At an upgrade there are two for a while.
    let name = format!("pid {} of generation {}", std::process::id(), life.generation());
    match &*arguments.queue {
        "apalis-sqlite" => {
            let pool = SqlitePool::connect(&arguments.url).await?;
            let storage = sqlite_storage::<Job>(&pool, arguments.claims);
            let run = move |name, drain| {
                let storage = Drained::new(storage.clone(), drain);
                apalis_worker!(name, storage, effects.clone()).run()
            };
            queues::apalis::work(&life, &name, Storage::Sqlite(pool), run)?;
        }
        "apalis-postgres" => {
            let pool = PgPool::connect(&arguments.url).await?;
            let storage = postgres_storage::<Job>(&pool, arguments.claims);
            let run = move |name, drain| {
                let storage = Drained::new(storage.clone(), drain);
                apalis_worker!(name, storage, effects.clone()).run()
            };
            queues::apalis::work(&life, &name, Storage::Postgres(pool), run)?;
        }
        "graphile" => {
            let (url, claims) = (arguments.url.clone(), arguments.claims);
            let options = move || graphile_options(&url, claims, effects.clone());
            graphile::work(&life, &arguments.url, options)?;
        }
        _ => {
            let (client, consumer) = nats(&arguments.url).await?;
            let flushed = client.clone();
            life.on_close("nats").run(move || async move { flushed.flush().await })?;
            let work = move |delivery, cancel| deliver(effects.clone(), delivery, cancel);
            let messages = life.jobs("messages", Messages { client, consumer, work });
            messages.concurrency(CONCURRENCY).uses(["nats", "effects"]).start()?;
        }
    }
    let (log, mut readiness, generation) = (life.log(), life.readiness(), life.generation());
    drop(tokio::spawn(async move {
        readiness.ready().await;
        let pid = std::process::id();
        log.line("working", &format!("Working: pid {pid} of generation {generation}"));
    }));
    Ok(life.run().await)
}

/// What one writes without a thought for the end: it is told, waits a little perhaps, and `main` returns.
async fn naive(arguments: &Arguments, effects: Effects) -> Result<Exit, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async move {
        let _ = stopped.await;
        Ok::<(), std::io::Error>(())
    };
    let name = format!("pid {}", std::process::id());
    let working = match &*arguments.queue {
        "apalis-sqlite" => {
            let pool = SqlitePool::connect(&arguments.url).await?;
            let storage = sqlite_storage::<Job>(&pool, arguments.claims);
            let running = apalis_worker!(name, storage, effects).run_until(stopped);
            tokio::spawn(async move { running.await.map_err(Failure::from) })
        }
        "apalis-postgres" => {
            let pool = PgPool::connect(&arguments.url).await?;
            let storage = postgres_storage::<Job>(&pool, arguments.claims);
            let running = apalis_worker!(name, storage, effects).run_until(stopped);
            tokio::spawn(async move { running.await.map_err(Failure::from) })
        }
        "graphile" => {
            let options = graphile_options(&arguments.url, arguments.claims, effects);
            let worker = options.listen_os_shutdown_signals(false).init().await?;
            tokio::spawn(async move { worker.run().await.map_err(Failure::from) })
        }
        _ => {
            let (_client, consumer) = nats(&arguments.url).await?;
            tokio::spawn(async move {
                let mut messages = consumer.messages().await?;
                while let Some(message) = messages.next().await {
                    let (delivery, effects) = (Delivery::new(message?), effects.clone());
                    drop(tokio::spawn(async move {
                        let worked = deliver(effects, delivery.clone(), CancellationToken::new());
                        if worked.await.is_ok() {
                            let _ = delivery.acknowledge().await;
                        }
                    }));
                }
                Ok(())
            })
        }
    };
    println!("Working");
    let _ = terminate.recv().await;
    let _ = stop.send(());
    // As long as it takes; most give up after a while.
    let _ = tokio::time::timeout(GRACE, working).await;
    leave()
}

#[expect(clippy::disallowed_methods, reason = "it shows what is lost by it")]
fn leave() -> ! {
    std::process::exit(0)
}
