//! Tells the service manager where the service stands: `sd_notify(3)` over `NOTIFY_SOCKET`.
//!
//! With the built-in signals a [`Lifecycle`](crate::Lifecycle) does this by itself; [`Builder::notify`] asks for it, or
//! turns it off, otherwise. A program of its own may send more through a clone of the same [`Notifier`].
//!
//! # Invariants
//!
//! 1. The environment is read once and never changed.
//! 2. Without a manager nothing is sent and nothing fails.
//! 3. Sending never blocks: a manager whose queue is full answers [`WouldBlock`](io::ErrorKind::WouldBlock). Only
//!    [`Notifier::barrier`] waits, for as long as its caller says.
//! 4. A message fits [`MESSAGE_MOST`], because the manager drops a longer one whole.
//!
//! [`Builder::notify`]: crate::Builder::notify

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::text::cut;

pub(crate) mod teller;

/// The longest message a manager takes: systemd reads `PIPE_BUF` bytes and ignores what is longer.
pub const MESSAGE_MOST: usize = 4096;

/// The longest [`State::Status`]; what is longer is cut, so that the states beside it arrive.
pub const STATUS_MOST: usize = 1024;

/// The most descriptors in one message: what the kernel passes at once (unix(7), `SCM_MAX_FD`).
pub const STORED_AT_ONCE: usize = 253;

/// The longest name of stored descriptors, as systemd counts.
pub const NAME_MOST: usize = 255;

/// Something the service manager may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State<'a> {
    /// Starting, or reloading, is over: the service serves.
    Ready,
    /// The service is on its way out. There is no way back from this.
    Stopping,
    /// A reload or an upgrade begins; [`Ready`](State::Ready) ends it, whether or not it succeeded.
    ///
    /// The time it began goes with it, which `Type=notify-reload` requires.
    Reloading,
    /// The service's main process is this one from now on.
    MainPid(u32),
    /// Do not kill the service before this much time has passed, or this was said again.
    ///
    /// It never shortens the manager's own limit.
    ExtendTimeout(Duration),
    /// What the service does, for people. Line breaks become spaces.
    Status(&'a str),
    /// The service is alive; to be said twice within [`Notifier::watchdog`]'s time at least.
    Watchdog,
}

/// Sends messages to the service manager, if there is one. Cheap to clone; all clones use one socket.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    to: Option<Arc<Receiver>>,
    watchdog: Option<Duration>,
    problems: Vec<String>,
}

/// Whom to tell. The socket is not connected: a manager that made its own anew is found again.
#[derive(Debug)]
struct Receiver {
    name: String,
    address: SocketAddrUnix,
    socket: OwnedFd,
}

impl Notifier {
    /// Nobody is told anything.
    pub fn none() -> Notifier {
        Notifier::default()
    }

    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` of this process.
    ///
    /// What cannot be understood is left out and named in [`problems`](Notifier::problems): a service does not fail
    /// over this.
    pub fn from_env() -> Notifier {
        Notifier::from_variables(|name| std::env::var_os(name), std::process::id())
    }

    /// As [`from_env`](Notifier::from_env), with variables from anywhere and the process they are for.
    ///
    /// ```
    /// let nobody = lameduck::notify::Notifier::from_variables(|_| None, std::process::id());
    /// assert!(!nobody.is_heard());
    /// ```
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Notifier {
        let mut notifier = Notifier::none();
        match variable("NOTIFY_SOCKET").filter(|value| !value.is_empty()) {
            None => return notifier,
            Some(value) => match Receiver::at(&value) {
                Ok(receiver) => notifier.to = Some(Arc::new(receiver)),
                Err(problem) => {
                    let value = value.display();
                    notifier.problems.push(format!("NOTIFY_SOCKET='{value}': {problem}"));
                }
            },
        }
        match watchdog(&variable, pid) {
            Ok(watchdog) => notifier.watchdog = watchdog,
            Err(problem) => notifier.problems.push(problem),
        }
        notifier
    }

    /// Whether there is a manager to tell.
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// Within this time the manager wants to hear [`State::Watchdog`], when it watches this process.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.is_heard())
    }

    /// What of the environment could not be understood, a line each.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Says all of `states` in one message.
    ///
    /// # Errors
    ///
    /// As the system has it: [`WouldBlock`](io::ErrorKind::WouldBlock) when the manager's queue is full.
    pub fn send(&self, states: &[State<'_>]) -> io::Result<()> {
        self.send_text(&render(states))
    }

    pub(crate) fn send_text(&self, text: &str) -> io::Result<()> {
        match &self.to {
            Some(receiver) => receiver.send(text, &[]),
            None => Ok(()),
        }
    }

    /// Gives the manager copies of descriptors to keep, all under one name; the service's next start inherits them.
    ///
    /// They stay until [`forget`](Notifier::forget), also when their other end has hung up. Meant for listeners: the
    /// peer of a stored connection never sees it end.
    ///
    /// # Errors
    ///
    /// When the name is not one (printable ASCII without a colon, [`NAME_MOST`] at most), when there are more
    /// than [`STORED_AT_ONCE`] descriptors, and as [`send`](Notifier::send).
    pub fn store(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        checked_name(name)?;
        if descriptors.len() > STORED_AT_ONCE {
            let words = format!(
                "{} descriptors for '{name}' at once, {STORED_AT_ONCE} are the most",
                descriptors.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        match &self.to {
            Some(receiver) => {
                let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
                receiver.send(&text, descriptors)
            }
            None => Ok(()),
        }
    }

    /// Lets the manager close what is stored under this name.
    ///
    /// # Errors
    ///
    /// When the name is not one, and as [`send`](Notifier::send).
    pub fn forget(&self, name: &str) -> io::Result<()> {
        checked_name(name)?;
        self.send_text(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))
    }

    /// Waits until the manager has read everything said before: what a process says last before it exits is else
    /// looked at when nobody can tell any more who said it.
    ///
    /// Blocks the thread, for `bound` at most.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](io::ErrorKind::TimedOut) after `bound`, and as the system has it.
    pub fn barrier(&self, bound: Duration) -> io::Result<()> {
        match &self.to {
            Some(receiver) => receiver.barrier(Instant::now() + bound),
            None => Ok(()),
        }
    }

    /// Whom a message goes to, for error messages.
    pub(crate) fn name(&self) -> &str {
        self.to.as_ref().map_or("nobody", |receiver| &receiver.name)
    }
}

impl Receiver {
    fn at(given: &OsStr) -> Result<Receiver, String> {
        let address = match given.as_bytes() {
            [b'/', ..] => SocketAddrUnix::new(given),
            #[cfg(target_os = "linux")]
            [b'@', name @ ..] if !name.is_empty() => SocketAddrUnix::new_abstract_name(name),
            _ => return Err("neither a path nor an abstract name ('@name')".to_owned()),
        };
        let address = address.map_err(|errno| io::Error::from(errno).to_string())?;
        let socket = datagram_socket().map_err(|error| error.to_string())?;
        Ok(Receiver { name: given.display().to_string(), address, socket })
    }

    fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_from(&self.socket, Some(&self.address), text, descriptors)
    }

    /// The manager closes the pipe's end once it comes to the message that carries it, and it takes them in order.
    fn barrier(&self, until: Instant) -> io::Result<()> {
        // Only a connected datagram socket can be asked whether there is room in the receiver's queue.
        let socket = datagram_socket()?;
        rustix::net::connect(&socket, &self.address)?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        loop {
            wait_for(&socket, PollFlags::OUT, until)?;
            match send_from(&socket, None, "BARRIER=1", &[write.as_fd()]) {
                // Somebody else took the room.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => break sent?,
            }
        }
        drop(write);
        // Nothing is ever written: what comes is the hang-up.
        wait_for(&read, PollFlags::IN, until)
    }
}

/// Sends one datagram, to `address` or to whom the socket is connected.
fn send_from(
    socket: &OwnedFd,
    address: Option<&SocketAddrUnix>,
    text: &str,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if text.len() > MESSAGE_MOST {
        let words = format!("a message of {} bytes, {MESSAGE_MOST} are the most", text.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    }
    let rights = SendAncillaryMessage::ScmRights(descriptors);
    let mut space = vec![MaybeUninit::uninit(); rights.size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(rights), "the space was measured for these descriptors");
    }
    let bytes = [IoSlice::new(text.as_bytes())];
    let flags = SendFlags::DONTWAIT;
    // A datagram goes whole or not at all.
    match address {
        Some(address) => rustix::net::sendmsg_addr(socket, address, &bytes, &mut control, flags)?,
        None => rustix::net::sendmsg(socket, &bytes, &mut control, flags)?,
    };
    Ok(())
}

fn datagram_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?)
}

fn wait_for(descriptor: &OwnedFd, what: PollFlags, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(descriptor, what)], Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// `WATCHDOG_USEC`, when it is there and meant for this process.
fn watchdog(
    variable: &impl Fn(&str) -> Option<OsString>,
    pid: u32,
) -> Result<Option<Duration>, String> {
    let number = |name: &str| -> Result<Option<u64>, String> {
        let Some(value) = variable(name) else { return Ok(None) };
        match value.to_str().and_then(|text| text.parse().ok()) {
            Some(number) if number > 0 => Ok(Some(number)),
            Some(_) | None => Err(format!("{name}='{}': not a positive number", value.display())),
        }
    };
    match (number("WATCHDOG_USEC")?, number("WATCHDOG_PID")?) {
        (Some(micros), None) => Ok(Some(Duration::from_micros(micros))),
        (Some(micros), Some(meant)) if meant == u64::from(pid) => {
            Ok(Some(Duration::from_micros(micros)))
        }
        // Another process of the service is watched, or none is.
        (Some(_), Some(_)) | (None, _) => Ok(None),
    }
}

fn checked_name(name: &str) -> io::Result<()> {
    let printable = name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b':');
    if printable && (1..=NAME_MOST).contains(&name.len()) {
        return Ok(());
    }
    let words = format!("'{name}' cannot name descriptors: it must be printable ASCII without ':'");
    Err(io::Error::new(io::ErrorKind::InvalidInput, words))
}

/// The message in the manager's own words, a line for each.
fn render(states: &[State<'_>]) -> String {
    let mut lines = Vec::with_capacity(states.len());
    for state in states {
        lines.push(match state {
            State::Ready => "READY=1".to_owned(),
            State::Stopping => "STOPPING=1".to_owned(),
            State::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()),
            State::MainPid(pid) => format!("MAINPID={pid}"),
            State::ExtendTimeout(time) => format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()),
            State::Status(words) => format!("STATUS={}", one_line(words)),
            State::Watchdog => "WATCHDOG=1".to_owned(),
        });
    }
    lines.join("\n")
}

/// The clock that systemd compares with, which [`Instant`] does not show.
fn monotonic_micros() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // The clock counts from boot: it is never negative.
    let since_boot = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
    since_boot.as_micros()
}

fn one_line(words: &str) -> String {
    let line = words.replace(char::is_control, " ");
    cut(&line, STATUS_MOST).to_owned()
}

#[cfg(test)]
mod tests;
