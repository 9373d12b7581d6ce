//! How a server is started: its files, what runs beside it, its command, and how it is known to be ready.

use super::ask::{ASK_LIMIT, ask};
use super::errand::{LOOK_LIMIT, find_program, run_command};
use super::scratch::Scratch;
use crate::adapter::{Adapter, Readiness, Values};
use crate::address::{Place, Scheme};
use crate::case::Fault;
use crate::target::{READY_LIMIT, Ready, Start, Target, last_words};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Between two looks at what is not ready yet.
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
    /// Its output is not seen: where it says there that it is ready, its address accepts connections instead.
    pub unseen: bool,
    /// At this address instead of a free one.
    pub address: Option<SocketAddr>,
}

/// Writes the adapter's files and the program that an upgrade starts.
pub(super) fn prepare(adapter: &Adapter, values: &Values, scratch: &Scratch) -> Result<(), Fault> {
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
pub(super) fn beside(
    adapter: &Adapter,
    values: &Values,
    scratch: &Scratch,
) -> Result<Option<Target>, Fault> {
    let Some(command) = &adapter.beside else { return Ok(None) };
    let words: Vec<String> = command.0.iter().map(|word| values.put_in(word)).collect();
    let (program, arguments) =
        words.split_first().ok_or_else(|| Fault("`beside` is empty".to_owned()))?;
    let start = Target::command(program_of(program)).args(arguments).directory(scratch.path());
    Ok(Some(start.start()?))
}

pub(super) fn launched(
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
    let readiness = match &adapter.ready {
        Readiness::Stdout(_) | Readiness::Stderr(_) if launch.unseen => &Readiness::Tcp(true),
        told => told,
    };
    ready(adapter, readiness, values, scratch, start)
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
    readiness: &Readiness,
    values: &Values,
    scratch: &Scratch,
    start: Start,
) -> Result<Target, Fault> {
    let address = own_address(values)?;
    Ok(match readiness {
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
        Readiness::Command(command) => {
            let mut target = start.start()?;
            let values = values.clone().with("pid", target.pid().to_string());
            let words: Vec<String> = command.0.iter().map(|word| values.put_in(word)).collect();
            let deadline = Instant::now() + READY_LIMIT;
            while let Err(why) = succeeds(&words, scratch.path()) {
                not_ready_yet(&mut target, deadline, &why)?;
            }
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

/// Whether this command of the adapter succeeds; why not, if it does not.
pub(super) fn succeeds(words: &[String], directory: &Path) -> Result<(), String> {
    let ran = run_command(words, directory, ASK_LIMIT).map_err(|Fault(why)| why)?;
    let said = ran.stderr.trim().replace('\n', "; ");
    if ran.is_success() {
        Ok(())
    } else {
        Err(format!("{}: {}: {said}", words.join(" "), ran.exit))
    }
}

fn not_ready_yet(target: &mut Target, deadline: Instant, why: &str) -> Result<(), Fault> {
    if !target.is_running() {
        // Its last words may still be on their way through the pipe.
        let said = target.whole_stderr(LOOK_LIMIT).unwrap_or_else(|_| target.stderr());
        let (ended, said) = (target.early_end(), last_words(&said));
        let wrote = if said.is_empty() { String::new() } else { format!("; it wrote: {said}") };
        return Err(Fault(format!("the target {ended}{wrote}")));
    }
    if Instant::now() >= deadline {
        return Err(Fault(format!("the target was not ready within {READY_LIMIT:?}: {why}")));
    }
    std::thread::sleep(LOOK_PAUSE);
    Ok(())
}
