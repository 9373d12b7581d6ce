//! Too few descriptors, too many connections, and bytes that are no request: the service goes on, and ends on time.

use std::slice::from_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lameduck_verify::load::{Load, Mode, Until as LoadUntil};
use lameduck_verify::probe::http1::idle;
use lameduck_verify::probe::{End, Until, Wire, ended, fates, raise_open_files, watch};
use lameduck_verify::target::{Ready, Signal, Target};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::service::{LIMIT, Service, new_directory};

/// So few that a service with its database can just start.
const FEW: &str = "--nofile=64:64";

fn with_few_descriptors(flags: &[&str]) -> Service {
    let command = Target::command("prlimit").args([FEW, env!("CARGO_BIN_EXE_lameduck"), "serve"]);
    let command = command.args(["--listen", "127.0.0.1:0", "--log", "json"]).args(flags);
    Service::run(new_directory(), command, Ready::Stderr("istening on ".into()), 1)
}

#[test]
fn a_service_without_descriptors_survives_and_counts() {
    let mut service = with_few_descriptors(&[]);
    let mut held: Vec<Wire> =
        (0..100).map(|_| Wire::connect(&service.place("/b").address).unwrap()).collect();
    // Those that got in are answered while the others wait.
    held[0].request(&service.place("/b").get(""));
    assert!(watch(from_mut(&mut held[0]), Until::Answered, LIMIT).unwrap());
    drop(held);
    // With descriptors again, everybody is served.
    let load = Load::new(service.place("/b"), Mode::KeepAlive).connections(20);
    let load = load.until(LoadUntil::Elapsed(Duration::from_millis(300))).start().unwrap();
    load.wait_flowing(LIMIT).unwrap();
    assert_eq!(load.finish().lost(), 0);
    service.signal(Signal::TERM);
    service.ends_clean();
    assert!(service.report()["accept_errors"].as_u64() > Some(0), "{:#}", service.report());
}

/// The clients that are served close first, and so make room for those that wait at the gate.
#[test]
fn a_stop_without_descriptors_loses_nobody_who_waits() {
    let mut service = with_few_descriptors(&[]);
    let load = Load::new(service.place("/b"), Mode::KeepAlive).connections(100);
    let load = load.until(LoadUntil::Gone { at_most: LIMIT }).start().unwrap();
    // Not all of them can have an answer before the stop.
    assert!(load.wait_flowing(Duration::from_millis(500)).is_err());
    service.signal(Signal::TERM);
    let report = load.finish();
    let exit = service.ends_clean();
    assert_eq!(report.lost(), 0, "{report}");
    assert!(exit.elapsed < Duration::from_secs(3), "{exit}");
    assert!(service.report()["accept_errors"].as_u64() > Some(0), "{:#}", service.report());
}

/// Nobody makes room: the gate gives up after its bound, and the process still ends.
#[test]
fn a_stop_without_descriptors_ends_on_time() {
    let mut service = with_few_descriptors(&["--grace", "5s"]);
    let mut held: Vec<Wire> =
        (0..100).map(|_| Wire::connect(&service.place("/b").address).unwrap()).collect();
    service.signal(Signal::TERM);
    let exit = service.ends_clean();
    assert!(exit.elapsed < Duration::from_secs(3), "{exit}");
    assert!(watch(&mut held, Until::Closed, LIMIT).unwrap());
}

/// What a stranger may send to an open port.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise = std::iter::repeat_with(|| {
        // xorshift: the same bytes each time, so that a failure can be repeated.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    let hello = [0x16, 3, 1, 0x02, 0x00, 1, 0, 0x01, 0xfc, 3, 3];
    let line = "x-filler: 0123456789\r\n";
    vec![
        ("noise", noise.take(100_000).collect()),
        ("TLS", [&hello[..], &[7; 500]].concat()),
        ("zeros", vec![0; 10_000]),
        ("one long field", [b"GET / HTTP/1.1\r\nx: ", &vec![b'x'; 2_000_000][..]].concat()),
        ("100,000 lines", format!("GET / HTTP/1.1\r\n{}\r\n", line.repeat(100_000)).into_bytes()),
        ("a long path", format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(500_000)).into_bytes()),
        ("line feeds", vec![b'\n'; 100_000]),
        ("half a preface, then not", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
        ("a preface, then noise", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 900][..]].concat()),
        ("a bad length", b"POST /upload HTTP/1.1\r\ncontent-length: -1\r\n\r\n".to_vec()),
        (
            "two framings",
            b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_vec(),
        ),
        ("a bad chunk", b"POST /upload HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec()),
    ]
}

/// Sends as much of it as the service takes.
fn spill(service: &Service) -> Vec<(&'static str, Wire)> {
    let spill = garbage().into_iter().map(|(name, bytes)| {
        let mut wire = Wire::connect(&service.place("/").address).unwrap();
        for piece in bytes.chunks(16 * 1024) {
            // The service may have had enough.
            if wire.send(piece).is_err() {
                break;
            }
        }
        (name, wire)
    });
    spill.collect()
}

#[test]
fn garbage_harms_neither_the_service_nor_its_stop() {
    let mut service = Service::start(&["--log", "json"]);
    let first = spill(&service);
    assert_eq!(service.get("/b").0, 200);
    drop(first);
    let mut second = spill(&service);
    assert_eq!(service.get("/b").0, 200);
    service.signal(Signal::TERM);
    let exit = service.ends_clean();
    assert!(exit.elapsed < Duration::from_secs(3), "{exit}: {}", service.last_words());
    for (name, wire) in &mut second {
        assert!(watch(from_mut(wire), Until::Closed, LIMIT).unwrap(), "{name}");
    }
    let report = service.report();
    assert_eq!((&report["panics"], &report["exit_code"]), (&serde_json::json!([]), &0.into()));
}

/// It comes while the connections that were there before are told to finish.
#[test]
fn garbage_during_a_stop_does_not_hold_it() {
    let mut service = Service::start(&["--linger", "500ms"]);
    let mut wires = idle(&service.place("/b"), garbage().len()).unwrap();
    service.signal(Signal::TERM);
    service.target.wait_stderr("Shutting down server...", LIMIT).unwrap();
    for (wire, (_, bytes)) in wires.iter_mut().zip(garbage()) {
        for piece in bytes.chunks(16 * 1024) {
            if wire.send(piece).is_err() {
                break;
            }
        }
    }
    let exit = service.ends_clean();
    assert!(exit.elapsed < Duration::from_secs(3), "{exit}: {}", service.last_words());
}

/// One process may have 20,000 files, and the clients are of this process.
#[test]
fn ten_thousand_idle_connections_are_closed_in_order() {
    const IDLE: usize = 9_000;
    const MARGIN: u64 = 500;
    let limit = raise_open_files();
    let count = IDLE.min(limit.saturating_sub(MARGIN) as usize);
    let mut service = Service::start(&["--grace", "20s"]);
    let mut wires = idle(&service.place("/b"), count).unwrap();
    service.signal(Signal::TERM);
    assert!(watch(&mut wires, Until::Closed, LIMIT).unwrap());
    assert_eq!((ended(&wires, End::Eof), fates(&wires).lost()), (count, 0));
    service.ends_clean();
}

/// A packet with the largest TTL passes the gate. Clients that send such packets and never stop are cut off by count.
#[test]
fn clients_that_pass_the_gate_do_not_hold_it() {
    let mut service = Service::start(&["--grace", "20s"]);
    let address: std::net::SocketAddr = service.addresses[0].parse().unwrap();
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stopped.load(Ordering::Relaxed) {
                    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                    socket.set_ttl_v4(255).unwrap();
                    if socket.connect(&SockAddr::from(address)).is_err() {
                        return;
                    }
                }
            });
        }
        assert_eq!(service.get("/b").0, 200);
        service.signal(Signal::TERM);
        let exit = service.wait();
        stopped.store(true, Ordering::Relaxed);
        assert!(exit.elapsed < Duration::from_secs(10), "{exit}: {}", service.last_words());
        assert_eq!(exit.code, Some(0), "{}", service.last_words());
    });
}
