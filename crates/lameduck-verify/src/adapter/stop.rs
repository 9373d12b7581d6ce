//! How a server is stopped.

use super::text::{self, Command, Span};
use crate::target::Signal;
use serde::Deserialize;

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

/// A lame-duck delay, and how the server is told of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LameDuck {
    /// How long it goes on accepting after the stop, not ready.
    pub delay: Span,
    /// Words added to the command.
    pub add: Vec<String>,
}
