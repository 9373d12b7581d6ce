//! Each example is started, used, stopped with TERM in the middle of something, and has to lose nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lameduck_verify::target::{Ready, Signal, Target};
use rustix::process::Pid;

/// How long a start, an answer or an exit may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A running example.
struct Example {
    target: Target,
}

impl Example {
    /// Starts it and waits until it has said `ready`.
    #[track_caller]
    fn start(name: &str, ready: Ready) -> Example {
        Example::start_with(name, "127.0.0.1:0", ready)
    }

    #[track_caller]
    fn start_with(name: &str, argument: &str, ready: Ready) -> Example {
        // From `target/debug/deps/examples-…` to `target/debug/examples`: cargo has no variable for these.
        let test = std::env::current_exe().unwrap();
        let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
        // `cargo test` builds them, unless it is told to run this test alone.
        let hint = "cargo build --package lameduck --all-features --examples";
        assert!(program.exists(), "{} is not built: {hint}", program.display());
        let target = Target::command(program).arg(argument).ready(ready).start();
        Example { target: target.unwrap() }
    }

    /// Starts one that listens, and tells where.
    #[track_caller]
    fn listening(name: &str) -> (Example, String) {
        let example = Example::start(name, Ready::Stderr("Listening on ".to_owned()));
        let line = example.target.wait_stderr("Listening on ", LIMIT).unwrap();
        let address = line.trim_start_matches("Listening on ").to_owned();
        (example, address)
    }

    /// Sends TERM and waits until the stop has begun.
    #[track_caller]
    fn term(&mut self) {
        self.target.signal(Signal::TERM).unwrap();
        self.target.wait_stderr("Shutting down server... SIGTERM", LIMIT).unwrap();
    }

    /// Waits for the end, which has to be a good one, and returns the report.
    #[track_caller]
    fn report(mut self) -> String {
        let exit = self.target.wait(LIMIT).unwrap();
        let log = self.target.whole_stderr(LIMIT).unwrap();
        assert_eq!(exit.code, Some(lameduck::exit::OK.into()), "{log}");
        let begins = log.find("Server exiting\n").unwrap_or_else(|| panic!("no report: {log}"));
        let report = log[begins..].to_owned();
        assert!(report.contains("  stopped by SIGTERM in "), "{report}");
        assert!(!report.contains("cut"), "{report}");
        report
    }
}

#[track_caller]
fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Reads one HTTP/1.1 answer with a `content-length`: its head in lower case, and its body.
#[cfg(feature = "http")]
#[track_caller]
fn answer(stream: &mut impl BufRead) -> (String, String) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "the answer ended in its head: {head}");
    }
    let head = head.to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

/// An HTTP service answers a request whose second half comes after TERM.
#[cfg(feature = "http")]
#[track_caller]
fn a_request_in_hand_is_answered(name: &str, listening: impl Fn(&str) -> (Example, String)) {
    let (mut example, address) = listening(name);
    let mut client = BufReader::new(connect(&address));
    client.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let (head, body) = answer(&mut client);
    assert_eq!(body, "hello\n");
    assert!(!head.contains("connection: close"), "{head}");

    let first = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nfirst";
    client.get_mut().write_all(first).unwrap();
    example.term();
    client.get_mut().write_all(b" last").unwrap();
    let (head, body) = answer(&mut client);
    assert_eq!(body, "first last");
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the connection stays open");
    drop(client);

    let report = example.report();
    assert!(report.contains("  finished since then: 1 request, 1 connection\n"), "{report}");
}

#[cfg(feature = "axum08")]
#[test]
fn ten_lines_answer_what_they_began() {
    a_request_in_hand_is_answered("ten_lines", Example::listening);
}

#[cfg(feature = "axum08")]
#[test]
fn two_lines_changed_answer_what_they_began() {
    // As the program said it before: on standard output.
    a_request_in_hand_is_answered("axum_two_lines", |name| {
        let example = Example::start(name, Ready::Stdout("Listening on ".to_owned()));
        let line = example.target.wait_stdout("Listening on ", LIMIT).unwrap();
        (example, line.trim_start_matches("Listening on ").to_owned())
    });
}

#[cfg(feature = "http")]
#[test]
fn a_plain_hyper_service_answers_what_it_began() {
    a_request_in_hand_is_answered("plain_hyper", Example::listening);
}

#[test]
fn a_line_protocol_says_bye_and_still_answers_what_comes() {
    let (mut example, address) = Example::listening("tcp_echo");
    let mut client = BufReader::new(connect(&address));
    let mut line = String::new();
    client.get_mut().write_all(b"one\n").unwrap();
    client.read_line(&mut line).unwrap();
    // Half a line before the stop, the other half after `bye`.
    client.get_mut().write_all(b"tw").unwrap();
    example.term();
    client.read_line(&mut line).unwrap();
    client.get_mut().write_all(b"o\nthree\n").unwrap();
    client.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    client.read_to_string(&mut line).unwrap();
    assert_eq!(line, "one\nbye\ntwo\nthree\n");
    let report = example.report();
    assert!(report.contains("  finished since then: 1 connection\n"), "{report}");
}

#[test]
fn a_worker_finishes_what_it_took_and_gives_back_the_rest() {
    let mut example = Example::start("worker", Ready::Stderr("took piece 3".to_owned()));
    example.term();
    let stdout = example.target.whole_stdout(LIMIT).unwrap();
    let log = example.target.whole_stderr(LIMIT).unwrap();
    let taken = log.lines().filter(|line| line.starts_with("took piece ")).count();
    assert!(taken >= 3, "{log}");
    for piece in 1..=taken {
        assert!(stdout.contains(&format!("finished piece {piece}\n")), "{stdout}");
    }
    assert!(stdout.contains("indexed "), "{stdout}");
    // The summary is the last line that reached the ledger before it was flushed.
    assert!(stdout.ends_with(&format!("gave back {} pieces\n", 1_000 - taken)), "{stdout}");

    let report = example.report();
    assert!(report.contains("  finished since then: 1 task, 1 blocking call\n"), "{report}");
    assert!(report.contains("  closed summary in "), "{report}");
    assert!(report.contains("  closed ledger in "), "{report}");
}

#[test]
fn a_directory_of_jobs_is_left_with_none_claimed() {
    const JOBS: usize = 10;
    let directory = tempfile::tempdir().unwrap();
    let names = |state: &str| std::fs::read_dir(directory.path().join(state)).unwrap().count();
    std::fs::create_dir(directory.path().join("waiting")).unwrap();
    for job in 0..JOBS {
        std::fs::write(directory.path().join("waiting").join(job.to_string()), "").unwrap();
    }
    let argument = directory.path().to_str().unwrap();
    let mut example = Example::start_with("jobs", argument, Ready::Stderr("Claimed ".to_owned()));
    assert!(names("claimed") > 0, "a job is in hand");
    example.term();
    let report = example.report();
    assert!(report.contains("  closed files in "), "{report}");
    assert_eq!([names("waiting"), names("claimed"), names("failed")], [JOBS, 0, 0], "{report}");
}

#[test]
fn blocking_work_that_asks_stops_at_a_boundary() {
    let mut example = Example::start("blocking", Ready::Stderr("Working".to_owned()));
    example.term();
    let target = &example.target;
    let done = target.wait_stderr("Done: ", LIMIT).unwrap();
    assert_eq!(done.matches("Ok(\"stopped ").count(), 2, "{done}");
    let report = example.report();
    assert!(report.contains("1 task, 2 blocking calls"), "{report}");
}

#[test]
fn stubborn_work_is_named_when_the_process_leaves_without_it() {
    let ready = Ready::Stderr("Working".to_owned());
    let mut example = Example::start_with("blocking", "stubborn", ready);
    example.term();
    let exit = example.target.wait(LIMIT).unwrap();
    let log = example.target.whole_stderr(LIMIT).unwrap();
    assert_eq!(exit.code, Some(lameduck::exit::DEADLINE.into()), "{log}");
    for name in ["blocking call a call into C", "blocking call a driver"] {
        assert!(log.contains(name), "{log}");
    }
    // Those that asked had stopped by then.
    assert!(log.contains("cut: 2 blocking calls"), "{log}");
}

#[test]
fn stubborn_work_is_named_when_every_thread_of_the_runtime_is_blocked() {
    let ready = Ready::Stderr("Working".to_owned());
    let mut example = Example::start_with("blocking", "blocked", ready);
    example.term();
    let exit = example.target.wait(LIMIT).unwrap();
    let log = example.target.whole_stderr(LIMIT).unwrap();
    assert_eq!(exit.code, Some(lameduck::exit::DEADLINE.into()), "{log}");
    for name in [
        "blocking call a call into C",
        "blocking call a driver",
        "task a handler that blocks, 0",
        "the async runtime was blocked",
        // Those that ask were told, and had stopped by then.
        "2 blocking calls",
    ] {
        assert!(log.contains(name), "{log}");
    }
}

/// A program and the one that it runs, in a service that `how` says more of.
#[track_caller]
fn with_children(how: &str) -> (Example, Vec<Pid>) {
    let example = Example::start_with("children", how, Ready::Stderr("Working".to_owned()));
    let line = example.target.wait_stdout(" ", LIMIT).unwrap();
    let number = |word: &str| Pid::from_raw(word.parse().unwrap()).unwrap();
    let children: Vec<_> = line.split_whitespace().map(number).collect();
    assert_eq!(children.len(), 2, "{line}");
    (example, children)
}

/// A zombie is gone: whoever should reap it may be slow.
fn is_alive(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

#[track_caller]
fn all_gone(processes: &[Pid]) {
    let deadline = std::time::Instant::now() + LIMIT;
    while processes.iter().any(|process| is_alive(*process)) {
        assert!(std::time::Instant::now() < deadline, "{processes:?} live on");
        // They were sent KILL before the service was gone, and the kernel needs a moment for it.
        std::thread::yield_now();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_childs_whole_group_is_gone_when_its_service_is_killed() {
    let (mut example, children) = with_children("");
    example.target.signal(Signal::KILL).unwrap();
    assert_eq!(example.target.wait(LIMIT).unwrap().code, None);
    all_gone(&children);
}

#[cfg(target_os = "linux")]
#[test]
fn a_childs_whole_group_is_gone_when_its_service_leaves_with_its_runtime_blocked() {
    let (mut example, children) = with_children("blocked");
    example.term();
    let exit = example.target.wait(LIMIT).unwrap();
    let log = example.target.whole_stderr(LIMIT).unwrap();
    assert_eq!(exit.code, Some(lameduck::exit::DEADLINE.into()), "{log}");
    assert!(log.contains("task a handler that blocks"), "{log}");
    assert!(log.contains("the async runtime was blocked"), "{log}");
    all_gone(&children);
}

#[test]
fn a_childs_whole_group_is_gone_when_its_service_has_stopped() {
    let (mut example, children) = with_children("");
    example.term();
    example.report();
    all_gone(&children);
}

#[test]
fn a_naive_services_children_outlive_it_however_it_ends() {
    for signal in [Signal::TERM, Signal::KILL] {
        let (mut example, children) = with_children("naive");
        example.target.signal(signal).unwrap();
        example.target.wait(LIMIT).unwrap();
        for child in children {
            assert!(is_alive(child), "{child:?} is gone after {signal:?}");
            rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        }
    }
}
