//! Workers of job queues and brokers, drained: each as a program would write it, and each under a test that shows what it
//! loses without.
//!
//! | module | what is there already | what the service adds |
//! |---|---|---|
//! | [`nats`] | acknowledgements, redelivery after a while | stop fetching, acknowledge what finished, give the rest back at once |
//! | [`apalis`] | a graceful stop that finishes what runs | a bound that holds, and everything given back uncharged |
//! | [`graphile`] | a grace period that gives back uncharged | the service's own deadline, one set of signals, and no delay |

pub mod apalis;
pub mod effects;
pub mod graphile;
pub mod nats;

use std::time::Duration;

use lameduck::{Asked, Drain};

/// How long a stop of the worker processes may take: their longest jobs do not fit into it.
pub const GRACE: Duration = Duration::from_secs(2);
/// How many jobs they have in hand at once.
pub const CONCURRENCY: usize = 16;
/// How often they look for jobs where the queue tells nobody of them.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What becomes of the claims of a worker that is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claims {
    /// What the queue does by itself, which is nothing for minutes.
    Kept,
    /// Others have them after about two seconds without a sign of life.
    Expire,
}

/// How often a worker gives a sign of life, where claims expire soon.
pub const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// After how many signs that did not come claims expire.
pub const MISSED: u32 = 4;

/// How long a worker that ended by itself, since its database is gone perhaps, waits before it runs again.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether a worker whose run is over runs once more: as soon as the service serves, which it may do again after a successor
/// was lost in its probation. Not after a stop has begun.
pub(crate) async fn runs_again(drain: &Drain) -> bool {
    if drain.asked() == Asked::Serve {
        let stops = drain.asked_for(|asked| asked != Asked::Serve);
        let _ = tokio::time::timeout(AGAIN, stops).await;
    }
    tokio::select! {
        () = drain.started() => false,
        _ = drain.asked_for(|asked| asked == Asked::Serve) => true,
    }
}
