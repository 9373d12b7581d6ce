//! One start of an adapter's server: its directory, its addresses, its processes, whichever generation they are.

use super::ask::{ASK_LIMIT, ask};
use super::scratch::Scratch;
use crate::adapter::{Adapter, Command, Readiness, Values};
use crate::address::{Address, Place, Scheme};
use crate::case::Fault;
use crate::target::{
    Exit, READY_LIMIT, Ready, Signal, Start, Target, TargetError, free_address, proc,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a command of the adapter (a stop, a status) may take when it has no limit of its own.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// How long a process may take to be gone once it was killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks at a path that is not ready yet.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// How a server is started other than plainly.
#[derive(Debug, Default)]
pub struct Launch {
    /// Words before its command: `unshare --pid …`, `sh -c …`.
    pub prefix: Vec<String>,
    /// Put in the place of its whole command.
    pub command: Option<Vec<String>>,
    /// Words after its command.
    pub add: Vec<String>,
    /// Where its standard output goes.
    pub stdout: Option<Stdio>,
    /// Where its standard error goes.
    pub stderr: Option<Stdio>,
    /// Further variables.
    pub env: Vec<(String, String)>,
    /// Do not wait until it is ready.
    pub unready: bool,
    /// Wait until its address accepts connections, whatever the adapter says: its output is not seen.
    pub ready_by_connect: bool,
    /// At this address instead of a free one.
    pub address: Option<SocketAddr>,
}

/// A running server.
#[derive(Debug)]
pub struct Service {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its second address.
    pub admin: SocketAddr,
    /// One that nothing listens on at first.
    pub more: SocketAddr,
    values: Values,
    /// The process that was started; with `replace`, the newest.
    target: Target,
    /// Processes that `replace` has replaced.
    replaced: Vec<Target>,
    /// The process that signals go to, if it is another.
    main: Option<u32>,
    /// What runs beside it, for as long as this lives.
    _beside: Option<Target>,
    /// Commands that left something running, such as a supervisor that was started again.
    left: Mutex<Vec<Target>>,
    scratch: Scratch,
}

/// How a service's main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// When it was seen.
    pub at: Instant,
    /// Its exit, if it was a child of the tester.
    pub exit: Option<Exit>,
}

impl Gone {
    /// The exit code, with 128 + n for death by signal n.
    pub fn code(&self) -> Option<i32> {
        let exit = self.exit?;
        exit.code.or(exit.signal.map(|signal| 128 + signal))
    }

    /// As a report says it.
    pub fn text(&self) -> String {
        match self.code() {
            Some(code) => format!("exit code {code}"),
            None => "gone".to_owned(),
        }
    }
}

impl Service {
    /// Starts the adapter's server and waits until it is ready.
    pub fn start(adapter: &Adapter, build: &Path, launch: Launch) -> Result<Service, Fault> {
        let scratch = Scratch::new()?;
        let address = launch.address.map_or_else(free_address, Ok)?;
        let admin = free_address()?;
        let (tls, more) = (free_address()?, free_address()?);
        let values = values(scratch.path(), build, address, admin)
            .with("tls_port", tls.port().to_string())
            .with("tls_address", tls.to_string())
            .with("more_address", more.to_string());
        prepare(adapter, &values, &scratch)?;
        let beside = beside(adapter, &values, &scratch)?;
        let target = launched(adapter, &values, &scratch, launch)?;
        let replaced = Vec::new();
        Ok(Service {
            address,
            admin,
            more,
            values,
            target,
            replaced,
            main: None,
            _beside: beside,
            left: Mutex::default(),
            scratch,
        })
    }

    /// The placeholders of a command that has nothing to do with a running server.
    pub(crate) fn values_without_start(build: &Path) -> Values {
        Values::default().with("build", build.display().to_string()).with("lameduck", own_command())
    }

    /// The private directory.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// The text with the placeholders put in.
    pub fn put_in(&self, text: &str) -> String {
        self.values.clone().with("pid", self.main_pid().to_string()).put_in(text)
    }

    /// A path of the adapter, as a path of the file system.
    pub fn file(&self, text: &str) -> PathBuf {
        self.put_in(text).into()
    }

    /// The process that was started; with `replace`, the newest.
    pub fn target(&mut self) -> &mut Target {
        &mut self.target
    }

    /// The process that signals go to.
    pub fn main_pid(&self) -> u32 {
        self.main.filter(|pid| proc::is_alive(*pid)).unwrap_or_else(|| self.target.pid())
    }

    /// Signals go to this process from now on.
    pub fn set_main(&mut self, pid: u32) {
        self.main = (pid != self.target.pid()).then_some(pid);
    }

    /// Every living process of the service, old generations too.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = self.target.family();
        found.extend(self.replaced.iter().flat_map(Target::family));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Sends a signal to the main process.
    pub fn signal(&mut self, signal: Signal) -> Result<Instant, TargetError> {
        match self.main.filter(|pid| proc::is_alive(*pid)) {
            None => self.target.signal(signal)?,
            Some(pid) => {
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    // It may have gone since it was looked at: then nothing is left to be told.
                    let _ = kill_process(pid, signal);
                }
            }
        }
        Ok(Instant::now())
    }

    /// Stops (SIGSTOP) every process.
    pub fn freeze(&mut self) -> Result<(), TargetError> {
        self.target.freeze()
    }

    /// Lets them go on.
    pub fn thaw(&mut self) -> Result<(), TargetError> {
        self.target.thaw()
    }

    /// Waits until the main process has ended; `None` if it still runs after `limit`.
    pub fn wait_gone(&mut self, limit: Duration) -> Option<Gone> {
        match self.main {
            None => {
                let exit = self.target.wait(limit).ok()?;
                Some(Gone { at: Instant::now(), exit: Some(exit) })
            }
            Some(pid) => wait_foreign(pid, limit).then(|| Gone { at: Instant::now(), exit: None }),
        }
    }

    /// Waits until no process of the service is left; gives those that are after `limit`.
    pub fn wait_empty(&mut self, limit: Duration) -> Vec<u32> {
        let deadline = Instant::now() + limit;
        loop {
            // The tester's own child is a zombie until it is looked at.
            let _ = self.target.is_running();
            let left = self.processes();
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// Kills everything, and starts the server again at the same addresses in the same directory.
    pub fn kill_and_start(&mut self, adapter: &Adapter) -> Result<(), Fault> {
        self.kill()?;
        self.start_again(adapter)
    }

    /// Kills everything, and waits until it is gone: a process that is still dying holds its port.
    pub fn kill(&mut self) -> Result<(), Fault> {
        let all = self.processes();
        for pid in all.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.target.kill()?;
        let deadline = Instant::now() + KILL_LIMIT;
        while all.iter().any(|pid| proc::has_threads(*pid)) {
            if Instant::now() >= deadline {
                return Err(Fault(format!("killed, and after {KILL_LIMIT:?} not gone: {all:?}")));
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        self.replaced.clear();
        self.main = None;
        Ok(())
    }

    /// Starts the server again, after it has ended, at the same addresses in the same directory.
    pub fn start_again(&mut self, adapter: &Adapter) -> Result<(), Fault> {
        self.main = None;
        self.target = launched(adapter, &self.values, &self.scratch, Launch::default())?;
        Ok(())
    }

    /// Starts the server once more beside the one that runs, which becomes one that was replaced.
    pub fn start_beside(&mut self, adapter: &Adapter) -> Result<(), Fault> {
        let newer = launched(adapter, &self.values, &self.scratch, Launch::default())?;
        self.replaced.push(std::mem::replace(&mut self.target, newer));
        self.main = None;
        Ok(())
    }

    /// The one that was replaced last.
    pub fn replaced(&mut self) -> Option<&mut Target> {
        self.replaced.last_mut()
    }

    /// Runs a command of the adapter to its end. What it leaves running lives as long as the service.
    ///
    /// # Errors
    /// When it cannot be started or does not end within `limit`.
    pub fn run(&self, command: &Command, limit: Duration) -> Result<Ran, Fault> {
        let words: Vec<String> = command.0.iter().map(|word| self.put_in(word)).collect();
        let (ran, target) = run_to_its_end(&words, self.scratch.path(), limit)?;
        if !target.family().is_empty() {
            self.left.lock().unwrap_or_else(PoisonError::into_inner).push(target);
        }
        Ok(ran)
    }
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

fn run_to_its_end(
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
const LOOK_LIMIT: Duration = Duration::from_secs(1);

fn values(directory: &Path, build: &Path, address: SocketAddr, admin: SocketAddr) -> Values {
    Service::values_without_start(build)
        .with("port", address.port().to_string())
        .with("host", address.ip().to_string())
        .with("address", address.to_string())
        .with("admin_port", admin.port().to_string())
        .with("admin_address", admin.to_string())
        .with("dir", directory.display().to_string())
}

/// This tool, where it is the command; else the one found by `PATH`.
fn own_command() -> String {
    let own = std::env::current_exe().ok();
    let own = own.filter(|path| path.file_name().is_some_and(|name| name == "lameduck"));
    let set = std::env::var("LAMEDUCK_COMMAND").ok();
    set.or(own.map(|path| path.display().to_string())).unwrap_or_else(|| "lameduck".to_owned())
}

/// Writes the adapter's files and the program that an upgrade starts.
fn prepare(adapter: &Adapter, values: &Values, scratch: &Scratch) -> Result<(), Fault> {
    for (name, text) in &adapter.files {
        scratch.write(name, &values.put_in(text))?;
    }
    if let Some(upgrade) = &adapter.upgrade
        && let (Some(program), Some(from)) = (&upgrade.program, &upgrade.program_from)
    {
        let (program, from) = (values.put_in(program), values.put_in(from));
        let found = find_program(&from)
            .ok_or_else(|| Fault(format!("upgrade.program_from: no program {from} is found")))?;
        std::os::unix::fs::symlink(&found, &program)
            .map_err(|error| Fault(format!("link {program} to {}: {error}", found.display())))?;
    }
    Ok(())
}

/// Starts what runs beside the server; whether it is ready shows by the server's own readiness.
fn beside(adapter: &Adapter, values: &Values, scratch: &Scratch) -> Result<Option<Target>, Fault> {
    let Some(command) = &adapter.beside else { return Ok(None) };
    let words: Vec<String> = command.0.iter().map(|word| values.put_in(word)).collect();
    let (program, arguments) =
        words.split_first().ok_or_else(|| Fault("`beside` is empty".to_owned()))?;
    let start = Target::command(program_of(program)).args(arguments).directory(scratch.path());
    Ok(Some(start.start()?))
}

/// A program by its path, or by its name in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return std::fs::canonicalize(name).ok();
    }
    let search = std::env::var_os("PATH")?;
    std::env::split_paths(&search).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn launched(
    adapter: &Adapter,
    values: &Values,
    scratch: &Scratch,
    launch: Launch,
) -> Result<Target, Fault> {
    let own = adapter.command.as_ref().ok_or_else(|| Fault("there is no command".to_owned()))?;
    let own = launch.command.clone().unwrap_or_else(|| own.0.clone());
    let mut own = own.iter().chain(&launch.add).map(|word| values.put_in(word));
    let program = own.next().ok_or_else(|| Fault("no command".to_owned()))?;
    let own = std::iter::once(program_of(&program)).chain(own);
    let words: Vec<String> = launch.prefix.iter().cloned().chain(own).collect();
    let (program, arguments) = words.split_first().ok_or_else(|| Fault("no command".to_owned()))?;
    let mut start = Target::command(program).args(arguments).directory(scratch.path());
    for (name, value) in &adapter.env {
        start = start.env(name, values.put_in(value));
    }
    for (name, value) in &launch.env {
        start = start.env(name, value);
    }
    if let Some(stdout) = launch.stdout {
        start = start.stdout(stdout);
    }
    if let Some(stderr) = launch.stderr {
        start = start.stderr(stderr);
    }
    if launch.unready {
        return Ok(start.start()?);
    }
    if launch.ready_by_connect {
        return Ok(start.ready(Ready::Tcp(own_address(values)?)).start()?);
    }
    ready(adapter, values, scratch, start)
}

/// A relative path in the command is relative to where the tester was started, not to the private directory.
fn program_of(program: &str) -> String {
    if program.contains('/') && !program.starts_with('/') {
        let here = std::env::current_dir().unwrap_or_default();
        return here.join(program).display().to_string();
    }
    program.to_owned()
}

fn ready(
    adapter: &Adapter,
    values: &Values,
    scratch: &Scratch,
    start: Start,
) -> Result<Target, Fault> {
    let address = own_address(values)?;
    Ok(match &adapter.ready {
        Readiness::Tcp(_) => start.ready(Ready::Tcp(address)).start()?,
        Readiness::Stdout(text) => start.ready(Ready::Stdout(values.put_in(text))).start()?,
        Readiness::Stderr(text) => start.ready(Ready::Stderr(values.put_in(text))).start()?,
        Readiness::Http(path) => {
            let at = adapter
                .paths
                .admin
                .as_deref()
                .filter(|_| adapter.paths.ready.as_ref() == Some(path));
            let address = values.put_in(at.unwrap_or("{address}"));
            // The admin address is no part of the service, and not of its TLS either.
            let scheme = if at.is_some() { Scheme::Http } else { adapter.scheme() };
            let place: Place = format!("{}://{address}{path}", scheme.word())
                .parse()
                .map_err(|error| Fault(format!("ready.http: {error}")))?;
            let mut target = start.start()?;
            wait_http(&mut target, &place)?;
            target
        }
        Readiness::Fd(_) => {
            let path = scratch.path().join("notify");
            let _ = std::fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path)
                .map_err(|error| Fault(format!("notify socket {}: {error}", path.display())))?;
            let mut target = start.env("NOTIFY_SOCKET", &path).start()?;
            wait_notified(&mut target, &socket)?;
            target
        }
    })
}

fn own_address(values: &Values) -> Result<SocketAddr, Fault> {
    let text = values.put_in("{address}");
    text.parse().map_err(|error| Fault(format!("the address of the target {text}: {error}")))
}

fn wait_http(target: &mut Target, place: &Place) -> Result<(), Fault> {
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        let why = match ask(place, ASK_LIMIT) {
            Ok(asked) if (200..300).contains(&asked.status) => return Ok(()),
            Ok(asked) => format!("{place} answers {}", asked.status),
            Err(error) => error.to_string(),
        };
        not_ready_yet(target, deadline, &why)?;
    }
}

fn wait_notified(target: &mut Target, socket: &UnixDatagram) -> Result<(), Fault> {
    let deadline = Instant::now() + READY_LIMIT;
    socket.set_read_timeout(Some(LOOK_PAUSE))?;
    let mut buffer = [0; 4096];
    loop {
        if let Ok(count) = socket.recv(&mut buffer)
            && String::from_utf8_lossy(&buffer[..count]).lines().any(|line| line == "READY=1")
        {
            return Ok(());
        }
        not_ready_yet(target, deadline, "it did not send READY=1")?;
    }
}

fn not_ready_yet(target: &mut Target, deadline: Instant, why: &str) -> Result<(), Fault> {
    if !target.is_running() {
        // Its last words may still be on their way through the pipe.
        let said = target.whole_stderr(LOOK_LIMIT).unwrap_or_else(|_| target.stderr());
        return Err(Fault(format!("the target ended before it was ready; it wrote: {said}")));
    }
    if Instant::now() >= deadline {
        return Err(Fault(format!("the target was not ready within {READY_LIMIT:?}: {why}")));
    }
    std::thread::sleep(LOOK_PAUSE);
    Ok(())
}

/// Waits for the end of a process that is not a child of the tester.
pub(super) fn wait_foreign(pid: u32, limit: Duration) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return true };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return true,
        Err(_) => return false,
    };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// An address as an adapter writes it: `IP:PORT` or `unix:PATH`.
pub(super) fn address(text: &str) -> io::Result<Address> {
    match text.strip_prefix("unix:") {
        Some(path) => Ok(Address::Unix(path.into())),
        None => text.parse().map(Address::Tcp).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("address {text:?}: {error}"))
        }),
    }
}
