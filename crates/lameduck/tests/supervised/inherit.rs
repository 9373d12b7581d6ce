//! Sockets that somebody else opened, passed to a real service.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::process::{Running, connect, example, get};

/// systemd's own tool (Debian package `systemd`): listens, and becomes the program at the first connection.
fn socket_activate(arguments: &[&str]) -> Running {
    let mut command = Command::new("systemd-socket-activate");
    command.args(arguments).arg("--fdname=web").arg(example("socket_activated"));
    let mut tool = Running::start(&mut command);
    tool.says("Listening on ");
    tool
}

/// A port that was free a moment ago; the tool must be told one.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_service_answers_on_the_tcp_socket_systemd_opened() {
    let address = free_address();
    let mut service = socket_activate(&["-l", &address]);
    let answer = get(connect(&address), "/");
    assert!(answer.ends_with("hello\n"), "the connection that woke it is answered: {answer}");
    assert_eq!(service.says("Inherited "), address);
    assert!(get(connect(&address), "/").ends_with("hello\n"));
    service.signal(Signal::TERM);
    let (status, log) = service.ends();
    assert_eq!(status.code(), Some(0), "{log:?}");
}

#[test]
fn a_service_answers_on_the_unix_socket_systemd_opened() {
    let path = std::env::temp_dir().join(format!("lameduck-activated-{}", std::process::id()));
    let mut service = socket_activate(&["-l", path.to_str().unwrap()]);
    let answer = get(UnixStream::connect(&path).unwrap(), "/");
    assert!(answer.ends_with("hello\n"), "{answer}");
    assert_eq!(service.says("Inherited "), format!("unix:{}", path.display()));
    service.signal(Signal::TERM);
    assert_eq!(service.ends().0.code(), Some(0));
    assert!(path.exists(), "the path belongs to whoever bound it");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_single_connection_is_not_a_listening_socket() {
    let address = free_address();
    let mut tool = socket_activate(&["--accept", "-l", &address]);
    let _client = connect(&address);
    let problem = tool.says("use inherited descriptor 3 (");
    let words = "): it is not listening (a single connection, as with Accept=yes?)";
    assert!(problem.ends_with(words), "{problem}");
}

#[test]
fn a_datagram_socket_is_not_a_stream_socket() {
    let address = free_address();
    let mut tool = socket_activate(&["--datagram", "-l", &address]);
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"wake", &address).unwrap();
    assert_eq!(tool.says("use inherited descriptor 3 (web): "), "it is not a stream socket");
}

/// The example as a manager would start it: `socket` is its descriptor 3, the variables name the process.
fn passed(listen_fds: &str, names: &str, socket: Socket<'_>) -> Running {
    passed_with(listen_fds, names, socket, &[])
}

fn passed_with(listen_fds: &str, names: &str, socket: Socket<'_>, more: &[&str]) -> Running {
    let (stdin, redirection) = match socket {
        Socket::Nothing => (Stdio::null(), "3<&-"),
        Socket::File => (Stdio::null(), "3<&0"),
        // By way of standard input: a descriptor of the test that lacked close-on-exec would reach the children of
        // other tests too.
        Socket::Listening(held) => (held.try_clone().unwrap().into(), "3<&0 0</dev/null"),
    };
    let script = format!("LISTEN_PID=$$ exec \"$0\" \"$@\" {redirection}");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(example("socket_activated")).args(more).stdin(stdin);
    command.env("LISTEN_FDS", listen_fds).env("LISTEN_FDNAMES", names);
    Running::start(&mut command)
}

enum Socket<'a> {
    Nothing,
    File,
    Listening(&'a OwnedFd),
}

#[test]
fn what_cannot_be_inherited_ends_the_start_and_is_named() {
    for (listen_fds, names, socket, problem) in [
        ("abc", "web", Socket::Nothing, "take inherited sockets: LISTEN_FDS='abc': not a number"),
        ("-1", "web", Socket::Nothing, "take inherited sockets: LISTEN_FDS='-1': not a number"),
        (
            "1000000000",
            "web",
            Socket::Nothing,
            "take inherited sockets: LISTEN_FDS='1000000000': more than 1024 descriptors",
        ),
        (
            "1",
            "web:admin",
            Socket::File,
            "take inherited sockets: LISTEN_FDNAMES='web:admin': 2 names for 1 descriptors",
        ),
        (
            "1",
            "web",
            Socket::File,
            "use inherited descriptor 3 (web): socket operation on non-socket",
        ),
        // Nothing was passed, and the runtime has the number by now.
        (
            "1",
            "web",
            Socket::Nothing,
            "use inherited descriptor 3 (web): this process opened it itself",
        ),
    ] {
        let service = passed(listen_fds, names, socket);
        let (status, log) = service.ends();
        assert_eq!(status.code(), Some(1), "{log:?}");
        assert_eq!(log, [format!("Error: failed to {problem}")]);
    }
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let mut command = Command::new(example("socket_activated"));
    command.arg("127.0.0.1:0").env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    let mut service = Running::start(&mut command);
    let address = service.says("Listening on ");
    assert!(get(connect(&address), "/").ends_with("hello\n"));
}

#[test]
fn what_is_queued_between_two_starts_is_answered_by_the_next() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let address = address.to_string();
    let held = OwnedFd::from(held);
    let start = || {
        let mut service = passed("1", "web", Socket::Listening(&held));
        assert_eq!(service.says("Inherited "), address);
        service
    };
    let first = start();
    assert!(get(connect(&address), "/").ends_with("hello\n"));
    first.signal(Signal::TERM);
    let (status, log) = first.ends();
    assert_eq!(status.code(), Some(0), "{log:?}");
    let waits = connect(&address);
    let waiting = std::thread::spawn(move || get(waits, "/"));
    let _second = start();
    assert!(waiting.join().unwrap().ends_with("hello\n"));
}

/// The manager goes on holding its socket when a generation that came by an upgrade stops, and gives it to the next start.
#[test]
fn what_is_queued_after_an_upgrade_and_a_stop_is_answered_by_the_next_start() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let held = OwnedFd::from(held);
    let directory = std::env::temp_dir().join(format!("lameduck-passed-{}", std::process::id()));
    let control = directory.join("control");
    let arguments = ["127.0.0.1:1", control.to_str().unwrap()];
    let start = || passed_with("1", "web", Socket::Listening(&held), &arguments);
    let mut first = start();
    assert_eq!(first.says("Inherited "), address);
    assert!(get(connect(&address), "/").ends_with("hello\n"));
    first.signal(Signal::HUP);
    assert_eq!(first.says("Inherited "), address, "the successor has it by its name");
    first.says("Handed over to generation 2");
    assert!(get(connect(&address), "/").ends_with("hello\n"));
    let stopped = lameduck::operate::ask(&control, lameduck::operate::Verb::Stop, &[]).unwrap();
    assert_eq!(stopped.code, 0, "{}", stopped.text);
    drop(first.ends());
    let waits = connect(&address);
    let waiting = std::thread::spawn(move || get(waits, "/"));
    let second = start();
    assert!(waiting.join().unwrap().ends_with("hello\n"));
    second.signal(Signal::TERM);
    drop(second.ends());
    std::fs::remove_dir_all(directory).unwrap();
}

/// The same by path: it belongs to whoever bound it.
#[test]
fn a_path_that_a_manager_bound_is_there_after_an_upgrade_and_a_stop() {
    let directory = std::env::temp_dir().join(format!("lameduck-bound-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("web.sock");
    let held = OwnedFd::from(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let control = directory.join("run").join("control");
    let arguments = ["127.0.0.1:1", control.to_str().unwrap()];
    let mut first = passed_with("1", "web", Socket::Listening(&held), &arguments);
    first.says("Inherited ");
    assert!(get(UnixStream::connect(&path).unwrap(), "/").ends_with("hello\n"));
    first.signal(Signal::HUP);
    first.says("Handed over to generation 2");
    let stopped = lameduck::operate::ask(&control, lameduck::operate::Verb::Stop, &[]).unwrap();
    assert_eq!(stopped.code, 0, "{}", stopped.text);
    drop(first.ends());
    assert!(path.exists(), "the path was taken away");
    std::fs::remove_dir_all(directory).unwrap();
}
