//! The servers that are compared, by name.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::client::Connection;
use super::process::Process;
use super::{Bench, existing};
use crate::shell;

/// A server that does not answer by then is broken; under valgrind a start takes seconds.
const START_BOUND: Duration = Duration::from_secs(30);
/// Between two tries to reach a server that starts. Not all of them say when they are ready.
const START_PAUSE: Duration = Duration::from_millis(10);
/// How much of a server's own words an error repeats.
const LOG_LINES: usize = 5;

/// One server of the comparison.
pub struct Server {
    pub name: &'static str,
    program: Program,
    /// What asks it for a graceful stop.
    stop: Signal,
}

enum Program {
    /// A program of `tests/programs`.
    Small(&'static str),
    /// The Go program beside them.
    Go,
    /// The command `lameduck serve`.
    Serve,
    Nginx,
}

const SERVERS: &[Server] = &[
    Server { name: "go", program: Program::Go, stop: Signal::TERM },
    Server { name: "axum", program: Program::Small("naive-axum"), stop: Signal::TERM },
    Server { name: "axum-bare", program: Program::Small("bare-axum"), stop: Signal::TERM },
    Server { name: "actix-web", program: Program::Small("naive-actix"), stop: Signal::TERM },
    Server { name: "hyper", program: Program::Small("plain-hyper"), stop: Signal::TERM },
    // TERM is nginx's quick stop.
    Server { name: "nginx", program: Program::Nginx, stop: Signal::QUIT },
    // The axum application of the others, under the library.
    Server { name: "lameduck", program: Program::Small("lameduck-b"), stop: Signal::TERM },
    Server { name: "hanging-hook", program: Program::Small("hanging-hook"), stop: Signal::TERM },
    Server { name: "lameduck-serve", program: Program::Serve, stop: Signal::TERM },
];

/// What a bench asks of a server beyond a port.
#[derive(Default, Clone)]
pub struct Wishes {
    /// How long `/a` takes.
    pub slow: Option<Duration>,
    pub threads: Option<usize>,
    pub grace: Option<Duration>,
    /// A program and its arguments that run the server.
    pub under: Vec<String>,
}

/// A server that answers.
pub struct Running {
    pub address: SocketAddr,
    pub process: Process,
    stop: Signal,
    /// Its configuration, data and log; removed with it.
    directory: PathBuf,
}

pub fn names() -> Vec<&'static str> {
    SERVERS.iter().map(|server| server.name).collect()
}

impl Server {
    pub fn named(name: &str) -> Result<&'static Self> {
        SERVERS
            .iter()
            .find(|server| server.name == name)
            .with_context(|| format!("no server `{name}`; there are {}", names().join(", ")))
    }

    pub fn start(&self, bench: &Bench, wishes: &Wishes) -> Result<Running> {
        let port = free_port()?;
        let directory = bench.scratch.join(format!("{}-{port}", self.name));
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let words = self.command_line(bench, wishes, port, &directory)?;
        let mut line = wishes.under.iter().chain(&words);
        let program = line.next().context("a command line has a first word")?;
        let log = File::create(directory.join("log")).context("create the server's log")?;
        let mut command = Command::new(program);
        command
            .args(line)
            .current_dir(&directory)
            .env("GIN_MODE", "release")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Process::start(self.name, &mut command)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let running = Running { address, process, stop: self.stop, directory };
        running.wait_until_it_answers()?;
        Ok(running)
    }

    fn command_line(
        &self,
        bench: &Bench,
        wishes: &Wishes,
        port: u16,
        directory: &Path,
    ) -> Result<Vec<String>> {
        let program = match self.program {
            Program::Small(name) => bench.program(name)?,
            Program::Go => existing(&go_program(&bench.scratch))?,
            Program::Serve => bench.program("lameduck")?,
            Program::Nginx => shell::find_program("nginx").context("nginx is not installed")?,
        };
        let mut words = vec![program.display().to_string()];
        if let Program::Serve = self.program {
            words.push("serve".to_owned());
        }
        let mut flag = |name: &str, value: Option<String>| {
            words.extend(value.map(|value| [name.to_owned(), value]).into_iter().flatten());
        };
        let plain = |time: Duration| time.as_millis().to_string();
        let with_unit = |time: Duration| format!("{}ms", time.as_millis());
        let count = |threads: usize| threads.to_string();
        match self.program {
            Program::Nginx => {
                let configuration = write_nginx_configuration(port, directory)?;
                flag("-p", Some(directory.display().to_string()));
                flag("-c", Some(configuration.display().to_string()));
            }
            Program::Go => {
                flag("--port", Some(port.to_string()));
                flag("--slow", wishes.slow.map(plain));
            }
            Program::Small(_) => {
                flag("--port", Some(port.to_string()));
                flag("--slow", wishes.slow.map(plain));
                flag("--threads", wishes.threads.map(count));
                flag("--grace", wishes.grace.map(plain));
            }
            Program::Serve => {
                let database = directory.join("arena.db");
                flag("--listen", Some(format!("127.0.0.1:{port}")));
                flag("--database", Some(format!("sqlite:{}", database.display())));
                flag("--slow", wishes.slow.map(with_unit));
                flag("--threads", wishes.threads.map(count));
                flag("--grace", wishes.grace.map(with_unit));
            }
        }
        Ok(words)
    }
}

impl Running {
    fn wait_until_it_answers(&self) -> Result<()> {
        let until = Instant::now() + START_BOUND;
        loop {
            let answered = Connection::open(self.address).and_then(|mut it| it.ask("/b"));
            if answered.is_ok() {
                return Ok(());
            }
            if self.process.ended_within(START_PAUSE)? {
                bail!("{} ended instead of answering: {}", self.process.name, self.last_words());
            }
            if Instant::now() > until {
                bail!("{} does not answer: {}", self.process.name, self.last_words());
            }
        }
    }

    /// Asks for a graceful stop.
    pub fn stop(&self) -> Result<()> {
        self.process.signal(self.stop)
    }

    /// Asks for a stop and says how long the end took and how it was.
    pub fn time_of_stop(&mut self, bound: Duration) -> Result<(Duration, ExitStatus)> {
        let begin = Instant::now();
        self.stop()?;
        let status = self.process.exit_within(bound)?;
        Ok((begin.elapsed(), status))
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // First, so that nothing is written into the directory while it is removed. The process
        // collects itself when it is dropped after this.
        self.process.child.kill().ok();
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

/// The system knows a port nobody uses; between its answer and the server's start another program
/// could take it, which the start then reports.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

pub fn free_address() -> Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

/// Until something listens there.
pub fn wait_for_address(address: SocketAddr) -> Result<()> {
    let until = Instant::now() + START_BOUND;
    while std::net::TcpStream::connect(address).is_err() {
        if Instant::now() > until {
            bail!("nothing listens at {address}");
        }
        std::thread::sleep(START_PAUSE);
    }
    Ok(())
}

fn write_nginx_configuration(port: u16, directory: &Path) -> Result<PathBuf> {
    let template = shell::root().join("tests/programs/nginx/nginx.conf.in");
    let text = std::fs::read_to_string(&template)
        .with_context(|| format!("read {}", template.display()))?
        .replace("@PORT@", &port.to_string())
        .replace("@DIRECTORY@", &directory.display().to_string());
    let path = directory.join("nginx.conf");
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn go_program(scratch: &Path) -> PathBuf {
    scratch.join("go-gin")
}

/// Builds the Go program from Debian's packages alone, without a network; go itself knows when
/// nothing has changed.
pub fn build_go(scratch: &Path) -> Result<()> {
    let source = shell::root().join("tests/programs/go");
    let go = shell::find_program("go").context("go is not installed: run `cargo xtask setup`")?;
    let out = go_program(scratch).display().to_string();
    let mut command = Command::new(go);
    command
        .args(["build", "-o", &out, "main.go"])
        .current_dir(source)
        .env("GO111MODULE", "off")
        .env("GOPATH", format!("{}:/usr/share/gocode", scratch.join("gopath").display()));
    shell::run(&mut command)
}
