//! Each small server starts, says where it listens, answers, and ends when asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// No answer here takes longer than the 30 ms it is asked to; the rest is a slow machine.
const PATIENCE: Duration = Duration::from_secs(10);

struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(program: &str) -> Self {
        Self::start_with(program, &[])
    }

    fn start_with(program: &str, more: &[&str]) -> Self {
        let mut process = Command::new(program)
            .args(["--port", "0", "--threads", "2"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {program}: {error}"));
        let mut line = String::new();
        let out = process.stdout.take().expect("standard output is piped");
        BufReader::new(out).read_line(&mut line).expect("read the first line");
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{program} said {line:?}"))
            .to_owned();
        Self { process, address }
    }

    fn ask(&self, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("bound the wait");
        let length = body.len();
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("send the request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read the answer to its end");
        answer
    }

    fn stop(mut self) -> ExitStatus {
        let pid = self.process.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().expect("run kill");
        assert!(told.success(), "kill -TERM {pid}: {told}");
        self.process.wait().expect("wait for the server")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone unless an assertion failed; nothing may outlive the test.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn check_answers(server: &Server) {
    let fast = server.ask("GET /b", "");
    assert!(fast.starts_with("HTTP/1.1 200") && fast.contains("{\"num\": 1}"), "{fast}");
    let slow = server.ask("GET /a?ms=30", "");
    assert!(slow.contains("{\"num\": 2}"), "{slow}");
    let echo = server.ask("POST /orders", "{\"id\":\"7\"}");
    assert!(echo.ends_with("{\"id\":\"7\"}"), "{echo}");
}

#[test]
fn naive_axum_answers_and_stops() {
    let server = Server::start(env!("CARGO_BIN_EXE_naive-axum"));
    check_answers(&server);
    assert!(server.stop().success());
}

#[test]
fn naive_actix_answers_and_stops() {
    let server = Server::start(env!("CARGO_BIN_EXE_naive-actix"));
    check_answers(&server);
    assert!(server.stop().success());
}

#[test]
fn plain_hyper_answers_and_stops() {
    let server = Server::start(env!("CARGO_BIN_EXE_plain-hyper"));
    check_answers(&server);
    assert!(server.stop().success());
}

#[test]
fn bare_axum_answers_and_dies_of_the_signal() {
    let server = Server::start(env!("CARGO_BIN_EXE_bare-axum"));
    check_answers(&server);
    let download = server.ask("GET /download?bytes=100000", "");
    assert!(download.len() > 100_000, "{} bytes", download.len());
    assert_eq!(server.stop().code(), None, "it has no handler, so the signal kills it");
}

#[test]
fn the_same_application_under_the_library_answers_and_stops() {
    let server = Server::start(env!("CARGO_BIN_EXE_lameduck-b"));
    check_answers(&server);
    assert!(server.stop().success());
}

#[test]
fn a_hook_that_hangs_is_cut_and_the_exit_code_says_so() {
    let server = Server::start_with(env!("CARGO_BIN_EXE_hanging-hook"), &["--grace", "500"]);
    check_answers(&server);
    assert_eq!(server.stop().code(), Some(3));
}

#[test]
fn without_a_fault_the_misbehaving_server_answers_and_stops() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_misbehave"))
        .args(["--port", &address.port().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start it");
    let mut line = String::new();
    let out = process.stdout.take().expect("standard output is piped");
    BufReader::new(out).read_line(&mut line).expect("read the first line");
    let server = Server { process, address: address.to_string() };
    let counted = server.ask("GET /b", "");
    assert!(counted.contains("connection: close") && counted.contains("{\"num\": 1"), "{counted}");
    assert!(server.ask("POST /orders", "{\"id\":\"7\"}").ends_with("{\"id\":\"7\"}"));
    assert!(server.ask("GET /stream?pieces=2", "").ends_with("0\r\n\r\n"));
    assert!(server.stop().success());
}

#[test]
fn an_unknown_fault_is_refused_by_its_name() {
    let output = Command::new(env!("CARGO_BIN_EXE_misbehave"))
        .args(["--fault", "sing"])
        .output()
        .expect("start it");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("sing is no fault"));
}
