//! A command that is run to its end: a build, a stop, an upgrade, a status.

use crate::case::Fault;
use crate::target::{Exit, Target};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a command of the adapter (a stop, a status) may take when it has no limit of its own.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// A program by its path, or by its name in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return std::fs::canonicalize(name).ok();
    }
    let search = std::env::var_os("PATH")?;
    std::env::split_paths(&search).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub exit: Exit,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ran {
    /// It ended with code 0.
    pub fn is_success(&self) -> bool {
        self.exit.code == Some(0)
    }
}

/// Runs a command to its end, and ends what it leaves running.
pub fn run_command(words: &[String], directory: &Path, limit: Duration) -> Result<Ran, Fault> {
    run_to_its_end(words, directory, limit).map(|(ran, _)| ran)
}

pub(super) fn run_to_its_end(
    words: &[String],
    directory: &Path,
    limit: Duration,
) -> Result<(Ran, Target), Fault> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| Fault("a command of the adapter is empty".into()))?;
    let mut target = Target::command(program).args(arguments).directory(directory).start()?;
    let exit = target.wait(limit)?;
    let stdout = target.whole_stdout(LOOK_LIMIT).unwrap_or_else(|_| target.stdout());
    let stderr = target.whole_stderr(LOOK_LIMIT).unwrap_or_else(|_| target.stderr());
    Ok((Ran { exit, stdout, stderr }, target))
}

/// How long the output of a command that has ended may stay open.
pub(super) const LOOK_LIMIT: Duration = Duration::from_secs(1);
