//! Which database, as one word on the command line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::Error;

const SHAPES: &str = "write sqlite:PATH or postgres://USER@HOST:PORT/DATABASE";

/// The address of a database: `sqlite:PATH` or `postgres://USER@HOST:PORT/DATABASE`.
///
/// Its `Display` never holds the password.
#[derive(Debug, Clone)]
pub struct DatabaseUrl(pub(super) Target);

#[derive(Debug, Clone)]
pub(super) enum Target {
    Sqlite(PathBuf),
    // Boxed: the driver's options are twenty times the size of a path.
    Postgres(Box<PgConnectOptions>),
}

impl DatabaseUrl {
    /// A SQLite file at `path`.
    #[must_use]
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(Target::Sqlite(path.into()))
    }
}

impl FromStr for DatabaseUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return postgres(text);
        }
        if let Some(path) = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:"))
        {
            return sqlite(text, path);
        }
        Err(Error::usage(
            format!("`{}` is not a database this service knows", redacted(text)),
            SHAPES,
        ))
    }
}

fn sqlite(text: &str, path: &str) -> Result<DatabaseUrl, Error> {
    if path.is_empty() {
        return Err(Error::usage(format!("`{text}` names no file"), "write sqlite:PATH"));
    }
    if path.contains(":memory:") {
        return Err(Error::usage(
            format!("`{text}` would lose every order at the stop"),
            "name a file: sqlite:PATH",
        ));
    }
    // SQLite would read these as its own URI syntax, and a typo there becomes a file with a strange name.
    if path.starts_with("file:") || path.contains(['?', '\0']) {
        return Err(Error::usage(
            format!("`{text}` carries options, and a SQLite file takes none here"),
            "write the plain path: sqlite:PATH",
        ));
    }
    Ok(DatabaseUrl::sqlite(path))
}

fn postgres(text: &str) -> Result<DatabaseUrl, Error> {
    let options = PgConnectOptions::from_str(text).map_err(|error| {
        // The driver wraps the reason; the reason alone is what a person can use, and neither quotes the URL.
        let reason =
            std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
        Error::usage(format!("`{}` is not a database URL: {reason}", redacted(text)), SHAPES)
    })?;
    if options.get_database().is_none_or(str::is_empty) {
        return Err(Error::usage(format!("`{}` names no database", redacted(text)), SHAPES));
    }
    Ok(DatabaseUrl(Target::Postgres(Box::new(options))))
}

/// Hides whatever may be a password in a text that could not be parsed: rather too much than too little.
fn redacted(text: &str) -> String {
    let text = match text.to_ascii_lowercase().find("password=") {
        Some(at) => format!("{}***", &text[..at + "password=".len()]),
        None => text.to_owned(),
    };
    let (Some(start), Some(end)) = (text.find("://").map(|at| at + 3), text.rfind('@')) else {
        return text;
    };
    match text.get(start..end).and_then(|user| user.split_once(':')) {
        Some((user, _)) => format!("{}{user}:***{}", &text[..start], &text[end..]),
        None => text,
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Target::Postgres(options) => f.write_str(&shown(options)),
        }
    }
}

fn shown(options: &PgConnectOptions) -> String {
    let user = options.get_username();
    let host = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => bracketed(options.get_host()),
    };
    let (port, database) = (options.get_port(), options.get_database().unwrap_or_default());
    format!("postgres://{user}@{host}:{port}/{database}")
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// The directory a file is in; `.` for a bare name.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::DatabaseUrl;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let got = match text.parse::<DatabaseUrl>() {
            Ok(url) => url.to_string(),
            Err(error) => {
                assert!(error.is_usage());
                format!("error: {error}")
            }
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn both_databases_are_understood() {
        check("sqlite:lameduck.db", "sqlite:lameduck.db");
        check("sqlite:///var/lib/x.db", "sqlite:/var/lib/x.db");
        check("postgres://u@127.0.0.1:5433/arena", "postgres://u@127.0.0.1:5433/arena");
        check("postgresql://u@[::1]/arena", "postgres://u@[::1]:5432/arena");
    }

    #[test]
    fn what_would_lose_orders_or_mislead_is_refused() {
        check("sqlite:", "error: `sqlite:` names no file");
        check("sqlite::memory:", "error: `sqlite::memory:` would lose every order at the stop");
        check(
            "sqlite:x.db?mode=ro",
            "error: `sqlite:x.db?mode=ro` carries options, and a SQLite file takes none here",
        );
        check("lameduck.db", "error: `lameduck.db` is not a database this service knows");
        check(
            "postgres://u@h:99999/d",
            "error: `postgres://u@h:99999/d` is not a database URL: invalid port number",
        );
    }

    #[test]
    fn a_password_is_never_shown() {
        check("postgres://u:secret@h:5432/d", "postgres://u@h:5432/d");
        check("postgres://u@h:5432/d?password=secret", "postgres://u@h:5432/d");
        check(
            "mysql://u:secret@h/d",
            "error: `mysql://u:***@h/d` is not a database this service knows",
        );
        for text in [
            "postgres://u:sec/ret@h:x/d",
            "postgres://u:sec@ret@h:99999/d",
            "postgres://u:secret@h:99999/d?password=secret",
            "postgres://u@h:99999/d?user=a&PassWord=secret",
            "postgres://u:s?ecret@h:99999/d",
        ] {
            let error = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(!error.contains("ret"), "{text}: {error}");
        }
    }
}
