//! The one error of the library: what could not be done, to which thing, and why.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// Something lameduck was asked to do could not be done.
///
/// The message names the thing (address, path, name) and fits after "failed to". What a caller can act on is
/// behind predicates; the kinds themselves are private, so that a new one breaks nobody. `Debug` prints the same
/// line as `Display`, so that an error returned from `main` reads well.
///
/// ```
/// # #[tokio::main] async fn main() {
/// let error = lameduck::Listener::bind("127.0.0.1").await.unwrap_err();
/// assert_eq!(error.to_string(), "use address '127.0.0.1': the port is missing");
/// assert!(error.is_usage() && error.hint().is_some());
/// # }
/// ```
pub struct Error {
    kind: Kind,
}

/// What a start does with its control socket; its failures have hints of their own.
pub(crate) const USE_CONTROL: &str = "use control socket";
/// The same of a takeover from whoever answers there.
pub(crate) const TAKE_OVER: &str = "take over from";

enum Kind {
    Io { doing: &'static str, thing: String, source: io::Error },
    Address { given: String, problem: &'static str },
    Budget { message: String },
    Name { message: String },
    NoRuntime,
}

impl Error {
    pub(crate) fn io(doing: &'static str, thing: impl Into<String>, source: io::Error) -> Error {
        Error { kind: Kind::Io { doing, thing: thing.into(), source } }
    }

    pub(crate) fn address(given: &str, problem: &'static str) -> Error {
        Error { kind: Kind::Address { given: given.to_owned(), problem } }
    }

    pub(crate) fn budget(message: String) -> Error {
        Error { kind: Kind::Budget { message } }
    }

    pub(crate) fn name(message: String) -> Error {
        Error { kind: Kind::Name { message } }
    }

    pub(crate) fn no_runtime() -> Error {
        Error { kind: Kind::NoRuntime }
    }

    fn io_kind(&self) -> Option<io::ErrorKind> {
        match &self.kind {
            Kind::Io { source, .. } => Some(source.kind()),
            Kind::Address { .. } | Kind::Budget { .. } | Kind::Name { .. } | Kind::NoRuntime => {
                None
            }
        }
    }

    /// Whether the address is taken by another socket.
    pub fn is_address_in_use(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::AddrInUse)
    }

    /// Whether the address does not belong to this machine.
    pub fn is_address_not_available(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::AddrNotAvailable)
    }

    /// Whether the process may not do this.
    pub fn is_permission(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::PermissionDenied)
    }

    /// Whether a file or directory does not exist.
    pub fn is_not_found(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::NotFound)
    }

    /// Whether what was given cannot be used, whatever the state of the machine.
    ///
    /// An address without a port, budgets that do not fit, a name that is taken. Commands answer it with
    /// [`exit::USAGE`](crate::exit::USAGE).
    pub fn is_usage(&self) -> bool {
        match &self.kind {
            Kind::Address { .. } | Kind::Budget { .. } | Kind::Name { .. } => true,
            Kind::Io { .. } | Kind::NoRuntime => false,
        }
    }

    /// What the reader can do about it, when there is something to say.
    pub fn hint(&self) -> Option<&'static str> {
        match &self.kind {
            Kind::Io { doing: USE_CONTROL, source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    Some("a service answers there: take over from it, or choose another path")
                }
                io::ErrorKind::PermissionDenied => {
                    Some("choose a path in a directory of this user alone; a missing one is made")
                }
                io::ErrorKind::NotFound => {
                    Some("create the directories above it first: only the last one is made")
                }
                _ => None,
            },
            Kind::Io { doing: TAKE_OVER, source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    Some("nobody serves there: start without taking over, or name another path")
                }
                _ => None,
            },
            Kind::Io { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    Some("another process listens there: stop it, or choose another address")
                }
                io::ErrorKind::AlreadyExists => Some("move the file away, or choose another path"),
                io::ErrorKind::AddrNotAvailable => {
                    Some("the address must belong to this machine: try 127.0.0.1 or 0.0.0.0")
                }
                io::ErrorKind::PermissionDenied => {
                    Some("ports below 1024 and foreign directories need privilege")
                }
                io::ErrorKind::NotFound => Some("create the directory first"),
                _ => None,
            },
            Kind::Address { .. } => Some("write 127.0.0.1:8080, [::1]:8080, or unix:/run/app.sock"),
            Kind::Budget { .. } => {
                Some("lengthen the grace period, or shorten what must fit into it")
            }
            Kind::Name { .. } => None,
            Kind::NoRuntime => Some("call it inside #[tokio::main] or Runtime::block_on"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Io { doing, thing, source } => write!(f, "{doing} {thing}: {}", plain(source)),
            Kind::Address { given, problem } => write!(f, "use address '{given}': {problem}"),
            Kind::Budget { message } | Kind::Name { message } => f.write_str(message),
            Kind::NoRuntime => f.write_str("start a lifecycle outside a tokio runtime"),
        }
    }
}

/// The system's words without the "(os error 98)" that helps nobody who can read the words.
pub(crate) fn plain(error: &io::Error) -> String {
    let full = error.to_string();
    match full.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => full,
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {self}")?;
        match self.hint() {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.kind {
            Kind::Io { source, .. } => Some(source),
            Kind::Address { .. } | Kind::Budget { .. } | Kind::Name { .. } | Kind::NoRuntime => {
                None
            }
        }
    }
}
