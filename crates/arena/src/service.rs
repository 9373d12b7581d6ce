//! The whole service on a lifecycle: what a program has to do so that its stop loses nothing.
//!
//! The order of the start is the order in which things can go wrong without leaving anything behind: a predecessor's
//! offer first (its sockets must not be found in use), then sockets (an address in use must not cost a database file),
//! then the database, then what uses it. The order of the stop is the reverse and is said by name: `counter` and
//! `orders` use `database`.

use std::sync::Arc;
use std::time::Duration;

use lameduck::http::tls::Tls;
use lameduck::operate::{self, Verb};
use lameduck::{Builder, Exit, Lifecycle, Listener, Log, Readiness};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::{Config, Grace, Takeover};
use crate::counter::{self, Counter};
use crate::jobs::JobQueue;
use crate::orders::Orders;
use crate::routes::{App, Events, router};
use crate::store::{Store, StoreError};
use crate::{Error, grpc, metrics, routes, tls};

/// How long a database may still take to open, and again to close, once a stop came during the start.
const OPEN_WHEN_STOPPED: Duration = Duration::from_millis(500);

/// Runs the service until it has stopped, and tells how that went.
///
/// # Errors
///
/// When it could not start; nothing is left behind then.
pub async fn run(config: Config) -> Result<Exit, Error> {
    let life = lifecycle(&config)?;
    // Held until the start is over: a stop that overtakes it waits, and closes what was opened meanwhile.
    let (starting, started) = oneshot::channel::<()>();
    life.task("start", |_| async move {
        // The end of the channel is the word.
        let _ = started.await;
    });
    let sockets = Sockets::bind(&life, &config).await?;
    let drain = life.drain();
    let mut opening = std::pin::pin!(open(&life, &config));
    let opened = tokio::select! {
        open = &mut opening => Some(open?),
        // A signal while the database keeps us waiting is a stop like any other.
        () = drain.started() => timeout(OPEN_WHEN_STOPPED, opening).await.ok().and_then(Result::ok),
    };
    match opened {
        Some(open) if !drain.is_draining() => {
            let lines = sockets.serve(&life, &open.app)?;
            drop(starting);
            drop(tokio::spawn(announce(life.readiness(), life.log(), lines)));
            Ok(life.clone().run().await)
        }
        opened => {
            drop(starting);
            let exit = life.ended().await;
            if let Some(open) = opened {
                open.close_unused().await;
            }
            Ok(exit)
        }
    }
}

/// The opened database and what lives on it.
struct Open {
    app: App,
    store: Store,
}

impl Open {
    /// A stop overtook the start, in its first instant perhaps: then it was over before any of this was registered.
    /// Closing twice is harmless, and a file that was just made is left whole.
    async fn close_unused(self) {
        let close = async {
            // Nobody was served, so there is nothing that an error could be about.
            let _ = self.app.orders.close().await;
            let _ = self.app.counter.close().await;
            let _ = self.store.close().await;
        };
        let _ = timeout(OPEN_WHEN_STOPPED, close).await;
    }
}

fn lifecycle(config: &Config) -> Result<Lifecycle, Error> {
    builder(config).start().map_err(refused)
}

fn builder(config: &Config) -> Builder {
    let builder = Lifecycle::builder()
        .lame_duck(config.lame_duck)
        .linger(config.linger)
        .upgrade_linger(config.upgrade_linger)
        .log_format(config.log)
        .probation(config.probation)
        .takeover_timeout(config.takeover_timeout)
        .max_generations(config.max_generations)
        .version(&config.version);
    let builder = match config.max_connection_age {
        Some(age) => builder.max_connection_age(age, config.max_connection_age_grace),
        None => builder,
    };
    let builder = match config.grace {
        Grace::Limited(grace) => builder.grace_period(grace),
        Grace::Unlimited => builder.no_deadline(),
    };
    let builder = match config.upgrade_grace {
        Grace::Limited(grace) => builder.upgrade_grace(grace),
        // What the library does when nothing is said.
        Grace::Unlimited => builder,
    };
    let builder = match &config.control {
        Some(path) => builder.control(path),
        None => builder,
    };
    let builder = match config.takeover {
        Takeover::Always => builder.take_over(),
        Takeover::WhenAsked => builder,
    };
    let builder = match &config.probe {
        Some(path) => builder.probe(path),
        None => builder,
    };
    let builder = match config.no_memory_check {
        true => builder.no_memory_check(),
        false => builder,
    };
    match &config.check_first {
        Some(argument) => builder.check_first([argument]),
        None => builder,
    }
}

/// Looks whether the service could start with these settings, and does nothing else: nothing is listened on, no file is
/// made, and no database is changed.
///
/// An address in use is no reason against it where a service answers on the control socket: it has it, and hands it over.
///
/// # Errors
///
/// As [`run`].
pub async fn check(config: &Config) -> Result<(), Error> {
    builder(config).validate().map_err(refused)?;
    if let Some(files) = &config.tls {
        tls::check(files)?;
    }
    for address in config.listen.iter().chain(&config.admin) {
        match Listener::look(address) {
            Err(error) if error.is_address_in_use() && answers(config).await => {}
            looked => looked.map_err(refused)?,
        }
    }
    Store::look(&config.database).await
}

/// Whether a service runs where this one would be found.
async fn answers(config: &Config) -> bool {
    let Some(control) = config.control.clone() else { return false };
    let asked = tokio::task::spawn_blocking(move || operate::ask(&control, Verb::Status, &[]));
    matches!(asked.await, Ok(Ok(_)))
}

/// Every socket of the service, bound but not served.
struct Sockets {
    listeners: Vec<Listener>,
    admin: Option<Listener>,
    tls: Option<Tls>,
}

impl Sockets {
    async fn bind(life: &Lifecycle, config: &Config) -> Result<Self, Error> {
        // Files that cannot be used must not cost a socket.
        let tls = config.tls.as_ref().map(|files| tls::start(life, files)).transpose()?;
        let mut listeners = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            listeners.push(life.listen(address).await.map_err(refused)?);
        }
        let admin = match &config.admin {
            Some(address) => Some(life.listen(address).await.map_err(refused)?),
            None => None,
        };
        Ok(Self { listeners, admin, tls })
    }

    /// Serves them, and returns where, in lines of the log.
    fn serve(self, life: &Lifecycle, app: &App) -> Result<Vec<Line>, Error> {
        let router = router(app)
            .merge(grpc::router(&app.counter, life))
            .merge(routes::next::router(app.events.clone(), life.drain()))
            .merge(routes::programs::router(life))
            .merge(crate::play::router(life).map_err(refused)?);
        let mut lines = Vec::new();
        for listener in self.listeners {
            lines.push(("listening", format!("Listening on {}", listener.address())));
            match &self.tls {
                None => life.serve("http", listener, router.clone()),
                Some(tls) => life.serve_tls("https", listener, tls, router.clone()),
            }
            .map_err(refused)?;
        }
        if let Some(listener) = self.admin {
            lines.push(("admin", format!("Admin on {}", listener.address())));
            let app = app.clone();
            life.serve_admin(listener, move |text| metrics::write(&app, text)).map_err(refused)?;
        }
        Ok(lines)
    }
}

/// An event and its text.
type Line = (&'static str, String);

/// Says where the service listens once it does: a successor has its sockets long before it accepts from them.
async fn announce(mut readiness: Readiness, log: Arc<Log>, lines: Vec<Line>) {
    readiness.ready().await;
    if readiness.is_ready() {
        lines.iter().for_each(|(event, text)| log.line(event, text));
    }
}

/// Opens the database and what lives on it, and says in which order they close.
async fn open(life: &Lifecycle, config: &Config) -> Result<Open, Error> {
    let store = Store::open(&config.database).await?;
    let stored = Counter::stored(&store).await.map_err(unreadable)?;
    // Begun here or left by a predecessor: it is counted on in either case.
    let (home, _) = life.cells(counter::NAME, counter::VERSION, counter::CELLS).map_err(refused)?;
    let counter = Arc::new(Counter::continue_in(home, stored, store.clone()));
    let app = App {
        events: Events::new(Arc::clone(&counter), life.streams()),
        counter,
        orders: Arc::new(Orders::start(store.clone())),
        jobs: JobQueue::new(store.clone(), life.generation()),
        slow: config.slow,
        version: config.version.as_str().into(),
        generation: life.generation(),
    };
    // No budgets of their own: a budget is taken from the time that requests have to finish, and these three take
    // milliseconds. Cut short they lose nothing that was acknowledged, since every acknowledged order is committed.
    let (counter, orders) = (Arc::clone(&app.counter), Arc::clone(&app.orders));
    let closed = store.clone();
    life.on_close("database").run(move || async move { closed.close().await }).map_err(refused)?;
    life.on_close("counter")
        .uses(["database"])
        .run(move || async move { counter.close().await })
        .map_err(refused)?;
    life.on_close("orders")
        .uses(["database"])
        .run(move || async move { orders.close().await })
        .map_err(refused)?;
    if config.hang_at_close {
        life.on_close("hanging").run(std::future::pending::<Result<(), Error>>).map_err(refused)?;
    }
    let worker = life.jobs("jobs", app.jobs.clone()).concurrency(config.jobs);
    worker.uses(["database"]).start().map_err(refused)?;
    Ok(Open { app, store })
}

/// The library's error and hint, in this service's two lines.
fn refused(error: lameduck::Error) -> Error {
    let hint = error.hint().unwrap_or("choose another one; `lameduck serve --help` shows how");
    let message = format!("cannot {error}");
    if error.is_usage() { Error::usage(message, hint) } else { Error::start(message, hint) }
}

fn unreadable(error: StoreError) -> Error {
    Error::start(error.to_string(), "the database answered and then did not: look at its own log")
}
