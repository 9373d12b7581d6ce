//! Signals, however many and whenever: the documented end, on time (losses 17, 18, 32).

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use lameduck_verify::probe::Wire;
use lameduck_verify::probe::http1::pipelined;
use lameduck_verify::target::{Ready, Signal, Target, free_address};

use crate::service::{
    LIMIT, Service, User, WITH_ADMIN, as_user, let_pass, new_directory, run, stops,
};

/// A service with a request in hand that does not end by itself.
fn busy() -> (Service, Wire) {
    let service = Service::start(&[&WITH_ADMIN[..], &["--slow", "1h", "--grace", "20s"]].concat());
    let wire = pipelined(&service.place("/a"), 1).unwrap();
    service.wait_live(1, 1);
    (service, wire)
}

#[track_caller]
fn forced_by(signals: &[Signal], code: i32) {
    let (mut service, _wire) = busy();
    let words = service.is_forced_by(signals, code);
    assert!(words.contains("Server forced to shutdown: SIG"), "{words}");
    assert!(words.contains("request GET /a from 127."), "{words}");
}

#[test]
fn a_second_stop_forces() {
    forced_by(&[Signal::TERM, Signal::TERM], 143);
    forced_by(&[Signal::INT, Signal::INT], 130);
    forced_by(&[Signal::TERM, Signal::INT], 130);
    forced_by(&[Signal::INT, Signal::TERM], 143);
}

#[test]
fn a_quit_forces_at_once() {
    forced_by(&[Signal::QUIT], 131);
    forced_by(&[Signal::TERM, Signal::QUIT], 131);
}

/// Both wait when the process is looked at again: one is the stop, the other the second.
#[test]
fn two_signals_at_once_are_a_stop_and_a_force() {
    let (mut service, _wire) = busy();
    service.target.freeze().unwrap();
    service.signal(Signal::TERM);
    service.signal(Signal::INT);
    service.target.thaw().unwrap();
    let exit = service.wait();
    assert!([Some(130), Some(143)].contains(&exit.code), "{exit}: {}", service.last_words());
}

#[test]
fn a_hundred_signals_are_a_stop_and_a_force() {
    let (mut service, _wire) = busy();
    for _ in 0..100 {
        if service.target.signal(Signal::TERM).is_err() {
            break;
        }
        let_pass(Duration::from_millis(1));
    }
    let exit = service.wait();
    assert_eq!(exit.code, Some(143), "{exit}: {}", service.last_words());
    assert_eq!(service.last_words().matches("Server forced to shutdown").count(), 1);
}

#[test]
fn a_third_signal_changes_nothing() {
    let (mut service, _wire) = busy();
    service.target.freeze().unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        service.signal(signal);
    }
    service.target.thaw().unwrap();
    let exit = service.wait();
    let words = service.last_words();
    assert!([Some(130), Some(131), Some(143)].contains(&exit.code), "{exit}: {words}");
    assert_eq!(words.matches("Server forced to shutdown").count(), 1, "{words}");
}

#[test]
fn live_work_is_printed_when_asked() {
    let (mut service, _wire) = busy();
    service.signal(Signal::USR1);
    service.target.wait_stderr("serving: live work: 1 request, 1 connection", LIMIT).unwrap();
    service.target.wait_stderr("  request GET /a from 127.", LIMIT).unwrap();
    service.signal(Signal::TERM);
    service.target.wait_stderr("Shutting down server... SIGTERM", LIMIT).unwrap();
    service.wait_status(|status| status["phase"] == "finish");
    service.signal(Signal::USR1);
    service.target.wait_stderr("finish: live work: 1 request, 1 connection", LIMIT).unwrap();
    service.signal(Signal::TERM);
    assert_eq!(service.wait().code, Some(143));
}

#[test]
fn signals_without_a_meaning_kill_nothing() {
    let mut service = Service::start(&[]);
    service.signal(Signal::HUP);
    service.target.wait_stderr("SIGHUP noted and ignored", LIMIT).unwrap();
    service.signal(Signal::PIPE);
    assert_eq!(service.get("/b").0, 200);
    service.signal(Signal::TERM);
    service.ends_clean();
}

/// Before the handlers are there the signal itself ends the process; after that it is a stop. Either way nothing but
/// a whole database is left.
#[test]
fn a_stop_during_the_start_leaves_nothing_behind() {
    for delay in [0, 1, 2, 5, 10, 20, 50].map(Duration::from_millis) {
        for _ in 0..stops() {
            let directory = new_directory();
            let command = as_user(User::Same).args(["serve", "--listen", "unix:x.sock"]);
            let command = command.args(WITH_ADMIN).directory(directory.path());
            let mut target = command.ready(Ready::Started).start().unwrap();
            let_pass(delay);
            target.signal(Signal::TERM).unwrap();
            let exit = target.wait(LIMIT).unwrap();
            let ended = exit.code == Some(0) || exit.signal == Some(15);
            assert!(ended, "{delay:?}: {exit}: {}", target.stderr());
            let names = std::fs::read_dir(directory.path()).unwrap();
            let names: BTreeSet<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            let whole = BTreeSet::from(["lameduck.db".into()]);
            assert!(names.is_subset(&whole), "{delay:?}: {exit}: {names:?} {}", target.stderr());
        }
    }
}

/// A service whose standard output is closed and whose standard error goes to `stderr`.
fn mute(
    stderr: &std::path::Path,
    flags: &[&str],
) -> (Target, std::net::SocketAddr, tempfile::TempDir) {
    let (address, directory) = (free_address().unwrap(), new_directory());
    let script = r#"exec 2>"$0" >&- "$@""#;
    let target = Target::command("sh").args(["-c", script]).arg(stderr);
    let target = target.arg(env!("CARGO_BIN_EXE_lameduck"));
    let target = target.args(["serve", "--listen", &address.to_string()]).args(flags);
    let target = target.directory(directory.path()).ready(Ready::Tcp(address)).start().unwrap();
    (target, address, directory)
}

/// A pipe with a name, its reading end, and as many bytes in it as fit.
fn full_pipe(directory: &std::path::Path) -> (std::path::PathBuf, std::fs::File) {
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join("pipe");
    run("mkfifo", &[path.to_str().unwrap()]);
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = std::fs::OpenOptions::new();
    let mut ends = options.read(true).write(true).custom_flags(nonblocking).open(&path).unwrap();
    for piece in [&[b'x'; 4096][..], b"x"] {
        while ends.write(piece).is_ok() {}
    }
    (path, ends)
}

#[test]
fn a_full_standard_error_holds_neither_the_stop_nor_the_deadline() {
    let directory = new_directory();
    let (path, _ends) = full_pipe(directory.path());
    let (mut target, address, _files) = mute(&path, &["--slow", "1h", "--grace", "2s"]);
    let _wire = pipelined(&format!("http://{address}/a").parse().unwrap(), 1).unwrap();
    assert_eq!(crate::service::get(&format!("http://{address}/b").parse().unwrap()).0, 200);
    target.signal(Signal::USR1).unwrap();
    target.signal(Signal::TERM).unwrap();
    let exit = target.wait(LIMIT).unwrap();
    assert_eq!(exit.code, Some(3), "{exit}");
    assert!(exit.elapsed <= Duration::from_millis(2_500), "{exit}");
}

#[test]
fn a_standard_error_that_nobody_reads_any_more_kills_nothing() {
    let directory = new_directory();
    let (path, ends) = full_pipe(directory.path());
    let (mut target, address, _files) = mute(&path, &[]);
    // Every later write there is a broken pipe.
    drop(ends);
    target.signal(Signal::USR1).unwrap();
    assert_eq!(crate::service::get(&format!("http://{address}/b").parse().unwrap()).0, 200);
    target.signal(Signal::TERM).unwrap();
    assert_eq!(target.wait(LIMIT).unwrap().code, Some(0));
}
