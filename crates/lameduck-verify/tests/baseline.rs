//! A correct server loses nothing: what the clients report is never their own doing.

mod support;

use lameduck_verify::address::Place;
use lameduck_verify::load::{Load, Mode, Until};
use lameduck_verify::probe::{self, Wire, watch};
use std::collections::HashSet;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{
    OK, OK_CLOSE, SOON, Server, axum_graceful, close_in_order, read_request, serve_well,
};

#[test]
fn nothing_is_lost_without_an_action() {
    let server = Server::start(serve_well);
    for mode in [Mode::KeepAlive, Mode::NewConnection, Mode::Post] {
        for pause in [0, 1, 5, 20].map(Duration::from_millis) {
            let load = Load::new(server.place("/b"), mode).connections(8).pause(pause);
            let running = load.until(Until::Elapsed(Duration::from_millis(300))).start().unwrap();
            running.wait_flowing(SOON).unwrap();
            let report = running.finish();
            assert_eq!((report.lost(), report.tally().not_sent()), (0, 0), "{mode:?}: {report}");
            let opened = report.connections_opened();
            match mode {
                Mode::NewConnection => assert_eq!(opened, report.tally().answered(), "{report}"),
                _ => assert_eq!(opened, 8, "{report}"),
            }
        }
    }
}

#[test]
fn nothing_is_lost_on_a_unix_socket() {
    /// One for each client, and the one connection of the probe.
    const CONNECTIONS: usize = 5;
    let directory = std::env::temp_dir();
    let path = directory.join(format!("lameduck-verify-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let accepting = std::thread::spawn(move || {
        for stream in listener.incoming().take(CONNECTIONS) {
            std::thread::spawn(move || serve_well(stream.unwrap()));
        }
    });
    let place: Place = format!("unix:{}:/b", path.display()).parse().unwrap();
    let load = Load::new(place.clone(), Mode::KeepAlive).connections(CONNECTIONS - 1);
    let load = load.until(Until::Elapsed(Duration::from_millis(100)));
    let report = load.start().unwrap().finish();
    assert_eq!((report.lost(), report.tally().not_sent()), (0, 0), "{report}");
    let mut wire = Wire::connect(&place.address).unwrap();
    wire.request(&place.get(""));
    assert!(watch(std::slice::from_mut(&mut wire), probe::Until::Answered, SOON).unwrap());
    accepting.join().unwrap();
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn nothing_is_lost_over_http2_without_an_action() {
    let (_target, place) = axum_graceful();
    let load = Load::new(place, Mode::Http2 { streams: 4 }).connections(4);
    let running = load.until(Until::Elapsed(Duration::from_millis(500))).start().unwrap();
    running.wait_flowing(SOON).unwrap();
    let report = running.finish();
    assert_eq!((report.lost(), report.tally().not_sent()), (0, 0), "{report}");
    assert_eq!(report.connections_opened(), 4, "{report}");
    assert!(report.tally().answered() >= 16, "{report}");
}

/// From the stop on, each answer says `Connection: close`, and the connection is closed in order after it.
#[test]
fn a_stop_that_announces_each_close_loses_nothing() {
    let stopping = Arc::new(AtomicBool::new(false));
    let seen = stopping.clone();
    let server = Server::start(move |mut stream| {
        while read_request(&mut stream).is_some() {
            if seen.load(Ordering::SeqCst) {
                let _ = stream.write_all(OK_CLOSE);
                return close_in_order(stream);
            }
            if stream.write_all(OK).is_err() {
                return;
            }
        }
    });
    for pause in [0, 5].map(Duration::from_millis) {
        stopping.store(false, Ordering::SeqCst);
        let load = Load::new(server.place("/b"), Mode::KeepAlive).connections(16).pause(pause);
        let running = load.until(Until::Elapsed(Duration::from_millis(400))).start().unwrap();
        running.wait_flowing(SOON).unwrap();
        stopping.store(true, Ordering::SeqCst);
        let report = running.finish();
        assert_eq!((report.lost(), report.tally().not_sent()), (0, 0), "{report}");
        assert!(report.told_to_close() >= 16, "{report}");
    }
}

#[test]
fn each_acknowledged_id_is_recorded_once_and_was_received() {
    let received = Arc::new(Mutex::new(Vec::new()));
    let ids = received.clone();
    let server = Server::start(move |mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let id = request.split('"').nth(3).expect("the body is {\"id\":\"…\"}").to_owned();
            ids.lock().unwrap().push(id);
            if stream.write_all(OK).is_err() {
                return;
            }
        }
    });
    let file = std::env::temp_dir().join(format!("lameduck-acked-{}", std::process::id()));
    let load = Load::new(server.place("/orders"), Mode::Post).connections(4).acked(&file);
    let report = load.until(Until::Elapsed(Duration::from_millis(200))).start().unwrap().finish();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let acked: HashSet<&str> = text.lines().collect();
    assert_eq!(acked.len() as u64, report.tally().answered(), "{report}");
    assert_eq!(acked.len(), text.lines().count(), "an id was written twice");
    let received = received.lock().unwrap();
    assert_eq!(received.iter().map(String::as_str).collect::<HashSet<_>>(), acked);
    assert_eq!(received.len(), acked.len(), "an id was sent twice");
}

#[test]
fn a_load_can_be_stopped_and_ends_soon() {
    let server = Server::start(serve_well);
    let load = Load::new(server.place("/"), Mode::KeepAlive).connections(4);
    let running = load.until(Until::Elapsed(Duration::from_secs(600))).start().unwrap();
    running.wait_flowing(SOON).unwrap();
    running.stop();
    assert!(running.wait_ended(SOON));
    assert_eq!(running.finish().lost(), 0);
}
