//! What can be chosen about a run of the service.

use std::path::PathBuf;
use std::time::Duration;

use lameduck::LogFormat;
use lameduck::jobs::CONCURRENCY;
use lameduck::lifecycle::{MAX_GENERATIONS, PROBATION, UPGRADE_LINGER};
use lameduck::takeover::TAKEOVER_TIMEOUT;

use crate::store::DatabaseUrl;

/// How long a stop may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// From the stop to force.
    Limited(Duration),
    /// As long as work lasts.
    Unlimited,
}

/// Whether this start takes the service over from one that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// When the running service started this process.
    WhenAsked,
    /// In any case, from whoever answers on the control socket.
    Always,
}

/// The files a TLS server reads, at its start and again whenever they change. All PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities whose clients are let in; nobody is asked for a certificate without.
    pub client_ca: Option<PathBuf>,
}

/// Everything that can be chosen; the [`Default`] is what `lameduck serve` does without a flag.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen: `127.0.0.1:8080`, `[::1]:8080`, `unix:PATH`.
    pub listen: Vec<String>,
    /// Speaks TLS on each of them.
    pub tls: Option<TlsFiles>,
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
    /// How long an idle TLS connection is still answered after an upgrade.
    pub upgrade_linger: Duration,
    /// How old a connection may become before it is told to go.
    pub max_connection_age: Option<Duration>,
    /// How much later what is in hand on it is cut.
    pub max_connection_age_grace: Duration,
    /// How long `GET /a` waits.
    pub slow: Duration,
    /// How many background jobs this process works on at once; zero leaves them to others.
    pub jobs: usize,
    /// Where operators and successors find this service; without it there is no upgrade.
    pub control: Option<PathBuf>,
    /// Whether this start takes the service over from one that runs.
    pub takeover: Takeover,
    /// How long a successor's death gives the service back.
    pub probation: Duration,
    /// How long a new generation may take until it is ready, before its upgrade is given up.
    pub takeover_timeout: Duration,
    /// How long work may go on after a successor has taken over.
    pub upgrade_grace: Grace,
    /// Older generations that may still finish their work when the next upgrade begins.
    pub max_generations: usize,
    /// Registers a closing function that never ends, to show that the deadline ends the process all the same.
    pub hang_at_close: bool,
    /// The path that a new generation has to answer before it takes over.
    pub probe: Option<String>,
    /// Begins an upgrade also where two generations do not seem to fit into memory.
    pub no_memory_check: bool,
    /// The argument with which the program only checks itself, to begin each upgrade with.
    pub check_first: Option<String>,
    /// How the log is written.
    pub log: LogFormat,
    /// What `GET /version` tells.
    pub version: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:8080".to_owned()],
            tls: None,
            admin: None,
            database: DatabaseUrl::sqlite("lameduck.db"),
            grace: Grace::Limited(Duration::from_secs(9)),
            lame_duck: Duration::ZERO,
            linger: Duration::from_millis(250),
            upgrade_linger: UPGRADE_LINGER,
            max_connection_age: None,
            max_connection_age_grace: Duration::from_secs(30),
            slow: Duration::from_secs(9),
            jobs: CONCURRENCY,
            control: None,
            takeover: Takeover::WhenAsked,
            probation: PROBATION,
            takeover_timeout: TAKEOVER_TIMEOUT,
            upgrade_grace: Grace::Unlimited,
            max_generations: MAX_GENERATIONS,
            hang_at_close: false,
            probe: None,
            no_memory_check: false,
            check_first: None,
            log: LogFormat::Text,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
