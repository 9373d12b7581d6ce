//! The exit codes, as the help of each command tells them.

use lameduck::exit::{DEADLINE, FAILED, OK, USAGE};

/// The codes of a service's end; `stop` ends with the one of the service it stopped. `failed` says what else 1 means.
pub fn of_an_end(failed: &str) -> String {
    let failed = format!("{failed}, or something failed on the way out");
    table(&[
        (OK.to_string(), "everything finished"),
        (FAILED.to_string(), failed.as_str()),
        (USAGE.to_string(), "the command line cannot be used"),
        (DEADLINE.to_string(), "the deadline, or a closing budget, cut what the report names"),
        ("128+n".to_owned(), "ended at once by signal n"),
    ])
}

/// The codes of a command that asks a running service.
pub fn of_asking(done: &str, not_done: &str) -> String {
    table(&[
        (OK.to_string(), done),
        (FAILED.to_string(), not_done),
        (USAGE.to_string(), "the command line cannot be used"),
    ])
}

pub fn table(rows: &[(String, &str)]) -> String {
    let lines = rows.iter().map(|(code, meaning)| format!("  {code:<8} {meaning}"));
    format!("Exit codes:\n{}", lines.collect::<Vec<_>>().join("\n"))
}
