//! A running `lameduck serve` and the few plain requests these tests make.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command::Place;

/// How long a start, an answer or a stop may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A service that is killed when the test lets go of it.
pub struct Running {
    child: Child,
    /// Standard error, line by line; ends with the process.
    lines: Receiver<String>,
    /// What has been read from it.
    pub log: Vec<String>,
}

impl Running {
    /// Starts `lameduck serve` with these flags.
    pub fn start(place: &Place, flags: &[&str]) -> Self {
        Self::start_with(place, flags, &[])
    }

    pub fn start_with(place: &Place, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = place.command();
        command.arg("serve").args(flags).envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = sender.send(line);
            }
        });
        Self { child, lines, log: Vec::new() }
    }

    /// Waits for a line that holds `text` and returns what follows it.
    #[track_caller]
    pub fn line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.find(text).map(|at| line[at + text.len()..].to_owned());
                    self.log.push(line);
                    if let Some(rest) = found {
                        return rest;
                    }
                }
                Err(end) => panic!("no line with `{text}` ({end}) in {:#?}", self.log),
            }
        }
    }

    /// Waits until the service listens and returns where.
    #[track_caller]
    pub fn address(&mut self) -> String {
        self.line("Listening on ")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end and returns the exit code; nothing if a signal ended it.
    #[track_caller]
    pub fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.log.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("still running: {:#?}", self.log),
            }
        }
        self.child.wait().unwrap().code()
    }

    /// Asks for a graceful stop and waits for it.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.end()
    }

    /// Whether the log holds a line with `text`.
    pub fn said(&self, text: &str) -> bool {
        self.log.iter().any(|line| line.contains(text))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends one request on a connection of its own; the answer is its status and its body.
pub fn ask(address: &str, place: &Place, request: &str, body: &str) -> (u16, String) {
    match address.strip_prefix("unix:") {
        Some(path) => exchange(unix(&place.path(path)), request, body),
        None => exchange(TcpStream::connect(address).unwrap(), request, body),
    }
}

fn unix(path: &Path) -> UnixStream {
    UnixStream::connect(path).unwrap()
}

fn exchange(mut stream: impl Read + Write, request: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}"
    );
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("{head}")), body.to_owned())
}

/// The same for an answer in JSON.
pub fn json(address: &str, place: &Place, request: &str, body: &str) -> (u16, Value) {
    let (status, body) = ask(address, place, request, body);
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}
