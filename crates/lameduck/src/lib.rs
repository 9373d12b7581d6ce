//! front
#[cfg(feature = "axum08")]
pub mod axum;
pub mod closing;
mod connection;
mod control;
mod error;
pub mod exit;
mod generations;
pub mod handover;
#[cfg(feature = "http")]
pub mod http;
mod inherit;
mod json;
pub mod lifecycle;
pub mod listener;
mod log;
pub mod notify;
pub mod operate;
pub mod phase;
mod readiness;
mod report;
mod respawn;
pub mod shared;
pub mod signals;
mod snapshot;
mod sys;
pub mod takeover;
pub mod work;

pub use connection::Stream;
pub use error::Error;
pub use exit::Exit;
pub use lifecycle::{Blocking, Builder, Closing, Drain, Lifecycle, Task, TaskEnd};
pub use listener::Listener;
pub use log::{Log, LogFormat};
pub use readiness::Readiness;
pub use report::Report;
pub use snapshot::Snapshot;
