//! Calls through stops and upgrades.

use lameduck_verify::target::Signal;

use super::clients::{Counter, channel, end_of, is_told, runtime};
use super::loops::{STORED, a_stop_answers_what_it_has, counted_before, upgrades_lose_no_call};
use crate::service::{Service, WITH_ADMIN, stops};

const CONTROL: [&str; 2] = ["--control", "run/control"];

#[test]
fn unary_calls_under_load_lose_nothing_in_upgrades() {
    let service = Service::start(&CONTROL);
    upgrades_lose_no_call(&service, || channel(&service));
}

/// At a stop nobody comes after: a call that the server had is answered, one that it refused was not run.
#[test]
fn unary_calls_in_hand_at_a_stop_are_answered() {
    for _ in 1..=stops() {
        let mut service = Service::start(&STORED);
        let answered = a_stop_answers_what_it_has(&mut service, channel);
        counted_before(service.into_directory(), answered);
    }
}

#[test]
fn streams_finish_or_end_with_a_status_in_upgrades_and_at_the_stop() {
    const STREAMS: usize = 50;
    for run in 1..=stops() {
        let mut service = Service::start(&CONTROL);
        runtime().block_on(async {
            let mut ends = tokio::task::JoinSet::new();
            let begin = async |count| {
                let mut counter = Counter::new(channel(&service));
                let mut numbers = counter.watch(count, 5).await.unwrap();
                // The first message says that the call is in hand.
                let first = numbers.message().await.unwrap().unwrap();
                assert_eq!(first.place, 1);
                numbers
            };
            for generation in 1..=2 {
                for nth in 0..STREAMS {
                    // Without an end, and with one that comes after the upgrade or the stop.
                    let count = if nth % 2 == 0 { 0 } else { 100 };
                    let numbers = begin(count).await;
                    ends.spawn(async move { (count, end_of(numbers).await) });
                }
                match generation {
                    1 => _ = tokio::task::block_in_place(|| service.upgrade()),
                    _ => _ = tokio::task::block_in_place(|| service.operate("stop", &[])),
                }
            }
            for (count, (messages, end)) in ends.join_all().await {
                match (count, end) {
                    (0, Err(status)) => assert!(is_told(&status), "run {run}: {status:?}"),
                    (100, Ok(())) => assert_eq!(messages, 100, "run {run}"),
                    (count, end) => panic!("run {run}: one of {count} ended {end:?} at {messages}"),
                }
            }
        });
        assert_eq!(service.wait().code, Some(0));
    }
}

#[test]
fn a_stream_that_lasts_until_the_deadline_ends_with_a_status_and_is_named() {
    let mut service = Service::start(&["--grace", "1s", "--log", "json"]);
    runtime().block_on(async {
        let mut counter = Counter::new(channel(&service));
        let mut numbers = counter.watch(1_000_000, 5).await.unwrap();
        numbers.message().await.unwrap().unwrap();
        service.signal(Signal::TERM);
        let (_, end) = end_of(numbers).await;
        let status = end.unwrap_err();
        assert!(is_told(&status), "{status:?}");
    });
    assert_eq!(service.wait().code, Some(3));
    let report = service.report();
    assert_eq!(report["cut"]["requests"], 1, "{report}");
    assert_eq!(report["cut_work"][0]["name"], "POST /arena.v1.Counter/Watch", "{report}");
    assert_eq!(report["finished"]["requests"], 0, "{report}");
}

/// A unary call has no stream to end: its status is its whole answer.
#[test]
fn a_unary_call_that_lasts_until_the_deadline_is_answered_with_a_status_and_is_named() {
    let mut service =
        Service::start(&[&["--grace", "1s", "--log", "json"], &WITH_ADMIN[..]].concat());
    runtime().block_on(async {
        let mut counter = Counter::new(channel(&service));
        let call = tokio::spawn(async move { counter.add_after(600_000).await });
        tokio::task::block_in_place(|| service.wait_in_hand(1));
        service.signal(Signal::TERM);
        let status = call.await.unwrap().unwrap_err();
        assert!(is_told(&status), "{status:?}");
        // The server's own word: no failed connection is behind it.
        assert!(std::error::Error::source(&status).is_none(), "{status:?}");
    });
    assert_eq!(service.wait().code, Some(3));
    let report = service.report();
    assert_eq!(report["cut"]["requests"], 1, "{report}");
    assert_eq!(report["cut_work"][0]["name"], "POST /arena.v1.Counter/Add", "{report}");
}
