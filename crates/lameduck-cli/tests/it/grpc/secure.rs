//! The same calls behind TLS: ALPN chooses HTTP/2, and everything holds.

use super::clients::{Counter, end_of, is_told, runtime, secure_channel};
use super::loops::{STORED, a_stop_answers_what_it_has, counted_before, upgrades_lose_no_call};
use super::python::{Python, fails_only_unconnected, streams_have_a_status};
use crate::service::stops;
use crate::tls::Secure;

const CONTROL: [&str; 2] = ["--control", "run/control"];

#[test]
fn unary_calls_behind_tls_lose_nothing_in_upgrades() {
    let secure = Secure::start(&CONTROL);
    upgrades_lose_no_call(&secure.service, || secure_channel(&secure));
}

#[test]
fn unary_calls_behind_tls_in_hand_at_a_stop_are_answered() {
    for _ in 1..=stops() {
        let mut secure = Secure::start(&STORED);
        let client = secure.client(b"h2");
        let channel = |service: &_| super::clients::encrypted(service, &client);
        let answered = a_stop_answers_what_it_has(&mut secure.service, channel);
        counted_before(secure.service.into_directory(), answered);
    }
}

#[test]
fn streams_behind_tls_end_with_a_status_in_an_upgrade_and_at_the_deadline() {
    let mut secure = Secure::start(&[&CONTROL[..], &["--grace", "2s"]].concat());
    runtime().block_on(async {
        let mut endless = Counter::new(secure_channel(&secure)).watch(0, 5).await.unwrap();
        endless.message().await.unwrap().unwrap();
        let mut ends = Counter::new(secure_channel(&secure)).watch(100, 5).await.unwrap();
        ends.message().await.unwrap().unwrap();
        tokio::task::block_in_place(|| secure.service.upgrade());
        let (_, told) = end_of(endless).await;
        assert!(is_told(&told.unwrap_err()));
        assert_eq!(end_of(ends).await.0, 100);
        let mut lasts = Counter::new(secure_channel(&secure)).watch(1_000_000, 5).await.unwrap();
        lasts.message().await.unwrap().unwrap();
        let cut = end_of(lasts);
        let stopped = tokio::task::block_in_place(|| secure.service.operate("stop", &[]));
        assert!(is_told(&cut.await.1.unwrap_err()), "{stopped:?}");
    });
    secure.service.wait();
}

#[test]
fn grpcio_behind_tls_loses_nothing_in_an_upgrade_and_has_a_status_at_a_stop() {
    let secure = Secure::start(&CONTROL);
    let authority = secure.service.path("ca.pem");
    let mut python = Python::load(&secure.service.addresses[0], Some(&authority));
    secure.service.upgrade();
    let ended = python.ends();
    assert_eq!(ended["failed"], serde_json::json!([]));
    streams_have_a_status(&ended);
    let mut python = Python::load(&secure.service.addresses[0], Some(&authority));
    secure.service.operate("stop", &[]);
    let ended = python.ends();
    fails_only_unconnected(&ended);
    streams_have_a_status(&ended);
}
