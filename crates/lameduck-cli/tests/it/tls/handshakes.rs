//! Connections whose handshake has not ended when the stop comes, and how connections behind TLS end.

use std::thread;

use lameduck_verify::probe::{End, Until, Wire, watch};
use lameduck_verify::target::Signal;

use super::{Client, Secure};
use crate::service::LIMIT;

/// As many as wait in one backlog.
const WAITING: usize = 50;

const UPGRADABLE: [&str; 4] = ["--control", "run/control", "--probation", "0s"];

/// What the log says first of a stop.
const STOPPING: &str = "Shutting down";

/// An HTTP/2 client's first words: the preface and empty SETTINGS (RFC 9113 §3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Each client ends its handshake, asks once and reads to the end; what was not answered, and why.
fn served(clients: Vec<Client>) -> Vec<String> {
    let asking = clients.into_iter().map(|mut client| {
        thread::spawn(move || match client.get_and_end("/b") {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => None,
            other => Some(format!("{other:?}")),
        })
    });
    let asking: Vec<_> = asking.collect();
    asking.into_iter().filter_map(|asked| asked.join().unwrap()).collect()
}

/// Clients that have sent a part of their first words, each another one, and the rest of them.
fn half_a_hello(secure: &Secure) -> Vec<(Client, Vec<u8>)> {
    let config = secure.client(b"http/1.1");
    let clients = (0..WAITING).map(|nth| {
        let mut client = secure.dial(&config);
        let hello = client.hello();
        // From nothing of it to all of it but a byte.
        let sent = nth * (hello.len() - 1) / WAITING;
        client.send_raw(&hello[..sent]);
        (client, hello[sent..].to_vec())
    });
    clients.collect()
}

/// They send it.
fn with_the_rest(clients: Vec<(Client, Vec<u8>)>) -> Vec<Client> {
    let clients = clients.into_iter().map(|(mut client, rest)| {
        client.send_raw(&rest);
        client
    });
    clients.collect()
}

#[test]
fn a_handshake_under_way_at_the_stop_is_served() {
    // One of them has sent nothing: it has the linger to begin in.
    let mut secure = Secure::start(&["--grace", "20s", "--linger", "5s"]);
    let clients = half_a_hello(&secure);
    secure.service.signal(Signal::TERM);
    secure.service.target.wait_stderr(STOPPING, LIMIT).unwrap();
    let unserved = served(with_the_rest(clients));
    assert_eq!(unserved, [""; 0], "{}", secure.service.last_words());
    secure.service.ends_clean();
}

/// It has the linger that every silent connection has, not the second that a handshake has: the deadline is between them.
#[test]
fn a_connection_that_says_nothing_is_closed_before_the_time_of_a_handshake() {
    let mut secure = Secure::start(&["--grace", "800ms"]);
    let mut silent = Wire::connect(&secure.place("/b").address).unwrap();
    // An answer on a later connection says that the earlier one was accepted.
    assert_eq!(served(vec![secure.dial(&secure.client(b"http/1.1"))]), [""; 0]);
    secure.service.signal(Signal::TERM);
    secure.service.ends_clean();
    assert!(watch(std::slice::from_mut(&mut silent), Until::Closed, LIMIT).unwrap());
    assert_eq!(silent.end(), End::Eof);
}

#[test]
fn a_client_hello_in_the_accept_queue_is_served() {
    let mut secure = Secure::start(&["--grace", "20s"]);
    let config = secure.client(b"http/1.1");
    secure.service.target.freeze().unwrap();
    let clients = (0..WAITING).map(|_| {
        let mut client = secure.dial(&config);
        let hello = client.hello();
        client.send_raw(&hello);
        client
    });
    let clients: Vec<_> = clients.collect();
    secure.service.signal(Signal::TERM);
    secure.service.target.thaw().unwrap();
    let unserved = served(clients);
    assert_eq!(unserved, [""; 0], "{}", secure.service.last_words());
    secure.service.ends_clean();
}

/// Handshakes that go no further, each stuck elsewhere.
fn stalled(secure: &Secure) -> Vec<Client> {
    let config = secure.client(b"http/1.1");
    let sent = |part: fn(&[u8]) -> &[u8]| {
        let mut client = secure.dial(&config);
        let hello = client.hello();
        client.send_raw(part(&hello));
        client
    };
    let stalled = vec![
        sent(|_| b""),
        sent(|hello| &hello[..hello.len() / 2]),
        // The server has answered, and waits for a Finished that does not come.
        sent(|hello| hello),
        sent(|_| b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
    ];
    // All of them have been accepted: one that came later is served.
    secure.dial(&config).get_and_end("/b").unwrap();
    stalled
}

#[test]
fn a_handshake_that_never_ends_does_not_hold_the_exit() {
    let mut secure = Secure::start(&["--grace", "20s"]);
    let _stalled = stalled(&secure);
    secure.service.signal(Signal::TERM);
    secure.service.ends_clean();
}

#[test]
fn a_handshake_that_never_ends_does_not_hold_the_old_version() {
    let secure = Secure::start(&UPGRADABLE);
    let _stalled = stalled(&secure);
    secure.service.upgrade();
    // Nobody has a deadline but the handshakes themselves.
    secure.service.wait_generations(1);
    secure.dial(&secure.client(b"http/1.1")).get_and_end("/b").unwrap();
    assert_eq!(secure.service.operate("stop", &[]).code, Some(0));
}

#[test]
fn a_handshake_under_way_at_an_upgrade_is_served() {
    let secure = Secure::start(&UPGRADABLE);
    let clients = half_a_hello(&secure);
    secure.service.upgrade();
    let unserved = served(with_the_rest(clients));
    assert_eq!(unserved, [""; 0], "{}", secure.service.target.stderr());
    secure.service.wait_generations(1);
    assert_eq!(secure.service.operate("stop", &[]).code, Some(0));
}

#[test]
fn a_client_that_does_not_speak_tls_is_told_so() {
    use std::io::{Read, Write};
    let mut secure = Secure::start(&[]);
    let mut socket = std::net::TcpStream::connect(&secure.service.addresses[0]).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut alert = Vec::new();
    // No reset: the alert (type 21) arrives.
    socket.read_to_end(&mut alert).unwrap();
    assert_eq!(alert.first(), Some(&21), "{alert:?}");
    assert_eq!(secure.service.stop().code, Some(0));
}

#[test]
fn every_close_in_order_says_so_first() {
    let mut secure = Secure::start(&["--slow", "300ms", "--grace", "20s"]);
    let (h1, h2) = (secure.client(b"http/1.1"), secure.client(b"h2"));
    let mut idle = secure.dial(&h1);
    idle.get("/b").unwrap();
    let mut silent = secure.dial(&h1);
    // An empty write ends the handshake.
    silent.0.conn.complete_io(&mut silent.0.sock).unwrap();
    let mut half_head = secure.dial(&h1);
    half_head.send(b"GET /b HTTP/1.1\r\nho").unwrap();
    let mut busy = secure.dial(&h1);
    busy.send(b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut http2 = secure.dial(&h2);
    http2.send(HTTP2).unwrap();
    secure.service.signal(Signal::TERM);
    assert_eq!(idle.rest().unwrap(), "");
    assert_eq!(silent.rest().unwrap(), "");
    assert!(half_head.rest().unwrap().starts_with("HTTP/1.1 408 "));
    let answer = busy.rest().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"),
        "{answer}"
    );
    let mut frames = Vec::new();
    std::io::Read::read_to_end(&mut http2.0, &mut frames).unwrap();
    secure.service.ends_clean();
}

/// What is cut must not look like an end in order.
#[test]
fn an_answer_cut_at_the_deadline_ends_without_that_word() {
    let mut secure = Secure::start(&["--slow", "60s", "--grace", "500ms"]);
    let mut busy = secure.dial(&secure.client(b"http/1.1"));
    busy.send(b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    // It has been accepted: one that came later is served.
    secure.dial(&secure.client(b"http/1.1")).get_and_end("/b").unwrap();
    secure.service.signal(Signal::TERM);
    busy.rest().unwrap_err();
    assert_eq!(secure.service.wait().code, Some(3));
}

/// After its handshake a connection breaks the protocol, or stops in the middle of a record: it ends alone.
#[test]
fn records_that_make_no_sense_or_never_end_do_not_hold_the_exit() {
    /// What an encrypted record begins with: its type, the version, and a length of 1,000 bytes.
    const HALF_A_RECORD: &[u8] = &[23, 3, 3, 3, 232, 1, 2, 3];
    let mut secure = Secure::start(&["--grace", "20s"]);
    let (h1, h2) = (secure.client(b"http/1.1"), secure.client(b"h2"));
    let mut broken = Vec::new();
    for config in [&h1, &h2] {
        for bytes in
            [HALF_A_RECORD, b"GET / HTTP/1.1\r\n\r\n", &[0xff; 300], &[21, 3, 3, 0, 2, 1, 0]]
        {
            let mut client = secure.dial(config);
            client.0.conn.complete_io(&mut client.0.sock).unwrap();
            client.send_raw(bytes);
            broken.push(client);
        }
    }
    // All of them have been accepted: one that came later is served.
    secure.dial(&h1).get_and_end("/b").unwrap();
    secure.service.signal(Signal::TERM);
    secure.service.ends_clean();
}

/// What is spoken is what the bytes say, whatever was agreed; and nothing in common ends the handshake with an alert.
#[test]
fn a_client_that_speaks_something_else_than_it_agreed_to_is_answered_or_let_go() {
    let mut secure = Secure::start(&["--grace", "20s"]);
    let nothing = secure.dial(&secure.client(b"h3")).get_and_end("/b").unwrap_err();
    assert!(nothing.to_string().contains("NoApplicationProtocol"), "{nothing}");
    let answer = secure.dial(&secure.client(b"h2")).get_and_end("/b").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let mut http2 = secure.dial(&secure.client(b"http/1.1"));
    http2.send(HTTP2).unwrap();
    secure.service.signal(Signal::TERM);
    std::io::Read::read_to_end(&mut http2.0, &mut Vec::new()).unwrap();
    secure.service.ends_clean();
}
