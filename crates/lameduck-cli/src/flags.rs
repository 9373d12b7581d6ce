//! The command line, and the same by environment variables.

mod codes;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use arena::store::DatabaseUrl;
use arena::{Config, Grace, Takeover, TlsFiles};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use lameduck::LogFormat;
use lameduck::signals::Signals;

use crate::complaint::{BadValue, Complaint};
use crate::duration;
use crate::words;

/// What makes `serve` only look.
const CHECK: &str = "--check";
/// More worker threads than this are a typing mistake.
const THREADS_LIMIT: usize = 1024;
/// More generations than this at once are a typing mistake: each is a whole process.
const GENERATIONS_LIMIT: usize = 64;
/// More jobs at once than any database wants.
const JOBS_LIMIT: usize = 1_000;
/// More repetitions of a case than this are a typing mistake.
const REPEATS_LIMIT: usize = 10_000;

/// What `serve --help` tells after the flags; signals and codes come from the library that acts on them.
fn after_serve() -> String {
    format!(
        "Durations are whole numbers with a unit: 250ms, 9s, 1m30s, 1h.\n\
         A flag that names an environment variable can also be set by it; the command line wins.\n\
         @PATH stands for the words in that file, one a line; an upgrade reads it again.\n\n\
         Signals:\n{}\n{}",
        Signals::default(),
        codes::of_an_end("it could not start or run")
    )
}

/// Stops, restarts and upgrades a network service without losing a request, and tests whether others do.
#[derive(Debug, Parser)]
#[command(name = "lameduck", version)]
pub struct Flags {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the reference service: a counter, orders, jobs, transfers, a game and a chat on one port.
    Serve(Box<Serve>),
    /// Starts a running service's program anew and hands the service over to it, connections included.
    Upgrade(Upgrade),
    /// Takes the service back from a new generation that is still in its probation.
    Rollback(Rollback),
    /// Stops a running service gracefully and waits for its end.
    Stop(Stop),
    /// Tells what each generation of a running service is doing.
    Status(Status),
    /// Tests whether a server, in any language, stops and is upgraded without losing requests.
    Verify(Box<Verify>),
}

/// Where a running service is asked.
#[derive(Debug, Args)]
pub struct Control {
    /// Asks the service with this control socket: what `lameduck serve --control` was given.
    #[arg(long = "control", value_name = "PATH", env = "LAMEDUCK_CONTROL")]
    pub path: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = codes::of_asking(
    "the new generation accepts; its number and process are on standard output",
    "nothing has changed; the reason and the new process's last lines are on standard error",
))]
pub struct Upgrade {
    #[command(flatten)]
    pub control: Control,

    /// Follows an upgrade that is under way instead of being refused.
    #[arg(long)]
    pub queue: bool,
}

#[derive(Debug, Args)]
#[command(after_help = codes::of_asking(
    "the previous generation serves again",
    "nothing has changed: there is no way back, or nobody answered",
))]
pub struct Rollback {
    #[command(flatten)]
    pub control: Control,
}

#[derive(Debug, Args)]
#[command(after_help = codes::of_an_end("nobody answered"))]
pub struct Stop {
    #[command(flatten)]
    pub control: Control,

    /// Stops this generation alone; without it all of them end, the one that serves and those that still finish.
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = by(generation))]
    pub generation: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = codes::of_asking("the service answered", "nobody answered, or no more"))]
pub struct Status {
    #[command(flatten)]
    pub control: Control,

    /// Prints one JSON object in one line.
    #[arg(long)]
    pub json: bool,

    /// Prints it again each second, until the service is gone.
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
#[command(after_help = after_verify())]
pub struct Verify {
    /// Describes the server: a TOML file, or the name of an adapter that ships with the suite.
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub adapter: Option<String>,

    /// Tests something that runs already, at this address.
    #[arg(long, value_name = "URL", conflicts_with = "command")]
    pub url: Option<String>,

    /// Stops, restarts or upgrades what --url names: a command for the shell.
    #[arg(long, value_name = "CMD", requires = "url")]
    pub action: Option<String>,

    /// Asks for this path, which has to answer 2xx [default: /, or the adapter's].
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,

    /// Runs this case; repeat it for several.
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    pub case: Vec<String>,

    /// Runs the cases of this group; repeat it for several.
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    pub group: Vec<String>,

    /// Counts a SHOULD that is not met as a failure.
    #[arg(long)]
    pub strict: bool,

    /// Runs each case this many times.
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true, value_parser = by(repeats))]
    pub repeat: usize,

    /// Gives each case this long at most; then its target is killed, and it is inconclusive [default: its own bound].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = by(duration::parse))]
    pub case_limit: Option<Duration>,

    /// Makes the same random choices again.
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,

    /// Lists the cases.
    #[arg(long)]
    pub list: bool,

    /// Explains a case: set-up, action, criterion, why, source.
    #[arg(long, value_name = "CASE")]
    pub explain: Option<String>,

    /// Writes a page with a timeline of each case to this file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,

    /// Writes the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// Adds every connection and request with its times to the JSON.
    #[arg(long, requires = "json")]
    pub traces: bool,

    /// Writes the report as JUnit XML to this file.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<String>,

    /// The command that starts the server in the foreground, with {port} or {address} where it belongs.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// What `verify --help` tells after the flags.
fn after_verify() -> String {
    codes::table(&[
        ("0".to_owned(), "no MUST failed, and every case was judged"),
        ("1".to_owned(), "a MUST was not met (with --strict: or a SHOULD)"),
        ("2".to_owned(), "nothing was tested: usage, the adapter, or the target cannot be started"),
        ("3".to_owned(), "nothing failed, but a case was inconclusive"),
        ("128+n".to_owned(), "interrupted by signal n; the target was killed"),
    ])
}

#[derive(Debug, Args)]
#[command(after_help = after_serve())]
pub struct Serve {
    /// Listens on this address; repeat it for several. IP:PORT, [IPV6]:PORT or unix:PATH.
    #[arg(
        long,
        value_name = "ADDR",
        env = "LAMEDUCK_LISTEN",
        default_value = "127.0.0.1:8080",
        value_delimiter = ','
    )]
    pub listen: Vec<String>,

    /// Speaks TLS on every --listen address, with the certificate chain in this PEM file; read again when it changes.
    #[arg(long, value_name = "PATH", env = "LAMEDUCK_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert, in PEM.
    #[arg(long, value_name = "PATH", env = "LAMEDUCK_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Lets in only clients with a certificate of the authorities in this PEM file.
    #[arg(long, value_name = "PATH", env = "LAMEDUCK_TLS_CLIENT_CA", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// Serves /livez, /readyz, /startupz, /metrics and /status on this address, until the very end.
    #[arg(long, value_name = "ADDR", env = "LAMEDUCK_ADMIN")]
    pub admin: Option<String>,

    /// Keeps the counter, orders and jobs here: sqlite:PATH or postgres://USER@HOST:PORT/DATABASE.
    #[arg(long, value_name = "URL", env = "LAMEDUCK_DATABASE", default_value = "sqlite:lameduck.db",
          hide_env_values = true, value_parser = by(DatabaseUrl::from_str))]
    pub database: DatabaseUrl,

    /// Ends at the latest this long after the stop, whatever is left; `unlimited` waits as long as work lasts.
    #[arg(long, value_name = "DURATION", env = "LAMEDUCK_GRACE", default_value = "9s",
          allow_hyphen_values = true, value_parser = by(grace))]
    pub grace: Grace,

    /// Goes on accepting this long after the stop while /readyz is red, so that balancers look away first.
    #[arg(long, value_name = "DURATION", env = "LAMEDUCK_LAME_DUCK", default_value = "0s",
          allow_hyphen_values = true, value_parser = by(duration::parse))]
    pub lame_duck: Duration,

    /// Answers an idle kept-alive connection this long into the drain, because a request may be on its way.
    #[arg(long, value_name = "DURATION", env = "LAMEDUCK_LINGER", default_value = "250ms",
          allow_hyphen_values = true, value_parser = by(duration::parse))]
    pub linger: Duration,

    /// Answers an idle TLS connection this long after an upgrade: it cannot move to the new generation.
    #[arg(long, value_name = "DURATION", env = "LAMEDUCK_UPGRADE_LINGER", default_value = "5s",
          allow_hyphen_values = true, value_parser = by(duration::parse))]
    pub upgrade_linger: Duration,

    /// Tells a connection to go when it is about this old, so that load finds new instances [default: never].
    #[arg(long, value_name = "DURATION", env = "LAMEDUCK_MAX_CONNECTION_AGE",
          allow_hyphen_values = true, value_parser = by(duration::parse))]
    pub max_connection_age: Option<Duration>,

    /// Cuts what is still in hand on such a connection this much later.
    #[arg(long, value_name = "DURATION", env = "LAMEDUCK_MAX_CONNECTION_AGE_GRACE", default_value = "30s",
          allow_hyphen_values = true, value_parser = by(duration::parse))]
    pub max_connection_age_grace: Duration,

    /// Makes `GET /a` wait this long before it counts.
    #[arg(long, value_name = "DURATION", env = "LAMEDUCK_SLOW", default_value = "9s",
          allow_hyphen_values = true, value_parser = by(duration::parse))]
    pub slow: Duration,

    /// Works on this many background jobs at once; 0 leaves them to other processes on the same database.
    #[arg(long, value_name = "N", env = "LAMEDUCK_JOBS", default_value = "4",
          allow_hyphen_values = true, value_parser = by(jobs))]
    pub jobs: usize,

    /// Can be upgraded and asked here: a socket in a directory of this user alone, which is made if it is missing.
    #[arg(long, value_name = "PATH", env = "LAMEDUCK_CONTROL")]
    pub control: Option<PathBuf>,

    // No variable: a process that a running service starts takes over without being told.
    /// Takes the service over from whoever answers on the control socket.
    #[arg(long, requires = "control")]
    pub takeover: bool,

    /// Gives an upgrade up when its new generation is not ready this soon; nothing has changed then.
    #[arg(long, value_name = "DURATION", env = "LAMEDUCK_TAKEOVER_TIMEOUT", default_value = "1m",
          allow_hyphen_values = true, value_parser = by(duration::parse))]
    pub takeover_timeout: Duration,

    /// Gives the service back if the new generation of an upgrade dies this soon.
    #[arg(long, value_name = "DURATION", env = "LAMEDUCK_PROBATION", default_value = "10s",
          allow_hyphen_values = true, value_parser = by(duration::parse))]
    pub probation: Duration,

    /// Cuts work that lasts longer than this after an upgrade; `unlimited` lets it end on its own generation.
    #[arg(long, value_name = "DURATION", env = "LAMEDUCK_UPGRADE_GRACE", default_value = "unlimited",
          allow_hyphen_values = true, value_parser = by(grace))]
    pub upgrade_grace: Grace,

    /// Refuses an upgrade while this many older generations still finish their work.
    #[arg(long, value_name = "N", env = "LAMEDUCK_MAX_GENERATIONS", default_value = "4",
          allow_hyphen_values = true, value_parser = by(generations))]
    pub max_generations: usize,

    /// Has a closing function that never ends, for tests of the deadline.
    #[arg(long, hide = true)]
    pub hang_at_close: bool,

    /// Steps aside for a new generation only if it answers this path with 2xx before it accepts.
    #[arg(long, value_name = "PATH", env = "LAMEDUCK_PROBE")]
    pub probe: Option<String>,

    // No variable of this kind: they say what this one run does.
    /// Begins an upgrade also where memory for two generations seems not to be there.
    #[arg(long)]
    pub no_memory_check: bool,

    /// Begins each upgrade with the new program's --check, and goes on only if that ends well.
    #[arg(long)]
    pub check_first: bool,

    /// Looks whether the service could start like this, says so in one line, and changes nothing.
    #[arg(long)]
    pub check: bool,

    /// Writes the log and the report as lines for people, or as one JSON object a line.
    #[arg(long, value_name = "FORMAT", env = "LAMEDUCK_LOG", default_value = "text")]
    pub log: Format,

    /// Runs this many worker threads [default: one for each processor].
    #[arg(long, value_name = "N", env = "LAMEDUCK_THREADS", allow_hyphen_values = true, value_parser = by(threads))]
    pub threads: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

impl From<Serve> for Config {
    fn from(flags: Serve) -> Self {
        Self {
            listen: flags.listen,
            tls: flags.tls_cert.zip(flags.tls_key).map(|(cert, key)| TlsFiles {
                cert,
                key,
                client_ca: flags.tls_client_ca,
            }),
            admin: flags.admin,
            database: flags.database,
            grace: flags.grace,
            lame_duck: flags.lame_duck,
            linger: flags.linger,
            upgrade_linger: flags.upgrade_linger,
            max_connection_age: flags.max_connection_age,
            max_connection_age_grace: flags.max_connection_age_grace,
            slow: flags.slow,
            jobs: flags.jobs,
            control: flags.control,
            takeover: if flags.takeover { Takeover::Always } else { Takeover::WhenAsked },
            takeover_timeout: flags.takeover_timeout,
            probation: flags.probation,
            upgrade_grace: flags.upgrade_grace,
            max_generations: flags.max_generations,
            hang_at_close: flags.hang_at_close,
            probe: flags.probe,
            no_memory_check: flags.no_memory_check,
            check_first: flags.check_first.then(|| CHECK.to_owned()),
            log: match flags.log {
                Format::Text => LogFormat::Text,
                Format::Json => LogFormat::Json,
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What reading the command line comes to when it is not a command to run.
pub enum Early {
    /// Help or the version, which was asked for.
    Answer(clap::Error),
    Complaint(Complaint),
}

/// Reads the process's own arguments and environment.
pub fn read() -> Result<Flags, Early> {
    let given = words::expanded(std::env::args_os().collect()).map_err(Early::Complaint)?;
    Flags::try_parse_from(&given).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Early::Answer(error),
        _ => Early::Complaint(Complaint::from_arguments(&error, &help(), |flag, value| {
            variable_behind(&given, flag, value)
        })),
    })
}

/// Where the flags of the command that was given are listed; what is not UTF-8 is none.
fn help() -> String {
    let given = std::env::args_os().nth(1).unwrap_or_default();
    let known =
        Flags::command().find_subcommand(given).map(|command| command.get_name().to_owned());
    match known {
        Some(name) => format!("`lameduck {name} --help` lists the flags"),
        None => "`lameduck --help` lists the commands".to_owned(),
    }
}

/// The environment variable that gave `flag` this value, unless the command line names the flag.
fn variable_behind(arguments: &[std::ffi::OsString], flag: &str, value: &str) -> Option<String> {
    let named = |given: &std::ffi::OsString| {
        given.to_string_lossy().split('=').next().is_some_and(|name| name == flag)
    };
    if arguments.iter().any(named) {
        return None;
    }
    let commands = Flags::command();
    let arguments = commands.get_subcommands().flat_map(|command| command.get_arguments());
    let mut found = arguments.filter(|argument| {
        argument.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long))
    });
    let variable = found.next()?.get_env()?;
    let set = std::env::var_os(variable)?;
    (set.to_string_lossy() == value).then(|| variable.to_string_lossy().into_owned())
}

/// An argument's parser whose errors are [`BadValue`]s.
fn by<T, E: Into<BadValue>>(
    parse: impl Fn(&str) -> Result<T, E> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, BadValue> + Clone + Send + Sync + 'static {
    move |text| parse(text).map_err(Into::into)
}

fn grace(text: &str) -> Result<Grace, BadValue> {
    match text {
        "unlimited" => Ok(Grace::Unlimited),
        _ => duration::parse(text).map(Grace::Limited),
    }
}

fn threads(text: &str) -> Result<usize, BadValue> {
    number(text, THREADS_LIMIT, "not a number of threads")
}

fn generations(text: &str) -> Result<usize, BadValue> {
    number(text, GENERATIONS_LIMIT, "not a number of generations")
}

fn jobs(text: &str) -> Result<usize, BadValue> {
    number_from(0, text, JOBS_LIMIT, "not a number of jobs")
}

fn generation(text: &str) -> Result<u32, BadValue> {
    let hint = "write its number, as `lameduck status` has it";
    text.parse().map_err(|_| BadValue::new("not the number of a generation", hint))
}

fn repeats(text: &str) -> Result<usize, BadValue> {
    number(text, REPEATS_LIMIT, "not a number of times")
}

fn number(text: &str, limit: usize, problem: &str) -> Result<usize, BadValue> {
    number_from(1, text, limit, problem)
}

fn number_from(least: usize, text: &str, limit: usize, problem: &str) -> Result<usize, BadValue> {
    let number = text.parse().ok().filter(|number| (least..=limit).contains(number));
    let hint = format!("write a whole number from {least} to {limit}");
    number.ok_or_else(|| BadValue::new(problem, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_flag_the_service_runs_by_its_own_defaults() {
        let Command::Serve(serve) = Flags::parse_from(["lameduck", "serve"]).command else {
            panic!("`serve` is read as another command");
        };
        let version = Config::default().version;
        assert_eq!(
            format!("{:?}", Config::from(*serve)),
            format!("{:?}", Config { version, ..Config::default() })
        );
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Flags::command().debug_assert();
    }
}
