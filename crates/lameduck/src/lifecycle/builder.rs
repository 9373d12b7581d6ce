//! What a life is set up with.

mod start;
mod upgrades;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(doc)]
use super::{AFTER_FORCE, Lifecycle};
use super::{GRACE_PERIOD, LINGER, MAX_GENERATIONS, PROBATION, SETTLE, UPGRADE_LINGER};
use crate::connection::Age;
use crate::log::LogFormat;
use crate::notify::Notifier;
use crate::phase::LONGEST;
use crate::signals::Signals;
use crate::websocket::CloseFrames;

/// Sets up a [`Lifecycle`]: what is not said here has the value of the [table of defaults](crate#defaults).
#[derive(Debug, Clone)]
#[must_use = "a lifecycle begins with `start`"]
pub struct Builder {
    grace: Option<Duration>,
    lame_duck: Duration,
    linger: Duration,
    upgrade_linger: Duration,
    age: Option<Age>,
    close_frames: CloseFrames,
    settle: Duration,
    signals: Option<Signals>,
    log: Option<LogFormat>,
    notifier: Option<Notifier>,
    version: String,
    control: Option<PathBuf>,
    takeover: Takeover,
    takeover_timeout: Duration,
    probation: Duration,
    upgrade_grace: Option<Duration>,
    max_generations: usize,
    probe: Option<String>,
    memory_check: MemoryCheck,
    check_first: Option<Vec<OsString>>,
}

/// Whether this start takes over from a running service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takeover {
    /// When the running service started this process.
    WhenAsked,
    /// In any case, from whoever answers on the control socket.
    Always,
}

/// Whether it is looked whether two generations fit into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemoryCheck {
    Made,
    Passed,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder {
            grace: Some(GRACE_PERIOD),
            lame_duck: Duration::ZERO,
            linger: LINGER,
            upgrade_linger: UPGRADE_LINGER,
            age: None,
            close_frames: CloseFrames::new(),
            settle: SETTLE,
            signals: Some(Signals::default()),
            log: None,
            notifier: None,
            version: String::new(),
            control: None,
            takeover: Takeover::WhenAsked,
            takeover_timeout: crate::takeover::TAKEOVER_TIMEOUT,
            probation: PROBATION,
            upgrade_grace: None,
            max_generations: MAX_GENERATIONS,
            probe: None,
            memory_check: MemoryCheck::Made,
            check_first: None,
        }
    }

    /// The whole time from a stop to force. Default [`GRACE_PERIOD`], 30 s.
    ///
    /// Lame duck, drain and closing all fit into it. At its end what is left is cut, and [`AFTER_FORCE`] later at most the
    /// process leaves. Set your service manager's own limit (`TimeoutStopSec`, `terminationGracePeriodSeconds`) at least
    /// a second higher.
    pub fn grace_period(mut self, grace: Duration) -> Builder {
        self.grace = Some(grace);
        self
    }

    /// Waits as long as work lasts; only a second stop ends the wait.
    pub fn no_deadline(mut self) -> Builder {
        self.grace = None;
        self
    }

    /// How long to go on accepting once readiness has turned red, so that balancers look away first. Default 0.
    pub fn lame_duck(mut self, lame_duck: Duration) -> Builder {
        self.lame_duck = lame_duck;
        self
    }

    /// How long an idle kept-alive connection is still answered while draining. Default [`LINGER`], 250 ms.
    ///
    /// A client whose next request is on the wire when the drain begins is answered within this time. Make it longer
    /// than your clients' longest pause on a busy connection plus a round trip.
    pub fn linger(mut self, linger: Duration) -> Builder {
        self.linger = linger.min(LONGEST);
        self
    }

    /// How long an idle connection that cannot move (TLS) is still answered after an upgrade. Default
    /// [`UPGRADE_LINGER`], 5 s.
    ///
    /// Each answer tells its client to go; only one that is silent for so long is closed by us.
    pub fn upgrade_linger(mut self, linger: Duration) -> Builder {
        self.upgrade_linger = linger.min(LONGEST);
        self
    }

    /// How WebSockets are closed; see [`websocket`](crate::websocket).
    pub fn close_frames(mut self, closes: CloseFrames) -> Builder {
        self.close_frames = closes;
        self
    }

    /// How old an HTTP connection may become; by default as old as it likes.
    ///
    /// When it is `most` old (ten per cent more or less, so that connections of one moment do not all reconnect in
    /// another) it is told to go: over HTTP/1.1 the next answer says `Connection: close`, an idle one is closed after the
    /// [linger](Builder::linger), over HTTP/2 it gets its two GOAWAYs. What is still in hand `grace` later is cut. So load
    /// finds new instances behind a balancer that spreads connections and not requests. Upgraded connections are left alone.
    pub fn max_connection_age(mut self, most: Duration, grace: Duration) -> Builder {
        self.age = Some(Age { most: most.min(LONGEST), grace: grace.min(LONGEST) });
        self
    }

    /// How long accepted connections may take to their first read. Default [`SETTLE`], 100 ms.
    ///
    /// It ends as soon as each has been read; only a runtime that is slow to poll them uses it up.
    pub fn settle(mut self, settle: Duration) -> Builder {
        self.settle = settle;
        self
    }

    /// Which signal means what; see [`Signals`]. Those not named keep the meaning they had.
    pub fn signals(mut self, signals: Signals) -> Builder {
        self.signals = Some(signals);
        self
    }

    /// Takes no signal, prints nothing and never ends the process: the program calls [`Lifecycle::stop`].
    ///
    /// The deadline still cuts work, and [`Lifecycle::run`] still returns on time.
    pub fn without_signals(mut self) -> Builder {
        self.signals = None;
        self
    }

    /// How the built-in log is written. Default [`LogFormat::Text`] with signals, silent without.
    pub fn log_format(mut self, format: LogFormat) -> Builder {
        self.log = Some(format);
        self
    }

    /// How the service manager is told that the service is ready, stopping or alive. Default
    /// [`Notifier::from_env`] with the built-in signals, [`Notifier::none`] without.
    pub fn notify(mut self, notifier: Notifier) -> Builder {
        self.notifier = Some(notifier);
        self
    }

    /// The program's version, for status and reports.
    pub fn version(mut self, version: &str) -> Builder {
        version.clone_into(&mut self.version);
        self
    }
}
