//! Each limit, reached and passed by one.

use std::time::Duration;

use lameduck::takeover::wire::{
    self, Command, Commit, Connection, Hello, Listener, Message, Offer, Protocols, Readable, Ready,
    Reason, Received, Reply, Session, Socket, State, Status, Why,
};

#[track_caller]
fn fits(message: Message) {
    let frame = wire::encode(&message, 1).unwrap();
    let received = wire::decode(&frame, message.descriptors()).unwrap();
    assert_eq!(received, Received::Message(message));
}

#[track_caller]
fn refused(message: Message, why: &str) {
    assert_eq!(wire::encode(&message, 1).unwrap_err().to_string(), why);
}

fn long(length: usize) -> String {
    "x".repeat(length)
}

fn names(count: usize, length: usize) -> Vec<String> {
    vec![long(length); count]
}

fn state(key: usize, size: u64) -> State {
    State { key: long(key), version: u32::MAX, size }
}

fn offer(listeners: usize, name: usize, address: usize) -> Message {
    let listener = Listener {
        name: long(name),
        socket: Socket::Tcp,
        address: long(address),
        shared: true,
        inherited: None,
    };
    Message::Offer(Offer {
        generation: u32::MAX,
        listeners: vec![listener; listeners],
        states: Vec::new(),
        last: true,
    })
}

fn connection(unread: usize, spilled: Option<u64>) -> Message {
    Message::Connection(Connection {
        server: long(wire::MAX_NAME),
        peer: long(wire::MAX_ADDRESS),
        unread: vec![0; unread],
        spilled,
        session: Some(session(wire::MAX_NAME, wire::MAX_SESSION)),
    })
}

fn session(kind: usize, state: usize) -> Session {
    Session {
        kind: long(kind),
        version: u32::MAX,
        request: long(wire::MAX_ADDRESS),
        state: vec![0; state],
    }
}

fn readable(kind: usize) -> Readable {
    Readable { kind: long(kind), oldest: 0, newest: u32::MAX }
}

#[test]
fn a_session_is_limited() {
    let moves = |session| {
        Message::Connection(Connection {
            server: long(1),
            peer: long(1),
            unread: Vec::new(),
            spilled: None,
            session: Some(session),
        })
    };
    refused(
        moves(session(1, wire::MAX_SESSION + 1)),
        "Connection: field `session state` has 16385 bytes, 16384 are the most",
    );
    refused(
        moves(session(0, 0)),
        "Connection: field `session kind` is empty or has control characters",
    );
    let kinds = |sessions| Message::Ready(Ready { sessions, ..Ready::default() });
    refused(
        kinds(vec![readable(1); wire::MAX_KINDS + 1]),
        "Ready: field `session kind` is there 33 times, 32 are the most",
    );
}

#[test]
fn an_offer_is_limited() {
    fits(offer(wire::MAX_DESCRIPTORS, wire::MAX_NAME, wire::MAX_ADDRESS));
    refused(offer(251, 1, 1), "Offer with 251 descriptors, which announces 250 and needs 251");
    refused(offer(1, 65, 1), "Offer: field `listener name` has 65 bytes, 64 are the most");
    refused(offer(1, 0, 1), "Offer: field `listener name` is empty or has control characters");
    refused(offer(1, 1, 129), "Offer: field `listener address` has 129 bytes, 128 are the most");
}

#[test]
fn states_are_limited() {
    let commit =
        |count, key, size| Message::Commit(Commit { states: vec![state(key, size); count] });
    fits(commit(wire::MAX_STATES, wire::MAX_NAME, wire::MAX_STATE_SIZE));
    refused(commit(65, 1, 0), "Commit: field `state` is there 65 times, 64 are the most");
    refused(commit(1, 65, 0), "Commit: field `state key` has 65 bytes, 64 are the most");
    refused(
        commit(1, 1, wire::MAX_STATE_SIZE + 1),
        "Commit: field `state size` says 67108865, 67108864 is the most",
    );
}

#[test]
fn a_ready_is_limited() {
    let ready = |used, dropped, added| {
        Message::Ready(Ready {
            used: names(used, wire::MAX_NAME),
            dropped: names(dropped, wire::MAX_NAME),
            added: names(added, wire::MAX_ADDRESS),
            sessions: vec![readable(wire::MAX_NAME); wire::MAX_KINDS],
            probe: Some("/".repeat(wire::MAX_PROBE)),
            servers: Some(names(wire::MAX_SERVERS, wire::MAX_NAME)),
        })
    };
    fits(ready(wire::MAX_LISTENERS - 100, 100, wire::MAX_ADDED));
    refused(ready(501, 0, 0), "Ready: field `used name` is there 501 times, 500 are the most");
    refused(ready(400, 101, 0), "Ready: field `dropped name` is there 101 times, 100 are the most");
    let probe = |probe| Message::Ready(Ready { probe: Some(probe), ..Ready::default() });
    refused(
        probe("/".repeat(wire::MAX_PROBE + 1)),
        "Ready: field `probe path` has 1025 bytes, 1024 are the most",
    );
    let servers = |servers| Message::Ready(Ready { servers: Some(servers), ..Ready::default() });
    refused(
        servers(names(wire::MAX_SERVERS + 1, 1)),
        "Ready: field `server` is there 129 times, 128 are the most",
    );
    refused(ready(0, 0, 101), "Ready: field `added address` is there 101 times, 100 are the most");
}

#[test]
fn a_connection_is_limited() {
    fits(connection(wire::MAX_UNREAD, Some(wire::MAX_SPILLED)));
    refused(
        connection(wire::MAX_UNREAD + 1, None),
        "Connection: field `unread bytes` has 32769 bytes, 32768 are the most",
    );
    refused(
        connection(0, Some(wire::MAX_SPILLED + 1)),
        "Connection: field `spilled bytes` says 16777217, 16777216 is the most",
    );
}

#[test]
fn texts_are_limited() {
    let refuse = |length| Message::Refuse(Why::new(Reason::Failed, long(length)));
    fits(refuse(wire::MAX_TEXT));
    refused(refuse(4097), "Refuse: field `text` has 4097 bytes, 4096 are the most");
    let hello = |length| {
        Message::Hello(Hello {
            protocols: Protocols { oldest: 0, newest: u16::MAX },
            program: long(length),
            pid: u32::MAX,
            generation: Some(u32::MAX),
        })
    };
    fits(hello(wire::MAX_PROGRAM));
    refused(hello(257), "Hello: field `program` has 257 bytes, 256 are the most");
    let status = |extend| Message::Status(Status { text: long(wire::MAX_TEXT), extend });
    fits(status(Duration::from_millis(u32::MAX.into())));
    refused(
        status(Duration::from_millis(u64::from(u32::MAX) + 1)),
        "Status: field `extension` says 4294967296, 4294967295 is the most",
    );
}

#[test]
fn commands_and_replies_are_limited() {
    let command = |verb, arguments, length| {
        Message::Command(Command { verb: long(verb), arguments: names(arguments, length) })
    };
    fits(command(wire::MAX_VERB, wire::MAX_ARGUMENTS, wire::MAX_ARGUMENT));
    refused(command(33, 0, 1), "Command: field `verb` has 33 bytes, 32 are the most");
    refused(command(1, 33, 1), "Command: field `argument` is there 33 times, 32 are the most");
    refused(command(1, 1, 1025), "Command: field `argument` has 1025 bytes, 1024 are the most");
    let reply = |length| {
        let (text, reason) = (long(length), Some(Reason::HandedOn));
        Message::Reply(Reply { code: 255, text, last: false, reason })
    };
    fits(reply(wire::MAX_REPLY));
    refused(reply(32769), "Reply: field `text` has 32769 bytes, 32768 are the most");
}

#[test]
fn a_name_cannot_move_the_cursor_of_whoever_prints_it() {
    let verb = "up\u{1b}[2Jgrade".to_owned();
    refused(
        Message::Command(Command { verb, arguments: Vec::new() }),
        "Command: field `verb` is empty or has control characters",
    );
}

#[test]
fn a_frame_that_is_too_long_is_refused_before_it_is_looked_at() {
    let error = wire::decode(&vec![0; wire::MAX_FRAME + 1], 0).unwrap_err();
    assert_eq!(error.to_string(), "a frame of 65537 bytes, 65536 are the most");
}

#[test]
fn fields_are_counted_before_they_are_kept() {
    let mut frame = wire::encode(&Message::Final, 1).unwrap();
    for _ in 0..=wire::MAX_FIELDS {
        frame.extend([1, 0x80, 0, 0, 0, 0]);
    }
    let fields = frame.len() - wire::HEADER;
    frame[12..16].copy_from_slice(&(fields as u32).to_le_bytes());
    let error = wire::decode(&frame, 0).unwrap_err();
    assert_eq!(error.to_string(), "Final with more than 2048 fields");
}
