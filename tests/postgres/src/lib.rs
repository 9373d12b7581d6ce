//! A private PostgreSQL cluster for one test: its own directory and port, gone when the test ends.
//!
//! ```no_run
//! let cluster = private_postgres::Cluster::start();
//! let url = cluster.create_database("arena");
//! // … use `url`; the server stops and its files go when `cluster` is dropped.
//! ```
//!
//! Invariants:
//!
//! 1. The server never outlives the test process, however that ends: a small shell waits for the end of file on
//!    a pipe that only this process holds open, and then stops the server.
//! 2. Nothing is shared: two clusters at once have two directories and two ports.
//! 3. Every wait has a bound ([`INITDB_LIMIT`], [`START_LIMIT`], [`STOP_LIMIT`]) and its end is an event (a line in
//!    the server's log, an end of file), never a pause.
//!
//! Anything that goes wrong is a panic with the server's own words: this crate is for tests only.

mod account;
mod programs;
mod server;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use account::Account;
use programs::Programs;
use server::Server;

/// How long `initdb` may take on a slow, loaded machine.
pub const INITDB_LIMIT: Duration = Duration::from_secs(60);
/// How long the server may take until it accepts connections.
pub const START_LIMIT: Duration = Duration::from_secs(30);
/// How long an immediate stop may take before the server is killed.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Another process may take the port between our choice and the server's bind: try again this often.
const PORT_ATTEMPTS: usize = 5;
/// The superuser of the cluster, whoever runs the test.
const SUPERUSER: &str = "postgres";

/// A running private cluster. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub struct Cluster {
    // Declared before the directory: the server must be gone before its files are.
    server: Server,
    programs: Programs,
    account: Account,
    directory: tempfile::TempDir,
}

impl Cluster {
    /// Makes a new cluster and starts its server on a free port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// When PostgreSQL is not installed (`cargo xtask setup` installs it) or does not start within its bound; the
    /// message carries the server's own words.
    #[must_use]
    pub fn start() -> Self {
        let programs = Programs::find();
        let account = Account::for_server();
        let directory = tempfile::Builder::new()
            .prefix("private-postgres-")
            .tempdir()
            .expect("a temporary directory for the cluster");
        account.own(directory.path());
        initialise(&programs, &account, directory.path());
        let server = start_on_a_free_port(&programs, &account, directory.path());
        Self { server, programs, account, directory }
    }

    /// The TCP port of the server on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The directory that holds the server's Unix socket and data.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The URL of a database of this cluster, whether it exists or not.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port())
    }

    /// Creates an empty database and returns its URL.
    ///
    /// # Panics
    ///
    /// When the server refuses, for example because the database exists.
    #[must_use]
    pub fn create_database(&self, name: &str) -> String {
        let _ = self.query("postgres", &format!("CREATE DATABASE \"{name}\""));
        self.url(name)
    }

    /// Runs one SQL statement with `psql`, apart from the program under test, and returns its rows: one a line,
    /// the columns with `|` between them.
    ///
    /// # Panics
    ///
    /// When the statement fails.
    #[must_use]
    pub fn query(&self, database: &str, sql: &str) -> String {
        let mut psql = Command::new(self.programs.psql());
        psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
            .arg(format!("--dbname={}", self.url(database)))
            .arg(format!("--command={sql}"));
        let output = psql.output().expect("psql runs");
        assert!(
            output.status.success(),
            "psql failed on `{sql}`: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Stops the server at once, without a checkpoint, as a crash would; its files stay until the drop.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Starts the server again on the same port after [`stop`](Self::stop).
    ///
    /// # Panics
    ///
    /// When it does not start within [`START_LIMIT`].
    pub fn start_again(&mut self) {
        let port = self.port();
        self.server.stop();
        self.server = Server::start(&self.programs, &self.account, self.directory.path(), port)
            .unwrap_or_else(|log| panic!("PostgreSQL did not start again on port {port}:\n{log}"));
    }
}

fn initialise(programs: &Programs, account: &Account, directory: &Path) {
    let mut initdb = Command::new(programs.initdb());
    // Trust and no sync: the cluster holds nothing but this test's rows, and the tests kill processes, not machines.
    initdb
        .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
        .arg(format!("--username={SUPERUSER}"))
        .arg(format!("--pgdata={}", server::data(directory).display()));
    account.run_as(&mut initdb, directory);
    let output = server::output_within(initdb, INITDB_LIMIT);
    assert!(output.status.success(), "initdb failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

fn start_on_a_free_port(programs: &Programs, account: &Account, directory: &Path) -> Server {
    let mut log = String::new();
    for _ in 0..PORT_ATTEMPTS {
        match Server::start(programs, account, directory, free_port()) {
            Ok(server) => return server,
            Err(words) => log = words,
        }
    }
    panic!("PostgreSQL did not start in {PORT_ATTEMPTS} attempts; the last one said:\n{log}");
}

fn free_port() -> u16 {
    let probe = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port on 127.0.0.1");
    probe.local_addr().expect("the address of a bound socket").port()
}
