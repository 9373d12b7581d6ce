//! Who waits in the kernel's accept queue when the stop comes is answered like anybody else (losses 1 and 2).

use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use lameduck_verify::probe::http1::{backlog, silent_backlog};
use lameduck_verify::probe::{End, Until, ended, fates, watch};
use lameduck_verify::target::Signal;

use crate::service::{LIMIT, Service, User};

/// What is no request at all holds the exit for 1 s, on a busy machine for half a second more.
const SILENCE_HOLDS: Duration = Duration::from_millis(1_000 + 500);

/// How many wait.
const WAITING: usize = 50;

/// Each of 50 requests that wait in each of the queues when the stop comes is answered.
fn the_queue_is_answered(user: User, listen: &[&str]) {
    let mut service = Service::start_as(user, listen, &[]);
    let mut wires = Vec::new();
    for index in 0..listen.len() {
        let place = service.place_at(index, "/b");
        wires.extend(backlog(&mut service.target, &place, WAITING).unwrap());
    }
    service.signal(Signal::TERM);
    service.target.thaw().unwrap();
    assert!(watch(&mut wires, Until::Closed, LIMIT).unwrap(), "a connection was left open");
    let tally = fates(&wires);
    assert_eq!(tally.answered() as usize, WAITING * listen.len(), "{listen:?}: {tally:?}");
    assert_eq!(ended(&wires, End::Reset), 0, "{listen:?}");
    service.ends_clean();
}

#[test]
fn a_request_in_the_accept_queue_is_answered() {
    the_queue_is_answered(User::Same, &["127.0.0.1:0"]);
}

#[test]
fn a_request_in_the_accept_queue_is_answered_by_an_ordinary_user() {
    the_queue_is_answered(User::Nobody, &["127.0.0.1:0"]);
    the_queue_is_answered(User::Nobody, &["unix:x.sock"]);
}

#[test]
fn a_request_in_the_accept_queue_of_ipv6_is_answered() {
    the_queue_is_answered(User::Same, &["[::1]:0"]);
}

/// On a socket for both families the queue holds IPv4 clients too, whose option is another one.
#[test]
fn a_request_in_the_accept_queue_of_both_families_is_answered() {
    let mut service = Service::start_on(&["[::]:0"], &[]);
    let port = service.addresses[0].rsplit_once(':').unwrap().1.to_owned();
    let mut wires = Vec::new();
    for host in ["127.0.0.1", "[::1]"] {
        let place = format!("http://{host}:{port}/b").parse().unwrap();
        wires.extend(backlog(&mut service.target, &place, WAITING).unwrap());
    }
    service.signal(Signal::TERM);
    service.target.thaw().unwrap();
    assert!(watch(&mut wires, Until::Closed, LIMIT).unwrap());
    assert_eq!(fates(&wires).answered() as usize, 2 * WAITING, "{:?}", fates(&wires));
    service.ends_clean();
}

#[test]
fn a_request_in_the_accept_queue_of_a_unix_socket_is_answered() {
    the_queue_is_answered(User::Same, &["unix:x.sock"]);
}

#[test]
fn the_queues_of_several_listeners_are_answered() {
    the_queue_is_answered(User::Same, &["127.0.0.1:0", "[::1]:0", "unix:x.sock", "127.0.0.1:0"]);
}

/// They sent nothing, so nothing is owed to them; they are closed in order and do not hold the exit.
#[test]
fn a_silent_connection_in_the_accept_queue_is_closed_in_order() {
    let mut service = Service::start(&[]);
    let place = service.place("/b");
    let mut wires = silent_backlog(&mut service.target, &place, WAITING).unwrap();
    service.signal(Signal::TERM);
    service.target.thaw().unwrap();
    assert!(watch(&mut wires, Until::Closed, LIMIT).unwrap());
    assert_eq!(ended(&wires, End::Eof), WAITING);
    let exit = service.ends_clean();
    assert!(exit.elapsed <= SILENCE_HOLDS, "{exit}: {}", service.last_words());
}

#[test]
fn a_closed_listener_refuses() {
    let mut service = Service::start_on(&["127.0.0.1:0", "unix:x.sock"], &["--slow", "2s"]);
    let mut slow = lameduck_verify::probe::http1::pipelined(&service.place("/a"), 1).unwrap();
    // An answer on a later connection says that the earlier one was accepted.
    assert_eq!(service.get("/b").0, 200);
    service.signal(Signal::TERM);
    let address = service.addresses[0].clone();
    let deadline = std::time::Instant::now() + LIMIT;
    // While the gate closes, a connection attempt waits; then it is refused.
    let refused = loop {
        match TcpStream::connect_timeout(&address.parse().unwrap(), LIMIT) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => break true,
            Ok(_) | Err(_) if std::time::Instant::now() < deadline => {}
            Ok(_) | Err(_) => break false,
        }
    };
    assert!(refused && service.target.is_running(), "{}", service.target.stderr());
    assert!(!service.path("x.sock").exists(), "the path of a closed Unix socket is gone");
    watch(std::slice::from_mut(&mut slow), Until::Closed, LIMIT).unwrap();
    assert_eq!(slow.answers().len(), 1, "{}", service.target.stderr());
    service.ends_clean();
}

/// A path that leads to somebody else's socket by now is not ours to remove.
#[test]
fn a_unix_socket_that_another_took_over_is_left_alone() {
    let mut service = Service::start_on(&["unix:x.sock"], &[]);
    let path = service.path("x.sock");
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    assert_eq!(service.stop().code, Some(0), "{}", service.last_words());
    assert!(path.exists(), "the other's path was removed");
    drop(other);
}
