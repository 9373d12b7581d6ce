//! How a server is upgraded, and who keeps it running.

use super::text::{self, Command, Span};
use crate::target::Signal;
use serde::Deserialize;

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

fn ten_seconds() -> Span {
    Span::from_secs(10)
}
