//! Servers that answer nothing that makes sense: each request still has one fate, and the right one, on every kind of
//! client, and nothing panics.

mod support;

use lameduck_verify::address::Place;
use lameduck_verify::answer::Answer;
use lameduck_verify::fate::{Fate, Kind};
use lameduck_verify::load::open::Open;
use lameduck_verify::load::{Load, Mode, Until};
use lameduck_verify::probe::http2::{Client, UpTo, frames};
use lameduck_verify::probe::websocket::WebSocket;
use lameduck_verify::probe::{self, Until as Watched, Wire};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{SOON, Server, close_in_order, read_request, reset};

/// How long the loads meet a server.
const RUN: Duration = Duration::from_millis(150);
/// A request's limit where the server never comes to an end.
const NEVER: Duration = Duration::from_millis(400);

fn write(mut stream: TcpStream, bytes: &[u8]) {
    // The client may have given up within.
    let _ = stream.write_all(bytes);
    close_in_order(stream);
}

/// The fates that were met, on a bare wire, in a closed loop and in an open one.
fn met(serve: impl Fn(TcpStream) + Send + Sync + 'static, limit: Duration) -> [Vec<Fate>; 3] {
    let server = Server::start(move |mut stream| {
        if read_request(&mut stream).is_some() {
            serve(stream);
        }
    });
    let place = server.place("/");
    let mut wire = Wire::open(&place).unwrap();
    wire.request(&place.get(""));
    probe::watch(std::slice::from_mut(&mut wire), Watched::Answered, limit).unwrap();
    let closed = Load::new(place.clone(), Mode::NewConnection).connections(2);
    let closed = closed.until(Until::Elapsed(RUN)).request_limit(limit).start().unwrap().finish();
    let open = Open::new(place, Mode::NewConnection, 50.0).connections(16).lasting(RUN);
    let open = open.request_limit(limit).start().unwrap().finish().unwrap();
    let kinds = [Kind::Lost, Kind::NotSent, Kind::Answered];
    let all = |tally: &lameduck_verify::fate::Tally| {
        let met = kinds.iter().flat_map(|kind| tally.met(*kind));
        met.map(|(fate, _)| fate).collect::<Vec<Fate>>()
    };
    [wire.fates(), all(closed.tally()), all(open.tally())]
}

fn check(serve: impl Fn(TcpStream) + Send + Sync + 'static, expected: Fate) {
    let limit = if expected == Fate::TimedOut { NEVER } else { SOON };
    for (client, seen) in ["wire", "closed loop", "open loop"].iter().zip(met(serve, limit)) {
        assert_eq!(seen, [expected], "{client}");
    }
}

#[test]
fn garbage_is_malformed() {
    check(|stream| write(stream, &[0xff; 3000]), Fate::Malformed);
    check(|stream| write(stream, b"HTTP/2 200\r\n\r\n"), Fate::Malformed);
    check(
        |stream| write(stream, b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
        Fate::Malformed,
    );
    let late = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokzz";
    check(|stream| write(stream, late), Fate::Malformed);
}

#[test]
fn an_http_1_0_answer_ends_with_its_connection() {
    check(|stream| write(stream, b"HTTP/1.0 200 OK\r\n\r\nold, but an answer"), Fate::Answered);
    let cut = |mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nold");
        reset(stream);
    };
    // Nobody can tell a whole body from half of one but by the way its connection ends.
    check(cut, Fate::ResetMidResponse);
}

#[test]
fn interim_answers_are_no_answers() {
    let interim = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(50);
    let then_ok = [&interim[..], b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"].concat();
    check(move |stream| write(stream, &then_ok), Fate::Answered);
    check(move |stream| write(stream, &interim), Fate::Truncated);
    let for_ever = |mut stream: TcpStream| {
        while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").is_ok() {}
    };
    check(for_ever, Fate::TimedOut);
}

#[test]
fn trailers_belong_to_their_answer() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let whole = [&head[..], b"2\r\nok\r\n0\r\na: 1\r\nb: 2\r\n\r\n"].concat();
    check(move |stream| write(stream, &whole), Fate::Answered);
    let cut = [&head[..], b"2\r\nok\r\n0\r\na: 1\r\nb:"].concat();
    check(move |stream| write(stream, &cut), Fate::Truncated);
    let long = [&head[..], b"2\r\nok\r\n0\r\na: ", &[b'x'; 100_000]].concat();
    check(move |stream| write(stream, &long), Fate::Malformed);
}

#[test]
fn a_head_beyond_all_measure_is_malformed() {
    let large = [&b"HTTP/1.1 200 OK\r\nx: "[..], &[b'x'; 200_000]].concat();
    check(move |stream| write(stream, &large), Fate::Malformed);
    let head = &b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: "[..];
    let bearable = [head, &[b'x'; 50_000], b"\r\n\r\n"].concat();
    check(move |stream| write(stream, &bearable), Fate::Answered);
}

#[test]
fn an_answer_that_never_ends_is_out_of_time() {
    let body = |mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    };
    check(body, Fate::TimedOut);
    let head = |mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    check(head, Fate::TimedOut);
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

/// What a server may say well, to be spoilt.
const WELL: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\nff\r\n0\r\nt: 1\r\n\r\n",
    b"HTTP/1.0 404 Missing\r\n\r\nuntil the end",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n\x81\x02hi\x88\x02\x03\xe9",
    b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0",
];

fn spoilt(random: &mut Random) -> Vec<u8> {
    let mut bytes = WELL[random.next(WELL.len())].to_vec();
    for _ in 0..random.next(5) {
        if bytes.is_empty() {
            break;
        }
        let at = random.next(bytes.len());
        match random.next(5) {
            0 => bytes[at] = random.next(256) as u8,
            1 => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, b"0f:\r\n \xff;"[random.next(8)]),
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

#[test]
fn however_an_answer_is_cut_into_pieces_it_is_read_the_same() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..100_000 {
        let bytes = spoilt(&mut random);
        let read = |size: usize| {
            let mut answer = Answer::default();
            let mut used = 0;
            for piece in bytes.chunks(size) {
                match answer.feed(piece) {
                    Ok(count) => used += count,
                    // How many bytes are looked at before it is given up is up to the pieces.
                    Err(_) => return None,
                }
                if answer.is_complete() {
                    break;
                }
            }
            assert!(used <= bytes.len());
            Some((used, answer.head(), answer.body_bytes(), answer.is_complete()))
        };
        let whole = read(bytes.len().max(1));
        for size in [1, 2, 7] {
            assert_eq!(
                read(size),
                whole,
                "in pieces of {size}: {:?}",
                bytes.escape_ascii().to_string()
            );
        }
        let (found, used) = frames(&bytes);
        assert!(used <= bytes.len() && found.len() <= bytes.len() / 9);
    }
}

#[test]
fn whatever_a_server_says_each_request_has_one_fate_and_nothing_panics() {
    let random = std::sync::Mutex::new(Random(42));
    let server = Server::start(move |mut stream| {
        let (bytes, how) = {
            let mut random = random.lock().unwrap();
            (spoilt(&mut random), random.next(4))
        };
        let _ = stream.set_read_timeout(Some(SOON));
        if how < 3 {
            let _ = stream.read(&mut [0; 1024]);
        }
        let _ = stream.write_all(&bytes);
        match how {
            0 => reset(stream),
            1 => drop(stream),
            _ => close_in_order(stream),
        }
    });
    let place = server.place("/");
    for mode in [Mode::NewConnection, Mode::KeepAlive, Mode::Post, Mode::Http2 { streams: 3 }] {
        let load = Load::new(place.clone(), mode).connections(4).until(Until::Elapsed(RUN * 2));
        let report = load.request_limit(NEVER).start().unwrap().finish();
        let tally = report.tally();
        let each = [Kind::Answered, Kind::NotSent, Kind::Lost];
        let sum: u64 = each.iter().flat_map(|kind| tally.met(*kind)).map(|(_, count)| count).sum();
        assert_eq!(sum, tally.sent() + tally.not_sent(), "{mode:?}: {report}");
        assert!(sum > 0, "{mode:?}: {report}");
    }
    each_probe(&place);
}

/// Every other client of the suite.
fn each_probe(place: &Place) {
    for _ in 0..100 {
        // Each of them may fail; none may panic or hang.
        let _ = WebSocket::open(place, NEVER).map(|mut socket| socket.echoes("hello", NEVER));
        if let Ok(mut client) = Client::open(place, UpTo::SettingsAcknowledged, NEVER) {
            let _ = client.attend(|client| client.frames().len() > 3, NEVER);
        }
        let _ = lameduck_verify::stage::ask(place, NEVER).map(|asked| asked.field("num"));
        let secure = Place { scheme: lameduck_verify::address::Scheme::Https, ..place.clone() };
        if let Ok(mut wire) = Wire::open(&secure) {
            wire.request(&secure.get(""));
            let _ = probe::watch(std::slice::from_mut(&mut wire), Watched::Answered, NEVER);
            assert_eq!(wire.fates().len(), 1);
            assert_ne!(wire.fates(), [Fate::Answered]);
        }
    }
}
