//! What a service leaves behind: nothing (losses 32 and 34).

use std::net::TcpListener;
use std::time::Duration;

use lameduck_verify::load::{Load, Mode, Until};
use lameduck_verify::target::{Signal, proc};

use crate::service::{LIMIT, Service, User, WITH_ADMIN, get, stops};

#[test]
fn no_process_file_or_port_is_left() {
    let listen = ["127.0.0.1:0", "unix:x.sock"];
    let mut service = Service::start_on(&listen, &WITH_ADMIN);
    let load =
        Load::new(service.place("/b"), Mode::KeepAlive).until(Until::Gone { at_most: LIMIT });
    let running = load.start().unwrap();
    running.wait_flowing(LIMIT).unwrap();
    let tree = service.target.tree();
    assert_eq!(tree.len(), 1, "it starts no process: {tree:?}");
    service.signal(Signal::TERM);
    service.ends_clean();
    assert_eq!(running.finish().lost(), 0);
    assert!(tree.iter().all(|pid| proc::threads(*pid).is_empty()), "{tree:?}");
    assert!(!tree.iter().any(|pid| proc::is_zombie(*pid)));
    TcpListener::bind(&service.addresses[0]).unwrap();
    let left =
        std::fs::read_dir(service.path(".")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["lameduck.db"]);
}

/// Each descriptor that a connection took is given back, and so is each thread of a blocking call.
#[test]
fn a_service_that_was_busy_holds_no_more_than_before() {
    let mut service = Service::start_as(User::Same, &["127.0.0.1:0"], &WITH_ADMIN);
    let pid = service.target.pid();
    let round = |mode| {
        let until = Until::Elapsed(Duration::from_millis(300));
        let load = Load::new(service.place("/b"), mode).connections(50).until(until);
        assert_eq!(load.start().unwrap().finish().lost(), 0);
        service.wait_live(0, 0);
        // Those of the one request that tells so are still there, always the same.
        (proc::descriptors(pid).len(), proc::threads(pid).len())
    };
    let modes = [Mode::KeepAlive, Mode::NewConnection, Mode::Http2 { streams: 3 }];
    let first = modes.map(round);
    let again = modes.map(round);
    let most = first.iter().map(|(descriptors, _)| *descriptors).max().unwrap();
    assert!(again.iter().all(|(descriptors, _)| *descriptors <= most + 2), "{first:?} {again:?}");
    assert_eq!(first[0].1, again[2].1, "threads: {first:?} {again:?}");
    service.signal(Signal::TERM);
    service.ends_clean();
}

/// Stopped and started again on the same address, many times, by the same client.
#[test]
fn it_starts_again_on_the_same_address_at_once() {
    let mut service = Service::start(&[]);
    let address = service.addresses[0].clone();
    for _ in 0..stops() {
        assert_eq!(get(&service.place("/b")).0, 200);
        service.signal(Signal::TERM);
        service.ends_clean();
        let directory = service.into_directory();
        service = Service::start_in(directory, User::Same, &[&address], &[]);
    }
    service.signal(Signal::TERM);
    service.ends_clean();
}
