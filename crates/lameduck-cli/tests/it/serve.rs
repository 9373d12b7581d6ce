//! `lameduck serve` from its first line to its exit code.

use std::net::TcpListener;
use std::thread;

use private_postgres::Cluster;
use rustix::process::Signal;
use serde_json::{Value, json as value};

use crate::command::Place;
use crate::running::{LIMIT, Running, ask, json};

const ANY: &str = "127.0.0.1:0";

fn order(id: usize) -> String {
    format!(r#"{{"id": "o-{id}", "item": "tea", "quantity": 1}}"#)
}

#[test]
fn a_stop_is_told_line_by_line_and_leaves_one_whole_file() {
    let place = Place::new();
    let mut service = Running::start(&place, &["--listen", ANY]);
    let address = service.address();
    assert_eq!(json(&address, &place, "GET /b", ""), (200, value!({ "num": 1 })));
    assert_eq!(service.stop(), Some(0), "{:#?}", service.log);
    assert!(service.said("Shutting down server... SIGTERM"), "{:#?}", service.log);
    assert!(service.said("Server exiting"), "{:#?}", service.log);
    let files: Vec<_> = place.listing().into_iter().map(|(path, _)| path).collect();
    assert_eq!(files, [std::path::Path::new("lameduck.db")]);
}

#[test]
fn the_counter_continues_after_a_stop() {
    let place = Place::new();
    for run in 0..3 {
        let mut service = Running::start(&place, &["--listen", ANY, "--slow", "1ms"]);
        let address = service.address();
        assert_eq!(json(&address, &place, "GET /a", ""), (200, value!({ "num": 2 * run + 1 })));
        assert_eq!(json(&address, &place, "GET /b", ""), (200, value!({ "num": 2 * run + 2 })));
        assert_eq!(service.stop(), Some(0), "{:#?}", service.log);
    }
}

#[test]
fn an_acknowledged_order_survives_a_kill() {
    let place = Place::new();
    let mut service = Running::start(&place, &["--listen", ANY]);
    let address = service.address();
    for id in 0..20 {
        assert_eq!(ask(&address, &place, "POST /orders", &order(id)).0, 201);
    }
    service.signal(Signal::KILL);
    assert_eq!(service.end(), None);

    let mut service = Running::start(&place, &["--listen", ANY]);
    let address = service.address();
    assert_eq!(json(&address, &place, "GET /orders/count", ""), (200, value!({ "count": 20 })));
    let again = value!({ "id": "o-7", "status": "committed", "duplicate": true });
    assert_eq!(json(&address, &place, "POST /orders", &order(7)), (200, again));
    assert_eq!(service.stop(), Some(0), "{:#?}", service.log);
}

#[test]
fn orders_are_kept_by_a_postgresql_too() {
    let cluster = Cluster::start();
    let url = cluster.create_database("arena");
    let place = Place::new();
    for run in 0..2 {
        let mut service = Running::start(&place, &["--listen", ANY, "--database", &url]);
        let address = service.address();
        let expected = if run == 0 { 201 } else { 200 };
        assert_eq!(ask(&address, &place, "POST /orders", &order(1)).0, expected);
        assert_eq!(json(&address, &place, "GET /b", ""), (200, value!({ "num": run + 1 })));
        assert_eq!(service.stop(), Some(0), "{:#?}", service.log);
    }
    assert_eq!(cluster.query("arena", "SELECT id FROM orders"), "o-1");
    // The server's process of a session ends a moment after its client has closed.
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'arena'";
    let deadline = std::time::Instant::now() + LIMIT;
    while cluster.query("arena", sessions) != "1" {
        assert!(std::time::Instant::now() < deadline, "sessions were left open");
    }
    assert_eq!(place.listing(), []);
}

#[test]
fn it_listens_wherever_it_is_told() {
    let place = Place::new();
    let listen = [("LAMEDUCK_LISTEN", "127.0.0.1:0,[::1]:0,unix:x.sock"), ("LAMEDUCK_SLOW", "1ms")];
    let mut service = Running::start_with(&place, &["--admin", "unix:admin.sock"], &listen);
    for number in 1..=3 {
        let address = service.address();
        assert_eq!(json(&address, &place, "GET /a", ""), (200, value!({ "num": number })));
    }
    let admin = service.line("Admin on ");
    for probe in ["GET /livez", "GET /readyz", "GET /startupz"] {
        assert_eq!(ask(&admin, &place, probe, "").0, 200, "{probe}");
    }
    let (status, metrics) = ask(&admin, &place, "GET /metrics", "");
    assert_eq!(status, 200);
    assert!(metrics.contains("\narena_counter 3\n"), "{metrics}");
    assert_eq!(service.stop(), Some(0), "{:#?}", service.log);
    let sockets = ["x.sock", "admin.sock"].map(|socket| place.path(socket).exists());
    assert_eq!(sockets, [false, false], "a socket's path was left behind");
}

#[test]
fn the_log_is_json_when_asked() {
    let place = Place::new();
    let mut service = Running::start(&place, &["--listen", ANY, "--log", "json"]);
    let listening: Value = loop {
        service.line("{");
        let line: Value = serde_json::from_str(service.log.last().unwrap()).unwrap();
        if line["event"] == "listening" {
            break line;
        }
    };
    assert!(listening["message"].as_str().unwrap().starts_with("Listening on 127.0.0.1:"));
    assert_eq!(service.stop(), Some(0), "{:#?}", service.log);
    for line in &service.log {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line.is_object());
    }
}

#[test]
fn what_the_deadline_cuts_is_told() {
    let place = Place::new();
    let mut service =
        Running::start(&place, &["--listen", ANY, "--slow", "1h", "--grace", "300ms"]);
    let address = service.address();
    let mut client = std::net::TcpStream::connect(&address).unwrap();
    std::io::Write::write_all(&mut client, b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    // An answer on a later connection says that the earlier one was accepted; the stop then waits for its request.
    assert_eq!(ask(&address, &place, "GET /b", "").0, 200);
    assert_eq!(service.stop(), Some(3), "{:#?}", service.log);
    assert!(service.said("Server forced to shutdown: deadline exceeded"), "{:#?}", service.log);
    assert!(service.said("/a"), "{:#?}", service.log);
}

/// A database that accepts and never answers holds the start for its whole time limit, but not the stop.
#[test]
fn a_stop_during_the_start_is_a_stop() {
    let silent = TcpListener::bind(ANY).unwrap();
    let url = format!("postgres://u@{}/arena", silent.local_addr().unwrap());
    let place = Place::new();
    let mut service = Running::start(&place, &["--listen", "unix:x.sock", "--database", &url]);
    // The service is inside its start when it has connected.
    let (_connection, _) = silent.accept().unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(service.stop(), Some(0), "{:#?}", service.log);
    assert!(begun.elapsed().as_secs() < 4, "it waited for the database");
    assert_eq!(place.listing(), []);
}

#[test]
fn several_clients_at_once_lose_nothing() {
    let place = Place::new();
    let mut service = Running::start(&place, &["--listen", ANY]);
    let address = service.address();
    thread::scope(|clients| {
        for client in 0..8 {
            let (address, place) = (&address, &place);
            clients.spawn(move || {
                for id in 0..25 {
                    let (status, _) = ask(address, place, "POST /orders", &order(client * 25 + id));
                    assert_eq!(status, 201);
                }
            });
        }
    });
    assert_eq!(json(&address, &place, "GET /orders/count", ""), (200, value!({ "count": 200 })));
    assert_eq!(service.stop(), Some(0), "{:#?}", service.log);
}
