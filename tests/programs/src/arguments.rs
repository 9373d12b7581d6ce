//! The command line of every small server.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// How long `/a` takes when nothing else is asked: as long as in the article's program.
const SLOW: Duration = Duration::from_secs(9);

const USAGE: &str = "usage: PROGRAM --port N [--slow MS] [--threads N] [--grace MS]";

/// `--port N [--slow MS] [--threads N] [--grace MS]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// On the loopback address; 0 lets the system choose.
    pub port: u16,
    /// How long `GET /a` waits.
    pub slow: Duration,
    /// Threads that run handlers; as many as processors where it is not given.
    pub threads: Option<usize>,
    /// The whole time from stop to force, for the servers that have such a bound.
    pub grace: Option<Duration>,
}

impl Arguments {
    /// The command line of this process.
    ///
    /// # Errors
    ///
    /// When it is not understood; the message says what would be.
    pub fn from_command_line() -> io::Result<Self> {
        Self::parse(std::env::args().skip(1))
    }

    fn parse(mut words: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut arguments = Self { port: 0, slow: SLOW, threads: None, grace: None };
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| wrong(&flag, "has no value"))?;
            let number: u64 = value.parse().map_err(|_| wrong(&flag, "takes a whole number"))?;
            match flag.as_str() {
                "--port" => {
                    arguments.port =
                        number.try_into().map_err(|_| wrong(&flag, "takes 0 to 65535"))?;
                }
                "--slow" => arguments.slow = Duration::from_millis(number),
                "--threads" => {
                    arguments.threads =
                        Some(number.try_into().map_err(|_| wrong(&flag, "is too large"))?);
                }
                "--grace" => arguments.grace = Some(Duration::from_millis(number)),
                _ => return Err(wrong(&flag, "is not known")),
            }
        }
        Ok(arguments)
    }

    /// A runtime with as many threads as asked for.
    ///
    /// # Errors
    ///
    /// When the system refuses the threads.
    pub fn runtime(&self) -> io::Result<Runtime> {
        match self.threads {
            // Without worker threads nothing migrates: instruction counts repeat exactly.
            Some(1) => {
                // With one thread only, glibc goes a shorter way through each system call and
                // allocation, which no server in use does, and which the library's own thread ends.
                std::thread::Builder::new().name("second".to_owned()).spawn(std::thread::park)?;
                Builder::new_current_thread().enable_all().build()
            }
            Some(threads) => {
                Builder::new_multi_thread().worker_threads(threads).enable_all().build()
            }
            None => Builder::new_multi_thread().enable_all().build(),
        }
    }
}

fn wrong(flag: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{flag} {what}; {USAGE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> io::Result<Arguments> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_flag_is_read() {
        let arguments = parse("--port 80 --slow 300 --threads 1 --grace 2000").unwrap();
        assert_eq!(arguments.port, 80);
        assert_eq!(arguments.slow, Duration::from_millis(300));
        assert_eq!(arguments.threads, Some(1));
        assert_eq!(arguments.grace, Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_bad_line_names_the_flag() {
        for (line, flag) in [
            ("--port", "--port"),
            ("--port 70000", "--port"),
            ("--slow 9s", "--slow"),
            ("-x 1", "-x"),
        ] {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.starts_with(flag), "{message}");
        }
    }
}
