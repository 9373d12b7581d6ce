//! The command line.

use super::Fault;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "usage: misbehave --port N [--fault NAME] [--slow MS] [--grace MS] [--lame-duck MS] [--spread MS] \
                     [--start MS] [--hook MS] [--next PROGRAM] [--ready-limit MS] [--admin-port N] [--tls] \
                     [--control PATH] [--pid-file PATH] [--addresses FILE]";

/// What the command line says, and how to say it again to a successor.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) port: u16,
    pub(super) fault: Option<Fault>,
    /// How long `/a` takes when the request does not say.
    pub(super) slow: Duration,
    /// The whole time from the stop to the force.
    pub(super) grace: Duration,
    /// How long readiness is red before the listener closes.
    pub(super) lame_duck: Duration,
    /// Over how long the closes of WebSockets are spread.
    pub(super) spread: Duration,
    /// How long it takes to start, after the signal handlers are installed.
    pub(super) start: Duration,
    /// How long the closing function takes.
    pub(super) hook: Duration,
    /// What an upgrade starts; this program when nothing is said.
    pub(super) next: Option<String>,
    /// How long a successor may take.
    pub(super) ready_limit: Duration,
    /// Where readiness and liveness are told until the process is gone, beside the service's own port.
    pub(super) admin_port: Option<u16>,
    pub(super) tls: bool,
    /// Where upgrades are asked for, beside the signal.
    pub(super) control: Option<PathBuf>,
    /// Where the serving generation's process id is told.
    pub(super) pid_file: Option<PathBuf>,
    /// A file of further addresses, one a line, which each generation reads and binds anew.
    pub(super) addresses: Option<PathBuf>,
    /// The process that waits to hear that this one serves; its listener is this one's standard input.
    pub(super) predecessor: Option<i32>,
    /// As given, for the successor.
    pub(super) words: Vec<String>,
}

impl Options {
    pub(super) fn from_command_line() -> io::Result<Options> {
        Options::parse(std::env::args().skip(1).collect())
    }

    fn parse(words: Vec<String>) -> io::Result<Options> {
        let ms = Duration::from_millis;
        let mut options = Options {
            port: 0,
            fault: None,
            slow: ms(1000),
            grace: ms(5000),
            lame_duck: ms(0),
            spread: ms(0),
            start: ms(0),
            hook: ms(0),
            next: None,
            ready_limit: ms(3000),
            admin_port: None,
            tls: false,
            control: None,
            pid_file: None,
            addresses: None,
            predecessor: None,
            words: words.clone(),
        };
        let mut words = words.into_iter();
        while let Some(flag) = words.next() {
            if flag == "--tls" {
                options.tls = true;
                continue;
            }
            let value = words.next().ok_or_else(|| wrong(&flag, "has no value"))?;
            options.set(&flag, &value)?;
        }
        Ok(options)
    }

    fn set(&mut self, flag: &str, value: &str) -> io::Result<()> {
        let number = value.parse::<u64>().map_err(|_| wrong(flag, "takes a whole number"));
        let time = number.as_ref().map(|number| Duration::from_millis(*number)).ok();
        let time = || time.ok_or_else(|| wrong(flag, "takes milliseconds"));
        match flag {
            "--port" => {
                self.port = number?.try_into().map_err(|_| wrong(flag, "takes 0 to 65535"))?;
            }
            "--fault" => {
                self.fault = Some(Fault::named(value).ok_or_else(|| wrong(value, "is no fault"))?);
            }
            "--slow" => self.slow = time()?,
            "--grace" => self.grace = time()?,
            "--lame-duck" => self.lame_duck = time()?,
            "--spread" => self.spread = time()?,
            "--start" => self.start = time()?,
            "--hook" => self.hook = time()?,
            "--ready-limit" => self.ready_limit = time()?,
            "--admin-port" => {
                let port = number?.try_into().map_err(|_| wrong(flag, "takes 0 to 65535"))?;
                self.admin_port = Some(port);
            }
            "--control" => self.control = Some(value.into()),
            "--pid-file" => self.pid_file = Some(value.into()),
            "--addresses" => self.addresses = Some(value.into()),
            "--next" => self.next = Some(value.to_owned()),
            "--predecessor" => {
                self.predecessor = Some(value.parse().map_err(|_| wrong(flag, "takes a process"))?);
            }
            _ => return Err(wrong(flag, "is not known")),
        }
        Ok(())
    }
}

fn wrong(flag: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{flag} {what}; {USAGE}"))
}
