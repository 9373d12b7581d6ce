//! An example of this crate, or another program, as a process that does not outlive its test.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long anything a test waits for may take, on a loaded machine.
pub const BOUND: Duration = Duration::from_secs(20);

/// A running program. Killed when dropped.
pub struct Running {
    child: Child,
    /// What it says on standard error, line by line, until it closes it.
    lines: Receiver<String>,
}

impl Running {
    /// Starts it without the variables of a service manager around the test.
    pub fn start(command: &mut Command) -> Running {
        let name = command.get_program().to_owned();
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID"] {
            if !command.get_envs().any(|(set, _)| set == variable) {
                command.env_remove(variable);
            }
        }
        let started = command.stderr(Stdio::piped()).spawn();
        let mut child = started.unwrap_or_else(|error| panic!("{}: {error}", name.display()));
        let stderr = BufReader::new(child.stderr.take().expect("a pipe was asked for"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the pipe, or with the test that listens.
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Running { child, lines }
    }

    /// Waits for a line with `words` and returns what follows them on it.
    pub fn says(&mut self, words: &str) -> String {
        let mut before = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(BOUND) else {
                panic!("it never said '{words}', only: {before:#?}");
            };
            match line.split_once(words) {
                Some((_, rest)) => return rest.to_owned(),
                None => before.push(line),
            }
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the child is not reaped yet");
    }

    /// Waits for the end and returns it with the lines that were left on standard error.
    pub fn ends(mut self) -> (ExitStatus, Vec<String>) {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        let mut rest = Vec::new();
        loop {
            // The process ends, then its standard error.
            match self.lines.recv_timeout(BOUND) {
                Ok(line) => rest.push(line),
                Err(Disconnected) => break,
                Err(Timeout) => panic!("it did not end within {BOUND:?}: {rest:#?}"),
            }
        }
        (self.child.wait().expect("our own child"), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `cargo test` builds the examples beside the test programs.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.parent().and_then(|deps| deps.parent()).expect("deps is in a directory");
    let path = target.join("examples").join(name);
    assert!(path.exists(), "{} is missing: run cargo build --examples", path.display());
    path
}

/// A connection on which no wait is longer than [`BOUND`].
pub fn connect(address: &str) -> std::net::TcpStream {
    let stream = std::net::TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(BOUND)).expect("the bound is not zero");
    stream
}

/// Asks for `path` and returns the whole answer; the connection is closed after it.
pub fn get(mut stream: impl Read + Write, path: &str) -> String {
    ask(&mut stream, path);
    answer(stream)
}

/// Sends a request for `path`, the connection's last.
pub fn ask(stream: &mut impl Write, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request is sent");
}

/// Reads to the end.
pub fn answer(mut stream: impl Read) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer is whole");
    answer
}
