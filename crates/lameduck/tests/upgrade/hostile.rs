//! The control socket under bad input: a clear refusal, and a service that does not notice.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lameduck::operate::Verb;
use lameduck::takeover::wire::{self, Message, PROTOCOLS, Received};
use lameduck_verify::target::proc::{descriptors, is_stopped};
use lameduck_verify::target::{Signal, Target};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::support::{BOUND, Service, copy_program, example, wait, wait_gone, who};

/// A user who is not this one.
const NOBODY: u32 = 65534;

/// Somebody at the control socket.
struct Stranger(OwnedFd);

impl Stranger {
    fn connect(control: &Path) -> Stranger {
        let flags = SocketFlags::CLOEXEC;
        let kind = SocketType::SEQPACKET;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(control).unwrap()).unwrap();
        Stranger(socket)
    }

    /// The same without waiting for a place in the queue.
    fn try_connect(control: &Path) -> Option<Stranger> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::SEQPACKET;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
        match rustix::net::connect(&socket, &SocketAddrUnix::new(control).unwrap()) {
            Ok(()) => Some(Stranger(socket)),
            Err(rustix::io::Errno::AGAIN) => None,
            Err(error) => panic!("connect: {error}"),
        }
    }

    fn send(&self, bytes: &[u8]) {
        rustix::io::write(&self.0, bytes).unwrap();
    }

    /// The next frame; empty at the end of the conversation.
    fn receive(&self) -> Vec<u8> {
        let limit = Timespec::try_from(BOUND).unwrap();
        assert_eq!(poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)).unwrap(), 1);
        let mut bytes = vec![0; wire::MAX_FRAME];
        // A reset is an end as well.
        let length = rustix::io::read(&self.0, &mut bytes).unwrap_or(0);
        bytes.truncate(length);
        bytes
    }

    fn refusal(&self) -> String {
        match wire::decode(&self.receive(), 0) {
            Ok(Received::Message(Message::Refuse(why))) => why.to_string(),
            other => panic!("no refusal: {other:?}"),
        }
    }
}

fn good_command() -> Vec<u8> {
    let command = wire::Command { verb: "status".to_owned(), arguments: Vec::new() };
    wire::encode(&Message::Command(command), PROTOCOLS.newest).unwrap()
}

/// The service answers, and holds as many descriptors as before.
fn unharmed(service: &Service, before: usize) {
    service.get("/");
    assert_eq!(service.ask(Verb::Status).code, 0);
    let now = || descriptors(service.target.pid());
    wait(|| now().len() <= before, || format!("{before} descriptors, now {:?}", now()));
}

#[test]
fn nonsense_is_refused_with_a_reason() {
    let service = Service::start();
    service.ask(Verb::Status);
    let before = descriptors(service.target.pid()).len();
    let good = good_command();
    let mut claims = good.clone();
    // The length of the body stands at the end of the header.
    claims[wire::HEADER - 4..wire::HEADER].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases: [(&str, Vec<u8>); 6] = [
        ("garbage", b"what a lovely day".to_vec()),
        ("one byte", vec![0x4c]),
        ("half a frame", good[..good.len() / 2].to_vec()),
        ("a claim of 4 GiB", claims),
        ("too much", vec![0x4c; wire::MAX_FRAME + 1]),
        ("out of turn", wire::encode(&Message::Accepting, PROTOCOLS.newest).unwrap()),
    ];
    for (name, bytes) in cases {
        let stranger = Stranger::connect(&service.control());
        stranger.send(&bytes);
        let refusal = stranger.refusal();
        assert!(!refusal.is_empty(), "{name}");
        assert_eq!(stranger.receive(), b"", "{name}: the conversation is over");
    }
    unharmed(&service, before);
    service.stop();
}

#[test]
fn those_who_say_nothing_or_never_read_are_let_go() {
    let service = Service::start();
    service.ask(Verb::Status);
    let before = descriptors(service.target.pid()).len();
    let silent = Stranger::connect(&service.control());
    let never_read = (0..20).map(|_| {
        let stranger = Stranger::connect(&service.control());
        stranger.send(&good_command());
        stranger
    });
    let never_read: Vec<_> = never_read.collect();
    assert_eq!(silent.receive(), b"", "let go");
    // Without a word from them, and while they are there.
    unharmed(&service, before);
    drop(never_read);
    service.upgrade();
    service.stop();
}

#[test]
fn ten_thousand_strangers_change_nothing() {
    const STRANGERS: usize = 10_000;
    /// Conversations at a time, and what else may be open for a moment.
    const ROOM: usize = 64 + 8;
    lameduck_verify::probe::raise_open_files();
    let service = Service::start();
    let mut kept = service.connect();
    kept.get("/");
    service.ask(Verb::Status);
    let before = descriptors(service.target.pid()).len();
    // Whoever finds the queue full is told so by the kernel, and does not wait.
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..STRANGERS {
        match Stranger::try_connect(&service.control()) {
            Some(stranger) => held.push(stranger),
            None => refused += 1,
        }
    }
    let open = descriptors(service.target.pid()).len();
    assert!(open <= before + ROOM, "{open} descriptors, {before} before, {refused} refused");
    assert_eq!(who(&kept.get("/")).0, 1);
    service.get("/");
    drop(held);
    unharmed(&service, before);
    service.upgrade();
    service.stop();
}

#[test]
fn silent_strangers_do_not_keep_an_operator_out() {
    let service = Service::start();
    let strangers: Vec<_> = (0..200).map(|_| Stranger::connect(&service.control())).collect();
    let asked = std::time::Instant::now();
    assert_eq!(service.ask(Verb::Status).code, 0);
    // They have as long as this to say something, and hold their places meanwhile.
    assert!(asked.elapsed() < lameduck::operate::ASK, "{:?}", asked.elapsed());
    let newest = &strangers[strangers.len() - 1];
    newest.send(&good_command());
    assert!(!newest.receive().is_empty(), "the last to come still has its place");
    service.stop();
}

/// A predecessor that stands still, and whose queue is full.
#[test]
fn a_successor_that_nobody_lets_in_gives_up_and_says_so() {
    let service = Service::start();
    let first = service.target.pid();
    service.signal(first, Signal::STOP);
    wait(|| is_stopped(first), || service.target.stderr());
    let crowd: Vec<_> = std::iter::from_fn(|| Stranger::try_connect(&service.control())).collect();
    service.wish("take-over");
    let mut late = service.by_hand(&example("misbehaving_successor")).start().unwrap();
    assert_eq!(late.wait(BOUND).unwrap().code, Some(1), "{}", late.stderr());
    let told = late.stderr();
    assert!(told.contains("full queue") && told.contains("control"), "{told}");
    // One that finds room in time is let in.
    let second = service.by_hand(&example("misbehaving_successor")).start().unwrap();
    drop(crowd);
    service.signal(first, Signal::CONT);
    second.wait_stderr("Generation 2 listens", BOUND).unwrap();
    wait(|| service.status()["active"] == 2, || service.status().to_string());
    assert_eq!(service.ask(Verb::Stop).code, 0);
    wait_gone(second.pid());
}

#[test]
fn the_control_socket_is_for_this_user_alone() {
    let service = Service::start();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&service.file("run")), 0o700);
    assert_eq!(mode(&service.file("run").join("control.g1")), 0o600);
    service.upgrade();
    assert_eq!(mode(&service.file("run").join("control.g2")), 0o600);
    service.stop();
}

/// Another user who gets as far as the socket: the directory and the file are opened for the test.
#[test]
fn another_user_is_refused() {
    if !prerequisites::is_root() {
        // Only root can become somebody else.
        return;
    }
    let service = Service::start();
    let socket = service.file("run").join("control.g1");
    let directory = service.file("");
    for (path, mode) in [(directory, 0o755), (service.file("run"), 0o755), (socket.clone(), 0o666)]
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // A copy, since the build's own directory may be closed to others.
    let program = service.file("program");
    copy_program(&example("misbehaving_successor"), &program);
    service.wish("raw listen");
    let stranger = Target::command(&program).arg(&socket).arg(service.file("wishes"));
    let stranger = stranger.user(NOBODY, NOBODY).start().unwrap();
    stranger.wait_stderr("told: not allowed: uid 65534 is not uid 0", BOUND).unwrap();
    std::fs::set_permissions(service.file("run"), std::fs::Permissions::from_mode(0o700)).unwrap();
    service.stop();
}
