//! Workers of job queues and brokers, drained: each as a program would write it, and each under a test that shows what it
//! loses without.
//!
//! | module | what is there already | what the service adds |
//! |---|---|---|
//! | [`nats`] | acknowledgements, redelivery after a while | stop fetching, acknowledge what finished, give the rest back at once |
//! | [`apalis`] | a graceful stop that finishes what runs | a bound that holds, and everything given back uncharged |
//! | [`graphile`] | a grace period that gives back uncharged | the service's own deadline, one set of signals, and no delay |

pub mod apalis;
pub mod graphile;
pub mod nats;
