//! Words of an adapter that are more than text: commands, durations, signals.

use crate::target::Signal;
use serde::de::{Deserialize, Deserializer, Error};
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

/// A program and its arguments: a list of words, or one text that a shell runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command(pub Vec<String>);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Command, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged, expecting = "a list of words, or one text for the shell")]
        enum Either {
            Words(Vec<String>),
            Shell(String),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Words(words) => Command(words),
            Either::Shell(text) => Command(vec!["sh".into(), "-c".into(), text]),
        })
    }
}

/// A duration, written as `250ms`, `9s` or `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Span {
        Span(Duration::from_secs(seconds))
    }
}

impl Deref for Span {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit = match &text[digits..] {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            _ => None,
        };
        let number = text[..digits].parse::<u64>().ok();
        let milliseconds = number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
        let bad = || D::Error::custom(format!("not a duration: `{text}`; write 250ms, 9s or 2m"));
        Ok(Span(Duration::from_millis(milliseconds.ok_or_else(bad)?)))
    }
}

/// The signals an adapter may name.
const SIGNALS: [(&str, Signal); 8] = [
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("HUP", Signal::HUP),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
    ("ALARM", Signal::ALARM),
];

/// As people write it: `SIGTERM`.
pub(crate) fn signal_name(signal: Signal) -> String {
    let named = SIGNALS.iter().find(|(_, known)| *known == signal);
    named.map_or_else(|| format!("signal {}", signal.as_raw()), |(name, _)| format!("SIG{name}"))
}

pub(super) fn signal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Signal, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bare = text.strip_prefix("SIG").unwrap_or(&text);
    let found = SIGNALS.iter().find(|(name, _)| *name == bare);
    found.map(|(_, signal)| *signal).ok_or_else(|| {
        let names = SIGNALS.map(|(name, _)| name).join(", ");
        D::Error::custom(format!("no signal is called `{text}`; write one of {names}"))
    })
}

pub(super) fn optional_signal<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Signal>, D::Error> {
    signal(deserializer).map(Some)
}
