//! What an upgrade does to TLS connections: they stay, are told to go, and resume.

use lameduck_verify::load::{Mode, Until};
use lameduck_verify::target::Signal;

use super::{FLAGS, Secure};
use crate::service::{LIMIT, User, as_user, stops};

const CONTROL: [&str; 2] = ["--control", "run/control"];

/// Clients with a ticket each.
const TICKETS: usize = 64;

/// Clients that each had one whole handshake and got tickets; then `meanwhile`; then each connects again. How many
/// resumed.
#[track_caller]
fn resumed(secure: &mut Secure, meanwhile: impl FnOnce(&mut Secure)) -> usize {
    let clients: Vec<_> = (0..TICKETS).map(|_| secure.client(b"http/1.1")).collect();
    for config in &clients {
        let mut client = secure.dial(config);
        client.get_and_end("/b").unwrap();
        assert!(!client.is_resumed());
    }
    meanwhile(secure);
    let again = clients.iter().filter(|config| {
        let mut client = secure.dial(config);
        client.get_and_end("/b").unwrap();
        client.is_resumed()
    });
    again.count()
}

#[test]
fn sessions_resume_after_an_upgrade() {
    let mut secure = Secure::start(&CONTROL);
    let before = resumed(&mut secure, |_| {});
    let after = resumed(&mut secure, |secure| {
        secure.service.upgrade();
    });
    println!("resumed before an upgrade {before} of {TICKETS}, after one {after}");
    assert_eq!(before, TICKETS);
    // Within two points of before.
    assert!(after * 50 >= before * 49, "{after} of {TICKETS} after, {before} before");
    // The keys go on from generation to generation.
    let later = resumed(&mut secure, |secure| {
        secure.service.upgrade();
        secure.service.upgrade();
    });
    assert!(later * 50 >= before * 49, "{later} of {TICKETS} after two more");
    secure.service.operate("stop", &[]);
}

/// The loss itself: without the keys each client pays for a whole handshake.
#[test]
fn no_session_resumes_where_the_keys_do_not_move() {
    let mut secure = Secure::start(&[]);
    let after = resumed(&mut secure, |secure| {
        let address = secure.service.addresses[0].clone();
        secure.service.signal(Signal::TERM);
        secure.service.ends_clean();
        let flags = [&FLAGS[..], &["--listen", &address]].concat();
        let command = as_user(User::Same).arg("serve").args(flags);
        secure.service.replace(command);
    });
    assert_eq!(after, 0);
}

#[test]
fn busy_clients_behind_tls_lose_nothing_in_upgrades() {
    for (mode, reconnects) in
        [(Mode::KeepAlive, true), (Mode::NewConnection, false), (Mode::Http2 { streams: 4 }, true)]
    {
        let secure = Secure::start(&CONTROL);
        let upgrades = stops();
        let load = secure.load("/b", mode).until(Until::Elapsed(10 * LIMIT));
        let running = load.start().unwrap();
        running.wait_flowing(LIMIT).unwrap();
        for _ in 0..upgrades {
            secure.service.upgrade();
        }
        running.stop();
        let report = running.finish();
        let words = secure.service.target.stderr();
        assert_eq!(report.lost(), 0, "{report}\n{words}");
        assert_eq!(report.truncated(), 0, "{report}");
        assert_eq!(report.count(lameduck_verify::fate::Fate::Refused), 0, "{report}");
        let clients = super::CLIENTS as u64;
        let opened = report.connections_opened();
        // Once an upgrade at most.
        assert!(!reconnects || opened <= clients * (upgrades as u64 + 1), "{opened}: {report}");
        secure.service.operate("stop", &[]);
    }
}

#[test]
fn an_idle_connection_behind_tls_is_answered_by_its_generation_and_told_to_go() {
    let secure = Secure::start(&CONTROL);
    let mut idle = secure.dial(&secure.client(b"http/1.1"));
    let version = idle.get("/version").unwrap();
    assert!(version.contains(r#""generation":1"#), "{version}");
    secure.service.upgrade();
    let version = idle.get("/version").unwrap();
    assert!(version.contains(r#""generation":1"#), "{version}");
    assert!(version.contains("connection: close"), "{version}");
    assert_eq!(idle.rest().unwrap(), "", "and it ends in order");
    let mut next = secure.dial(&secure.client(b"http/1.1"));
    assert!(next.get("/version").unwrap().contains(r#""generation":2"#));
    secure.service.operate("stop", &[]);
}

/// One that stays silent is closed in order, and does not keep its generation for ever.
#[test]
fn a_silent_connection_behind_tls_is_closed_after_an_upgrade() {
    let secure = Secure::start(&[&CONTROL[..], &["--upgrade-linger", "300ms"]].concat());
    let mut silent = secure.dial(&secure.client(b"http/1.1"));
    silent.get("/b").unwrap();
    secure.service.upgrade();
    assert_eq!(silent.rest().unwrap(), "");
    secure.service.operate("stop", &[]);
}

/// The probe comes over a socket that nobody else has, and needs no keys.
#[test]
fn a_new_generation_behind_tls_answers_its_probe() {
    let secure = Secure::start(&["--control", "run/control", "--probe", "/version"]);
    assert!(secure.service.upgrade().contains("generation 2"));
    secure.service.operate("stop", &[]);
    let secure = Secure::start(&["--control", "run/control", "--probe", "/nowhere"]);
    let ended = secure.service.operate("upgrade", &[]);
    assert!(ended.stderr.contains("answered 404 Not Found to GET /nowhere"), "{}", ended.stderr);
    secure.service.operate("stop", &[]);
}
