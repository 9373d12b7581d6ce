//! Why an adapter is refused.

use std::fmt;

/// An adapter that cannot be used: the file, the line, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAdapter(pub(super) String);

impl BadAdapter {
    pub(super) fn at(file: &str, text: &str, error: &toml::de::Error) -> BadAdapter {
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
