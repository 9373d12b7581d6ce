//! What a person who starts the service is told when it cannot start.

use std::fmt;

/// Why the service could not start: one line that names the thing, and a hint at what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Usage,
    Start,
}

impl Error {
    /// The caller asked for something that can't be: a bad URL, an impossible budget.
    #[must_use]
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message.into(), hint.into())
    }

    /// The world did not let the service start: an address in use, a database that is not there.
    #[must_use]
    pub fn start(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Kind::Start, message.into(), hint.into())
    }

    /// Whether the arguments were wrong rather than the world.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        self.kind == Kind::Usage
    }

    /// What to do about it, in one line.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Both texts are printed as one line each, whatever a driver or a server put into its own message.
    fn new(kind: Kind, message: String, hint: String) -> Self {
        Self { kind, message: one_line(&message), hint: one_line(&hint) }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The system's words in the middle of a sentence, without the number that says the same.
pub fn system(error: &std::io::Error) -> String {
    let text = error.to_string();
    let words = text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words);
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
