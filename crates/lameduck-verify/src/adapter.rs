//! How a server is started, stopped, upgraded and asked: an adapter, written in TOML.
//!
//! An adapter says what a server *has*; cases that need something it does not name are skipped, with the reason.
//! Unknown keys are refused with the file and the line: a mistyped key would silently skip cases.
//!
//! ```
//! use lameduck_verify::adapter::Adapter;
//!
//! let adapter = Adapter::parse("mine.toml", r#"
//!     name = "mine"
//!     command = ["my-server", "--listen", "{address}"]
//!     [stop]
//!     signal = "TERM"
//!     deadline = "10s"
//!     [paths]
//!     fast = "/health"
//! "#)?;
//! assert_eq!(adapter.name, "mine");
//! # Ok::<(), lameduck_verify::adapter::BadAdapter>(())
//! ```
//!
//! Put in for placeholders in the command, the files, the environment and every other command: `{port}`, `{host}`,
//! `{address}`, `{admin_port}`, `{admin_address}`, `{tls_port}`, `{tls_address}`,
//! `{more_address}` (one that nothing listens on at first), `{dir}` (a private directory that is removed afterwards), `{build}` (a
//! directory that is kept, for what `build` makes), `{pid}` (the server's process; in commands of `stop` and `upgrade`)
//! and `{lameduck}` (this tool, when it runs as the command `lameduck`).

mod placeholders;
mod shipped;
mod text;

pub use placeholders::Values;
pub use shipped::{shipped, shipped_names};
pub(crate) use text::signal_name;
pub use text::{Command, Span};

use crate::address::{Place, Scheme};
use crate::target::Signal;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// A server, as the suite knows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// What reports call it.
    pub name: String,
    /// The command that starts it in the foreground; nothing for one that runs already.
    #[serde(default)]
    pub command: Option<Command>,
    /// Files written into `{dir}` before the start, placeholders put in; one that begins with `#!` can be executed.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// A command run once before, for what has to be built; its working directory is `{build}`.
    #[serde(default)]
    pub build: Option<Command>,
    /// Variables of the server's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The command that prints its version (the first line counts).
    #[serde(default)]
    pub version: Option<Command>,
    /// How it shows that it serves.
    #[serde(default)]
    pub ready: Readiness,
    /// What it speaks. With `tls` and neither `h1` nor `h2c`, everything at its address is spoken over TLS.
    #[serde(default = "http1_only")]
    pub protocols: Vec<Protocol>,
    /// A second address that the server listens on, for the cases about several listeners: `unix:{dir}/x.sock` or
    /// `[::1]:{admin_port}`.
    #[serde(default)]
    pub also: Option<String>,
    /// Where it speaks TLS, as `IP:PORT`: `{tls_address}`, or `{address}` where one port speaks both.
    #[serde(default)]
    pub tls: Option<String>,
    /// A lame-duck delay that only the cases about it start the server with.
    #[serde(default)]
    pub lame_duck: Option<LameDuck>,
    /// How it is stopped.
    #[serde(default)]
    pub stop: Stop,
    /// How it is upgraded, if it can be.
    #[serde(default)]
    pub upgrade: Option<Upgrade>,
    /// Its paths.
    #[serde(default)]
    pub paths: Paths,
    /// Where it tells which process or generation answers.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// A program that keeps it running and can itself be killed and upgraded.
    #[serde(default)]
    pub supervisor: Option<Supervisor>,
    /// Something that runs already: where it is found and what is done to it. Not part of the file.
    #[serde(skip)]
    pub running: Option<Running>,
}

/// A lame-duck delay, and how the server is told of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LameDuck {
    /// How long it goes on accepting after the stop, not ready.
    pub delay: Span,
    /// Words added to the command.
    pub add: Vec<String>,
}

/// What runs already, with any action done to it.
#[derive(Clone, Debug)]
pub struct Running {
    /// Where to ask.
    pub url: String,
    /// The command that stops, restarts or upgrades it.
    pub action: Command,
}

/// How a server shows that it serves.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// Its address accepts connections.
    Tcp(bool),
    /// This path answers 2xx.
    Http(String),
    /// A line on standard output contains this.
    Stdout(String),
    /// A line on standard error contains this.
    Stderr(String),
    /// It sends `READY=1` to the notify socket.
    Fd(bool),
}

impl Default for Readiness {
    fn default() -> Readiness {
        Readiness::Tcp(true)
    }
}

/// What a server may speak.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 without TLS.
    H1,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
    /// HTTP/2 over TLS.
    H2,
    /// HTTP/1.1 over TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// Server-sent events.
    Sse,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// As an adapter writes it.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::H1 => "h1",
            Protocol::H2c => "h2c",
            Protocol::H2 => "h2",
            Protocol::Tls => "tls",
            Protocol::Ws => "ws",
            Protocol::Sse => "sse",
            Protocol::Grpc => "grpc",
        }
    }
}

fn http1_only() -> Vec<Protocol> {
    vec![Protocol::H1]
}

/// How a server is stopped.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// The signal that asks for a graceful stop.
    #[serde(deserialize_with = "text::signal")]
    pub signal: Signal,
    /// A command instead of the signal.
    pub command: Option<Command>,
    /// The file with the process id that signals go to; the process that was started when nothing is said.
    pub pid_file: Option<String>,
    /// The longest time the server gives its work.
    pub deadline: Option<Span>,
    /// What another stop signal does.
    pub repeats: Option<Repeats>,
    /// How long it goes on accepting after the stop, not ready.
    pub lame_duck: Option<Span>,
    /// Exit codes of a stop in which everything finished; death by signal n is 128 + n.
    pub exit: Vec<i32>,
    /// Exit codes of a stop that cut work; empty if it does not tell.
    pub forced_exit: Vec<i32>,
    /// What the last line of its log says.
    pub last_words: Option<String>,
    /// A command that shows the progress of a drain.
    pub progress: Option<Command>,
    /// Words added to the command that make one of its closing functions hang.
    pub hanging_hook: Option<Vec<String>>,
}

impl Default for Stop {
    fn default() -> Stop {
        Stop {
            signal: Signal::TERM,
            command: None,
            pid_file: None,
            deadline: None,
            repeats: None,
            lame_duck: None,
            exit: vec![0],
            forced_exit: Vec::new(),
            last_words: None,
            progress: None,
            hanging_hook: None,
        }
    }
}

/// What another stop signal does while a stop is under way.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Repeats {
    /// It ends the wait at once.
    Force,
    /// Nothing more than the first.
    Coalesce,
}

/// How a server is upgraded.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// The signal that asks for it, sent to the process that a stop signal goes to.
    #[serde(default, deserialize_with = "text::optional_signal")]
    pub signal: Option<Signal>,
    /// A command instead of the signal; it has to return when the upgrade is done or has failed.
    #[serde(default)]
    pub command: Option<Command>,
    /// Runs the command that starts the server once more, beside the first.
    #[serde(default)]
    pub replace: bool,
    /// How its end is known, beside the command's.
    #[serde(default)]
    pub done: Done,
    /// The longest time an upgrade takes.
    #[serde(default = "ten_seconds")]
    pub deadline: Span,
    /// The program that an upgrade starts, as a path in `{dir}`; the tester puts others in its place.
    #[serde(default)]
    pub program: Option<String>,
    /// What [`program`](Upgrade::program) leads to at first: a name looked up in `PATH`, or a path.
    #[serde(default)]
    pub program_from: Option<String>,
    /// How long a new version may take until it is ready before it is given up.
    #[serde(default)]
    pub ready_timeout: Option<Span>,
    /// How long the old version can still be had back.
    #[serde(default)]
    pub probation: Option<Span>,
    /// The command that takes the upgrade back.
    #[serde(default)]
    pub rollback: Option<Command>,
    /// The most old generations at a time.
    #[serde(default)]
    pub generations: Option<usize>,
    /// The file that holds the process id of the newest generation.
    #[serde(default)]
    pub pid_file: Option<String>,
    /// The socket that upgrades are asked for on.
    #[serde(default)]
    pub control: Option<String>,
    /// How long old generations may go on after an upgrade.
    #[serde(default)]
    pub old_deadline: Option<Span>,
    /// A build of another version that speaks to this one, put in the program's place for one case.
    #[serde(default)]
    pub other_version: Option<String>,
    /// The file whose listed addresses a new generation binds, for the cases about changed addresses.
    #[serde(default)]
    pub config: Option<ConfigChange>,
}

/// Two contents of a configuration file that differ in an address.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigChange {
    /// The file in `{dir}`.
    pub file: String,
    /// With `{more_address}` as one more address.
    pub more: String,
}

/// How the end of an upgrade is known.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Another process or generation answers new connections; without an identity, the command's end.
    #[default]
    Identity,
    /// The command has ended.
    Command,
    /// A further line on standard output contains this.
    Stdout(String),
    /// A further line on standard error contains this.
    Stderr(String),
}

/// A program that keeps the server running.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Supervisor {
    /// Starts the server under it, where the adapter's own command starts the server alone.
    #[serde(default)]
    pub command: Option<Command>,
    /// The file with its process id; the process that was started when nothing is said.
    #[serde(default)]
    pub pid_file: Option<String>,
    /// Starts a supervisor again that takes the running server on; the first command again when nothing is said.
    #[serde(default)]
    pub restart: Option<Command>,
    /// The signal that makes it start itself anew.
    #[serde(default, deserialize_with = "text::optional_signal")]
    pub upgrade_signal: Option<Signal>,
    /// A command that does.
    #[serde(default)]
    pub upgrade_command: Option<Command>,
}

/// A server's paths.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Answers 2xx at once.
    pub fast: String,
    /// Answers 2xx after `slow_takes`.
    pub slow: Option<String>,
    /// How long `slow` takes.
    pub slow_takes: Option<Span>,
    /// Answers a large body, at least 10 MB.
    pub large: Option<String>,
    /// Answers 2xx after so many milliseconds, `{ms}` put in.
    pub slow_for: Option<String>,
    /// A request that never ends by itself.
    pub endless: Option<String>,
    /// Takes `POST` with an order `{"id":"…","item":"duck","quantity":1}` and answers 2xx.
    pub post: Option<String>,
    /// Tells how often an id was executed, `{id}` put in, or without it how many there are in all; the answer is a number
    /// or has a JSON field `count`.
    pub count: Option<String>,
    /// Takes a `POST` with a large body.
    pub upload: Option<String>,
    /// Answers early to a `POST` whose body it does not want.
    pub reject: Option<String>,
    /// Streams with chunks and an end.
    pub stream: Option<String>,
    /// Server-sent events.
    pub sse: Option<String>,
    /// A WebSocket that echoes.
    pub ws: Option<String>,
    /// A request that idles for a minute when nothing happens.
    pub long_poll: Option<String>,
    /// Starts a child process and answers.
    pub child: Option<String>,
    /// A method of gRPC that streams.
    pub grpc_stream: Option<String>,
    /// Readiness.
    pub ready: Option<String>,
    /// Liveness.
    pub live: Option<String>,
    /// Where `ready` and `live` are asked for, if not at the server's own address.
    pub admin: Option<String>,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths {
            fast: "/".to_owned(),
            slow: None,
            slow_takes: None,
            large: None,
            slow_for: None,
            endless: None,
            post: None,
            count: None,
            upload: None,
            reject: None,
            stream: None,
            sse: None,
            ws: None,
            long_poll: None,
            child: None,
            grpc_stream: None,
            ready: None,
            live: None,
            admin: None,
        }
    }
}

/// Where a server tells who answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// A field of each answer's head.
    #[serde(default)]
    pub header: Option<String>,
    /// A path whose answer tells it.
    #[serde(default)]
    pub path: Option<String>,
    /// The field of the JSON object there; the whole answer when nothing is said.
    #[serde(default)]
    pub field: Option<String>,
    /// Whether what it tells is a process id.
    #[serde(default)]
    pub tells: Tells,
}

/// What an identity is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Tells {
    /// A number or name that differs between generations.
    #[default]
    Generation,
    /// The id of the process that answers and that signals go to.
    Pid,
    /// The id of a process that answers, started by the one that signals go to.
    Worker,
}

impl Paths {
    /// The path of this key, if it is declared.
    ///
    /// # Panics
    /// When no path has this key: a mistake in a case, not in an adapter.
    pub fn get(&self, key: &str) -> Option<&str> {
        let path = match key {
            "fast" => return Some(&self.fast),
            "slow" => &self.slow,
            "large" => &self.large,
            "slow_for" => &self.slow_for,
            "endless" => &self.endless,
            "post" => &self.post,
            "count" => &self.count,
            "upload" => &self.upload,
            "reject" => &self.reject,
            "stream" => &self.stream,
            "sse" => &self.sse,
            "ws" => &self.ws,
            "long_poll" => &self.long_poll,
            "child" => &self.child,
            "grpc_stream" => &self.grpc_stream,
            "ready" => &self.ready,
            "live" => &self.live,
            "admin" => &self.admin,
            _ => panic!("no path has the key {key:?}"),
        };
        path.as_deref()
    }
}

fn ten_seconds() -> Span {
    Span::from_secs(10)
}

impl Adapter {
    /// Reads an adapter; `file` is what errors call the text.
    ///
    /// # Errors
    /// Names the file, the line and what would be right.
    pub fn parse(file: &str, text: &str) -> Result<Adapter, BadAdapter> {
        let adapter: Adapter =
            toml::from_str(text).map_err(|error| BadAdapter::at(file, text, &error))?;
        adapter.check().map_err(|why| BadAdapter(format!("{file}: {why}")))?;
        Ok(adapter)
    }

    /// Reads the file at `path`, or the shipped adapter of this name.
    ///
    /// # Errors
    /// As [`parse`](Adapter::parse); for a name that is neither, the names there are.
    pub fn find(path: &Path) -> Result<Adapter, BadAdapter> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Adapter::parse(&name, &text),
            Err(_) if shipped(&name).is_some() => {
                Adapter::parse(&name, shipped(&name).unwrap_or_default())
            }
            Err(error) => Err(BadAdapter(format!(
                "{name}: {error}; shipped adapters are {}",
                shipped_names().join(", ")
            ))),
        }
    }

    /// A server of which nothing is known but its command, as in `lameduck verify -- CMD…`.
    pub fn of_command(command: Vec<String>) -> Adapter {
        let name = command.first().map_or("target", |program| {
            Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or(program)
        });
        Adapter { command: Some(Command(command.clone())), ..Adapter::empty(name) }
    }

    /// Something that runs already.
    pub fn of_running(url: &str, action: Vec<String>) -> Adapter {
        let running = Running { url: url.to_owned(), action: Command(action) };
        let mut adapter = Adapter { running: Some(running), ..Adapter::empty(url) };
        if let Ok(place) = url.parse::<Place>() {
            adapter.paths.fast = place.path;
        }
        adapter
    }

    /// Whether it speaks this.
    pub fn speaks(&self, protocol: Protocol) -> bool {
        self.protocols.contains(&protocol)
    }

    /// What is spoken at its own address: TLS if it declares that it speaks TLS and nothing in plain.
    pub(crate) fn scheme(&self) -> Scheme {
        let is_plain = self.speaks(Protocol::H1) || self.speaks(Protocol::H2c);
        if self.speaks(Protocol::Tls) && !is_plain { Scheme::Https } else { Scheme::Http }
    }

    fn empty(name: &str) -> Adapter {
        Adapter {
            name: name.to_owned(),
            command: None,
            files: BTreeMap::new(),
            build: None,
            env: BTreeMap::new(),
            version: None,
            ready: Readiness::default(),
            protocols: http1_only(),
            also: None,
            tls: None,
            lame_duck: None,
            stop: Stop::default(),
            upgrade: None,
            paths: Paths::default(),
            identity: None,
            supervisor: None,
            running: None,
        }
    }

    /// What serde cannot say.
    fn check(&self) -> Result<(), String> {
        let Some(command) = &self.command else {
            return Err("`command` is missing: write command = [\"program\", \"{port}\"]".into());
        };
        if command.0.is_empty() {
            return Err("`command` is empty: write command = [\"program\", \"{port}\"]".into());
        }
        for command in self.commands() {
            placeholders::check(&command.0)?;
        }
        if let Some(upgrade) = &self.upgrade {
            let ways = [upgrade.signal.is_some(), upgrade.command.is_some(), upgrade.replace];
            if ways.iter().filter(|way| **way).count() != 1 {
                return Err(
                    "[upgrade] needs exactly one of `signal`, `command` and `replace`".into()
                );
            }
            if upgrade.signal.is_some() && upgrade.done == Done::Command {
                return Err("[upgrade] done = \"command\" needs a `command`".into());
            }
            if upgrade.signal.is_some() && upgrade.done == Done::Identity && self.identity.is_none()
            {
                return Err(
                    "[upgrade] nothing tells when a `signal` is done: declare [identity], or done = { stderr = \"…\" }"
                        .into(),
                );
            }
            if upgrade.program.is_some() != upgrade.program_from.is_some() {
                return Err("[upgrade] `program` and `program_from` belong together".into());
            }
        }
        if let Some(identity) = &self.identity
            && identity.header.is_some() == identity.path.is_some()
        {
            return Err("[identity] needs exactly one of `header` and `path`".into());
        }
        let paths = &self.paths;
        if paths.slow.is_some() != paths.slow_takes.is_some() {
            return Err("[paths] `slow` and `slow_takes` belong together".into());
        }
        Ok(())
    }

    fn commands(&self) -> impl Iterator<Item = &Command> {
        let upgrade = self.upgrade.as_ref();
        let of_upgrade = upgrade.into_iter().flat_map(|it| [&it.command, &it.rollback]);
        let own =
            [&self.command, &self.build, &self.version, &self.stop.command, &self.stop.progress];
        own.into_iter().chain(of_upgrade).flatten()
    }
}

/// An adapter that cannot be used: the file, the line, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAdapter(String);

impl BadAdapter {
    fn at(file: &str, text: &str, error: &toml::de::Error) -> BadAdapter {
        let line = error.span().map(|span| text[..span.start].lines().count().max(1));
        // A span at the start of a line counts the lines before it only.
        let line = line.map(|line| match error.span() {
            Some(span) if text[..span.start].ends_with('\n') => line + 1,
            Some(_) | None => line,
        });
        let place = line.map_or(file.to_owned(), |line| format!("{file}:{line}"));
        BadAdapter(format!("{place}: {}", error.message().replace('\n', "; ")))
    }
}

impl fmt::Display for BadAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadAdapter {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Adapter::parse("x.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_right_ones() {
        let error = refused("name = \"x\"\ncommand = [\"x\"]\n[stop]\nsignl = \"TERM\"\n");
        assert!(error.starts_with("x.toml:4: unknown field `signl`"), "{error}");
        assert!(error.contains("`signal`"), "{error}");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(refused("name = \"x\"").contains("`command` is missing"));
        assert!(refused("name = \"x\"\ncommand = []").contains("`command` is empty"));
        let head = "name = \"x\"\ncommand = [\"x\"]\n";
        for (more, expected) in [
            ("[upgrade]\n", "exactly one of `signal`, `command` and `replace`"),
            ("[upgrade]\nsignal = \"HUP\"\nreplace = true\n", "exactly one of"),
            ("[upgrade]\nsignal = \"HUP\"\n", "nothing tells when a `signal` is done"),
            ("[identity]\n", "exactly one of `header` and `path`"),
            ("[paths]\nslow = \"/a\"\n", "belong together"),
            ("[stop]\nsignal = \"TREM\"\n", "x.toml:4: no signal is called `TREM`"),
            ("[stop]\ndeadline = \"9\"\n", "x.toml:4: not a duration: `9`"),
            ("protocols = [\"h9\"]\n", "x.toml:3: unknown variant `h9`"),
        ] {
            let error = refused(&format!("{head}{more}"));
            assert!(error.contains(expected), "{more}: {error}");
        }
        let error = refused("name = \"x\"\ncommand = [\"x\", \"{prot}\"]\n");
        assert!(error.contains("no placeholder is called {prot}"), "{error}");
    }

    #[test]
    fn every_shipped_adapter_can_be_read() {
        for name in shipped_names() {
            let adapter = Adapter::find(Path::new(name)).unwrap();
            assert_eq!(adapter.name, name);
        }
    }
}
