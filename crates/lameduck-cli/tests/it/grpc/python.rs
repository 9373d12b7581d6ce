//! Python's grpcio, which is C underneath: another client than tonic, with another mind about GOAWAY.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use lameduck_verify::target::Signal;
use serde_json::Value;

use super::clients::TOLD;
use super::loops::{STORED, counted_before};
use crate::service::{LIMIT, Service, WITH_ADMIN, stops};

const CONTROL: [&str; 2] = ["--control", "run/control"];
const SCRIPT: &str = include_str!("client.py");

/// The script at work. It is gone when this is dropped.
pub struct Python {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Python {
    #[track_caller]
    fn start(arguments: &[&str]) -> Python {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = line.send(text);
            }
        });
        Python { child, input, lines }
    }

    /// Calls and streams under way; over TLS where there is an authority.
    #[track_caller]
    pub fn load(address: &str, authority: Option<&Path>) -> Python {
        let authority = authority.map(|path| path.to_str().unwrap());
        let arguments: Vec<&str> = ["load", address].into_iter().chain(authority).collect();
        let python = Python::start(&arguments);
        let mut words = [python.says(), python.says()];
        words.sort();
        assert_eq!(words, ["flowing", "streaming"]);
        python
    }

    #[track_caller]
    fn says(&self) -> String {
        self.lines
            .recv_timeout(LIMIT)
            .expect("python3 with grpcio: `cargo xtask setup` installs it")
    }

    #[track_caller]
    pub fn ends(&mut self) -> Value {
        self.input.write_all(b"\n").unwrap();
        serde_json::from_str(&self.says()).unwrap()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It has ended in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every stream had an end with a status: its own, or the service's word.
#[track_caller]
pub fn streams_have_a_status(ended: &Value) {
    let told = |end: &Value| end.as_str().is_some_and(|text| text.starts_with(TOLD));
    let streams = ended["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 20, "{ended}");
    for stream in streams {
        match (stream[0].as_u64(), stream[2].as_str()) {
            (Some(0), Some("UNAVAILABLE")) => assert!(told(&stream[3]), "{stream}"),
            (Some(100), Some("OK")) => assert_eq!(stream[1], 100, "{stream}"),
            _ => panic!("{stream}"),
        }
    }
}

#[test]
fn calls_and_streams_of_grpcio_lose_nothing_in_an_upgrade() {
    for run in 1..=stops() {
        let service = Service::start(&CONTROL);
        let mut python = Python::load(&service.addresses[0], None);
        service.upgrade();
        let ended = python.ends();
        assert_eq!(ended["failed"], serde_json::json!([]), "run {run}");
        streams_have_a_status(&ended);
        service.operate("stop", &[]);
    }
}

/// grpcio sends what a GOAWAY excluded on a new connection, of which at a stop there is none: such a call, and no other,
/// fails.
#[test]
fn calls_and_streams_of_grpcio_all_have_a_status_at_a_stop() {
    for _ in 1..=stops() {
        let mut service = Service::start(&STORED);
        let mut python = Python::load(&service.addresses[0], None);
        service.signal(Signal::TERM);
        service.ends_clean();
        let ended = python.ends();
        fails_only_unconnected(&ended);
        streams_have_a_status(&ended);
        counted_before(service.into_directory(), ended["answered"].as_u64().unwrap());
    }
}

/// Whatever failed was never sent: nobody was there to be asked.
#[track_caller]
pub fn fails_only_unconnected(ended: &Value) {
    for failure in ended["failed"].as_array().unwrap() {
        assert_eq!(failure[0], "UNAVAILABLE", "{failure}");
        let words = failure[1].as_str().unwrap();
        assert!(words.contains("failed to connect"), "{failure}");
    }
}

#[test]
fn a_call_of_grpcio_that_lasts_until_the_deadline_has_a_status() {
    let mut service = Service::start(&[&["--grace", "1s"], &WITH_ADMIN[..]].concat());
    let python = Python::start(&["slow", &service.addresses[0]]);
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    let end: [String; 2] = serde_json::from_str(&python.says()).unwrap();
    assert!(end[0] == "UNAVAILABLE" && end[1].starts_with(TOLD), "{end:?}");
    assert_eq!(service.wait().code, Some(3));
}
