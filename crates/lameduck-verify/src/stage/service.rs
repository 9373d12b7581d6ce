//! One start of an adapter's server: its directory, its addresses, its processes, whichever generation they are.

use super::errand::{Ran, run_to_its_end};
use super::launch::{Launch, beside, launched, prepare};
use super::scratch::Scratch;
use crate::adapter::{Adapter, Command, Values};
use crate::address::Address;
use crate::case::Fault;
use crate::target::{Exit, Reserved, Signal, Target, TargetError, proc};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a process may take to be gone once it was killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks at processes that are going.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

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
    /// Its addresses, until all of it has gone.
    _reserved: Vec<Reserved>,
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
        let reserved: Vec<Reserved> = (0..4).map(|_| Reserved::new()).collect::<Result<_, _>>()?;
        let [own, admin, tls, more] = [0, 1, 2, 3].map(|at: usize| reserved[at].address());
        let address = launch.address.unwrap_or(own);
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
            _reserved: reserved,
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
        let (ran, mut target) = run_to_its_end(&words, self.scratch.path(), limit)?;
        if !target.is_deserted() {
            self.left.lock().unwrap_or_else(PoisonError::into_inner).push(target);
        }
        Ok(ran)
    }
}

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
