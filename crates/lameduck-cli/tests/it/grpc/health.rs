//! `grpc.health.v1`, which balancers ask.

use lameduck_verify::target::{Ready, Signal, Target};
use tonic_health::pb::health_check_response::ServingStatus;

use super::clients::{channel, check, is_told, runtime, watch_health};
use crate::service::{LIMIT, Service, new_directory, program};

const CONTROL: [&str; 2] = ["--control", "run/control"];

#[test]
fn grpc_health_turns_red_before_the_gate_closes() {
    let mut service = Service::start(&["--lame-duck", "1s"]);
    runtime().block_on(async {
        let mut health = watch_health(channel(&service)).await;
        let first = health.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        for name in ["", arena::grpc::NAME] {
            assert_eq!(check(channel(&service), name).await.unwrap(), ServingStatus::Serving);
        }
        let unknown = check(channel(&service), "no.such.Service").await.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound);

        service.signal(Signal::TERM);
        let next = health.message().await.unwrap().unwrap();
        assert_eq!(next.status(), ServingStatus::NotServing);
        // Red, and still accepting: this is a new connection.
        let status = check(channel(&service), "").await.unwrap();
        assert_eq!(status, ServingStatus::NotServing);
        let end = health.message().await.unwrap_err();
        assert!(is_told(&end), "{end}");
    });
    service.ends_clean();
}

#[test]
fn grpc_health_stays_green_at_an_upgrade() {
    let service = Service::start(&CONTROL);
    runtime().block_on(async {
        let mut health = watch_health(channel(&service)).await;
        let first = health.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        tokio::task::block_in_place(|| service.upgrade());
        // Its generation ends: the watcher is told to ask again, not that the service is red.
        let end = health.message().await.unwrap_err();
        assert!(is_told(&end), "{end}");
        let mut again = watch_health(channel(&service)).await;
        let first = again.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
    });
    service.operate("stop", &[]);
}

/// The loss itself: tonic's own server waits for a stream without an end, and whoever then gives up cuts it.
#[test]
fn a_stream_of_a_naive_tonic_server_ends_without_a_status() {
    let command = Target::command(program("naive-tonic")).args(["--port", "0", "--grace", "300"]);
    let ready = Ready::Stdout("istening on ".into());
    let mut service = Service::run_unasked(new_directory(), command, ready);
    runtime().block_on(async {
        let mut health = watch_health(channel(&service)).await;
        health.message().await.unwrap().unwrap();
        service.signal(Signal::TERM);
        let end = tokio::time::timeout(LIMIT, health.message()).await.unwrap();
        let end = end.unwrap_err();
        // A status of the server's has no cause on this side.
        assert!(std::error::Error::source(&end).is_some(), "{end:?}");
    });
    service.wait();
}
