//! Listening sockets that a service manager opened for us: `LISTEN_FDS`, as in `sd_listen_fds(3)`.
//!
//! # Invariants
//!
//! 1. Reading the variables is pure: nothing is touched before all of them make sense together.
//! 2. There are as many names as descriptors.
//! 3. A descriptor is taken once in a process, and only if it came with it through exec(2).
//! 4. What is taken is closed at the next exec(2): children of this process do not hold its sockets.

use std::ffi::OsString;
use std::fmt;

use crate::error::Error;
use crate::listener::Listener;
use crate::sys;

/// The first inherited descriptor; the others follow without a gap.
pub(crate) const FIRST: i32 = 3;

/// The most descriptors that are believed. A larger number is a mistake in the variable, not a service.
pub(crate) const MOST: usize = 1024;

/// What a descriptor is called when `LISTEN_FDNAMES` is not set, as systemd has it.
pub(crate) const NAMELESS: &str = "unknown";

/// A descriptor somebody passed to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passed {
    number: i32,
    name: String,
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inherited descriptor {} ({})", self.number, self.name)
    }
}

/// Takes what the variables list for process `pid`. Needs the runtime's context.
pub(crate) fn take(
    variable: impl Fn(&str) -> Option<OsString>,
    pid: u32,
) -> Result<Vec<(String, Listener)>, Error> {
    let mut listeners = Vec::new();
    for passed in read(variable, pid)? {
        let listener = sys::take_inherited(passed.number)
            .and_then(Listener::inherited)
            .map_err(|error| Error::io("use", passed.to_string(), error))?;
        let listener = listener.passed_as(Some(passed.name.clone()));
        listeners.push((passed.name, listener));
    }
    Ok(listeners)
}

/// Which descriptors the variables list for process `pid`.
fn read(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Result<Vec<Passed>, Error> {
    let text = |name: &str| match variable(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(raw)) => Err(unusable(name, &raw.display().to_string(), "not UTF-8")),
    };
    let (Some(count), Some(meant)) = (text("LISTEN_FDS")?, text("LISTEN_PID")?) else {
        return Ok(Vec::new());
    };
    let meant: u32 =
        meant.parse().map_err(|_| unusable("LISTEN_PID", &meant, "not a process id"))?;
    if meant != pid {
        // A parent's variables reach its children too; the sockets are the parent's.
        return Ok(Vec::new());
    }
    let number = count.parse().map_err(|_| unusable("LISTEN_FDS", &count, "not a number"))?;
    if number > MOST {
        let problem = format!("more than {MOST} descriptors");
        return Err(unusable("LISTEN_FDS", &count, &problem));
    }
    let names = match text("LISTEN_FDNAMES")? {
        None => vec![NAMELESS.to_owned(); number],
        Some(names) if names.is_empty() && number == 0 => Vec::new(),
        Some(names) => {
            let split: Vec<String> = names.split(':').map(str::to_owned).collect();
            if split.len() != number {
                let problem = format!("{} names for {number} descriptors", split.len());
                return Err(unusable("LISTEN_FDNAMES", &names, &problem));
            }
            split
        }
    };
    Ok((FIRST..).zip(names).map(|(number, name)| Passed { number, name }).collect())
}

fn unusable(variable: &str, value: &str, problem: &str) -> Error {
    Error::name(format!("take inherited sockets: {variable}='{value}': {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 4711;

    /// `check("LISTEN_FDS=2 LISTEN_PID=4711", "3 unknown, 4 unknown")`
    fn check(variables: &str, expected: &str) {
        let variable = |name: &str| {
            let value = |pair: &str| pair.strip_prefix(name)?.strip_prefix('=').map(OsString::from);
            variables.split(' ').find_map(value)
        };
        let found = match read(variable, PID) {
            Ok(passed) => {
                let each = passed.iter().map(|p| format!("{} {}", p.number, p.name));
                each.collect::<Vec<_>>().join(", ")
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "for {variables}");
    }

    #[test]
    fn the_variables_list_descriptors_and_names() {
        check("", "");
        check("LISTEN_FDS=1 LISTEN_PID=4711", "3 unknown");
        check("LISTEN_FDS=2 LISTEN_PID=4711 LISTEN_FDNAMES=web:admin", "3 web, 4 admin");
        check("LISTEN_FDS=2 LISTEN_PID=4711 LISTEN_FDNAMES=web:web", "3 web, 4 web");
        check("LISTEN_FDS=2 LISTEN_PID=4711 LISTEN_FDNAMES=:", "3 , 4 ");
        check("LISTEN_FDS=0 LISTEN_PID=4711", "");
        check("LISTEN_FDS=0 LISTEN_PID=4711 LISTEN_FDNAMES=", "");
    }

    #[test]
    fn what_is_meant_for_another_process_is_left_alone() {
        check("LISTEN_FDS=1 LISTEN_PID=4712 LISTEN_FDNAMES=web", "");
        check("LISTEN_FDS=abc LISTEN_PID=4712", "");
        check("LISTEN_FDS=1", "");
        check("LISTEN_PID=4711", "");
    }

    #[test]
    fn variables_that_make_no_sense_are_named() {
        let to = "take inherited sockets: ";
        for (variables, problem) in [
            ("LISTEN_FDS=abc", "LISTEN_FDS='abc': not a number"),
            ("LISTEN_FDS=-1", "LISTEN_FDS='-1': not a number"),
            ("LISTEN_FDS=", "LISTEN_FDS='': not a number"),
            ("LISTEN_FDS=1000000000", "LISTEN_FDS='1000000000': more than 1024 descriptors"),
            ("LISTEN_FDS=1025", "LISTEN_FDS='1025': more than 1024 descriptors"),
            ("LISTEN_FDS=99999999999999999999", "LISTEN_FDS='99999999999999999999': not a number"),
            ("LISTEN_FDS=2 LISTEN_FDNAMES=web", "LISTEN_FDNAMES='web': 1 names for 2 descriptors"),
            (
                "LISTEN_FDS=1 LISTEN_FDNAMES=web:admin",
                "LISTEN_FDNAMES='web:admin': 2 names for 1 descriptors",
            ),
            ("LISTEN_FDS=0 LISTEN_FDNAMES=web", "LISTEN_FDNAMES='web': 1 names for 0 descriptors"),
        ] {
            check(&format!("{variables} LISTEN_PID=4711"), &format!("{to}{problem}"));
        }
        check("LISTEN_FDS=1 LISTEN_PID=me", &format!("{to}LISTEN_PID='me': not a process id"));
        check("LISTEN_FDS=1 LISTEN_PID=-1", &format!("{to}LISTEN_PID='-1': not a process id"));
    }

    #[test]
    fn as_many_descriptors_as_are_believed() {
        let pid = |name: &str| match name {
            "LISTEN_FDS" => Some("1024".into()),
            "LISTEN_PID" => Some(PID.to_string().into()),
            _ => None,
        };
        assert_eq!(read(pid, PID).unwrap().len(), MOST);
    }

    #[test]
    fn a_closed_number_and_one_of_our_own_are_not_taken() {
        use std::os::fd::AsRawFd;
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = sys::take_inherited(own.as_raw_fd()).unwrap_err();
        assert_eq!(error.to_string(), "this process opened it itself");
        let error = sys::take_inherited(i32::MAX).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        assert!(own.local_addr().is_ok(), "our own descriptor is left open");
    }
}
