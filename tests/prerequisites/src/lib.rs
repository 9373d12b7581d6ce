//! What a test needs of the machine, and a line for each test that went without it.
//!
//! A test that looks at nothing and passes says more than it knows. One that lacks what it needs leaves a line in the file
//! that [`LEFT_OUT`] names, and `cargo xtask test` ends with these lines.

use std::fs::OpenOptions;
use std::io::Write;

/// The variable that names the file of the tests that were left out.
pub const LEFT_OUT: &str = "LAMEDUCK_LEFT_OUT";

/// Whether this user is root.
///
/// False is noted as the reason why the calling test is left out.
#[must_use]
pub fn is_root() -> bool {
    has("root", rustix::process::geteuid().is_root())
}

/// Whether what is named is there; if not, this is noted as the reason why the calling test is left out.
///
/// # Panics
///
/// If the note cannot be left.
#[must_use]
pub fn has(what: &str, there: bool) -> bool {
    if there {
        return true;
    }
    let thread = std::thread::current();
    let line = format!("{} needs {what}\n", thread.name().unwrap_or("a test"));
    eprint!("left out: {line}");
    if let Some(file) = std::env::var_os(LEFT_OUT) {
        let notes = OpenOptions::new().create(true).append(true).open(&file);
        notes.and_then(|mut notes| notes.write_all(line.as_bytes())).unwrap();
    }
    false
}
