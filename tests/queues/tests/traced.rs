//! Telemetry in order: what a program loses that shuts it down first, and that the last request's span is sent with an order.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lameduck_verify::target::{Ready, Signal, Target};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

/// How long a start, an answer or an exit may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
const LISTENING: &str = "listening on ";

/// Takes spans as an OpenTelemetry collector does (OTLP/HTTP), and knows their names before it says that it has them.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, spans) = (listener.local_addr().unwrap(), Arc::default());
        let names = Arc::clone(&spans);
        // It ends with the tests.
        drop(thread::spawn(move || {
            for stream in listener.incoming() {
                take(stream.unwrap(), &names);
            }
        }));
        Collector { address, spans }
    }

    fn spans(&self) -> Vec<String> {
        self.spans.lock().unwrap().clone()
    }
}

/// One batch.
fn take(stream: TcpStream, names: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let batch = ExportTraceServiceRequest::decode(&*body).unwrap();
    let scopes = batch.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    let spans = scopes.flat_map(|scope| scope.spans).map(|span| span.name);
    names.lock().unwrap().extend(spans);
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
}

/// A request whose handler has begun to read its body, and waits for the rest.
fn begin(address: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n");
    stream
        .write_all(format!("{head}connection: close\r\nexpect: 100-continue\r\n\r\n").as_bytes())
        .unwrap();
    let mut begun = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut begun).unwrap();
    stream
}

fn finish(mut stream: TcpStream, body: &str) {
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(body), "{answer}");
}

/// The spans of one request before a stop and one that ends in it.
fn collected(more: &[&str]) -> Vec<String> {
    let collector = Collector::start();
    let command = Target::command(env!("CARGO_BIN_EXE_traced"));
    let command = command.arg(collector.address.to_string()).args(more);
    let mut program = command.ready(Ready::Stdout(LISTENING.to_owned())).start().unwrap();
    let told = program.stdout();
    let address = told.split_once(LISTENING).unwrap().1.lines().next().unwrap();
    finish(begin(address, 5), "first");
    let last = begin(address, 4);
    program.signal(Signal::TERM).unwrap();
    program.wait_stderr("Shutting down server...", LIMIT).unwrap();
    finish(last, "last");
    let exit = program.wait(LIMIT).unwrap();
    assert_eq!(exit.code, Some(0), "{exit}: {}", program.stderr());
    collector.spans()
}

#[test]
fn a_naive_program_shuts_its_telemetry_down_under_its_last_requests() {
    assert_eq!(collected(&["naive"]), ["echo first"]);
}

#[test]
fn the_spans_of_the_last_requests_are_sent_after_them_and_before_the_exit() {
    assert_eq!(collected(&[]), ["echo first", "echo last"]);
}
