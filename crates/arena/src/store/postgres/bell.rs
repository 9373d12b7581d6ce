//! A bell between the workers on one PostgreSQL database: who gives jobs back rings it, and who waits for jobs hears it at once.
//!
//! It says only that there may be something to claim. What is missed while nobody listens is found by looking, as on SQLite.

use std::sync::Weak;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::ACQUIRE_TIMEOUT;

/// The channel's name, in LISTEN and in `pg_notify`.
pub(super) const CHANNEL: &str = "arena_jobs";
/// How long nobody listens after the server refused to let it.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the listening connection may take to be closed. It has nothing to lose.
const CLOSING: Duration = Duration::from_millis(100);

/// The connection that listens, apart from those that work: it is used all the time.
#[derive(Debug, Clone)]
pub(super) struct Bell {
    pool: PgPool,
}

impl Bell {
    /// Nobody listens yet, and no connection is made.
    pub(super) fn new(options: PgConnectOptions) -> Bell {
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
        let pool = pool.max_lifetime(None).idle_timeout(None).connect_lazy_with(options);
        Bell { pool }
    }

    /// Listens until [`close`](Bell::close), or until nobody waits on `waiting` any more.
    pub(super) async fn listen(self, waiting: Weak<Notify>) {
        let listening = async {
            while waiting.strong_count() > 0 {
                // An error is a server that is away: whoever claims reports it.
                let _ = self.hear(&waiting).await;
                tokio::time::sleep(AGAIN).await;
            }
        };
        // Either way it is over.
        let _ = self.pool.close_event().do_until(listening).await;
    }

    async fn hear(&self, waiting: &Weak<Notify>) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(CHANNEL).await?;
        while let Some(worker) = waiting.upgrade() {
            // Also before the first word and after a lost connection: what was rung until then was heard by nobody.
            worker.notify_one();
            drop(worker);
            listener.try_recv().await?;
        }
        Ok(())
    }

    pub(super) async fn close(&self) {
        // A server that hangs is told by the pool that works; here it would only take its time once more.
        let _ = timeout(CLOSING, self.pool.close()).await;
    }
}
