//! One run of the server, tied to the life of this process.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use crate::account::Account;
use crate::programs::Programs;
use crate::{START_LIMIT, STOP_LIMIT};

/// What the server writes once it accepts connections.
const READY: &str = "database system is ready to accept connections";
/// How many of the server's last lines a panic message carries.
const LOG_LINES: usize = 40;

/// Stops the server (SIGQUIT: at once, no checkpoint) when its standard input ends, and waits for it.
///
/// The input ends when the test closes it and also when the test process dies in any way, because nobody else holds
/// the pipe. The watching half keeps no hold on the server's standard error, whose end means that the server is gone.
/// A parent-death signal would not do: it fires when the *thread* that started the server ends.
const KEEPER: &str = r#"
"$@" </dev/null 3<&- & server=$!
( cat; kill -QUIT $server ) <&3 >/dev/null 2>&1 & watch=$!
exec 3<&-
wait $server; code=$?
kill $watch 2>/dev/null
exit $code
"#;

#[derive(Debug)]
pub(crate) struct Server {
    keeper: Child,
    input: Option<ChildStdin>,
    /// Ends when the last process that holds the server's standard error is gone.
    log: Receiver<String>,
    port: u16,
}

impl Server {
    /// Starts the server and waits until it accepts connections; the error is its log.
    pub(crate) fn start(
        programs: &Programs,
        account: &Account,
        directory: &Path,
        port: u16,
    ) -> Result<Self, String> {
        let mut command = Command::new("/bin/sh");
        // The pipe arrives as descriptor 0 and is moved to 3: a background command's own input is /dev/null.
        command.args(["-c", &format!("exec 3<&0 </dev/null{KEEPER}"), "keeper"]);
        command.arg(programs.postgres()).args(arguments(directory, port));
        account.run_as(&mut command, directory);
        let mut keeper = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("/bin/sh runs");
        let input = keeper.stdin.take();
        let log = lines_of(keeper.stderr.take().expect("standard error is piped"));
        let mut server = Self { keeper, input, log, port };
        match server.wait_until_ready() {
            Ok(()) => Ok(server),
            Err(log) => {
                server.stop();
                Err(log)
            }
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        let mut log: Vec<String> = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(READY) => return Ok(()),
                Ok(line) => {
                    if log.len() == LOG_LINES {
                        log.remove(0);
                    }
                    log.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(log.join("\n")),
                Err(RecvTimeoutError::Timeout) => {
                    log.push(format!("(not ready within {START_LIMIT:?})"));
                    return Err(log.join("\n"));
                }
            }
        }
    }

    /// Stops the server at once and waits until it is gone; a second call does nothing.
    pub(crate) fn stop(&mut self) {
        if self.input.take().is_none() {
            return;
        }
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    // The keeper dies; the server, if it lives on, notices the loss of its files.
                    let _ = self.keeper.kill();
                    break;
                }
            }
        }
        let _ = self.keeper.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The data directory inside a cluster's directory.
pub(crate) fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

fn arguments(directory: &Path, port: u16) -> Vec<String> {
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", directory.display()),
        // Without this the log, and with it the line we wait for, would go to a file.
        "logging_collector=off".to_owned(),
        "max_connections=100".to_owned(),
        "shared_buffers=16MB".to_owned(),
        // A commit is still a commit when the server's processes die; only a power cut would tell.
        "fsync=off".to_owned(),
    ];
    let mut arguments = vec![
        "-D".to_owned(),
        data(directory).display().to_string(),
        "-p".to_owned(),
        port.to_string(),
    ];
    arguments.extend(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
    arguments
}

/// Reads to the end on a thread of its own, so that the server never blocks on a full pipe.
fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Nobody may be listening any more; reading on keeps the pipe from filling.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// Runs a command to its end and returns what it wrote, or panics after `limit`.
pub(crate) fn output_within(mut command: Command, limit: std::time::Duration) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be run: {error}", program(&command)));
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(limit) {
        Ok(output) => output.expect("the output of a finished command"),
        Err(_) => panic!("{} did not end within {limit:?}", program(&command)),
    }
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use crate::{Cluster, server::Server};

    #[test]
    fn a_port_in_use_is_reported_in_the_servers_words() {
        let mut cluster = Cluster::start();
        cluster.stop();
        let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let log = Server::start(&cluster.programs, &cluster.account, cluster.directory(), port)
            .unwrap_err();
        assert!(log.contains("Address already in use"), "{log}");
    }
}
