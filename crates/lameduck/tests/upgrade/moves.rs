//! What goes over to the successor: connections in every state, and every kind of listener.

use std::os::unix::fs::MetadataExt;

use lameduck::operate::Verb;
use lameduck_verify::probe::http2::{Client, Frame, UpTo, acknowledgement, flag, kind};
use lameduck_verify::probe::{Until, Wire, http1, raise_open_files, watch};

use crate::support::{
    BOUND, Conversation, Service, Setup, copy_program, free_address, wait, wait_gone, who,
};

/// Idle connections of one upgrade.
const MANY: usize = 1_000;

#[test]
fn an_idle_connection_is_answered_by_the_successor() {
    let service = Service::start();
    let mut kept = service.connect();
    assert_eq!(who(&kept.get("/")).0, 1);
    for generation in 2..=4 {
        assert_eq!(service.upgrade_and_move().1, generation);
        assert_eq!(who(&kept.get("/")).0, generation);
    }
    service.stop();
}

#[test]
fn a_connection_that_has_said_nothing_is_answered_by_the_successor() {
    let service = Service::start();
    let mut silent = service.connect();
    // Accepted for sure: one that came after it is answered.
    service.get("/");
    let successor = service.upgrade_and_move();
    assert_eq!(who(&silent.get("/")), (successor.1, successor.0));
    service.stop();
}

#[test]
fn a_connection_with_half_a_head_is_answered() {
    let service = Service::start();
    let (mut fresh, mut used) = (service.connect(), service.connect());
    used.get("/");
    fresh.send(b"GET / HT");
    used.send(b"GET / HTTP/1.1\r\nho");
    let (_, generation) = service.upgrade();
    fresh.send(b"TP/1.1\r\nhost: test\r\n\r\n");
    used.send(b"st: test\r\n\r\n");
    fresh.answer();
    used.answer();
    assert_eq!(who(&fresh.get("/")).0, generation);
    assert_eq!(who(&used.get("/")).0, generation);
    service.stop();
}

#[test]
fn a_request_written_just_at_the_moment_is_answered() {
    let service = Service::start();
    let mut kept: Vec<_> = (0..20).map(|_| service.connect()).collect();
    for _ in 0..5 {
        std::thread::scope(|scope| {
            let upgrading = scope.spawn(|| service.upgrade());
            while !upgrading.is_finished() {
                kept.iter_mut().for_each(|connection| connection.ask("/"));
                kept.iter_mut().for_each(|connection| drop(connection.answer()));
            }
            upgrading.join().unwrap();
        });
    }
    service.stop();
}

#[test]
fn a_thousand_idle_connections_move_at_once() {
    raise_open_files();
    let service = Service::start();
    let mut wires = http1::idle(&service.place("/"), MANY).unwrap();
    service.upgrade_and_move();
    let request = service.place("/").get("");
    wires.iter_mut().for_each(|wire| wire.request(&request));
    assert!(watch(&mut wires, Until::Answered, BOUND).unwrap());
    let from_successor =
        |wire: &&Wire| String::from_utf8_lossy(wire.received()).contains("generation 2,");
    assert_eq!(wires.iter().filter(from_successor).count(), MANY);
    service.stop();
}

#[test]
fn a_request_in_hand_is_finished_and_its_connection_moves_then() {
    let service = Service::start();
    let first = service.target.pid();
    let mut busy = service.connect();
    busy.ask("/slow");
    wait_in_hand(&service, 1);
    let (pid, generation) = service.upgrade();
    assert_eq!(who(&service.get("/")).0, generation);
    assert_eq!(who(&busy.answer()), (1, first));
    assert_eq!(who(&busy.get("/")), (generation, pid));
    service.stop();
}

#[test]
fn a_chunked_upload_is_finished_and_its_connection_moves_then() {
    let service = Service::start();
    let mut busy = service.connect();
    busy.send(
        b"POST /size HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    );
    wait_in_hand(&service, 1);
    let (_, generation) = service.upgrade();
    busy.send(b"7\r\nand all\r\n0\r\n\r\n");
    let answer = busy.answer();
    assert!(answer.starts_with("generation 1,") && answer.contains(" 11 bytes"), "{answer}");
    assert_eq!(who(&busy.get("/")).0, generation);
    service.stop();
}

/// Waits until the first generation has so many requests in hand.
fn wait_in_hand(service: &Service, requests: usize) {
    let in_hand = || service.status()["generations"][0]["live"]["requests"] == requests;
    wait(in_hand, || service.status().to_string());
}

#[test]
fn an_http2_connection_is_told_to_go_and_finishes() {
    let service = Service::start();
    let place = service.place("/slow");
    let mut client = Client::open(&place, UpTo::SettingsAcknowledged, BOUND).unwrap();
    client.get(&place, 1).unwrap();
    wait_in_hand(&service, 1);
    service.upgrade();
    let is_ping = |frame: &Frame| frame.kind == kind::PING && frame.flags & flag::ACK == 0;
    assert!(client.wait_frame(is_ping, BOUND).unwrap());
    let ping = client.frames().into_iter().find(is_ping).unwrap();
    client.send(&acknowledgement(kind::PING, &ping.payload)).unwrap();
    client.wait_end(BOUND).unwrap();
    assert!(client.is_answered(1));
    let told: Vec<_> = client.go_aways().into_iter().map(|(last, _)| last).collect();
    assert_eq!(told, [(1 << 31) - 1, 1]);
    service.stop();
}

#[test]
fn a_unix_socket_moves_and_its_path_is_never_absent() {
    let setup = Setup::new();
    let path = setup.file("socket");
    let service = setup.listen(format!("unix:{}", path.display())).start();
    let inode = || std::fs::symlink_metadata(&path).unwrap().ino();
    let before = inode();
    let mut kept = Conversation::unix(&path);
    kept.get("/");
    for generation in 2..=3 {
        assert_eq!(service.upgrade_and_move().1, generation);
        assert_eq!(who(&kept.get("/")).0, generation);
        assert_eq!(who(&Conversation::unix(&path).get("/")).0, generation);
    }
    // A successor that fails after it took the socket takes nothing with it.
    service.wish("panic-late");
    assert_ne!(service.ask(Verb::Upgrade).code, 0);
    assert_eq!(who(&Conversation::unix(&path).get("/")).0, 3);
    // Nor does one that is rolled back.
    service.wish("");
    let (pid, _) = service.upgrade();
    assert_eq!(service.ask(Verb::Rollback).code, 0);
    crate::support::wait_gone(pid);
    assert_eq!(who(&Conversation::unix(&path).get("/")).0, 3);
    assert_eq!(inode(), before);
    service.stop();
    assert!(!path.exists());
}

#[test]
fn sockets_keep_their_inodes() {
    let (v6, admin) = (v6_address(), free_address());
    let service = Setup::new().listen(&v6).wish(&format!("admin {admin}")).start();
    let addresses = [service.address.to_string(), v6.clone(), admin.to_string()];
    let inodes = || addresses.each_ref().map(|address| listening_inode(address));
    let before = inodes();
    let mut kept = Conversation::tcp(v6.parse().unwrap());
    kept.get("/");
    let nonblocking = |pid: u32| before.each_ref().map(|inode| is_nonblocking(pid, inode));
    assert_eq!(nonblocking(service.target.pid()), [true; 3]);
    for generation in 2..=3 {
        let (pid, _) = service.upgrade_and_move();
        assert_eq!(inodes(), before);
        assert_eq!(nonblocking(pid), [true; 3]);
        assert_eq!(who(&kept.get("/")).0, generation);
        let status = Conversation::tcp(admin).get("/status");
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["generation"], generation, "{status}");
    }
    service.stop();
}

/// Whether the process's descriptor of this socket has `O_NONBLOCK`, which all who share the socket share.
fn is_nonblocking(pid: u32, inode: &str) -> bool {
    const O_NONBLOCK: u32 = 0o4000;
    let descriptors = lameduck_verify::target::proc::descriptors(pid);
    let wanted = format!("socket:[{inode}]");
    let (number, _) = descriptors.iter().find(|(_, leads_to)| *leads_to == wanted).unwrap();
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    u32::from_str_radix(flags.trim(), 8).unwrap() & O_NONBLOCK != 0
}

fn v6_address() -> String {
    std::net::TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().to_string()
}

/// The inode of the one listening socket at this address, as the kernel tells it.
pub fn listening_inode(address: &str) -> String {
    let address: std::net::SocketAddr = address.parse().unwrap();
    let table = if address.is_ipv6() { "/proc/net/tcp6" } else { "/proc/net/tcp" };
    let table = std::fs::read_to_string(table).unwrap();
    let port = format!(":{:04X}", address.port());
    let mut found = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // 0A is LISTEN.
        (fields[1].ends_with(&port) && fields[3] == "0A").then(|| fields[9].to_owned())
    });
    let inode = found.next().unwrap();
    assert_eq!(found.next(), None, "one socket listens on {address}");
    inode
}

#[test]
fn a_switched_symlink_takes_effect() {
    let setup = Setup::new();
    let (link, new) = (setup.file("app"), setup.file("new"));
    let program = crate::support::example("misbehaving_successor");
    std::os::unix::fs::symlink(&program, &link).unwrap();
    let service = setup.program(&link).start();
    copy_program(&program, &new);
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&new, &link).unwrap();
    let (pid, _) = service.upgrade();
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).unwrap(), new);
    service.stop();
}

#[test]
fn a_request_outlives_three_upgrades_on_its_own_generation() {
    let mut service = Service::start();
    let mut busy = service.connect();
    busy.send(b"POST /size HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nha");
    wait_in_hand(&service, 1);
    for generation in 2..=4 {
        assert_eq!(service.upgrade().1, generation);
        assert_eq!(who(&service.get("/")).0, generation);
    }
    let generations = service.status()["generations"].as_array().unwrap().len();
    assert!(generations >= 2, "{}", service.status());
    busy.send(b"lf");
    assert_eq!(who(&busy.answer()).0, 1);
    // The second generation, which could have passed the connection on, is gone: it ends with its own.
    drop(busy);
    service.target.wait(BOUND).unwrap();
    service.stop();
}

/// The second and the third generation, which could pass the connection on, are gone by then.
#[test]
fn a_connection_that_was_busy_across_three_upgrades_moves_to_the_newest() {
    let service = Setup::new().wish("probation 50").start();
    let mut busy = service.connect();
    busy.send(b"POST /size HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nha");
    wait_in_hand(&service, 1);
    let (second, _) = service.upgrade();
    service.upgrade();
    wait_gone(second);
    let (newest, generation) = service.upgrade();
    busy.send(b"lf");
    assert_eq!(who(&busy.answer()).0, 1);
    // On the same connection.
    assert_eq!(who(&busy.get("/")), (generation, newest));
    // And from there to those that come after.
    let (newest, generation) = service.upgrade_and_move();
    assert_eq!(who(&busy.get("/")), (generation, newest));
    service.stop();
}

#[test]
fn more_old_generations_than_may_drain_are_refused_by_name() {
    let service = Setup::new().wish("max-generations 1").start();
    let mut busy = Vec::new();
    for generation in 2..=3 {
        let mut connection = service.connect();
        connection.send(b"POST /size HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nha");
        wait_in_hand(&service, 1);
        busy.push(connection);
        if generation == 2 {
            service.upgrade();
        }
    }
    let why = service.ask(Verb::Upgrade);
    assert_ne!(why.code, 0);
    assert!(why.text.contains("as many older generations drain as may"), "{}", why.text);
    for connection in &mut busy {
        connection.send(b"lf");
        connection.answer();
    }
    service.stop();
}

#[test]
fn back_to_back_upgrades_are_not_refused() {
    let mut service = Setup::new().wish("max-generations 1").wish("probation 30000").start();
    for generation in 2..=12 {
        assert_eq!(service.upgrade().1, generation);
    }
    service.target.wait(BOUND).unwrap();
    wait(|| service.processes().len() == 2, || format!("{:?}", service.processes()));
    service.stop();
}

/// F27: whoever looks, at any moment of ten upgrades, finds the path and is answered.
#[test]
fn the_path_of_a_unix_socket_is_there_at_every_look() {
    let setup = Setup::new();
    let path = setup.file("socket");
    let service = setup.listen(format!("unix:{}", path.display())).start();
    std::thread::scope(|scope| {
        let upgrading = scope.spawn(|| {
            for _ in 0..10 {
                service.upgrade();
            }
        });
        let mut looks = 0;
        while !upgrading.is_finished() {
            std::fs::symlink_metadata(&path).unwrap();
            Conversation::unix(&path).get("/");
            looks += 1;
        }
        upgrading.join().unwrap();
        assert!(looks > 10, "{looks}");
    });
    service.stop();
}

/// A stream that goes both ways, begun before three upgrades, paced and ended by its client after them.
#[test]
fn a_long_stream_ends_on_its_own_generation_while_new_requests_meet_the_newest() {
    let mut service = Service::start();
    let mut long = service.connect();
    long.begin_echo();
    wait_in_hand(&service, 1);
    for generation in 2..=4 {
        let (pid, upgraded) = service.upgrade();
        assert_eq!(upgraded, generation);
        assert_eq!(who(&service.get("/")), (generation, pid));
        let piece = format!("after generation {generation} took over");
        assert_eq!(long.echo(&piece), piece);
    }
    let oldest = service.status()["generations"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&oldest["generation"], &oldest["live"]["requests"]), (&1.into(), &1.into()));
    long.end_echo();
    drop(long);
    service.target.wait(BOUND).unwrap();
    service.stop();
}
