//! Every message there is, made at random, and what holds for each.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use lameduck::takeover::wire::{
    self, Command, Commit, Connection, Hello, Listener, Message, Offer, Protocols, Readable, Ready,
    Reason, Received, Reply, Session, Socket, State, Status, Why,
};

use crate::holds::holds_for;

fn name() -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{1,16}"
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), ".{0,200}", "(line\n){1,50}"]
}

fn reason() -> impl Strategy<Value = Reason> {
    prop_oneof![
        Just(Reason::NotServing),
        Just(Reason::AnotherStarting),
        Just(Reason::TooManyGenerations),
        Just(Reason::Protocol),
        Just(Reason::NotAllowed),
        Just(Reason::Unexpected),
        Just(Reason::Names),
        Just(Reason::State),
        Just(Reason::Limits),
        Just(Reason::TimedOut),
        Just(Reason::Failed),
        Just(Reason::Stopping),
        Just(Reason::Operator),
        Just(Reason::HandedOn),
        (1000_u16..).prop_map(Reason::Other),
    ]
}

fn refuse() -> impl Strategy<Value = Why> {
    (reason(), text()).prop_map(|(reason, text)| Why { reason, text })
}

fn hello() -> impl Strategy<Value = Hello> {
    (any::<(u16, u16)>(), name(), any::<u32>(), option::of(any::<u32>())).prop_map(
        |((a, b), program, pid, generation)| Hello {
            protocols: Protocols { oldest: a.min(b), newest: a.max(b) },
            program,
            pid,
            generation,
        },
    )
}

fn listener() -> impl Strategy<Value = Listener> {
    let socket = prop_oneof![Just(Socket::Tcp), Just(Socket::Unix)];
    let passed = option::of("[a-z]{0,20}");
    (name(), socket, name(), any::<bool>(), passed).prop_map(
        |(name, socket, address, shared, inherited)| Listener {
            name,
            socket,
            address,
            shared,
            inherited,
        },
    )
}

fn state() -> impl Strategy<Value = State> {
    (name(), any::<u32>(), 0..=wire::MAX_STATE_SIZE).prop_map(|(key, version, size)| State {
        key,
        version,
        size,
    })
}

fn offer() -> impl Strategy<Value = Offer> {
    (any::<u32>(), vec(listener(), 0..40), vec(state(), 0..10), any::<bool>()).prop_map(
        |(generation, listeners, states, last)| Offer { generation, listeners, states, last },
    )
}

fn ready() -> impl Strategy<Value = Ready> {
    let kind = (name(), any::<u32>(), any::<u32>()).prop_map(|(kind, oldest, newest)| Readable {
        kind,
        oldest,
        newest,
    });
    let names = |most| vec(name(), 0..most);
    let kinds = vec(kind, 0..wire::MAX_KINDS);
    let servers = option::of(names(wire::MAX_SERVERS));
    (names(40), names(40), names(20), kinds, option::of(name()), servers).prop_map(
        |(used, dropped, added, sessions, probe, servers)| Ready {
            used,
            dropped,
            added,
            sessions,
            probe,
            servers,
        },
    )
}

fn connection() -> impl Strategy<Value = Connection> {
    let state = vec(any::<u8>(), 0..300);
    let session = (name(), any::<u32>(), name(), state)
        .prop_map(|(kind, version, request, state)| Session { kind, version, request, state });
    let spilled = option::of(0..=wire::MAX_SPILLED);
    (name(), name(), vec(any::<u8>(), 0..300), spilled, option::of(session)).prop_map(
        |(server, peer, unread, spilled, session)| Connection {
            server,
            peer,
            unread,
            spilled,
            session,
        },
    )
}

pub fn message() -> impl Strategy<Value = Message> {
    let status = (text(), any::<u32>())
        .prop_map(|(text, millis)| Status { text, extend: Duration::from_millis(millis.into()) });
    let command = (name(), vec(name(), 0..10))
        .prop_map(|(verb, arguments)| Command { verb: verb.chars().take(8).collect(), arguments });
    let reply = (any::<u8>(), text(), any::<bool>(), option::of(reason()))
        .prop_map(|(code, text, last, reason)| Reply { code, text, last, reason });
    prop_oneof![
        hello().prop_map(Message::Hello),
        refuse().prop_map(Message::Refuse),
        offer().prop_map(Message::Offer),
        status.prop_map(Message::Status),
        ready().prop_map(Message::Ready),
        vec(state(), 0..10).prop_map(|states| Message::Commit(Commit { states })),
        Just(Message::Probe),
        Just(Message::Accepting),
        connection().prop_map(Message::Connection),
        Just(Message::Drained),
        refuse().prop_map(Message::Resume),
        refuse().prop_map(Message::Rollback),
        Just(Message::Final),
        command.prop_map(Message::Command),
        reply.prop_map(Message::Reply),
    ]
}

/// What happens to a frame on its way to a test.
#[derive(Debug, Clone)]
enum Harm {
    Set(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    let at = any::<usize>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        at().prop_map(Harm::Cut),
        (at(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Harm::Insert(at, bytes)),
        (at(), at()).prop_map(|(from, to)| Harm::Repeat(from, to)),
    ]
}

impl Harm {
    fn apply(&self, frame: &mut Vec<u8>) {
        let size = frame.len();
        match self {
            _ if size == 0 => {}
            Harm::Set(at, byte) => frame[at % size] = *byte,
            Harm::Cut(at) => frame.truncate(at % size),
            Harm::Insert(at, bytes) => {
                let at = at % size;
                frame.splice(at..at, bytes.iter().copied());
            }
            Harm::Repeat(from, to) => {
                let (from, to) = (from % size, to % size);
                let part = frame[from.min(to)..from.max(to)].to_vec();
                frame.extend(part);
            }
        }
    }
}

/// Most harms leave the length wrong, which hides what lies behind it: this puts it right again.
fn mend_length(frame: &mut [u8]) {
    if let Some(fields) = frame.len().checked_sub(wire::HEADER) {
        frame[12..16].copy_from_slice(&(fields as u32).to_le_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_encoded_decodes_to_the_same(message in message()) {
        let frame = wire::encode(&message, 1).unwrap();
        prop_assert!(frame.len() <= wire::MAX_FRAME);
        let received = wire::decode(&frame, message.descriptors()).unwrap();
        prop_assert_eq!(received, Received::Message(message));
        holds_for(&frame);
    }

    #[test]
    fn a_frame_cut_anywhere_is_refused(message in message()) {
        let frame = wire::encode(&message, 1).unwrap();
        for length in 0..frame.len() {
            prop_assert!(wire::decode(&frame[..length], message.descriptors()).is_err());
        }
    }

    #[test]
    fn a_wrong_number_of_descriptors_is_refused(message in message(), wrong in 0_usize..300) {
        prop_assume!(wrong != message.descriptors());
        let frame = wire::encode(&message, 1).unwrap();
        prop_assert!(wire::decode(&frame, wrong).is_err());
    }

    #[test]
    fn harmed_frames_do_no_harm(message in message(), harms in vec(harm(), 1..4)) {
        let mut frame = wire::encode(&message, 1).unwrap();
        for harm in &harms {
            harm.apply(&mut frame);
        }
        holds_for(&frame);
        mend_length(&mut frame);
        holds_for(&frame);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..400)) {
        holds_for(&bytes);
    }
}
