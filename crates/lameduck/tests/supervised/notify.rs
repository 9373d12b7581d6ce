//! What a real service tells a real socket, message by message.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use lameduck::Lifecycle;
use lameduck::notify::Notifier;
use rustix::process::Signal;

use crate::process::{BOUND, Running, answer, ask, connect, example, get};

/// The service manager's end.
struct Superior {
    socket: UnixDatagram,
    variable: OsString,
    path: Option<PathBuf>,
}

impl Superior {
    /// On an abstract name; `test` keeps it apart from other tests.
    fn with_name(test: &str) -> Superior {
        let name = format!("lameduck-{test}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Superior { socket, variable: format!("@{name}").into(), path: None }
    }

    fn with_path(test: &str) -> Superior {
        let path = std::env::temp_dir().join(format!("lameduck-{test}-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        Superior { socket, variable: path.clone().into(), path: Some(path) }
    }

    fn hears_within(&self, bound: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(bound)).unwrap();
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    fn hears(&self) -> String {
        self.hears_within(BOUND).expect("a message")
    }

    /// For a sender that is gone: what it said is in the queue already.
    fn hears_nothing_more(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let came = self.socket.recv(&mut [0; 4096]);
        assert!(came.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }

    /// The last message of a stop with a deadline: its words and the time it asks for.
    fn hears_the_end(&self) -> (String, Duration) {
        let text = self.hears();
        let (words, micros) = text.split_once("\nEXTEND_TIMEOUT_USEC=").unwrap();
        (words.to_owned(), Duration::from_micros(micros.parse().unwrap()))
    }
}

impl Drop for Superior {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // In the directory for such files; at worst it is cleaned with it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// `notified` under a manager, and its address.
fn notified(notify_socket: &OsStr, more: &[(&str, &str)]) -> (Running, String) {
    let mut command = Command::new(example("notified"));
    command.arg("127.0.0.1:0").env("NOTIFY_SOCKET", notify_socket);
    command.envs(more.iter().copied());
    let mut service = Running::start(&mut command);
    let address = service.says("Listening on ");
    (service, address)
}

fn check_start_and_stop(manager: &Superior) {
    let (service, _) = notified(&manager.variable, &[]);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving");
    service.signal(Signal::TERM);
    let stopping = "STOPPING=1\nSTATUS=stopping (SIGTERM): waiting for nothing (9.000 s left)\n\
                    EXTEND_TIMEOUT_USEC=5000000";
    assert_eq!(manager.hears(), stopping);
    let (words, time) = manager.hears_the_end();
    assert_eq!(words, "STATUS=finished: nothing completed, nothing cut");
    let (least, most) = (Duration::from_secs(5), Duration::from_secs(10));
    assert!(least < time && time < most, "the rest of the grace period and a second: {time:?}");
    let (status, _) = service.ends();
    assert_eq!(status.code(), Some(0));
    manager.hears_nothing_more();
}

#[test]
fn a_manager_at_a_path_hears_start_and_stop_in_order() {
    check_start_and_stop(&Superior::with_path("start-stop"));
}

#[test]
fn a_manager_with_an_abstract_name_hears_start_and_stop_in_order() {
    check_start_and_stop(&Superior::with_name("start-stop"));
}

#[test]
fn a_long_stop_says_what_it_waits_for_and_asks_for_time() {
    let manager = Superior::with_name("long-stop");
    let (service, address) = notified(&manager.variable, &[]);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving");
    let mut client = connect(&address);
    // The answer takes 2 s.
    ask(&mut client, "/a");
    service.signal(Signal::TERM);
    assert!(manager.hears().starts_with("STOPPING=1\nSTATUS=stopping (SIGTERM): waiting for "));
    let mut last = manager.hears();
    let progress = last.clone();
    assert!(progress.starts_with("STATUS=waiting for 1 request"), "{progress}");
    assert!(progress.contains("GET /a"), "{progress}");
    assert!(progress.ends_with(" s left)\nEXTEND_TIMEOUT_USEC=5000000"), "{progress}");
    assert!(answer(client).ends_with("a\n"));
    // It makes progress until its last word.
    while !last.starts_with("STATUS=finished: ") {
        last = manager.hears();
    }
    assert!(last.starts_with("STATUS=finished: 1 request"), "{last}");
    assert_eq!(service.ends().0.code(), Some(0));
    manager.hears_nothing_more();
}

#[test]
fn a_cut_stop_says_what_was_cut() {
    let manager = Superior::with_name("cut-stop");
    let (service, address) = notified(&manager.variable, &[]);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving");
    let mut client = connect(&address);
    ask(&mut client, "/a");
    service.signal(Signal::TERM);
    assert!(manager.hears().starts_with("STOPPING=1\n"));
    assert!(manager.hears().starts_with("STATUS=waiting for 1 request"));
    service.signal(Signal::TERM);
    let (words, time) = manager.hears_the_end();
    assert!(words.starts_with("STATUS=forced: nothing completed, 1 request"), "{words}");
    assert!(time < Duration::from_secs(2), "a forced end needs no grace period: {time:?}");
    assert_eq!(service.ends().0.code(), Some(143));
}

#[test]
fn a_reload_is_answered_though_there_is_nothing_to_reload() {
    let manager = Superior::with_name("reload");
    let (service, address) = notified(&manager.variable, &[]);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving");
    service.signal(Signal::HUP);
    let reloading = manager.hears();
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the time");
    assert!(micros.parse::<u64>().is_ok(), "{micros}");
    assert_eq!(manager.hears(), "READY=1\nSTATUS=SIGHUP noted and ignored");
    assert!(get(connect(&address), "/b").ends_with("b\n"));
}

#[test]
fn a_watched_service_says_that_it_is_alive() {
    let manager = Superior::with_name("watched");
    let (_service, _) = notified(&manager.variable, &[("WATCHDOG_USEC", "100000")]);
    let heard: Vec<String> = (0..6).map(|_| manager.hears()).collect();
    let alive = heard.iter().filter(|text| *text == "WATCHDOG=1").count();
    assert_eq!(alive, 5, "and once that it is ready: {heard:?}");
}

#[test]
fn a_watchdog_of_another_process_is_left_alone() {
    let manager = Superior::with_name("not-watched");
    let variables = [("WATCHDOG_USEC", "10000"), ("WATCHDOG_PID", "1")];
    let (service, _) = notified(&manager.variable, &variables);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving");
    assert_eq!(manager.hears_within(Duration::from_millis(100)), None);
    service.signal(Signal::TERM);
    assert!(manager.hears().starts_with("STOPPING=1"));
}

#[test]
fn a_blocked_runtime_is_not_called_alive() {
    let manager = Superior::with_name("blocked");
    let allowed = Duration::from_millis(100);
    let variable = manager.variable.clone();
    let (block, blocks) = mpsc::channel::<()>();
    let (tell_blocked, blocked) = mpsc::channel();
    let (end, ends) = tokio::sync::oneshot::channel();
    let runtime = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let notifier = Notifier::from_variables(
            |name| match name {
                "NOTIFY_SOCKET" => Some(variable.clone()),
                "WATCHDOG_USEC" => Some(allowed.as_micros().to_string().into()),
                _ => None,
            },
            std::process::id(),
        );
        runtime.block_on(async move {
            let life = Lifecycle::builder().without_signals().notify(notifier).start().unwrap();
            life.ready();
            tokio::time::sleep(allowed * 4).await;
            tell_blocked.send(()).unwrap();
            // The runtime's only thread.
            blocks.recv().unwrap();
            ends.await.unwrap();
            life.stop();
            life.ended().await.code()
        })
    });
    let before = [manager.hears(), manager.hears(), manager.hears()];
    assert!(before.iter().filter(|text| *text == "WATCHDOG=1").count() == 2, "{before:?}");
    blocked.recv().unwrap();
    // What the control thread had an answer for may still come.
    while manager.hears_within(allowed).is_some() {}
    assert_eq!(manager.hears_within(allowed * 4), None);
    block.send(()).unwrap();
    assert_eq!(manager.hears(), "WATCHDOG=1", "it answers again");
    end.send(()).unwrap();
    assert_eq!(runtime.join().unwrap(), 0);
}

#[test]
fn a_manager_that_is_not_there_is_named_once_and_harms_nothing() {
    let (mut service, address) = notified(OsStr::new("/nonexistent/notify"), &[]);
    service.says("failed to tell the service manager at /nonexistent/notify: ");
    assert!(get(connect(&address), "/b").ends_with("b\n"));
    service.signal(Signal::TERM);
    let (status, log) = service.ends();
    assert_eq!(status.code(), Some(0));
    let again = log.iter().filter(|line| line.contains("service manager")).count();
    assert_eq!(again, 0, "{log:?}");
}

#[test]
fn a_notify_socket_that_makes_no_sense_is_named_and_ignored() {
    let mut command = Command::new(example("notified"));
    let mut service = Running::start(command.arg("127.0.0.1:0").env("NOTIFY_SOCKET", "vsock:2:1"));
    let problem = service.says("the service manager's ");
    let expected =
        "NOTIFY_SOCKET='vsock:2:1': neither a path nor an abstract name ('@name'): ignored";
    assert_eq!(problem, expected);
    let address = service.says("Listening on ");
    assert!(get(connect(&address), "/b").ends_with("b\n"));
}
