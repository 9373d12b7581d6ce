//! Starts the program anew: the same path, arguments and directory as this process was started with.
//!
//! The path is resolved again, and so is the directory, by name: a switched symlink (`current -> releases/42`) takes
//! effect. The successor is told where to ask for the service by [`VARIABLE`], which also names the process that
//! started it: whatever the successor starts later inherits the variable, is not that process's child, and ignores it.
//!
//! Its standard error comes through a pipe at first, so that its last words can be told when it fails; they are passed
//! on as they come. When it has taken over it gets the real one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

/// Tells a successor which control socket to ask, and who started it: `PID:PATH`.
pub const VARIABLE: &str = "LAMEDUCK_TAKEOVER";

/// How long to go on trying while the file is being written (`ETXTBSY`).
pub const BUSY: Duration = Duration::from_secs(1);

/// What this process was started as. Taken once, at the start, before anything can change it.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
    directory: PathBuf,
}

impl Program {
    pub(crate) fn of_this_process() -> io::Result<Program> {
        let mut arguments = std::env::args_os();
        let name = match arguments.next() {
            Some(name) => name,
            None => std::env::current_exe()?.into_os_string(),
        };
        let physical = std::env::current_dir()?;
        let logical = std::env::var_os("PWD").map(PathBuf::from);
        // The name the shell knows the directory by, if it still is this directory.
        let directory = logical
            .filter(|logical| logical.is_absolute() && same_directory(logical, &physical))
            .unwrap_or(physical);
        let path = find(&name, &directory, std::env::var_os("PATH").as_deref())
            .map_or_else(std::env::current_exe, Ok)?;
        Ok(Program { path, name, arguments: arguments.collect(), directory })
    }

    /// The path that is started.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn command(&self, control: &Path) -> Command {
        let mut asks = OsString::from(format!("{}:", std::process::id()));
        asks.push(control);
        let mut command = Command::new(&self.path);
        command
            .arg0(&self.name)
            .args(&self.arguments)
            .current_dir(&self.directory)
            .env("PWD", &self.directory)
            .env(VARIABLE, asks)
            // These speak of this process: a successor gets its sockets and its standing from us.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_PID")
            // Where its standard error goes once it has taken over; a service reads no standard input.
            .stdin(standard_error())
            .stderr(Stdio::piped());
        command
    }

    /// The same program with these arguments behind its own, to look at itself and end. It is no successor.
    pub(crate) fn check(&self, arguments: &[OsString]) -> io::Result<(Child, Option<ChildStderr>)> {
        let mut command = self.command(Path::new(""));
        command.args(arguments).env_remove(VARIABLE);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        let stderr = child.stderr.take();
        Ok((child, stderr))
    }

    /// Starts it; a file that is just being written is tried again for [`BUSY`].
    pub(crate) async fn start(&self, control: &Path) -> io::Result<(Child, Option<ChildStderr>)> {
        let until = tokio::time::Instant::now() + BUSY;
        loop {
            let mut command = self.command(control);
            match command.spawn() {
                Ok(mut child) => {
                    let stderr = child.stderr.take();
                    return Ok((child, stderr));
                }
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && tokio::time::Instant::now() < until =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn standard_error() -> Stdio {
    use std::os::fd::AsFd;
    match std::io::stderr().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Stdio::from(descriptor),
        Err(_) => Stdio::null(),
    }
}

/// Takes the standard error that the predecessor left on standard input: from now on it is not needed to pass words on.
pub(crate) fn take_standard_error() {
    // A standard error that stays a pipe to a predecessor only loses its lines when that leaves.
    let _ = rustix::stdio::dup2_stderr(rustix::stdio::stdin());
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
}

fn same_directory(a: &Path, b: &Path) -> bool {
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        (Ok(_) | Err(_), _) => false,
    }
}

/// Where a program called `name` is found, as the shell does it: a name with a slash is a path, any other is looked
/// up in `PATH`.
fn find(name: &OsStr, directory: &Path, search: Option<&OsStr>) -> Option<PathBuf> {
    let as_path = Path::new(name);
    if as_path.components().count() > 1 {
        return Some(directory.join(as_path));
    }
    let executable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0)
    };
    std::env::split_paths(search?).map(|folder| directory.join(folder).join(name)).find(executable)
}

/// The control socket to ask, if this process was started as a successor.
pub(crate) fn asked_to_take_over() -> Option<PathBuf> {
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    parse(&std::env::var_os(VARIABLE)?, parent)
}

fn parse(value: &OsStr, parent: Option<i32>) -> Option<PathBuf> {
    // A path is any bytes.
    let value = value.as_bytes();
    let (pid, path) = value.split_at_checked(value.iter().position(|byte| *byte == b':')?)?;
    let pid = std::str::from_utf8(pid).ok()?.parse().ok();
    (pid == parent && parent.is_some()).then(|| PathBuf::from(OsStr::from_bytes(&path[1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_child_of_who_set_it_heeds_the_variable() {
        let value = OsStr::new("42:/run/app/control.g1");
        assert_eq!(parse(value, Some(42)), Some(PathBuf::from("/run/app/control.g1")));
        assert_eq!(parse(value, Some(43)), None);
        assert_eq!(parse(value, None), None);
        assert_eq!(parse(OsStr::new("/run/app/control"), Some(42)), None);
    }

    #[test]
    fn a_path_is_any_bytes() {
        let value = OsStr::from_bytes(b"42:/run/\xff/control.g1");
        let path = PathBuf::from(OsStr::from_bytes(b"/run/\xff/control.g1"));
        assert_eq!(parse(value, Some(42)), Some(path));
    }

    #[test]
    fn a_name_with_a_slash_is_a_path_and_any_other_is_looked_up() {
        let directory = Path::new("/srv/current");
        let found = find(OsStr::new("./bin/app"), directory, None);
        assert_eq!(found, Some(PathBuf::from("/srv/current/./bin/app")));
        let found = find(OsStr::new("/opt/app"), directory, None);
        assert_eq!(found, Some(PathBuf::from("/opt/app")));
        let shell = find(OsStr::new("sh"), directory, Some(OsStr::new("/nowhere:/bin")));
        assert_eq!(shell, Some(PathBuf::from("/bin/sh")));
        assert_eq!(find(OsStr::new("sh"), directory, Some(OsStr::new("/nowhere"))), None);
    }
}
