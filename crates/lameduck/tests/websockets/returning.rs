//! Clients at an upgrade that closes WebSockets: those that come back in that moment, and those that never do their part.

use std::sync::Arc;
use std::time::Duration;

use lameduck::phase::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Barrier;

use crate::clients::{BOUND, End, connect, end, round_trip, router};
use crate::enemies::{raw, serve_with, stops_without_a_cut, upgradable};
use crate::moves::Directory;

/// All are told in the same moment, and none of them waits before it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_that_come_back_at_once_all_find_the_new_version() {
    const CLIENTS: usize = 1_000;
    let directory = Directory::new();
    let (old, address) = serve_with(upgradable(&directory, BOUND), router()).await;
    let all_are_back = Arc::new(Barrier::new(CLIENTS + 1));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = connect(address, "/echo").await;
        round_trip(&mut client, "hello").await;
        let all_are_back = Arc::clone(&all_are_back);
        clients.push(tokio::spawn(async move {
            let (_, told, _) = end(&mut client).await;
            assert_eq!(told, End::Closed(1012, "a new version serves".to_owned()));
            let mut client = connect(address, "/echo").await;
            round_trip(&mut client, "here again").await;
            all_are_back.wait().await;
            end(&mut client).await.1
        }));
    }
    let (new, _) = serve_with(upgradable(&directory, BOUND).take_over(), router()).await;
    tokio::time::timeout(BOUND, all_are_back.wait()).await.expect("all come back");
    let exit = tokio::time::timeout(BOUND, old.ended()).await.expect("it ends");
    let report = exit.report();
    assert_eq!((report.outcome, report.cut.websockets), (Outcome::Finished, 0), "{report}");
    assert_eq!(report.tally.websockets_told, CLIENTS as u64, "{report}");
    assert_eq!(new.snapshot().live.websockets, CLIENTS);
    new.stop();
    for client in clients {
        assert_eq!(client.await.unwrap(), End::Closed(1001, "the server stops".to_owned()));
    }
    let exit = tokio::time::timeout(BOUND, new.ended()).await.expect("it ends");
    let report = exit.report();
    assert_eq!((report.outcome, report.cut.websockets), (Outcome::Finished, 0), "{report}");
}

/// What a client has sent of a frame when it stalls, for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_frame_does_not_hold_an_old_version() {
    for half in [&[0x82][..], &[0x81, 0x85, 1, 2, 3, 4, b'h', b'e']] {
        let directory = Directory::new();
        let (old, address) = serve_with(upgradable(&directory, BOUND), router()).await;
        let mut client = raw(address).await;
        client.write_all(half).await.unwrap();
        let (new, _) = serve_with(upgradable(&directory, BOUND).take_over(), router()).await;
        let exit = tokio::time::timeout(BOUND, old.ended()).await.expect("it ends");
        let report = exit.report();
        assert_eq!((report.outcome, report.cut.websockets), (Outcome::Finished, 0), "{report}");
        let mut all = Vec::new();
        // Reset or not: what it sent last was never read.
        let _ = tokio::time::timeout(Duration::from_secs(5), client.read_to_end(&mut all)).await;
        assert_eq!(all, [&[0x88, 0x16, 0x03, 0xf4][..], b"a new version serves"].concat());
        stops_without_a_cut(new, address).await;
    }
}
