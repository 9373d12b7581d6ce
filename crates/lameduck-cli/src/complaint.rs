//! How the command tells what is wrong: exactly one `error:` line and one `hint:` line on standard error.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// A value that cannot be used, as an argument's parser says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadValue {
    problem: String,
    hint: String,
    quote: Quote,
}

/// Whether the complaint quotes the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quote {
    /// As it was given.
    Value,
    /// The problem says what may be said of it: it may hold a password.
    Nothing,
}

impl BadValue {
    /// What is wrong and what to write instead; the flag and the value are added by [`Complaint`].
    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: hint.into(), quote: Quote::Value }
    }
}

impl From<arena::Error> for BadValue {
    fn from(error: arena::Error) -> Self {
        let (problem, hint) = (error.to_string(), error.hint().to_owned());
        Self { problem, hint, quote: Quote::Nothing }
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for BadValue {}

/// The command's last two lines when it could not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaint {
    code: u8,
    message: String,
    hint: String,
}

impl Complaint {
    /// Something the machine did not give.
    pub fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: lameduck::exit::FAILED, message: message.into(), hint: hint.into() }
    }

    /// Something that cannot be used as it was given.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: lameduck::exit::USAGE, message: message.into(), hint: hint.into() }
    }

    /// Prints both lines and gives the exit code.
    pub fn print(&self) -> ExitCode {
        let text = format!("error: {}\nhint: {}\n", one_line(&self.message), one_line(&self.hint));
        // Nobody reads standard error: the exit code still tells.
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(self.code)
    }

    /// Says in two lines what the argument parser says in a paragraph.
    ///
    /// `help` says where the flags are listed; `variable` finds the environment variable a flag's value came from, if
    /// it did not come from the command line.
    pub fn from_arguments(
        error: &clap::Error,
        help: &str,
        variable: impl Fn(&str, &str) -> Option<String>,
    ) -> Self {
        let flag = text(error, ContextKind::InvalidArg).map(first_word).unwrap_or_default();
        let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
        let (source, given) = match variable(&flag, &value) {
            Some(variable) => (variable.clone(), format!("{variable}={value}")),
            None => (flag.clone(), format!("{flag} {value}")),
        };
        match error.kind() {
            ErrorKind::ValueValidation => match bad_value(error) {
                Some(BadValue { problem, hint, quote: Quote::Value }) => {
                    Self::usage(format!("{given}: {problem}"), hint)
                }
                Some(BadValue { problem, hint, quote: Quote::Nothing }) => {
                    Self::usage(format!("{source}: {problem}"), hint)
                }
                None => Self::usage(format!("{source}: not a value it takes"), help),
            },
            ErrorKind::InvalidValue if value.is_empty() => {
                Self::usage(format!("{flag}: a value is missing"), help)
            }
            ErrorKind::InvalidValue => {
                let choices = text(error, ContextKind::ValidValue).unwrap_or_default();
                Self::usage(format!("{given}: no such choice"), format!("write one of {choices}"))
            }
            ErrorKind::UnknownArgument if !flag.starts_with('-') => {
                Self::usage(format!("{flag}: nothing is expected here"), help)
            }
            ErrorKind::UnknownArgument => {
                let hint = match text(error, ContextKind::SuggestedArg) {
                    Some(near) => format!("did you mean {}?", first_word(near)),
                    None => help.to_owned(),
                };
                Self::usage(format!("{flag}: no such flag"), hint)
            }
            ErrorKind::InvalidUtf8 => {
                let odd = std::env::args_os().find(|argument| argument.to_str().is_none());
                let odd = odd.map_or_else(|| "an argument".into(), |odd| format!("{odd:?}"));
                Self::usage(format!("{odd}: not UTF-8"), help)
            }
            ErrorKind::MissingRequiredArgument if flag == "--control" => Self::usage(
                "--control is missing: which service?",
                "write --control PATH, or set LAMEDUCK_CONTROL, as its `lameduck serve` has it",
            ),
            ErrorKind::MissingRequiredArgument if flag.starts_with("--tls-") => {
                let hint =
                    "TLS needs --tls-cert and --tls-key: a certificate chain and its key, in PEM";
                Self::usage(format!("{flag} is missing"), hint)
            }
            ErrorKind::ArgumentConflict => {
                Self::usage(format!("{flag} is given twice"), "give it once")
            }
            ErrorKind::InvalidSubcommand => {
                let name = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
                Self::usage(
                    format!("{name}: no such command"),
                    "`lameduck --help` lists the commands",
                )
            }
            ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Self::usage("no command is given", "`lameduck --help` lists the commands")
            }
            _ => {
                let all = error.to_string();
                let first = all.lines().next().unwrap_or_default();
                Self::usage(first.trim_start_matches("error: "), help)
            }
        }
    }
}

impl From<arena::Error> for Complaint {
    fn from(error: arena::Error) -> Self {
        if error.is_usage() {
            Self::usage(error.to_string(), error.hint())
        } else {
            Self::failed(error.to_string(), error.hint())
        }
    }
}

fn bad_value(error: &clap::Error) -> Option<&BadValue> {
    std::error::Error::source(error)?.downcast_ref()
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// `--grace <DURATION>` is called `--grace`.
fn first_word(text: String) -> String {
    text.split([' ', '=']).next().unwrap_or_default().to_owned()
}

/// A value may hold anything; a line break in it must not make a third line.
fn one_line(text: &str) -> String {
    let escaped =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}
