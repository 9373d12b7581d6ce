//! The careful client as a process: started, known to flow, and asked what it found.

use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::Bench;
use super::process::Process;

/// Every client has its first answer by then, also with a debug build.
const START_BOUND: Duration = Duration::from_secs(20);

/// A load that runs.
pub struct Load {
    process: Process,
}

impl Load {
    /// Starts the client with these arguments more, and returns once the load flows.
    pub fn start(bench: &Bench, target: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(bench.program("lameduck-load")?);
        command
            .args(["--target", target, "--json"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::start("lameduck-load", &mut command)?;
        let words = process.child.stderr.take().context("standard error is piped")?;
        wait_until_it_flows(words)?;
        Ok(Self { process })
    }

    /// Lets it flow for this long.
    pub fn flow(&self, time: Duration) -> Result<()> {
        if self.process.ended_within(time)? {
            bail!("lameduck-load ended too early");
        }
        Ok(())
    }

    /// Asks it to end.
    pub fn stop(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Waits for its end; what it found.
    pub fn end(mut self, bound: Duration) -> Result<String> {
        self.process.exit_within(bound)?;
        let mut text = String::new();
        let mut out = self.process.child.stdout.take().context("standard output is piped")?;
        out.read_to_string(&mut text).context("read what lameduck-load found")?;
        Ok(text)
    }

    /// The same as an object.
    pub fn report(self, bound: Duration) -> Result<serde_json::Value> {
        let text = self.end(bound)?;
        serde_json::from_str(&text)
            .with_context(|| format!("read what lameduck-load found: `{}`", text.trim()))
    }
}

/// The load is on its way once the client says so; it goes on to be read, so that the client
/// never waits for a full pipe.
fn wait_until_it_flows(words: ChildStderr) -> Result<()> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(words).lines().map_while(Result::ok) {
            // Nobody listens any more after the first.
            tell.send(line).ok();
        }
    });
    let line = told.recv_timeout(START_BOUND).context("lameduck-load did not start")?;
    if !line.contains("started") {
        bail!("lameduck-load said `{line}`");
    }
    Ok(())
}
