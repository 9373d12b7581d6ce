//! A server process under test: started, known to be ready, signalled, waited for, and surely gone.
//!
//! **Invariants**
//!
//! 1. No process is left behind: dropping a [`Target`] kills its process group, every descendant, and every process that
//!    inherited its mark ([`MARK`]), wherever it is. When the tester itself is killed, a guardian process does it.
//! 2. The server never blocks on its output: both streams are read to their end, whatever a test does.
//! 3. Every wait has a limit, and its failure shows what the server wrote.
//!
//! The server gets a process group of its own, so that a signal typed at the terminal does not reach it.

mod capture;
mod guardian;
mod port;
pub mod proc;
mod scope;

pub use guardian::abandon;
pub(crate) use guardian::{directories, is_leaving, keep_directories};

use crate::address::Address;
use capture::Capture;
use guardian::Guardian;
pub(crate) use port::Reserved;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, kill_process, kill_process_group, pidfd_open};
pub(crate) use scope::Scope;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

/// How long a server may take until it is ready when nothing is said.
pub const READY_LIMIT: Duration = Duration::from_secs(20);

/// Between two attempts to connect to a server that is starting. A server in any language gives no other sign.
const CONNECT_PAUSE: Duration = Duration::from_millis(2);

/// How long a process may take to show in `/proc` that it has stopped (SIGSTOP acts at its next chance).
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How long the first process of a server that goes on may take until it has done what it was told.
const HEAD_START: Duration = Duration::from_secs(1);

/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// So many characters of what a server wrote stand in a message.
const LAST_WORDS: usize = 2000;

/// How long the output of a server that ended before it was ready may take to be read.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// Between two looks at `/proc`, which has no way to wait.
const PROC_PAUSE: Duration = Duration::from_millis(1);

/// The environment variable that each process of a server inherits, so that those which left its process group and lost
/// their parent (an upgraded generation, a daemon) are found as well.
pub const MARK: &str = "LAMEDUCK_VERIFY_TARGET";

/// So often processes are looked for and killed: one that is just forking is met the next time.
const KILL_ROUNDS: usize = 20;

/// How a server shows that it serves.
#[derive(Clone, Debug)]
pub enum Ready {
    /// This TCP address accepts a connection (which is closed at once).
    Tcp(SocketAddr),
    /// This Unix socket accepts a connection (which is closed at once).
    Unix(PathBuf),
    /// A line on standard output contains this text.
    Stdout(String),
    /// A line on standard error contains this text.
    Stderr(String),
    /// It runs; nothing is waited for.
    Started,
}

/// A TCP address on the loopback interface that was free a moment ago, and whose port the kernel does not give out: no
/// outgoing connection takes it.
pub fn free_address() -> io::Result<SocketAddr> {
    Ok(Reserved::new()?.address())
}

/// A server to be started.
#[derive(Debug)]
pub struct Start {
    command: Command,
    ready: Ready,
    limit: Duration,
}

/// A running server. See the [module](self).
#[derive(Debug)]
pub struct Target {
    name: String,
    mark: String,
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    guardian: Option<Guardian>,
    stdout: Capture,
    stderr: Capture,
    signalled: Instant,
    exited: Option<Exit>,
    /// It was seen that nobody of it is left: nobody can come then.
    is_deserted: bool,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// From the last signal sent through its [`Target`] (or its start) until it was gone.
    pub elapsed: Duration,
}

impl Target {
    /// A server to be run from this program, with no arguments, ready at once.
    pub fn command(program: impl AsRef<OsStr>) -> Start {
        let mut command = Command::new(program);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Start { command, ready: Ready::Started, limit: READY_LIMIT }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The value of [`MARK`] that each of its processes inherits.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Sends a signal to the server's own process.
    pub fn signal(&mut self, signal: Signal) -> Result<(), TargetError> {
        self.signalled = Instant::now();
        kill_process(self.pid, signal).map_err(|error| self.error("signal", error))
    }

    /// Sends a signal to the server's process group.
    pub fn signal_group(&mut self, signal: Signal) -> Result<(), TargetError> {
        self.signalled = Instant::now();
        kill_process_group(self.pid, signal)
            .map_err(|error| self.error("signal the group of", error))
    }

    /// Stops (SIGSTOP) the server and its descendants, and returns once none of their threads runs.
    pub fn freeze(&mut self) -> Result<(), TargetError> {
        let processes = self.family();
        self.signal_all(&processes, Signal::STOP)?;
        let is_frozen = || processes.iter().all(|pid| proc::is_stopped(*pid));
        if within(STOP_LIMIT, is_frozen) {
            return Ok(());
        }
        Err(self.error("stop", format!("not every thread stopped within {STOP_LIMIT:?}")))
    }

    /// Lets the server and its descendants go on (SIGCONT). Its first process goes on before the others do, so that what
    /// it was told meanwhile and passes on reaches them before they work on.
    pub fn thaw(&mut self) -> Result<(), TargetError> {
        let first = self.pid();
        let others: Vec<u32> = self.family().into_iter().filter(|pid| *pid != first).collect();
        self.signal_all(&[first], Signal::CONT)?;
        if !others.is_empty() {
            // One that never rests has had its head start when the time is over.
            let _ = within(HEAD_START, || proc::is_at_rest(first));
        }
        self.signal_all(&others, Signal::CONT)
    }

    /// Waits until the server has ended. It may be called again. What it wrote is in [`stdout`](Target::stdout) and
    /// [`stderr`](Target::stderr) then, to the last word.
    ///
    /// # Errors
    /// When the server still runs after `limit`; it goes on running.
    pub fn wait(&mut self, limit: Duration) -> Result<Exit, TargetError> {
        if let Some(exit) = self.exited {
            return Ok(exit);
        }
        if !self.wait_pidfd(limit) {
            return Err(self.error("wait for", format!("it still runs after {limit:?}")));
        }
        let elapsed = self.signalled.elapsed();
        let status = self.child.wait().map_err(|error| self.error("wait for", error))?;
        // Whoever looks at its words now sees its last ones, also when another process holds the stream open.
        self.stdout.catch_up();
        self.stderr.catch_up();
        let exit = exit(status, elapsed);
        self.exited = Some(exit);
        Ok(exit)
    }

    /// Whether the server's own process still runs.
    pub fn is_running(&mut self) -> bool {
        self.wait(Duration::ZERO).is_err()
    }

    /// Kills the server and its descendants and waits until they are gone. What it wrote can still be read.
    pub fn kill(&mut self) -> Result<Exit, TargetError> {
        self.signalled = Instant::now();
        self.kill_tree();
        self.wait(KILL_LIMIT)
    }

    /// What the server wrote to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What the server wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Everything written to standard output, once each process that holds the stream has closed it.
    pub fn whole_stdout(&self, limit: Duration) -> Result<String, TargetError> {
        self.whole(&self.stdout, "standard output", limit)
    }

    /// Everything written to standard error, once each process that holds the stream has closed it.
    pub fn whole_stderr(&self, limit: Duration) -> Result<String, TargetError> {
        self.whole(&self.stderr, "standard error", limit)
    }

    /// Waits for a line of standard output that contains `text`, and returns the first such line.
    pub fn wait_stdout(&self, text: &str, limit: Duration) -> Result<String, TargetError> {
        let line = self.stdout.wait_line(text, limit);
        line.map_err(|why| self.error("read the standard output of", format!("{why} {text:?}")))
    }

    /// Waits for a line of standard error that contains `text`, and returns the first such line.
    pub fn wait_stderr(&self, text: &str, limit: Duration) -> Result<String, TargetError> {
        let line = self.stderr.wait_line(text, limit);
        line.map_err(|why| self.error("read the standard error of", format!("{why} {text:?}")))
    }

    /// The server's process and all its descendants, zombies too.
    pub fn tree(&self) -> Vec<u32> {
        let mut processes = vec![self.pid()];
        processes.extend(proc::descendants(self.pid()));
        processes
    }

    /// Whether its own process has ended and has left nobody. Its end needs no further look then.
    pub(crate) fn is_deserted(&mut self) -> bool {
        self.is_deserted = self.is_deserted
            || (self.exited.is_some() && proc::marked(&self.mark, Some(self.pid())).is_empty());
        self.is_deserted
    }

    /// Every process of the server that lives: its tree, its process group, and whoever inherited its [`MARK`].
    pub fn family(&self) -> Vec<u32> {
        let mut found = self.tree();
        found.extend(proc::marked(&self.mark, Some(self.pid())));
        found.sort_unstable();
        found.dedup();
        // A zombie has ended; only its parent has not looked yet. Process 0 is nobody's.
        found.retain(|pid| proc::is_alive(*pid));
        found
    }

    fn whole(&self, stream: &Capture, name: &str, limit: Duration) -> Result<String, TargetError> {
        match stream.wait_closed(limit) {
            true => Ok(stream.text()),
            false => Err(self.error("read", format!("{name} is still open after {limit:?}"))),
        }
    }

    fn signal_all(&self, processes: &[u32], signal: Signal) -> Result<(), TargetError> {
        for pid in processes.iter().filter_map(|pid| as_pid(*pid)) {
            match kill_process(pid, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(self.error("signal a descendant of", error)),
            }
        }
        Ok(())
    }

    fn wait_pidfd(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            match poll(&mut fds, left.as_ref()) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Kills whatever is alive. Descendants are listed before their parent dies: afterwards they would belong
    /// to another.
    fn kill_tree(&mut self) {
        if self.is_deserted {
            return;
        }
        // Until it is waited for, the process id cannot belong to another process, nor its children to another parent.
        let descendants = match self.exited {
            None => proc::descendants(self.pid()),
            Some(_) => Vec::new(),
        };
        if self.exited.is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
        // A group lives as long as a member does, and its id is not given out meanwhile; an empty one is ESRCH.
        let _ = kill_process_group(self.pid, Signal::KILL);
        for pid in descendants.into_iter().filter_map(as_pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
        guardian::kill_marked(&self.mark, Some(self.pid()));
    }

    fn wait_ready(&mut self, ready: &Ready, limit: Duration) -> Result<(), TargetError> {
        match ready {
            Ready::Tcp(address) => self.wait_connect(&Address::Tcp(*address), limit),
            Ready::Unix(path) => self.wait_connect(&Address::Unix(path.clone()), limit),
            Ready::Stdout(text) => self.wait_stdout(text, limit).map(drop),
            Ready::Stderr(text) => self.wait_stderr(text, limit).map(drop),
            Ready::Started => Ok(()),
        }
    }

    fn wait_connect(&mut self, address: &Address, limit: Duration) -> Result<(), TargetError> {
        let deadline = Instant::now() + limit;
        loop {
            let attempt = match address {
                Address::Tcp(address) => TcpStream::connect_timeout(address, limit).map(drop),
                Address::Unix(path) => UnixStream::connect(path).map(drop),
            };
            let Err(error) = attempt else { return Ok(()) };
            if !self.is_running() {
                // Its last words say why; they may still be in the pipe.
                self.stderr.wait_closed(LAST_WORDS_LIMIT);
                return Err(self.error("start", format!("it {}", self.early_end())));
            }
            if Instant::now() >= deadline {
                let why = format!("nothing answers at {address} after {limit:?}: {error}");
                return Err(self.error("wait for", why));
            }
            std::thread::sleep(CONNECT_PAUSE);
        }
    }

    /// How it ended before it was ready, once it has.
    pub(crate) fn early_end(&self) -> String {
        let end = match self.exited {
            Some(Exit { code: Some(0), .. }) => {
                " (exit code 0): a server that goes into the background is told to stay in the foreground".to_owned()
            }
            Some(Exit { code: Some(code), .. }) => format!(" (exit code {code})"),
            Some(Exit { signal: Some(signal), .. }) => format!(" (by signal {signal})"),
            Some(_) | None => String::new(),
        };
        format!("ended before it was ready{end}")
    }

    fn error(&self, verb: &str, why: impl fmt::Display) -> TargetError {
        let Target { name, .. } = self;
        let (pid, stderr) = (self.pid(), last_words(&self.stderr()));
        let wrote = if stderr.is_empty() { String::new() } else { format!("; it wrote: {stderr}") };
        TargetError(format!("{verb} {name} (pid {pid}): {why}{wrote}"))
    }
}

/// The end of what a process wrote, as much of it as a message can hold.
pub(crate) fn last_words(text: &str) -> String {
    match text.char_indices().rev().nth(LAST_WORDS) {
        Some((at, first)) => format!("…{}", &text[at + first.len_utf8()..]),
        None => text.to_owned(),
    }
}

impl Start {
    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Start {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Start {
        self.command.args(args);
        self
    }

    /// One environment variable of the server.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Start {
        self.command.env(name, value);
        self
    }

    /// The server's working directory.
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Start {
        self.command.current_dir(path.into());
        self
    }

    /// Where its standard output goes instead of to the tester.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Start {
        self.command.stdout(to);
        self
    }

    /// Where its standard error goes instead of to the tester.
    pub fn stderr(mut self, to: impl Into<Stdio>) -> Start {
        self.command.stderr(to);
        self
    }

    /// The user and group that the server runs as. Needs the privilege to change them.
    pub fn user(mut self, user: u32, group: u32) -> Start {
        self.command.uid(user).gid(group);
        self
    }

    /// How it shows that it serves.
    pub fn ready(mut self, ready: Ready) -> Start {
        self.ready = ready;
        self
    }

    /// How long it may take until it is ready; [`READY_LIMIT`] when nothing is said.
    pub fn ready_limit(mut self, limit: Duration) -> Start {
        self.limit = limit;
        self
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, ends before it is ready, or is not ready in time. It is gone then.
    pub fn start(mut self) -> Result<Target, TargetError> {
        let name = self.command.get_program().to_string_lossy().into_owned();
        let failed = |error: &dyn fmt::Display| TargetError(format!("start {name}: {error}"));
        let mark = guardian::new_mark();
        self.command.env(MARK, &mark);
        // First, so that there is no moment in which the server is there and its guardian is not.
        let mut guardian = Guardian::of(&mark).map_err(|error| failed(&error))?;
        let mut child = self.command.spawn().map_err(|error| failed(&why(&self.command, error)))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let pid = Pid::from_child(&child);
        let opened = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
        let pidfd = guardian.started(child.id()).and(opened).map_err(|error| {
            // Nobody will wait for it, so it is ended here; the first error is the one that matters.
            let _ = child.kill().and_then(|()| child.wait());
            failed(&error)
        })?;
        let mut target = Target {
            name: name.clone(),
            mark,
            stdout: Capture::of(stdout),
            stderr: Capture::of(stderr),
            child,
            pid,
            pidfd,
            guardian: Some(guardian),
            signalled: Instant::now(),
            exited: None,
            is_deserted: false,
        };
        target.wait_ready(&self.ready, self.limit)?;
        Ok(target)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill_tree();
        if self.exited.is_none() && self.wait_pidfd(KILL_LIMIT) {
            let _ = self.child.wait();
        }
        // Last: until here the guardian acts for a tester that dies within these lines.
        drop(self.guardian.take());
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}")?,
            (None, Some(signal)) => write!(f, "ended by signal {signal}")?,
            (None, None) => write!(f, "ended")?,
        }
        write!(f, " after {:.1} ms", self.elapsed.as_secs_f64() * 1000.0)
    }
}

/// A server that could not be started, reached, signalled or waited for. Names the server and shows what it
/// wrote to standard error.
#[derive(Debug)]
pub struct TargetError(String);

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TargetError {}

fn exit(status: ExitStatus, elapsed: Duration) -> Exit {
    Exit { code: status.code(), signal: status.signal(), elapsed }
}

/// What a missing program means is told in words: it is the first thing that goes wrong for a stranger.
fn why(command: &Command, error: io::Error) -> String {
    let is_a_name = !command.get_program().as_encoded_bytes().contains(&b'/');
    match error.kind() {
        io::ErrorKind::NotFound if is_a_name => "no program of this name is in PATH".to_owned(),
        _ => error.to_string(),
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Looks again and again until `condition` holds or `limit` has passed; says whether it held.
fn within(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(PROC_PAUSE);
    }
    true
}
