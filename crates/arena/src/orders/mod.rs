//! Orders: acknowledged once committed, and there exactly once by their id.
//!
//! Invariants:
//!
//! 1. [`Orders::place`] returns [`Placed::Committed`] or [`Placed::Duplicate`] only after the row is on the disk.
//! 2. An id has one row for ever; the same order again is a duplicate, another order with its id a conflict.
//! 3. What waits to be written is bounded ([`QUEUED_ORDERS`]), and so is the wait for a place in the queue
//!    ([`QUEUE_WAIT`]) and the size of one transaction ([`ORDERS_PER_COMMIT`]).
//! 4. [`Orders::close`] writes what is queued and only then returns.

mod group;
pub(crate) mod http;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::store::{Backend, Postgres, Store, StoreError};
use group::GroupCommit;

/// How many orders may wait for SQLite's one writer; about a second of its work on a slow disk.
pub const QUEUED_ORDERS: usize = 1024;
/// How many orders share one transaction at most, so that the first of them does not wait for ever.
pub const ORDERS_PER_COMMIT: usize = 256;
/// How long a request waits for a place in a full queue before it is asked to come again.
pub const QUEUE_WAIT: Duration = Duration::from_secs(2);
/// The longest id in bytes.
pub const ID_LIMIT: usize = 128;
/// The longest item in bytes.
pub const ITEM_LIMIT: usize = 1024;
/// The largest quantity.
pub const QUANTITY_LIMIT: i64 = 1_000_000_000;

/// One order as a client sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Chosen by the client; sending it again does not order again.
    pub id: String,
    /// What is ordered.
    pub item: String,
    /// How many of it.
    pub quantity: i64,
}

impl Order {
    pub(crate) fn from_row((id, item, quantity): (String, String, i64)) -> Self {
        Self { id, item, quantity }
    }

    /// What became of this order when `stored` was there before it.
    pub(crate) fn against(&self, stored: &Self) -> Placed {
        if self == stored { Placed::Duplicate } else { Placed::Conflict }
    }

    /// Refuses what no order can be.
    ///
    /// # Errors
    ///
    /// One sentence that names the field.
    pub fn check(&self) -> Result<(), String> {
        check_text("id", &self.id, ID_LIMIT)?;
        check_text("item", &self.item, ITEM_LIMIT)?;
        // `GET /orders/count` is the number of orders.
        if self.id == "count" {
            return Err("id `count` is reserved".to_owned());
        }
        if (1..=QUANTITY_LIMIT).contains(&self.quantity) {
            Ok(())
        } else {
            Err(format!("quantity must be between 1 and {QUANTITY_LIMIT}"))
        }
    }
}

fn check_text(field: &str, text: &str, limit: usize) -> Result<(), String> {
    if text.is_empty() {
        Err(format!("{field} must not be empty"))
    } else if text.len() > limit {
        Err(format!("{field} must not be longer than {limit} bytes"))
    } else if text.chars().any(char::is_control) {
        // PostgreSQL stores no NUL, and no person means one.
        Err(format!("{field} must not hold control characters"))
    } else {
        Ok(())
    }
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It is stored, and was not before.
    Committed,
    /// It was stored before, exactly like this.
    Duplicate,
    /// Another order has its id; nothing was stored.
    Conflict,
}

/// Why an order has no fate yet; the client may send it again, its id makes that safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceError {
    /// The queue stayed full for [`QUEUE_WAIT`]. The order was not stored.
    Busy,
    /// The orders are closed. The order was not stored.
    Closed,
    /// The database did not say that it committed.
    Store(StoreError),
    /// The writer ended before it told the fate, which it does only by a bug.
    Untold,
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => write!(f, "{QUEUED_ORDERS} orders are waiting"),
            Self::Closed => f.write_str("the service has closed its orders"),
            Self::Store(error) => error.fmt(f),
            Self::Untold => f.write_str("the writer of orders has ended"),
        }
    }
}

impl std::error::Error for PlaceError {}

/// Takes orders. One for the whole service.
#[derive(Debug)]
pub struct Orders {
    store: Store,
    way: Way,
    tally: Tally,
}

/// How orders reach the disk.
#[derive(Debug)]
enum Way {
    /// SQLite has one writer: whoever waits for it shares its next transaction.
    Grouped(GroupCommit),
    /// PostgreSQL groups the commits of many sessions by itself.
    Direct(Postgres),
}

/// How many orders had which fate since the start.
#[derive(Debug, Default)]
pub struct Tally {
    committed: AtomicU64,
    duplicate: AtomicU64,
    conflict: AtomicU64,
    failed: AtomicU64,
}

impl Orders {
    /// Begins to take orders.
    #[must_use]
    pub fn start(store: Store) -> Self {
        let way = match store.backend() {
            Backend::Sqlite(sqlite) => Way::Grouped(GroupCommit::start(sqlite.clone())),
            Backend::Postgres(postgres) => Way::Direct(postgres.clone()),
        };
        Self { store, way, tally: Tally::default() }
    }

    /// Stores one order and tells what became of it once that is certain.
    ///
    /// # Errors
    ///
    /// When it is not certain; see [`PlaceError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the order back: it may be stored or not, and its id tells.
    pub async fn place(&self, order: Order) -> Result<Placed, PlaceError> {
        let result = match &self.way {
            Way::Grouped(group) => group.place(order).await,
            Way::Direct(postgres) => postgres.place(&order).await.map_err(PlaceError::Store),
        };
        let count = match &result {
            Ok(Placed::Committed) => &self.tally.committed,
            Ok(Placed::Duplicate) => &self.tally.duplicate,
            Ok(Placed::Conflict) => &self.tally.conflict,
            Err(_) => &self.tally.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// The committed order with this id.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn find(&self, id: &str) -> Result<Option<Order>, StoreError> {
        self.store.order(id).await
    }

    /// How many orders are committed, by all runs together.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn count(&self) -> Result<u64, StoreError> {
        self.store.count_orders().await
    }

    /// Fates and how many orders had each since the start.
    pub fn tally(&self) -> [(&'static str, u64); 4] {
        let Tally { committed, duplicate, conflict, failed } = &self.tally;
        [
            ("committed", committed),
            ("duplicate", duplicate),
            ("conflict", conflict),
            ("failed", failed),
        ]
        .map(|(fate, count)| (fate, count.load(Ordering::Relaxed)))
    }

    /// Writes what is queued; later orders are refused.
    ///
    /// # Errors
    ///
    /// When the writer had ended by a panic.
    pub async fn close(&self) -> Result<(), String> {
        match &self.way {
            Way::Grouped(group) => group.close().await,
            // Each request waits for its own statement: nothing is left when the requests have ended.
            Way::Direct(_) => Ok(()),
        }
    }
}
