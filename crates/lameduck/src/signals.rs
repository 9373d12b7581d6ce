//! Which signal means what.
//!
//! | signal | default meaning |
//! |---|---|
//! | TERM, INT | stop gracefully; a second one stops at once (during a lame duck it ends that, and the next one stops) |
//! | QUIT | stop at once |
//! | USR1 | print live work |
//! | HUP | upgrade; without a control socket it is noted and ignored, so that a stray one kills nothing |

use std::collections::BTreeMap;

use signal_hook::consts::FORBIDDEN;

use crate::error::Error;

/// Hang-up, 1.
pub const HUP: i32 = 1;
/// Interrupt, 2: Ctrl-C.
pub const INT: i32 = 2;
/// Quit, 3: Ctrl-\\.
pub const QUIT: i32 = 3;
/// The first user signal, 10 on Linux.
pub const USR1: i32 = signal_hook::consts::SIGUSR1;
/// The second user signal, 12 on Linux.
pub const USR2: i32 = signal_hook::consts::SIGUSR2;
/// Terminate, 15: what service managers send.
pub const TERM: i32 = 15;

/// What a signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalAction {
    /// Stop gracefully; a second one ends the lame duck, where there is one, and stops at once where there is none.
    Stop,
    /// Stop at once.
    Force,
    /// Print live work.
    PrintWork,
    /// Start the program anew and hand over to it; without a control socket, note it and go on.
    Upgrade,
    /// Note it and go on.
    Ignore,
}

/// The map from signals to what they do.
///
/// ```
/// use lameduck::signals::{self, SignalAction, Signals};
///
/// let map = Signals::default().on(signals::USR2, SignalAction::Stop);
/// assert!(map.to_string().contains("SIGUSR2"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signals {
    map: BTreeMap<i32, SignalAction>,
}

impl Default for Signals {
    fn default() -> Signals {
        Signals::none()
            .on(TERM, SignalAction::Stop)
            .on(INT, SignalAction::Stop)
            .on(QUIT, SignalAction::Force)
            .on(USR1, SignalAction::PrintWork)
            .on(HUP, SignalAction::Upgrade)
    }
}

impl Signals {
    /// No signal at all: the program handles them itself.
    pub fn none() -> Signals {
        Signals { map: BTreeMap::new() }
    }

    /// Adds or changes one signal's meaning.
    ///
    /// No program can take KILL and STOP, and this one does not take ILL, FPE and SEGV, which are the kernel's word that
    /// it cannot go on: with one of them [`Builder::start`](crate::Builder::start) fails.
    pub fn on(mut self, signal: i32, action: SignalAction) -> Signals {
        self.map.insert(signal, action);
        self
    }

    /// Whether each can be taken.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.numbers().find(|number| FORBIDDEN.contains(number)) {
            Some(number) => {
                Err(Error::name(format!("take signal {number}: no program can go on after it")))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn action(&self, signal: i32) -> SignalAction {
        self.map.get(&signal).copied().unwrap_or(SignalAction::Ignore)
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = i32> + '_ {
        self.map.keys().copied()
    }
}

/// One line a signal.
impl std::fmt::Display for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (signal, action) in &self.map {
            let words = match action {
                SignalAction::Stop => "stop gracefully; a second one stops at once",
                SignalAction::Force => "stop at once",
                SignalAction::PrintWork => "print live work",
                SignalAction::Upgrade => "upgrade: start the program anew and hand over to it",
                SignalAction::Ignore => "noted and ignored",
            };
            writeln!(f, "  {:<8} {words}", name(*signal))?;
        }
        Ok(())
    }
}

/// A signal's name, such as `SIGTERM`.
pub fn name(signal: i32) -> String {
    let word = match signal {
        HUP => "SIGHUP",
        INT => "SIGINT",
        QUIT => "SIGQUIT",
        TERM => "SIGTERM",
        n if n == USR1 => "SIGUSR1",
        n if n == USR2 => "SIGUSR2",
        n => return format!("signal {n}"),
    };
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_nobody_can_take_is_an_error_and_no_panic() {
        assert!(Signals::default().check().is_ok());
        for signal in [9, 19, 11] {
            let error = Signals::none().on(signal, SignalAction::Stop).check().unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(&signal.to_string()), "{error}");
        }
    }
}
