//! Frames as other versions write them, kept as bytes. A change here is a change of the protocol: an old program in
//! service must be able to hand over to a new one, and back.

use std::time::Duration;

use lameduck::takeover::wire::{
    self, Command, Commit, Connection, Hello, Listener, Message, Offer, Protocols, Readable, Ready,
    Reason, Received, Reply, Session, Socket, State, Status, Why,
};

/// Bytes from text: hexadecimal digits and `"ascii"`; `#` begins a comment.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        for word in line.split_whitespace() {
            match word.strip_prefix('"') {
                Some(ascii) => bytes.extend(ascii.trim_end_matches('"').bytes()),
                None => {
                    assert!(word.len() % 2 == 0, "half a byte in {word}");
                    let pair = |at: usize| u8::from_str_radix(&word[at..at + 2], 16).unwrap();
                    bytes.extend((0..word.len()).step_by(2).map(pair));
                }
            }
        }
    }
    bytes
}

/// Protocol 1, byte for byte, in both directions.
#[track_caller]
fn golden(text: &str, message: Message) {
    let frame = bytes(text);
    let written = wire::encode(&message, 1).unwrap();
    assert_eq!(written.escape_ascii().to_string(), frame.escape_ascii().to_string());
    let received = wire::decode(&frame, message.descriptors()).unwrap();
    assert_eq!(received, Received::Message(message));
}

#[test]
fn protocol_1_hello() {
    golden(
        r#"
        "LAME" 0100 0100 0000 0000 31000000     # protocol 1, kind 1, no flags, no descriptors
        0100 02000000 0100                      # oldest
        0200 02000000 0100                      # newest
        0300 07000000 "web/1.2"                 # program
        0400 04000000 d2040000                  # pid
        0580 04000000 02000000                  # generation, may be skipped
        "#,
        Message::Hello(Hello {
            protocols: Protocols { oldest: 1, newest: 1 },
            program: "web/1.2".to_owned(),
            pid: 1234,
            generation: Some(2),
        }),
    );
}

#[test]
fn protocol_1_refuse() {
    golden(
        r#"
        "LAME" 0100 0200 0000 0000 13000000
        0100 02000000 0200                      # another successor is starting
        0200 05000000 "pid_7"
        "#,
        Message::Refuse(Why::new(Reason::AnotherStarting, "pid_7")),
    );
}

#[test]
fn protocol_1_offer() {
    golden(
        r#"
        "LAME" 0100 0300 0000 0200 67000000     # two descriptors
        0100 04000000 02000000                  # generation
        0200 25000000                           # listener
          0100 04000000 "http"
          0200 01000000 01                      # TCP
          0300 0e000000 "127.0.0.1:8080"
        0300 25000000                           # state
          0100 07000000 "counter"
          0200 04000000 01000000
          0300 08000000 0800000000000000
        0400 01000000 01                        # last
        "#,
        Message::Offer(Offer {
            generation: 2,
            listeners: vec![Listener {
                name: "http".to_owned(),
                socket: Socket::Tcp,
                address: "127.0.0.1:8080".to_owned(),
                shared: false,
                inherited: None,
            }],
            states: vec![State { key: "counter".to_owned(), version: 1, size: 8 }],
            last: true,
        }),
    );
    golden(
        r#"
        "LAME" 0100 0300 0000 0100 3d000000     # one descriptor
        0100 04000000 02000000                  # generation
        0200 26000000                           # listener
          0100 01000000 "a"
          0200 01000000 02                      # Unix
          0300 02000000 "@b"
          0480 01000000 01                      # somebody else holds it too, which an older successor skips
          0580 03000000 "web"                   # a service manager's name for it, which an older successor skips
        0400 01000000 01                        # last
        "#,
        Message::Offer(Offer {
            generation: 2,
            listeners: vec![Listener {
                name: "a".to_owned(),
                socket: Socket::Unix,
                address: "@b".to_owned(),
                shared: true,
                inherited: Some("web".to_owned()),
            }],
            states: Vec::new(),
            last: true,
        }),
    );
}

#[test]
fn protocol_1_status() {
    golden(
        r#"
        "LAME" 0100 0400 0100 0000 1b000000     # may be skipped
        0100 07000000 "warming"
        0200 08000000 8813000000000000          # 5 s more
        "#,
        Message::Status(Status { text: "warming".to_owned(), extend: Duration::from_secs(5) }),
    );
}

#[test]
fn protocol_1_ready() {
    golden(
        r#"
        "LAME" 0100 0500 0000 0000 22000000
        0100 04000000 "http"
        0200 05000000 "admin"
        0300 07000000 "[::1]:9"
        "#,
        Message::Ready(Ready {
            used: vec!["http".to_owned()],
            dropped: vec!["admin".to_owned()],
            added: vec!["[::1]:9".to_owned()],
            sessions: Vec::new(),
            probe: None,
            servers: None,
        }),
    );
    golden(
        r#"
        "LAME" 0100 0500 0000 0000 24000000
        0480 1e000000                           # sessions, which an older predecessor skips
            0100 04000000 "chat"
            0200 04000000 01000000
            0300 04000000 02000000
        "#,
        Message::Ready(Ready {
            sessions: vec![Readable { kind: "chat".to_owned(), oldest: 1, newest: 2 }],
            ..Ready::default()
        }),
    );
    golden(
        r#"
        "LAME" 0100 0500 0000 0000 0d000000
        0580 07000000 "/health"                # a probe, which an older predecessor skips
        "#,
        Message::Ready(Ready { probe: Some("/health".to_owned()), ..Ready::default() }),
    );
    golden(
        r#"
        "LAME" 0100 0500 0000 0000 11000000
        0680 01000000 01                        # servers, which an older predecessor skips
        0780 04000000 "http"
        "#,
        Message::Ready(Ready { servers: Some(vec!["http".to_owned()]), ..Ready::default() }),
    );
    golden(
        r#"
        "LAME" 0100 0500 0000 0000 07000000
        0680 01000000 01                        # no server at all
        "#,
        Message::Ready(Ready { servers: Some(Vec::new()), ..Ready::default() }),
    );
}

#[test]
fn protocol_1_commit_and_what_follows_it() {
    golden(r#""LAME" 0100 0d00 0000 0100 00000000"#, Message::Probe);
    golden(r#""LAME" 0100 0600 0000 0000 00000000"#, Message::Commit(Commit::default()));
    golden(r#""LAME" 0100 0700 0000 0000 00000000"#, Message::Accepting);
    golden(r#""LAME" 0100 0900 0000 0000 00000000"#, Message::Drained);
    golden(r#""LAME" 0100 0c00 0000 0000 00000000"#, Message::Final);
    golden(
        r#""LAME" 0100 0a00 0000 0000 0e000000 0100 02000000 0b00 0200 00000000"#,
        Message::Resume(Why::new(Reason::Failed, "")),
    );
    golden(
        r#""LAME" 0100 0b00 0000 0000 0e000000 0100 02000000 0d00 0200 00000000"#,
        Message::Rollback(Why::new(Reason::Operator, "")),
    );
}

#[test]
fn protocol_1_connection() {
    golden(
        r#"
        "LAME" 0100 0800 0000 0100 1f000000
        0100 04000000 "http"
        0200 06000000 "peer:1"
        0300 03000000 "GET"
        "#,
        Message::Connection(Connection {
            server: "http".to_owned(),
            peer: "peer:1".to_owned(),
            unread: b"GET".to_vec(),
            spilled: None,
            session: None,
        }),
    );
    golden(
        r#"
        "LAME" 0100 0800 0000 0200 2a000000     # the socket and a memory file
        0100 04000000 "http"
        0200 06000000 "peer:1"
        0300 00000000
        0400 08000000 0000010000000000          # 64 KiB
        "#,
        Message::Connection(Connection {
            server: "http".to_owned(),
            peer: "peer:1".to_owned(),
            unread: Vec::new(),
            spilled: Some(65_536),
            session: None,
        }),
    );
    golden(
        r#"
        "LAME" 0100 0800 0000 0100 50000000
        0100 04000000 "http"
        0200 06000000 "peer:1"
        0300 00000000
        0500 2e000000                           # required: it is no connection of HTTP
            0100 04000000 "chat"
            0200 04000000 02000000
            0300 09000000 "GET" 20 "/chat"
            0400 05000000 "state"
        "#,
        Message::Connection(Connection {
            server: "http".to_owned(),
            peer: "peer:1".to_owned(),
            unread: Vec::new(),
            spilled: None,
            session: Some(Session {
                kind: "chat".to_owned(),
                version: 2,
                request: "GET /chat".to_owned(),
                state: b"state".to_vec(),
            }),
        }),
    );
}

#[test]
fn protocol_1_command_and_reply() {
    golden(
        r#"
        "LAME" 0100 2000 0000 0000 18000000
        0100 06000000 "status"
        0200 06000000 "--json"
        "#,
        Message::Command(Command {
            verb: "status".to_owned(),
            arguments: vec!["--json".to_owned()],
        }),
    );
    golden(
        r#"
        "LAME" 0100 2100 0000 0000 16000000
        0100 01000000 00
        0200 02000000 "ok"
        0300 01000000 01
        "#,
        Message::Reply(Reply { code: 0, text: "ok".to_owned(), last: true, reason: None }),
    );
    golden(
        r#"
        "LAME" 0100 2100 0000 0000 1e000000
        0100 01000000 01
        0200 02000000 "no"
        0300 01000000 01
        0480 02000000 0300                      # too many generations; may be skipped
        "#,
        Message::Reply(Reply {
            code: 1,
            text: "no".to_owned(),
            last: true,
            reason: Some(Reason::TooManyGenerations),
        }),
    );
}

/// The Hello of a successor that also speaks protocol 2, with a field this version does not know.
const NEWER_HELLO: &str = r#"
    "LAME" 0200 0100 0000 0000 34000000
    0100 02000000 0100
    0200 02000000 0200
    0300 07000000 "web/9.0"
    0400 04000000 d2040000
    1080 07000000 "unknown"
"#;

#[test]
fn a_newer_successor_is_understood_and_meets_us_at_our_protocol() {
    let Received::Message(Message::Hello(hello)) = wire::decode(&bytes(NEWER_HELLO), 0).unwrap()
    else {
        panic!("not a Hello");
    };
    assert_eq!(hello.protocols, Protocols { oldest: 1, newest: 2 });
    assert_eq!(hello.protocols.agree(wire::PROTOCOLS), Some(1));
    assert_eq!(hello.program, "web/9.0");
}

#[test]
fn a_successor_that_left_our_protocol_behind_can_be_told_so() {
    let newer = Protocols { oldest: 2, newest: 3 };
    assert_eq!(newer.agree(wire::PROTOCOLS), None);
    assert_eq!(wire::PROTOCOLS.agree(newer), None);
    assert_eq!(newer.to_string(), "2 to 3");
}

#[test]
fn an_unknown_field_that_may_be_skipped_is_skipped() {
    let frame = bytes(r#""LAME" 0100 0700 0000 0000 0a000000 0190 04000000 "left""#);
    assert_eq!(wire::decode(&frame, 0), Ok(Received::Message(Message::Accepting)));
}

#[test]
fn an_unknown_field_that_must_be_known_is_refused_by_its_tag() {
    let frame = bytes(r#""LAME" 0100 0700 0000 0000 0a000000 0110 04000000 "must""#);
    let error = wire::decode(&frame, 0).unwrap_err().to_string();
    assert_eq!(error, "Accepting: field 0x1001 is unknown and must not be skipped");
}

#[test]
fn an_unknown_frame_that_may_be_skipped_is_skipped_with_its_descriptors() {
    let frame = bytes(r#""LAME" 0100 6300 0100 0300 03000000 "???""#);
    assert_eq!(wire::decode(&frame, 3), Ok(Received::Skipped { kind: 99 }));
    let error = wire::decode(&frame, 2).unwrap_err().to_string();
    assert_eq!(error, "a skipped frame with 2 descriptors, which announces 3 and needs 3");
}

#[test]
fn an_unknown_frame_that_must_be_known_is_refused_by_its_kind() {
    let frame = bytes(r#""LAME" 0100 6300 0000 0000 00000000"#);
    let error = wire::decode(&frame, 0).unwrap_err().to_string();
    assert_eq!(error, "a frame of unknown kind 99 that must not be skipped");
}

#[test]
fn frames_of_protocols_before_and_after_ours_are_refused_by_number() {
    for (found, frame) in [
        (0, r#""LAME" 0000 0600 0000 0000 00000000"#),
        (2, r#""LAME" 0200 0600 0000 0000 00000000"#),
    ] {
        let error = wire::decode(&bytes(frame), 0).unwrap_err().to_string();
        assert_eq!(error, format!("a frame of protocol {found}, where 1 to 1 are spoken"));
    }
}

#[test]
fn a_refusal_of_any_protocol_is_understood() {
    let frame = bytes(
        r#"
        "LAME" 0700 0200 0000 0000 1b000000
        0100 02000000 0f27                      # a reason that does not exist yet
        0200 03000000 "why"
        0580 04000000 "more"
        "#,
    );
    assert_eq!(
        wire::decode(&frame, 0),
        Ok(Received::Message(Message::Refuse(Why::new(Reason::Other(9999), "why"))))
    );
}

/// The successor of tomorrow leaves a field out that it finds needless: only those that were optional.
#[test]
fn an_optional_field_may_be_missing_and_a_required_one_may_not() {
    let with =
        Hello { protocols: wire::PROTOCOLS, program: "web".to_owned(), pid: 1, generation: None };
    let frame = wire::encode(&Message::Hello(with.clone()), 1).unwrap();
    assert_eq!(wire::decode(&frame, 0), Ok(Received::Message(Message::Hello(with))));
    let frame = bytes(r#""LAME" 0100 0200 0000 0000 08000000 0100 02000000 0100"#);
    let error = wire::decode(&frame, 0).unwrap_err().to_string();
    assert_eq!(error, "Refuse: field `text` is missing");
}
