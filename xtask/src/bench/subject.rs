//! Servers that can be replaced while they run: ours, and those it is compared with. Each answers with the number of its
//! version, so that it is known from outside when the next one serves.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use super::Bench;
use super::client::Connection;
use super::process::Process;
use super::server::free_port;
use crate::shell;

/// A start, an upgrade and an end take no longer.
const BOUND: Duration = Duration::from_secs(30);
/// A reload that has no effect by then is asked for again.
const AGAIN: Duration = Duration::from_secs(3);
/// Between two looks at what gives no other sign.
const LOOK: Duration = Duration::from_millis(1);

/// A server and its way to be replaced.
pub struct Subject {
    pub name: &'static str,
    way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `lameduck serve`, upgraded with the command.
    Lameduck,
    /// nginx, told to read its configuration again: the same master, other workers.
    NginxReload,
    /// nginx, told to start its binary anew; the old master is then told to quit, as its manual says.
    NginxBinary,
    /// HAProxy in master-worker mode, told to reload.
    Haproxy,
}

pub const SUBJECTS: &[Subject] = &[
    Subject { name: "lameduck-serve", way: Way::Lameduck },
    Subject { name: "nginx-reload", way: Way::NginxReload },
    Subject { name: "nginx-usr2", way: Way::NginxBinary },
    Subject { name: "haproxy-reload", way: Way::Haproxy },
];

pub fn names() -> impl Iterator<Item = &'static str> {
    SUBJECTS.iter().map(|subject| subject.name)
}

/// A subject that answers.
pub struct Upgradable {
    way: Way,
    pub address: SocketAddr,
    /// Where it speaks HTTP/2 without TLS.
    pub http2: SocketAddr,
    pub version: u32,
    /// The process that is signalled: of `lameduck serve` the newest generation.
    pub pid: u32,
    process: Process,
    program: PathBuf,
    words: Vec<String>,
    directory: PathBuf,
}

impl Subject {
    pub fn ours() -> &'static Self {
        &SUBJECTS[0]
    }

    /// What a client asks for: an answer that tells the version, and where an order is taken.
    pub fn paths(&self) -> (&'static str, &'static str) {
        ("/version", "/orders")
    }

    pub fn start(&self, bench: &Bench, more: &[&str]) -> Result<Upgradable> {
        let (port, other) = (free_port()?, free_port()?);
        let directory = bench.scratch.join(format!("{}-{port}", self.name));
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let http2 = if self.way == Way::Lameduck { port } else { other };
        let (program, words) = self.command_line(bench, at(port), at(http2), &directory)?;
        let words: Vec<String> =
            words.into_iter().chain(more.iter().map(|it| (*it).to_owned())).collect();
        let process = run(self.name, &program, &words, &directory)?;
        let mut running = Upgradable {
            way: self.way,
            address: at(port),
            http2: at(http2),
            version: 1,
            pid: process.pid(),
            process,
            program,
            words,
            directory,
        };
        running.wait_for_version(1)?;
        if matches!(self.way, Way::NginxReload | Way::NginxBinary) {
            running.pid = running.written_pid("nginx.pid")?;
        }
        Ok(running)
    }

    fn command_line(
        &self,
        bench: &Bench,
        address: SocketAddr,
        http2: SocketAddr,
        directory: &Path,
    ) -> Result<(PathBuf, Vec<String>)> {
        let inside = |name: &str| directory.join(name).display().to_string();
        if self.way == Way::Lameduck {
            let words = ["serve", "--listen", &address.to_string(), "--control", CONTROL]
                .map(str::to_owned)
                .into_iter()
                .chain(["--database".to_owned(), format!("sqlite:{}", inside("arena.db"))]);
            return Ok((bench.program("lameduck")?, words.collect()));
        }
        let (name, template) = self.configuration();
        let template = shell::root().join("tests/programs").join(template);
        let text = std::fs::read_to_string(&template)
            .with_context(|| format!("read {}", template.display()))?
            .replace("@ADDRESS@", &address.to_string())
            .replace("@HTTP2@", &http2.to_string())
            .replace("@DIRECTORY@", &directory.display().to_string());
        std::fs::write(directory.join("template"), text).context("write a configuration")?;
        write_version(directory, 1)?;
        let program = shell::find_program(name).with_context(|| format!("{name} is missing"))?;
        let words = match self.way {
            Way::Haproxy => vec!["-W".to_owned(), "-f".to_owned(), inside("configuration")],
            _ => ["-p", &inside(""), "-c", &inside("configuration")].map(str::to_owned).to_vec(),
        };
        // nginx starts its binary anew only by the whole path.
        Ok((std::fs::canonicalize(program)?, words))
    }

    fn configuration(&self) -> (&'static str, &'static str) {
        match self.way {
            Way::Haproxy => ("haproxy", "haproxy/reloaded.cfg.in"),
            _ => ("nginx", "nginx/reloaded.conf.in"),
        }
    }
}

fn run(name: &str, program: &Path, words: &[String], directory: &Path) -> Result<Process> {
    let log = File::options().create(true).append(true).open(directory.join("log"));
    let log = log.context("open the server's log")?;
    let mut command = Command::new(program);
    command
        .args(words)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // So that none of its processes outlives it here.
        .process_group(0);
    Process::start(name, &mut command)
}

/// The control socket of `lameduck serve`, in its directory.
const CONTROL: &str = "run/control";

/// Puts this version's configuration in place, in one step.
fn write_version(directory: &Path, version: u32) -> Result<()> {
    let text = std::fs::read_to_string(directory.join("template"))?;
    let beside = directory.join("beside");
    std::fs::write(&beside, text.replace("@VERSION@", &version.to_string()))?;
    std::fs::rename(beside, directory.join("configuration")).context("replace a configuration")
}

impl Upgradable {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn http2_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http2)
    }

    /// Replaces it by its next version, and returns when that answers.
    pub fn upgrade(&mut self) -> Result<()> {
        let next = self.version + 1;
        match self.way {
            Way::Lameduck => self.pid = self.ask_for_upgrade()?.1,
            Way::NginxReload => {
                write_version(&self.directory, next)?;
                self.signal(Signal::HUP)?;
            }
            Way::Haproxy => {
                write_version(&self.directory, next)?;
                // A master that is still at its start forgets the signal.
                let until = Instant::now() + BOUND;
                self.signal(Signal::USR2)?;
                let mut again = Instant::now() + AGAIN;
                while Instant::now() < until && !self.answering_version().is_ok_and(|it| it >= next)
                {
                    if Instant::now() > again {
                        self.signal(Signal::USR2)?;
                        again += AGAIN;
                    }
                    std::thread::sleep(LOOK);
                }
            }
            Way::NginxBinary => {
                write_version(&self.directory, next)?;
                self.signal(Signal::USR2)?;
                self.wait_for_version(next)?;
                let old = self.pid;
                self.wait(|it| it.written_pid("nginx.pid").is_ok_and(|pid| pid != old))?;
                self.pid = self.written_pid("nginx.pid")?;
                signal(old, Signal::QUIT)?;
                self.wait(|_| !is_alive(old))?;
            }
        }
        self.wait_for_version(next)
    }

    /// Stops it and starts it again in its place; how long it took from the start to its first answer.
    pub fn restart(&mut self) -> Result<Duration> {
        self.signal(Signal::TERM)?;
        self.process.exit_within(BOUND)?;
        let begun = Instant::now();
        self.process = run(&self.process.name, &self.program, &self.words, &self.directory)?;
        self.pid = self.process.pid();
        self.wait_for_version(1)?;
        Ok(begun.elapsed())
    }

    /// Asks with the command; the successor's generation and process.
    fn ask_for_upgrade(&self) -> Result<(u32, u32)> {
        let said = self.operate(&["upgrade"])?;
        let number = |word: &str| {
            let (_, rest) = said.split_once(word)?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        };
        number("generation ")
            .zip(number("pid "))
            .with_context(|| format!("lameduck upgrade said `{said}`"))
    }

    /// Runs a command about the service, which must succeed; what it says.
    pub fn operate(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["--control", CONTROL]).current_dir(&self.directory);
        shell::read(&mut command)
    }

    /// The signal that asks for an upgrade, to the process that takes it; returns at once.
    pub fn signal(&self, what: Signal) -> Result<()> {
        signal(self.pid, what)
    }

    /// Asks on new connections until this version answers.
    pub fn wait_for_version(&mut self, version: u32) -> Result<()> {
        self.wait(|it| it.answering_version().is_ok_and(|answering| answering >= version))?;
        self.version = version;
        Ok(())
    }

    /// Waits until the process that was started first is gone; how it ended.
    pub fn exit(&mut self) -> Result<ExitStatus> {
        self.process.exit_within(BOUND)
    }

    pub fn answering_version(&self) -> Result<u32> {
        let mut connection = Connection::open(self.address)?;
        connection.ask("/version")?;
        version_in(&connection.body())
    }

    fn wait(&self, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let until = Instant::now() + BOUND;
        while !condition(self) {
            if Instant::now() > until {
                let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                bail!("{} did not within {} s: {log}", self.process.name, BOUND.as_secs());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn written_pid(&self, name: &str) -> Result<u32> {
        let text = std::fs::read_to_string(self.directory.join(name))?;
        text.trim().parse().with_context(|| format!("{name} holds `{text}`"))
    }

    /// Everything it wrote to its standard output and error.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.directory.join("log"))?)
    }
}

impl Drop for Upgradable {
    fn drop(&mut self) {
        for name in ["nginx.pid", "nginx.pid.oldbin"] {
            if let Ok(master) = self.written_pid(name) {
                signal(master, Signal::TERM).ok();
                self.wait(|_| !is_alive(master)).ok();
            }
        }
        if self.way == Way::Haproxy {
            self.signal(Signal::TERM).ok();
            self.process.ended_within(BOUND).ok();
        }
        if let Some(group) = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw) {
            rustix::process::kill_process_group(group, Signal::KILL).ok();
        }
        if self.way == Way::Lameduck {
            signal(self.pid, Signal::KILL).ok();
        }
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

/// The number in `{…"generation":N…}`.
pub fn version_in(body: &str) -> Result<u32> {
    let answer: serde_json::Value =
        serde_json::from_str(body).with_context(|| format!("the answer is `{body}`"))?;
    let version = answer["generation"].as_u64().and_then(|number| u32::try_from(number).ok());
    version.with_context(|| format!("no version in `{body}`"))
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process number")?;
    rustix::process::kill_process(pid, signal).with_context(|| format!("signal {pid:?}"))
}

/// Whether the process is there and has not ended.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name in parentheses stands the state.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
