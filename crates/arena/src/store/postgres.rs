//! A PostgreSQL database by URL: one pool, one statement for each order.

mod bell;
mod jobs;

use std::future::Future;
use std::sync::Weak;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::Notify;

use self::bell::Bell;
use super::{StoreError, migrator, reason};
use crate::Error;
use crate::orders::{Order, Placed};

/// A server spends a process on each connection; this many keep a two-core database busy and leave room for others.
const CONNECTIONS: u32 = 16;
/// How long the first connection may take before the start is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for a free connection, also while a restarted server comes back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one statement may take, locks and a silent network included.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "counter and orders",
        include_str!("../../migrations/postgres/0001_counter_and_orders.sql"),
    ),
    (2, "jobs", include_str!("../../migrations/postgres/0002_jobs.sql")),
];

/// Makes "committed" mean "flushed" in a session where the server's settings say otherwise; a stricter setting stays.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
                       WHERE current_setting('synchronous_commit') = 'off'";

#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    pool: PgPool,
    bell: Bell,
    /// The URL without its password, for messages.
    name: String,
}

impl Postgres {
    pub(super) async fn open(options: &PgConnectOptions, name: String) -> Result<Self, Error> {
        let options = options.clone().application_name("lameduck").disable_statement_logging();
        // The pool retries a refused connection until its time is over; at the start a refusal is the answer.
        let first = tokio::time::timeout(CONNECT_TIMEOUT, begin(&options)).await;
        first
            .unwrap_or_else(|_| Err(Refusal::Silent))
            .map_err(|refusal| refusal.explain(&name, &options))?;
        let bell = Bell::new(options.clone());
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| {
                Box::pin(async { connection.execute(DURABLE).await.map(drop) })
            })
            .connect_lazy_with(options);
        Ok(Self { pool, bell, name })
    }

    pub(super) async fn look(options: &PgConnectOptions, name: String) -> Result<(), Error> {
        let options = options.clone().application_name("lameduck").disable_statement_logging();
        let looked = tokio::time::timeout(CONNECT_TIMEOUT, connect(&options)).await;
        looked
            .unwrap_or_else(|_| Err(Refusal::Silent))
            .map_err(|refusal| refusal.explain(&name, &options))?;
        Ok(())
    }

    /// Commits one order and tells its fate.
    pub(crate) async fn place(&self, order: &Order) -> Result<Placed, StoreError> {
        // A single statement is its own transaction: when it returns, it is committed. It waits for another session
        // that is inserting the same id, so the row it did not insert is there to be read.
        let inserted = self
            .within(
                sqlx::query(
                    "INSERT INTO orders (id, item, quantity) VALUES ($1, $2, $3) \
                     ON CONFLICT (id) DO NOTHING",
                )
                .bind(&order.id)
                .bind(&order.item)
                .bind(order.quantity)
                .execute(&self.pool),
            )
            .await?;
        if inserted.rows_affected() == 1 {
            return Ok(Placed::Committed);
        }
        match self.order(&order.id).await? {
            Some(stored) => Ok(order.against(&stored)),
            None => Err(StoreError::new(
                &self.name,
                format!("order {} was deleted while it was placed again", order.id),
            )),
        }
    }

    pub(super) async fn order(&self, id: &str) -> Result<Option<Order>, StoreError> {
        let row = self
            .within(
                sqlx::query_as::<_, (String, String, i64)>(
                    "SELECT id, item, quantity FROM orders WHERE id = $1",
                )
                .bind(id)
                .fetch_optional(&self.pool),
            )
            .await?;
        Ok(row.map(Order::from_row))
    }

    pub(super) async fn count_orders(&self) -> Result<i64, StoreError> {
        self.within(sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(&self.pool)).await
    }

    pub(super) async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        self.within(
            sqlx::query_scalar("SELECT value FROM counters WHERE name = $1")
                .bind(name)
                .fetch_optional(&self.pool),
        )
        .await
    }

    pub(super) async fn raise_counter(&self, name: &str, value: i64) -> Result<(), StoreError> {
        self.within(
            sqlx::query(
                "INSERT INTO counters AS stored (name, value) VALUES ($1, $2) \
                 ON CONFLICT (name) DO UPDATE SET value = greatest(stored.value, excluded.value)",
            )
            .bind(name)
            .bind(value)
            .execute(&self.pool),
        )
        .await
        .map(drop)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Rings `waiting` when jobs are given back, by any worker on this database, until it is closed.
    pub(crate) fn ring_for_jobs(&self, waiting: Weak<Notify>) {
        drop(tokio::spawn(self.bell.clone().listen(waiting)));
    }

    pub(super) async fn close(&self) -> Result<(), StoreError> {
        self.bell.close().await;
        self.pool.close().await;
        match self.pool.size() {
            0 => Ok(()),
            left => Err(StoreError::new(&self.name, format!("{left} connections stayed open"))),
        }
    }

    async fn within<T>(
        &self,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(STATEMENT_TIMEOUT, statement).await {
            Ok(result) => result.map_err(|error| StoreError::new(&self.name, reason(&error))),
            Err(_) => Err(StoreError::new(
                &self.name,
                format!("no answer within {} s", STATEMENT_TIMEOUT.as_secs()),
            )),
        }
    }
}

/// A connection that can write.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Refusal> {
    let mut connection = PgConnection::connect_with(options).await.map_err(Refusal::Connect)?;
    let read_only: String = sqlx::query_scalar("SELECT current_setting('transaction_read_only')")
        .fetch_one(&mut connection)
        .await
        .map_err(Refusal::Connect)?;
    if read_only == "on" {
        return Err(Refusal::ReadOnly);
    }
    Ok(connection)
}

/// Connects once, checks that the server takes writes, and brings the tables up to date.
async fn begin(options: &PgConnectOptions) -> Result<(), Refusal> {
    let mut connection = connect(options).await?;
    migrator(MIGRATIONS).run(&mut connection).await.map_err(Refusal::Migrate)?;
    connection.close().await.map_err(Refusal::Connect)
}

/// Why a server is of no use.
enum Refusal {
    Silent,
    ReadOnly,
    Connect(sqlx::Error),
    Migrate(sqlx::migrate::MigrateError),
}

impl Refusal {
    fn explain(self, name: &str, options: &PgConnectOptions) -> Error {
        match self {
            Self::Silent => Error::start(
                format!("database {name} did not answer within {} s", CONNECT_TIMEOUT.as_secs()),
                "check the host, the port and the firewall between",
            ),
            Self::ReadOnly => Error::start(
                format!("database {name} is read-only"),
                "name the primary server, not a standby",
            ),
            Self::Migrate(error) => Error::start(
                format!("database {name} cannot take this service's tables: {error}"),
                "give the user the right to create tables there, or name a database of its own",
            ),
            Self::Connect(error) => {
                let hint = connect_hint(&error, options);
                Error::start(format!("cannot reach database {name}: {}", reason(&error)), hint)
            }
        }
    }
}

fn connect_hint(error: &sqlx::Error, options: &PgConnectOptions) -> String {
    match error {
        sqlx::Error::Io(_) => match options.get_socket() {
            Some(socket) => {
                format!("is PostgreSQL running, with its socket in {}?", socket.display())
            }
            None => {
                format!("is PostgreSQL running on {}:{}?", options.get_host(), options.get_port())
            }
        },
        sqlx::Error::Database(error) => match error.code().as_deref() {
            Some("28P01" | "28000") => "check the user and the password in the URL".to_owned(),
            Some("3D000") => {
                format!("create it with `createdb {}`", options.get_database().unwrap_or_default())
            }
            Some("53300") => "the server has no connection left: raise max_connections".to_owned(),
            Some("57P03") => "the server is starting or stopping: try again".to_owned(),
            _ => "check the URL and the server's log".to_owned(),
        },
        sqlx::Error::Tls(_) => {
            "this service speaks to PostgreSQL without TLS: sslmode=disable".to_owned()
        }
        _ => "check the URL and the server's log".to_owned(),
    }
}
