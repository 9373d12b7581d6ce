//! What a life is told about upgrades.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::{Builder, MemoryCheck, Takeover};
use crate::error::Error;
use crate::takeover::wire::MAX_PROBE;
use crate::upgrade::Before;

impl Builder {
    /// Where operators and successors find this service: a path in a directory of this user alone (mode 0700, created
    /// if missing).
    ///
    /// With it the service can be upgraded: SIGHUP, [`Lifecycle::upgrade`](crate::Lifecycle::upgrade) or `lameduck upgrade` starts the program
    /// anew, and it takes over sockets, connections and state. Linux only.
    pub fn control(mut self, path: impl Into<PathBuf>) -> Builder {
        self.control = Some(path.into());
        self
    }

    /// Takes over from the service that answers on the control socket; it is an error if none does.
    ///
    /// A process that a running service started as its successor takes over without being told.
    pub fn take_over(mut self) -> Builder {
        self.takeover = Takeover::Always;
        self
    }

    /// How long a successor may take from its introduction to its readiness, unless it asks for more. Default
    /// [`TAKEOVER_TIMEOUT`](crate::takeover::TAKEOVER_TIMEOUT), 60 s. A shorter one than
    /// [`HELLO_TIMEOUT`](crate::takeover::HELLO_TIMEOUT) bounds the introduction as well.
    pub fn takeover_timeout(mut self, takeover: Duration) -> Builder {
        self.takeover_timeout = takeover;
        self
    }

    /// How long a successor's death gives the service back. Default [`PROBATION`](crate::lifecycle::PROBATION), 10 s.
    ///
    /// It ends early when the successor is told to stop or admits a successor of its own: that one serves if it dies.
    pub fn probation(mut self, probation: Duration) -> Builder {
        self.probation = probation;
        self
    }

    /// How long work may go on after a successor has taken over. Default: as long as it lasts.
    pub fn upgrade_grace(mut self, grace: Duration) -> Builder {
        self.upgrade_grace = Some(grace);
        self
    }

    /// Older generations that may still finish their work when the next upgrade begins; with more, it is refused.
    /// Default [`MAX_GENERATIONS`](crate::lifecycle::MAX_GENERATIONS), 4.
    pub fn max_generations(mut self, most: usize) -> Builder {
        self.max_generations = most;
        self
    }

    /// Has this process probed before it takes over: the generation in service asks the first server of
    /// [`serve`](crate::Lifecycle::serve) for `path` once this one is ready, and steps aside only when that is answered with 2xx.
    ///
    /// Anything else within [`PROBE_TIMEOUT`](crate::takeover::PROBE_TIMEOUT) (another status, an end, silence) fails the
    /// upgrade: nothing changes, and the operator is told the generation, the path and the answer. The request comes over
    /// a socket of its own, which no client can reach, as HTTP/1.1 also where the server speaks TLS. The path is the new
    /// version's to choose, so that it may move; a predecessor from before there were probes does not ask. The first start
    /// has nobody who could ask: a [check](crate::Lifecycle::check) is made there too.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
    /// use lameduck::Lifecycle;
    ///
    /// let life = Lifecycle::builder().without_signals().probe("/health").start()?;
    /// # life.stop();
    /// assert!(lameduck::Lifecycle::builder().probe("health").start().is_err(), "no path");
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "http")]
    pub fn probe(mut self, path: impl Into<String>) -> Builder {
        self.probe = Some(path.into());
        self
    }

    /// Begins upgrades also where memory for two generations seems not to be there.
    ///
    /// Without this, an upgrade is refused when what this process has to itself, and a fifth more, is not left in the
    /// machine or in a control group around it (`MemAvailable`; `memory.max` or `memory.limit_in_bytes` less what is used
    /// and cannot be had back): during an upgrade both generations are there, and the system's killer might choose the one
    /// that serves. Where the kernel does not tell, nothing is refused. A successor started by hand is not weighed.
    pub fn no_memory_check(mut self) -> Builder {
        self.memory_check = MemoryCheck::Passed;
        self
    }

    /// Has each upgrade begin with a check: the program is started with these arguments behind its own, and the upgrade
    /// goes on only if that ends with code 0 within [`CHECK_FIRST`](crate::upgrade::CHECK_FIRST).
    ///
    /// For a program that can say whether its settings are good without doing anything, as `lameduck serve --check`. A
    /// successor finds the same at its own start, but by then it may have changed a database for the worse.
    pub fn check_first<A: Into<OsString>>(
        mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Builder {
        self.check_first = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// What is looked at before a successor is started.
    pub(super) fn before(&self) -> Before {
        Before { memory: self.memory_check == MemoryCheck::Made, check: self.check_first.clone() }
    }
}

/// Whether it can stand in the first line of a request.
pub(super) fn is_path(path: &str) -> Result<(), Error> {
    let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
    if path.starts_with('/') && printable && path.len() <= MAX_PROBE {
        return Ok(());
    }
    Err(Error::name(format!("probe '{path}': a path begins with / and has no blanks")))
}
