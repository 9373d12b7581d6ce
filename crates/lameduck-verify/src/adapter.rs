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

mod bad;
mod paths;
mod placeholders;
mod reading;
mod shipped;
mod stop;
mod text;
mod upgrade;

pub use bad::BadAdapter;
pub use paths::{Identity, Paths, Tells};
pub use placeholders::Values;
pub use shipped::{shipped, shipped_names};
pub use stop::{LameDuck, Repeats, Stop};
pub(crate) use text::signal_name;
pub use text::{Command, Span};
pub use upgrade::{ConfigChange, Done, Supervisor, Upgrade};

use crate::address::{Place, Scheme};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

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
    /// Programs that have to be in `PATH`, each with what to do where it is not.
    #[serde(default)]
    pub programs: BTreeMap<String, String>,
    /// A command run once before, for what has to be built; its working directory is `{build}`.
    #[serde(default)]
    pub build: Option<Command>,
    /// A command that runs from before the server's start until after its end, such as the application behind a proxy. It
    /// is no part of what is tested.
    #[serde(default)]
    pub beside: Option<Command>,
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
    /// This command succeeds; it is run until it does, after the start and after an upgrade. For a server that answers
    /// before it hears its signals.
    Command(Command),
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
    /// As [`parse`](Adapter::parse), and for a file of more than a megabyte; for a name that is neither, the names there
    /// are.
    pub fn find(path: &Path) -> Result<Adapter, BadAdapter> {
        let name = path.display().to_string();
        match reading::read(path) {
            Ok(text) => Adapter::parse(&name, &text?),
            Err(_) if shipped(&name).is_some() => {
                Adapter::parse(&name, shipped(&name).unwrap_or_default())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(BadAdapter(format!(
                "no shipped adapter and no file is called {name}; shipped are {}",
                shipped_names().join(", ")
            ))),
            Err(error) => Err(BadAdapter(format!("read {name}: {error}"))),
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

    /// The times that it declares of its own: one stop and one upgrade, each as long as it may be.
    pub(crate) fn declared_times(&self) -> Duration {
        let stop = [self.stop.deadline, self.stop.lame_duck, self.paths.slow_takes];
        let delay = self.lame_duck.as_ref().map(|lame_duck| lame_duck.delay);
        let of_upgrade = self
            .upgrade
            .iter()
            .flat_map(|it| [Some(it.deadline), it.old_deadline, it.ready_timeout, it.probation]);
        stop.into_iter().chain([delay]).chain(of_upgrade).flatten().map(|span| *span).sum()
    }

    fn empty(name: &str) -> Adapter {
        Adapter {
            name: name.to_owned(),
            command: None,
            files: BTreeMap::new(),
            programs: BTreeMap::new(),
            build: None,
            beside: None,
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
        let ready = match &self.ready {
            Readiness::Command(command) => Some(command),
            _ => None,
        };
        let own = [
            &self.command,
            &self.beside,
            &self.build,
            &self.version,
            &self.stop.command,
            &self.stop.progress,
        ];
        own.into_iter().chain(of_upgrade).flatten().chain(ready)
    }
}

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
    fn a_name_of_nothing_is_told_with_the_names_there_are() {
        let error = Adapter::find(Path::new("nope")).unwrap_err().to_string();
        let names = shipped_names().join(", ");
        let told = format!("no shipped adapter and no file is called nope; shipped are {names}");
        assert_eq!(error, told);
    }

    #[test]
    fn every_shipped_adapter_can_be_read() {
        for name in shipped_names() {
            let adapter = Adapter::find(Path::new(name)).unwrap();
            assert_eq!(adapter.name, name);
        }
    }
}
