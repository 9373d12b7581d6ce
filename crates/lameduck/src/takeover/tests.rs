//! How both machines are tested: scripts of text for each row of their tables, and every order of inputs up to a
//! length with their invariants checked after each step.

mod inventories;
mod orders;
mod predecessors;
mod successors;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::wire::{
    Commit, Connection, Hello, Listener, Message, Offer, PROTOCOLS, Protocols, Ready, Reason,
    Socket, State, Status, Why,
};
use super::{Inventory, Limits};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Small and all different, so that no two timers are taken for each other.
fn limits() -> Limits {
    Limits {
        hello: ms(10),
        offer: ms(20),
        takeover: ms(600),
        longest: ms(3000),
        probe: ms(40),
        state: ms(50),
        commit: ms(150),
        accepting: ms(70),
        returning: ms(90),
    }
}

fn hello(oldest: u16, newest: u16) -> Hello {
    let protocols = Protocols { oldest, newest };
    Hello { protocols, program: "web/2".to_owned(), pid: 7, generation: None }
}

fn listener(name: &str) -> Listener {
    Listener {
        name: name.to_owned(),
        socket: Socket::Tcp,
        address: "127.0.0.1:80".to_owned(),
        shared: false,
        inherited: None,
    }
}

fn state(key: &str) -> State {
    State { key: key.to_owned(), version: 1, size: 8 }
}

/// Two listeners, `http` and `admin`, and one state.
fn inventory() -> Inventory {
    Inventory {
        generation: 2,
        listeners: vec![listener("http"), listener("admin")],
        states: vec![state("counter")],
    }
}

fn ready(used: &[&str], dropped: &[&str]) -> Ready {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Ready { used: names(used), dropped: names(dropped), ..Ready::default() }
}

/// A message by the word scripts use for it.
fn message(words: &[&str]) -> Option<Message> {
    let inventory = inventory();
    Some(match words {
        ["Hello"] => Message::Hello(hello(PROTOCOLS.oldest, PROTOCOLS.newest)),
        ["Hello", "newer"] => Message::Hello(hello(PROTOCOLS.newest + 1, PROTOCOLS.newest + 2)),
        ["Hello", "from", "older", "to", "newer"] => Message::Hello(hello(0, 9)),
        ["Refuse"] => Message::Refuse(Why::new(Reason::Failed, "")),
        ["Offer"] => Message::Offer(inventory.offers().remove(0)),
        ["Offer", "part"] => Message::Offer(Offer {
            generation: 2,
            listeners: vec![listener("http")],
            states: Vec::new(),
            last: false,
        }),
        ["Offer", "rest"] => Message::Offer(Offer {
            generation: 2,
            listeners: vec![listener("admin")],
            states: vec![state("counter")],
            last: true,
        }),
        ["Status"] => Message::Status(Status { text: "warming".to_owned(), extend: ms(0) }),
        ["Status", millis] => {
            Message::Status(Status { text: "warming".to_owned(), extend: ms(millis.parse().ok()?) })
        }
        ["Ready"] => Message::Ready(ready(&["http"], &["admin"])),
        ["Ready", "wrong"] => Message::Ready(ready(&["http", "web"], &["admin"])),
        ["Ready", "probed"] => Message::Ready(Ready {
            probe: Some("/health".to_owned()),
            ..ready(&["http"], &["admin"])
        }),
        ["Probe"] => Message::Probe,
        ["Commit"] => Message::Commit(Commit { states: vec![state("counter")] }),
        ["Accepting"] => Message::Accepting,
        ["Connection"] => Message::Connection(Connection {
            server: "http".to_owned(),
            peer: "127.0.0.1:5".to_owned(),
            unread: Vec::new(),
            spilled: None,
            session: None,
        }),
        ["Drained"] => Message::Drained,
        ["Resume"] => Message::Resume(Why::new(Reason::Failed, "")),
        ["Rollback"] => Message::Rollback(Why::new(Reason::Operator, "")),
        ["Final"] => Message::Final,
        _ => return None,
    })
}

/// What was done in one step, and how the machine is after it.
struct Done {
    actions: Vec<String>,
    /// What bounds the wait, and until when.
    waits: Option<(Instant, String)>,
    note: Option<&'static str>,
}

/// Feeds each line of `script`, which is `TIME INPUT -> ACTIONS | NOTE until TIME BOUND`, and compares. A script that
/// lets a timer pass without a line of its own is wrong: the driver would have woken up there.
#[track_caller]
fn check(script: &str, start: Instant, mut feed: impl FnMut(Instant, &[&str]) -> Done) {
    let mut expected = String::new();
    let mut actual = String::new();
    let mut due: Option<Instant> = None;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let _ = writeln!(expected, "{}", words.join(" "));
        let head: Vec<&str> = words.iter().copied().take_while(|word| *word != "->").collect();
        let at = start + ms(head[0].strip_suffix("ms").unwrap().parse().unwrap());
        let _ = write!(actual, "{} ->", head.join(" "));
        if due.is_some_and(|due| due < at) {
            actual.push_str(" MISSED A TIMER");
        }
        let done = feed(at, &head[1..]);
        for action in &done.actions {
            let _ = write!(actual, " {action}");
        }
        actual.push_str(" |");
        if let Some(note) = done.note {
            let _ = write!(actual, " {note}");
        }
        if let Some((until, bound)) = &done.waits {
            let _ = write!(actual, " until {}ms {bound}", (*until - start).as_millis());
        }
        actual.push('\n');
        due = done.waits.map(|(at, _)| at);
    }
    assert!(actual == expected, "expected\n{expected}\nactual\n{actual}");
}

/// A message as scripts write it: its kind, and why if it says so.
fn message_word(message: &Message) -> String {
    match message {
        Message::Refuse(why) | Message::Resume(why) | Message::Rollback(why) => {
            format!("{}({:?})", message.kind().name(), why.reason)
        }
        message => message.kind().name().to_owned(),
    }
}
