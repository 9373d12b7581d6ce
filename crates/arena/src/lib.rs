//! The reference service of `lameduck`: the smallest honest web service that has something to lose.
//!
//! It counts (`GET /a` after a while, `GET /b` at once), takes orders that are acknowledged only once they are
//! committed (`POST /orders`), and moves bytes both ways (`POST /upload`, `GET /download`). Nothing of that is lost
//! when it is stopped or upgraded, and [`run`] shows how little a service has to do for it.
//!
//! ```no_run
//! # async fn example() -> Result<lameduck::Exit, arena::Error> {
//! arena::run(arena::Config::default()).await
//! # }
//! ```

mod background;
mod config;
pub mod counter;
mod error;
pub mod grpc;
pub mod jobs;
mod metrics;
pub mod orders;
pub mod play;
pub mod routes;
mod service;
pub mod store;
mod tls;

pub use config::{Config, Grace, Takeover, TlsFiles};
pub use error::{Error, system};
pub use service::{check, run};
