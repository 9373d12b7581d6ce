//! Each way to lose a request is seen as exactly its class, and what was not sent is not called lost.

mod support;

use lameduck_verify::fate::{Fate, Kind};
use lameduck_verify::load::{Load, Mode, Report, Until};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use support::{OK, Server, close_in_order, read_request, reset};

/// How long the clients meet a server that misbehaves.
const RUN: Duration = Duration::from_millis(150);

/// How long a server may take that answers or closes: a busy machine must not look like one that is silent.
const LIMIT: Duration = Duration::from_secs(20);

fn run(server: &Server, mode: Mode, limit: Duration) -> Report {
    let load = Load::new(server.place("/"), mode).connections(2).until(Until::Elapsed(RUN));
    load.request_limit(limit).start().unwrap().finish()
}

/// On each connection: `good` answers, then one request is read and met with `misbehave`.
fn check(good: usize, misbehave: fn(TcpStream), expected: Fate) {
    let server = Server::start(move |mut stream| {
        for _ in 0..good {
            if read_request(&mut stream).is_none() || stream.write_all(OK).is_err() {
                return;
            }
        }
        if read_request(&mut stream).is_some() {
            misbehave(stream);
        }
    });
    let modes = if good == 0 {
        vec![Mode::KeepAlive, Mode::Post, Mode::NewConnection]
    } else {
        vec![Mode::KeepAlive, Mode::Post]
    };
    for mode in modes {
        let limit = if expected == Fate::TimedOut { RUN } else { LIMIT };
        let report = run(&server, mode, limit);
        let met: Vec<_> = report.tally().met(Kind::Lost).map(|(fate, _)| fate).collect();
        assert_eq!(met, [expected], "{mode:?} after {good} good answers: {report}");
        assert_eq!(report.tally().not_sent(), 0, "{report}");
        assert_eq!(report.tally().answered() > 0, good > 0, "{report}");
    }
}

fn write(mut stream: TcpStream, bytes: &[u8]) -> TcpStream {
    // The client may be gone at the end of a run.
    let _ = stream.write_all(bytes);
    stream
}

#[test]
fn a_reset_before_the_answer() {
    check(0, reset, Fate::ResetBeforeResponse);
}

#[test]
fn an_end_of_file_before_the_answer() {
    check(0, close_in_order, Fate::EofBeforeResponse);
}

#[test]
fn a_reset_within_the_answer() {
    fn half(stream: TcpStream) {
        reset(write(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"));
    }
    check(0, half, Fate::ResetMidResponse);
    check(3, half, Fate::ResetMidResponse);
}

#[test]
fn a_truncated_answer() {
    fn half(stream: TcpStream) {
        close_in_order(write(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"));
    }
    fn no_last_chunk(stream: TcpStream) {
        let part = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        close_in_order(write(stream, part));
    }
    fn half_head(stream: TcpStream) {
        close_in_order(write(stream, b"HTTP/1.1 200 O"));
    }
    check(0, half, Fate::Truncated);
    check(3, half, Fate::Truncated);
    check(0, no_last_chunk, Fate::Truncated);
    check(0, half_head, Fate::Truncated);
}

#[test]
fn an_answer_that_says_error() {
    fn error(stream: TcpStream) {
        close_in_order(write(
            stream,
            b"HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        ));
    }
    fn missing(stream: TcpStream) {
        close_in_order(write(
            stream,
            b"HTTP/1.1 404 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        ));
    }
    check(0, error, Fate::Http5xx);
    check(3, error, Fate::Http5xx);
    check(0, missing, Fate::HttpOther);
}

#[test]
fn an_answer_that_is_none() {
    fn garbage(stream: TcpStream) {
        close_in_order(write(stream, b"220 mail.example ESMTP\r\n"));
    }
    check(0, garbage, Fate::Malformed);
}

#[test]
fn no_answer_in_time() {
    fn silent(mut stream: TcpStream) {
        // Until the client gives up and goes.
        while read_request(&mut stream).is_some() {}
    }
    check(0, silent, Fate::TimedOut);
}

#[test]
fn a_reused_connection_closed_while_the_request_is_on_its_way() {
    check(1, close_in_order, Fate::IdleCloseRace);
    check(3, reset, Fate::IdleCloseRace);
}

#[test]
fn a_connection_closed_between_requests_loses_nothing() {
    // It closes after each answer and does not say so; a client that looks before it sends loses nothing.
    let server = Server::start(|mut stream| {
        if read_request(&mut stream).is_some() && stream.write_all(OK).is_ok() {
            close_in_order(stream);
        }
    });
    let load = Load::new(server.place("/"), Mode::KeepAlive).connections(4);
    let load =
        load.pause(Duration::from_millis(20)).until(Until::Elapsed(Duration::from_millis(300)));
    let report = load.start().unwrap().finish();
    assert_eq!((report.lost(), report.tally().not_sent()), (0, 0), "{report}");
    assert!(report.tally().answered() > 4, "{report}");
    assert_eq!(report.connections_opened(), report.tally().answered(), "{report}");
}

#[test]
fn a_refused_connection_was_not_sent() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place: lameduck_verify::address::Place = format!("http://{address}/").parse().unwrap();
    for mode in [Mode::KeepAlive, Mode::NewConnection, Mode::Post, Mode::Http2 { streams: 2 }] {
        let until = Until::Gone { at_most: Duration::from_secs(20) };
        let running = Load::new(place.clone(), mode).connections(2).until(until).start().unwrap();
        assert!(running.wait_flowing(Duration::from_secs(20)).is_err());
        let report = running.finish();
        let met: Vec<_> = report.tally().met(Kind::NotSent).map(|(fate, _)| fate).collect();
        assert_eq!(met, [Fate::Refused], "{mode:?}: {report}");
        assert_eq!(report.tally().sent(), 0, "{report}");
        assert!(report.elapsed() >= Until::GONE_TIME && report.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_missing_unix_socket_is_a_refusal() {
    let place = "unix:/nonexistent/lameduck.sock:/".parse().unwrap();
    let until = Until::Gone { at_most: Duration::from_secs(20) };
    let report =
        Load::new(place, Mode::KeepAlive).connections(1).until(until).start().unwrap().finish();
    assert!(report.count(Fate::Refused) > 0 && report.tally().sent() == 0, "{report}");
}
