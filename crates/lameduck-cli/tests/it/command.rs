//! Runs the binary in a directory of its own.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tempfile::TempDir;

/// A command that was asked to fail ends within this, PostgreSQL's connect timeout included.
pub const RUN_LIMIT: Duration = Duration::from_secs(20);
/// An empty directory in which the binary runs without privileges.
pub struct Place {
    directory: TempDir,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a file there.
    pub fn write(&self, name: &str, content: &[u8], mode: u32) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Makes a directory there.
    pub fn directory(&self, name: &str, mode: u32) {
        fs::create_dir(self.path(name)).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Everything below the directory with its size, sorted.
    pub fn listing(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut left = vec![self.directory.path().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    left.push(entry.path());
                }
                let name = entry.path().strip_prefix(self.directory.path()).unwrap().to_owned();
                found.push((name, if metadata.is_dir() { 0 } else { metadata.len() }));
            }
        }
        found.sort();
        found
    }

    /// The command, with no variable of the caller's that could change what it does.
    pub fn command(&self) -> Command {
        let mut command = unprivileged(env!("CARGO_BIN_EXE_lameduck"));
        command.env_clear().env("RUST_BACKTRACE", "1").current_dir(self.directory.path());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
        let mut command = self.command();
        command.args(arguments).envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = read_to_end(child.stdout.take().unwrap());
        let stderr = read_to_end(child.stderr.take().unwrap());
        let told = [stdout, stderr].map(|output| output.recv_timeout(RUN_LIMIT));
        let [Ok(stdout), Ok(stderr)] = told else {
            kill(&mut child);
            panic!("{arguments:?} was still running after {RUN_LIMIT:?}");
        };
        Ended { code: child.wait().unwrap().code(), stdout, stderr }
    }
}

/// Root may do everything, which hides what an ordinary user meets: it is stripped of its capabilities and then only
/// owns its files. Another user would not do, since it may not be able to reach the binary.
fn unprivileged(program: &str) -> Command {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Command::new(program);
    }
    // setpriv replaces itself by the program, which so keeps the pid that the tests send signals to.
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--", program]);
    command
}

fn kill(child: &mut Child) {
    // It may have ended just now.
    let _ = child.kill();
    let _ = child.wait();
}

fn read_to_end(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        // The test may have given up.
        let _ = sender.send(String::from_utf8_lossy(&all).into_owned());
    });
    receiver
}
