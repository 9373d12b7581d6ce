//! Python's grpcio, which is C underneath: another client than tonic, with another mind about GOAWAY.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use super::clients::TOLD;
use crate::service::{LIMIT, Service, stops};

const CONTROL: [&str; 2] = ["--control", "run/control"];
const SCRIPT: &str = include_str!("client.py");

/// The script at work. It is gone when this is dropped.
struct Python {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Python {
    #[track_caller]
    fn start(address: &str) -> Python {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT, address])
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

    #[track_caller]
    fn says(&self) -> String {
        self.lines
            .recv_timeout(LIMIT)
            .expect("python3 with grpcio: `cargo xtask setup` installs it")
    }

    #[track_caller]
    fn ends(&mut self) -> Value {
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

#[test]
fn calls_and_streams_of_grpcio_lose_nothing_in_an_upgrade() {
    for run in 1..=stops() {
        let service = Service::start(&CONTROL);
        let mut python = Python::start(&service.addresses[0]);
        let mut words = [python.says(), python.says()];
        words.sort();
        assert_eq!(words, ["flowing", "streaming"]);
        service.upgrade();
        let ended = python.ends();
        let told = |end: &Value| end.as_str().is_some_and(|text| text.starts_with(TOLD));
        assert_eq!(ended["failed"], serde_json::json!([]), "run {run}");
        for stream in ended["streams"].as_array().unwrap() {
            match (stream[0].as_u64(), stream[2].as_str()) {
                (Some(0), Some("UNAVAILABLE")) => assert!(told(&stream[3]), "run {run}: {stream}"),
                (Some(100), Some("OK")) => assert_eq!(stream[1], 100, "run {run}"),
                _ => panic!("run {run}: {stream}"),
            }
        }
        service.operate("stop", &[]);
    }
}
