//! What can be chosen about a run of the service.

use std::time::Duration;

use lameduck::LogFormat;

use crate::store::DatabaseUrl;

/// How long a stop may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// From the stop to force.
    Limited(Duration),
    /// As long as work lasts.
    Unlimited,
}

/// Everything that can be chosen; the [`Default`] is what `lameduck serve` does without a flag.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen: `127.0.0.1:8080`, `[::1]:8080`, `unix:PATH`.
    pub listen: Vec<String>,
    /// Where the admin server listens, if there is to be one.
    pub admin: Option<String>,
    /// Where orders and the counter are kept.
    pub database: DatabaseUrl,
    /// The whole time from a stop to force.
    pub grace: Grace,
    /// How long to go on accepting once readiness is red.
    pub lame_duck: Duration,
    /// How long an idle kept-alive connection is still answered while draining.
    pub linger: Duration,
    /// How long `GET /a` waits.
    pub slow: Duration,
    /// How the log is written.
    pub log: LogFormat,
    /// What `GET /version` tells.
    pub version: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:8080".to_owned()],
            admin: None,
            database: DatabaseUrl::sqlite("lameduck.db"),
            grace: Grace::Limited(Duration::from_secs(9)),
            lame_duck: Duration::ZERO,
            linger: Duration::from_millis(250),
            slow: Duration::from_secs(9),
            log: LogFormat::Text,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
