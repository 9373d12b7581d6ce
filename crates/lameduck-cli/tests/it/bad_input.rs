//! Each way to ask for something that cannot be: one clear line, one hint, the documented code, nothing left behind.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use crate::command::Place;

pub const USAGE: i32 = 2;
pub const FAILED: i32 = 1;

/// Runs the command and checks everything that every refusal has in common.
#[track_caller]
pub fn refused(
    place: &Place,
    (arguments, variables): (&[&str], &[(&str, &str)]),
    code: i32,
    error: &str,
    hint: &str,
) {
    let before = place.listing();
    let ended = place.run(arguments, variables);
    let about = format!("{arguments:?} {variables:?}: {ended:?}");
    assert_eq!(ended.code, Some(code), "{about}");
    assert_eq!(ended.stdout, "", "{about}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    let [first, second] = lines[..] else { panic!("not exactly two lines: {about}") };
    let first = first.strip_prefix("error: ").unwrap_or_else(|| panic!("{about}"));
    let second = second.strip_prefix("hint: ").unwrap_or_else(|| panic!("{about}"));
    assert!(first.contains(error), "`{first}` lacks `{error}`");
    assert!(second.contains(hint), "`{second}` lacks `{hint}`");
    assert_eq!(place.listing(), before, "something was left behind: {about}");
}

/// Flags that need nothing but themselves to be wrong.
#[test]
fn a_flag_that_cannot_be_used_is_named() {
    let year = "write `unlimited`";
    for (arguments, error, hint) in [
        (vec![], "no command is given", "`lameduck --help`"),
        (vec!["sreve"], "sreve: no such command", "`lameduck --help`"),
        (vec!["serve", "--lisen", "x"], "--lisen: no such flag", "did you mean --listen?"),
        (vec!["serve", "-x"], "-x: no such flag", "lists the flags"),
        (vec!["serve", "x"], "x: nothing is expected here", "lists the flags"),
        (vec!["serve", "--grace"], "--grace: a value is missing", "lists the flags"),
        (vec!["serve", "--grace", "9"], "--grace 9: a duration needs a unit", "write 9s or 9ms"),
        (vec!["serve", "--grace", "9x"], "--grace 9x: no unit is called `x`", "250ms, 9s"),
        (vec!["serve", "--grace", "-1s"], "--grace -1s: a duration cannot be negative", "9s"),
        (vec!["serve", "--grace=-1s"], "--grace -1s: a duration cannot be negative", "9s"),
        (vec!["serve", "--grace", ""], "a duration is missing", "9s"),
        (vec!["serve", "--grace", "99999999999999999999s"], "longer than a year", year),
        (vec!["serve", "--slow", "unlimited"], "--slow unlimited: not a duration", "9s"),
        (
            vec!["serve", "--linger", "250"],
            "--linger 250: a duration needs a unit",
            "write 250s or 250ms",
        ),
        (vec!["serve", "--lame-duck", "5"], "--lame-duck 5: a duration needs a unit", "write 5s"),
        (vec!["serve", "--slow", "1\n2"], r"--slow 1\n2: no unit", "9s"),
        (vec!["serve", "--grace", "1s", "--grace", "2s"], "--grace is given twice", "once"),
        (vec!["serve", "--log", "xml"], "--log xml: no such choice", "text, json"),
        (vec!["serve", "--threads", "0"], "--threads 0: not a number of threads", "from 1 to 1024"),
        (vec!["serve", "--jobs", "-1"], "--jobs -1: not a number of jobs", "from 0 to 1000"),
        (
            vec!["stop", "--control", "c", "--generation", "x"],
            "--generation x: not the number of a generation",
            "lameduck status",
        ),
        (vec!["verify", "--case", "SIG/99", "--", "x"], "no case is called SIG/99", "--list"),
        (vec!["serve", "--threads", "-2"], "--threads -2: not a number of threads", "from 1 to"),
        (vec!["serve", "--lame-duck", "10s"], "lame duck of 10s", "grace period"),
        (
            vec!["serve", "--listen", "localhost"],
            "'localhost': the port is missing",
            "127.0.0.1:8080",
        ),
        (
            vec!["serve", "--listen", "127.0.0.1"],
            "'127.0.0.1': the port is missing",
            "127.0.0.1:8080",
        ),
        (vec!["serve", "--listen", "127.0.0.1:http"], "port is not a number", "127.0.0.1:8080"),
        (vec!["serve", "--listen", "127.0.0.1:65536"], "port is not a number", "127.0.0.1:8080"),
        (
            vec!["serve", "--listen", "::1:8080"],
            "'::1:8080': an IPv6 address needs brackets",
            "[::1]",
        ),
        (vec!["serve", "--listen", "unix:"], "'unix:': the path is empty", "unix:/run"),
        (vec!["serve", "--listen", "127.0.0.1:0", "--admin", "9090"], "'9090'", "127.0.0.1:8080"),
        (
            vec!["serve", "--database", "sqlite:"],
            "--database: `sqlite:` names no file",
            "sqlite:PATH",
        ),
        (
            vec!["serve", "--database", "x.db"],
            "--database: `x.db` is not a database",
            "sqlite:PATH",
        ),
        (vec!["serve", "--database", "sqlite::memory:"], "would lose every order", "sqlite:PATH"),
        (vec!["serve", "--database", "postgres://u@h:x/d"], "invalid port number", "postgres://"),
        (
            vec!["serve", "--database", "postgres://u:secret@h"],
            "`postgres://u:***@h` names no database",
            "postgres://",
        ),
    ] {
        refused(&Place::new(), (&arguments, &[]), USAGE, error, hint);
    }
}

#[test]
fn a_variable_that_cannot_be_used_is_named() {
    for (name, value, error, hint) in [
        ("LAMEDUCK_GRACE", "9", "LAMEDUCK_GRACE=9: a duration needs a unit", "write 9s or 9ms"),
        ("LAMEDUCK_LOG", "xml", "LAMEDUCK_LOG=xml: no such choice", "text, json"),
        ("LAMEDUCK_THREADS", "x", "LAMEDUCK_THREADS=x: not a number", "from 1 to"),
        (
            "LAMEDUCK_LISTEN",
            "127.0.0.1:0,localhost",
            "'localhost': the port is missing",
            "127.0.0.1:8080",
        ),
        (
            "LAMEDUCK_DATABASE",
            "mysql://u:secret@h/d",
            "LAMEDUCK_DATABASE: `mysql://u:***@h/d`",
            "postgres://",
        ),
    ] {
        refused(&Place::new(), (&["serve"], &[(name, value)]), USAGE, error, hint);
    }
    // The command line wins, and is what is complained about.
    let arguments = ["serve", "--grace", "9x"];
    let variables = [("LAMEDUCK_GRACE", "9x")];
    refused(&Place::new(), (&arguments, &variables), USAGE, "--grace 9x: no unit", "9s");
}

#[test]
fn an_argument_that_is_not_utf_8_is_named() {
    use std::os::unix::ffi::OsStrExt as _;
    let odd = std::ffi::OsStr::from_bytes(b"x\xff");
    let place = Place::new();
    for before in [&["serve", "--grace"][..], &["serve"], &[]] {
        let output = place.command().args(before).arg(odd).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.starts_with("error: ") && said.contains("\nhint: "), "{said}");
        assert!(before.len() < 2 || said.contains("\"x\\xFF\": not UTF-8"), "{said}");
    }
}

#[test]
fn an_address_in_use_costs_no_database() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = format!("cannot listen on {address}: address already in use");
    let hint = "stop it, or choose another address";
    refused(&Place::new(), (&["serve", "--listen", &address], &[]), FAILED, &error, hint);
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--admin", &address];
    refused(&Place::new(), (&arguments, &[]), FAILED, &error, hint);
    // The socket that was bound before the one in use goes again.
    let arguments = ["serve", "--listen", "unix:first.sock", "--listen", &address];
    refused(&Place::new(), (&arguments, &[]), FAILED, &error, hint);

    let place = Place::new();
    let _live = UnixListener::bind(place.path("live.sock")).unwrap();
    let arguments = ["serve", "--listen", "unix:live.sock"];
    refused(&place, (&arguments, &[]), FAILED, "unix:live.sock: address", hint);
}

#[test]
fn an_address_that_is_not_to_be_had_is_named() {
    let foreign = ["serve", "--listen", "192.0.2.1:0"];
    refused(&Place::new(), (&foreign, &[]), FAILED, "cannot listen on 192.0.2.1:0", "this machine");

    let missing = ["serve", "--listen", "unix:missing/x.sock"];
    refused(
        &Place::new(),
        (&missing, &[]),
        FAILED,
        "unix:missing/x.sock: no such file",
        "directory",
    );

    let place = Place::new();
    place.directory("closed", 0o555);
    let closed = ["serve", "--listen", "unix:closed/x.sock"];
    refused(&place, (&closed, &[]), FAILED, "unix:closed/x.sock: permission denied", "privilege");

    let place = Place::new();
    place.write("file", b"not a socket", 0o644);
    let file = ["serve", "--listen", "unix:file"];
    refused(
        &place,
        (&file, &[]),
        FAILED,
        "unix:file: a file that is no socket",
        "move the file away",
    );
}

/// With a Unix socket bound, to see that it goes again.
fn database(place: &Place, database: &str, error: &str, hint: &str) {
    let arguments = ["serve", "--listen", "unix:x.sock", "--database", database];
    refused(place, (&arguments, &[]), FAILED, error, hint);
}

#[test]
fn a_file_that_cannot_be_a_database_is_named() {
    let place = Place::new();
    database(&place, "sqlite:missing/x.db", "directory missing of database", "mkdir -p missing");

    place.directory("closed", 0o555);
    database(
        &place,
        "sqlite:closed/x.db",
        "cannot create database sqlite:closed/x.db",
        "permission",
    );
    database(&place, "sqlite:closed", "sqlite:closed is not a regular file", "name a file");

    place.write("frozen.db", b"", 0o444);
    database(&place, "sqlite:frozen.db", "sqlite:frozen.db is read-only", "chmod u+w frozen.db");

    place.write("secret.db", b"", 0o200);
    database(&place, "sqlite:secret.db", "cannot write database sqlite:secret.db", "permission");

    place.write("text.db", &b"no database at all\n".repeat(500), 0o644);
    database(&place, "sqlite:text.db", "sqlite:text.db is not a SQLite file", "another path");

    let mut corrupt = b"SQLite format 3\0\x10\0\x02\x02\0\x40\x20\x20".to_vec();
    corrupt.resize(8192, 0xa5);
    place.write("corrupt.db", &corrupt, 0o644);
    database(&place, "sqlite:corrupt.db", "sqlite:corrupt.db is damaged", "from a backup");
}

#[test]
fn a_server_that_cannot_be_reached_is_named_without_its_password() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://u:secret@127.0.0.1:{free}/arena");
    let error =
        format!("cannot reach database postgres://u@127.0.0.1:{free}/arena: connection refused");
    database(&Place::new(), &url, &error, "is PostgreSQL running");
}
