//! HTTP/2 connections in the middle of something when the stop comes (losses 9 and 10).

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use lameduck_verify::address::Place as Aim;
use lameduck_verify::probe::http2::{
    Client, Frame, NO_LAST_STREAM, PREFACE, UpTo, acknowledgement, flag, get, kind,
};
use lameduck_verify::probe::{End, Until, Wire, watch};
use lameduck_verify::target::Signal;

use crate::service::{LIMIT, Service, WITH_ADMIN, let_pass};

/// Longer than the wait for the answer to a PING.
const LONG: Duration = Duration::from_millis(900);

/// Settings of RFC 9113, section 6.5.2.
const INITIAL_WINDOW_SIZE: u16 = 4;

fn start(slow: &str) -> Service {
    Service::start(&[&WITH_ADMIN[..], &["--slow", slow]].concat())
}

fn open(service: &Service) -> Client {
    Client::open(&service.place("/b"), UpTo::SettingsAcknowledged, LIMIT).unwrap()
}

fn setting(name: u16, value: u32) -> Frame {
    let payload = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    Frame { kind: kind::SETTINGS, flags: flag::NONE, stream: 0, payload }
}

fn window_update(stream: u32, by: u32) -> Frame {
    let payload = by.to_be_bytes().to_vec();
    Frame { kind: kind::WINDOW_UPDATE, flags: flag::NONE, stream, payload }
}

/// Opens a connection whose streams may be sent this much at first.
fn open_with_window(service: &Service, bytes: u32) -> Client {
    let wire = Wire::connect(&service.place("/b").address).unwrap();
    let mut client = Client::over(wire);
    let settings = setting(INITIAL_WINDOW_SIZE, bytes).to_bytes();
    client.wire.send(&[PREFACE, &settings].concat()).unwrap();
    wait(&mut client, |frame| frame.kind == kind::SETTINGS && frame.flags == flag::NONE);
    client.send(&acknowledgement(kind::SETTINGS, &[])).unwrap();
    client
}

#[track_caller]
fn wait(client: &mut Client, is_it: impl Fn(&Frame) -> bool) {
    let found = client.wait_frame(is_it, LIMIT).unwrap();
    assert!(found, "{:?} {:?}", client.wire.end(), client.frames());
}

/// Waits for the server's PING and answers it.
#[track_caller]
fn answer_ping(client: &mut Client) {
    let is_ping = |frame: &Frame| frame.kind == kind::PING && frame.flags == flag::NONE;
    wait(client, is_ping);
    let ping = client.frames().into_iter().find(is_ping).unwrap();
    client.send(&acknowledgement(kind::PING, &ping.payload)).unwrap();
}

/// Reads to the end and checks the GOAWAYs: the first excludes nothing, the last names the last stream that was served.
#[track_caller]
fn ends_after(client: &mut Client, last: u32) {
    assert_eq!(client.wait_end(LIMIT).unwrap(), End::Eof);
    assert_eq!(client.go_aways(), [(NO_LAST_STREAM, 0), (last, 0)]);
    for stream in (1..=last).step_by(2) {
        assert!(client.is_answered(stream), "stream {stream}: {:?}", client.frames());
    }
}

#[test]
fn streams_in_flight_are_answered_between_two_go_aways() {
    let mut service = start("300ms");
    let mut client = open(&service);
    for stream in [1, 3, 5] {
        client.get(&service.place("/a"), stream).unwrap();
    }
    service.wait_in_hand(3);
    service.signal(Signal::TERM);
    answer_ping(&mut client);
    ends_after(&mut client, 5);
    service.ends_clean();
}

/// The client can't know of the GOAWAY yet when it opens a stream: the PING's answer is what says that it does.
#[test]
fn a_stream_opened_between_the_go_aways_is_answered() {
    let mut service = start("300ms");
    let mut client = open(&service);
    client.get(&service.place("/a"), 1).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    wait(&mut client, |frame| frame.go_away() == Some((NO_LAST_STREAM, 0)));
    client.get(&service.place("/b"), 3).unwrap();
    wait(&mut client, |frame| frame.stream == 3);
    client.get(&service.place("/a"), 5).unwrap();
    answer_ping(&mut client);
    ends_after(&mut client, 5);
    service.ends_clean();
}

/// A client that has not read the last GOAWAY sends a call and room for its answer, as grpcio does in one packet: the
/// stream is excluded, and the others must not suffer for it.
#[test]
fn room_for_an_excluded_stream_does_not_cut_the_streams_in_hand() {
    let mut service = start("600ms");
    let mut client = open(&service);
    client.get(&service.place("/a"), 1).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    answer_ping(&mut client);
    for stream in [3, 5] {
        client.get(&service.place("/b"), stream).unwrap();
        client.send(&window_update(stream, 1_000)).unwrap();
    }
    ends_after(&mut client, 1);
    service.ends_clean();
}

#[test]
fn an_idle_http2_connection_is_closed_in_order() {
    let mut service = start("1ms");
    let mut client = open(&service);
    client.get(&service.place("/b"), 1).unwrap();
    wait(&mut client, |frame| frame.stream == 1);
    service.signal(Signal::TERM);
    answer_ping(&mut client);
    ends_after(&mut client, 1);
    service.ends_clean();
}

/// The header block never ends, so the PING behind it is never answered.
#[test]
fn an_unfinished_header_block_does_not_hold_the_exit() {
    let mut service = start("1ms");
    let mut client = open(&service);
    let mut headers = get(&service.place("/b"), 1);
    headers.flags = flag::END_STREAM;
    client.send(&headers).unwrap();
    assert_eq!(service.get("/b").0, 200);
    service.signal(Signal::TERM);
    let exit = service.ends_clean();
    assert_eq!(client.wait_end(LIMIT).unwrap(), End::Eof);
    assert!(exit.elapsed <= Duration::from_millis(1_000 + 500), "{exit}");
}

/// Requests a short answer with so small a window that not all of it may be sent, and opens the window late.
fn a_closed_window(bytes: u32) {
    let mut service = start("1ms");
    let mut client = open_with_window(&service, bytes);
    client.get(&service.place("/b"), 1).unwrap();
    wait(&mut client, |frame| frame.stream == 1 && frame.kind == kind::HEADERS);
    service.signal(Signal::TERM);
    answer_ping(&mut client);
    assert_eq!(client.wait_end(LONG).unwrap(), End::Open, "{:?}", client.frames());
    client.send(&window_update(1, 1_000)).unwrap();
    ends_after(&mut client, 1);
    service.ends_clean();
}

#[test]
fn an_answer_behind_a_closed_window_is_sent_once_it_opens() {
    a_closed_window(0);
}

/// The handler is done with it: only the protocol knows that a part is still owed.
#[test]
fn the_rest_of_an_answer_behind_a_closed_window_is_sent_once_it_opens() {
    a_closed_window(4);
}

/// The client allows everything and reads nothing: the answer lies in the server's buffers, behind it the PING.
#[test]
fn a_slow_http2_reader_gets_all_of_its_answer() {
    const BYTES: u32 = 350_000;
    const ROOM: u32 = 1 << 20;
    let mut service = start("1ms");
    let place: Aim = service.place(&format!("/download?bytes={BYTES}"));
    let wire = Wire::connect_with_receive_buffer(&place.address, 4096).unwrap();
    let mut client = Client::over(wire);
    let opening = [setting(INITIAL_WINDOW_SIZE, ROOM), window_update(0, ROOM), get(&place, 1)];
    let opening: Vec<u8> = opening.iter().flat_map(Frame::to_bytes).collect();
    client.wire.send(&[PREFACE, &opening].concat()).unwrap();
    // Requests on other connections are answered, so this one was begun.
    assert_eq!(service.get("/b").0, 200);
    service.signal(Signal::TERM);
    let_pass(LONG);
    watch(std::slice::from_mut(&mut client.wire), Until::Closed, LIMIT).unwrap();
    assert_eq!(client.wire.end(), End::Eof);
    assert!(client.wire.received_bytes() > u64::from(BYTES), "{}", client.wire.received_bytes());
    service.ends_clean();
}

/// A client that falls silent while its request is in hand is answered all the same, and then held no longer.
#[test]
fn a_request_of_a_client_that_answers_no_ping_is_answered() {
    let mut service = start("1200ms");
    let mut client = open(&service);
    client.get(&service.place("/a"), 1).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    let exit = service.ends_clean();
    assert_eq!(client.wait_end(LIMIT).unwrap(), End::Eof);
    assert!(client.is_answered(1), "{:?}", client.frames());
    assert!(exit.elapsed <= Duration::from_millis(1_200 + 1_000 + 500), "{exit}");
}

#[test]
fn an_upload_over_http2_in_the_middle_is_finished() {
    let mut service = start("1ms");
    let mut client = open(&service);
    let mut headers = get(&service.place("/upload"), 1);
    // `:method: POST` is 3 of the static table.
    headers.payload[0] = 0x80 | 3;
    headers.flags = flag::END_HEADERS;
    client.send(&headers).unwrap();
    service.wait_in_hand(1);
    service.signal(Signal::TERM);
    answer_ping(&mut client);
    assert_eq!(client.wait_end(LONG).unwrap(), End::Open);
    let payload = vec![b'x'; 1000];
    client.send(&Frame { kind: kind::DATA, flags: flag::END_STREAM, stream: 1, payload }).unwrap();
    ends_after(&mut client, 1);
    service.ends_clean();
}

/// Streams that are opened and reset as fast as they can be sent (CVE-2023-44487), on and on through the stop, by a client
/// that answers no PING: a stop has its bound all the same, and others are answered in it.
#[test]
fn rapid_resets_that_go_on_through_the_drain_do_not_hold_the_exit() {
    const RST_STREAM: u8 = 0x3;
    let mut service = start("300ms");
    let place = service.place("/a");
    let mut good = open(&service);
    good.get(&place, 1).unwrap();
    service.wait_in_hand(1);
    let (began, begins) = std::sync::mpsc::channel();
    let address = service.addresses[0].clone();
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let (began, place) = (began.clone(), place.clone());
            let mut socket = TcpStream::connect(&address).unwrap();
            let mut reads = socket.try_clone().unwrap();
            std::thread::spawn(move || {
                let opening = setting(INITIAL_WINDOW_SIZE, 65_535).to_bytes();
                socket.write_all(&[PREFACE, &opening].concat()).unwrap();
                std::thread::spawn(move || std::io::copy(&mut reads, &mut std::io::sink()));
                for stream in (1..=u32::MAX >> 1).step_by(2) {
                    let payload = 8_u32.to_be_bytes().to_vec();
                    let reset = Frame { kind: RST_STREAM, flags: flag::NONE, stream, payload };
                    let both = [get(&place, stream).to_bytes(), reset.to_bytes()].concat();
                    if socket.write_all(&both).is_err() {
                        return;
                    }
                    if stream == 101 {
                        began.send(()).unwrap();
                    }
                }
            })
        })
        .collect();
    for _ in &floods {
        // An error is a client that was refused before it had sent so many.
        let _ = begins.recv_timeout(LONG);
    }
    service.signal(Signal::TERM);
    answer_ping(&mut good);
    ends_after(&mut good, 1);
    service.ends_clean();
    for flood in floods {
        flood.join().unwrap();
    }
}
