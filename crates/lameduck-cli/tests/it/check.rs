//! Settings looked at before anything is done with them: `lameduck serve --check`, and upgrades that begin with it; and
//! the probe of a new generation.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use private_postgres::Cluster;

use crate::service::{Service, new_directory};
use crate::upgrade::WITH_CONTROL;

/// Runs the check in this directory, which holds what it held before.
#[track_caller]
fn check(directory: &std::path::Path, flags: &[&str]) -> Output {
    let names = || {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lameduck"));
    command.args(["serve", "--check", "--listen", "127.0.0.1:0"]).args(flags);
    let output = command.current_dir(directory).output().unwrap();
    assert_eq!(names(), before, "{flags:?}");
    output
}

/// What it says and its code.
#[track_caller]
fn refused(output: &Output) -> (Option<i32>, String) {
    assert!(output.stdout.is_empty(), "{output:?}");
    (output.status.code(), String::from_utf8(output.stderr.clone()).unwrap())
}

#[track_caller]
fn good(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "The service could start like this\n");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_check_of_good_settings_says_so_and_makes_nothing() {
    let directory = new_directory();
    good(&check(directory.path(), &[]));
    good(&check(directory.path(), &["--control", "run/control", "--listen", "unix:a.sock"]));
    good(&check(directory.path(), &["--probe", "/version", "--lame-duck", "1s"]));
}

#[test]
fn a_check_of_bad_settings_names_what_is_bad() {
    let directory = new_directory();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let socket = directory.path().join("taken.sock");
    let _serves = UnixListener::bind(&socket).unwrap();
    let open = directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(directory.path().join("damaged.db"), "no database").unwrap();
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--lame-duck", "1h"], 2, "lame duck of 3600s"),
        (&["--listen", "nowhere"], 2, "nowhere"),
        (&["--probe", "version"], 2, "probe 'version'"),
        (&["--listen", &taken], 1, &taken),
        (&["--listen", "unix:taken.sock"], 1, "unix:taken.sock"),
        (&["--listen", "unix:no/such/place.sock"], 1, "unix:no/such/place.sock"),
        (&["--control", "open/control"], 1, "0700"),
        (&["--database", "sqlite:no/such.db"], 1, "no"),
        (&["--database", "sqlite:damaged.db"], 1, "damaged.db"),
    ];
    for (flags, code, named) in cases {
        let (ended, words) = refused(&check(directory.path(), flags));
        assert_eq!(ended, Some(code), "{flags:?}: {words}");
        assert!(words.starts_with("error: ") && words.contains(named), "{flags:?}: {words}");
        assert_eq!(words.lines().count(), 2, "{words}");
    }
    let tls = ["--tls-cert", "damaged.db", "--tls-key", "damaged.db"];
    let (ended, words) = refused(&check(directory.path(), &tls));
    assert!(ended == Some(1) && words.contains("damaged.db"), "{words}");
}

#[test]
fn a_check_looks_at_a_postgresql_database_and_changes_no_table() {
    let directory = new_directory();
    let mut cluster = Cluster::start();
    let url = cluster.create_database("untouched");
    good(&check(directory.path(), &["--database", &url]));
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(cluster.query("untouched", tables).trim(), "0");
    cluster.stop();
    let (ended, words) = refused(&check(directory.path(), &["--database", &url]));
    assert_eq!(ended, Some(1), "{words}");
    assert!(words.contains("database"), "{words}");
}

/// The running service has the addresses, and hands them over.
#[test]
fn a_check_beside_the_running_service_is_good() {
    let service = Service::start_on(&["unix:http.sock"], &WITH_CONTROL);
    let flags = [&WITH_CONTROL[..], &["--listen", "unix:http.sock"]].concat();
    good(&check(&service.path(""), &flags));
    let (ended, words) = refused(&check(&service.path(""), &["--listen", "unix:http.sock"]));
    assert!(ended == Some(1) && words.contains("http.sock"), "{words}");
}

/// What a version would do to its database at its start is not done by one whose settings are wrong.
#[test]
fn an_upgrade_begins_with_a_check_where_that_is_asked_for() {
    let service = Service::upgradable(&["--check-first"]);
    service.upgrade();
    assert!(!service.target.stderr().contains("its check"), "{}", service.target.stderr());
    let database = service.path("lameduck.db");
    // Whoever took the permission away meant it.
    std::fs::set_permissions(&database, PermissionsExt::from_mode(0o444)).unwrap();
    let ended = service.operate("upgrade", &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("the check of"), "{}", ended.stderr);
    assert!(ended.stderr.contains("lameduck.db"), "{}", ended.stderr);
    std::fs::set_permissions(&database, PermissionsExt::from_mode(0o644)).unwrap();
    service.upgrade();
}

#[test]
fn a_probe_of_the_new_generation_decides_on_an_upgrade() {
    let service = Service::upgradable(&["--probe", "/version"]);
    assert!(service.upgrade().contains("generation 2"));
    let service = Service::upgradable(&["--probe", "/nowhere"]);
    let ended = service.operate("upgrade", &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let told = "generation 2 answered 404 Not Found to GET /nowhere";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    assert_eq!(service.get("/b").0, 200);
}
