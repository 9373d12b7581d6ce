//! Calls through stops and upgrades.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lameduck_verify::target::Signal;
use tonic::Status;

use super::clients::{Counter, channel, end_of, is_told, runtime, was_not_sent};
use crate::service::{LIMIT, Service, stops};

const CONTROL: [&str; 2] = ["--control", "run/control"];

/// Clients with a channel each, and calls at a time on each of them.
const CLIENTS: usize = 8;
const CALLS: usize = 4;

/// What a client does with a call that it never sent.
#[derive(Clone, Copy)]
enum WhenLost {
    SendAgain,
    Tell,
}

/// Closed loops of unary calls until told to end: how many were answered, and what failed.
struct Loops {
    ending: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    loops: tokio::task::JoinSet<Vec<Status>>,
}

impl Loops {
    fn start(service: &Service, when_lost: WhenLost) -> Loops {
        let (ending, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut loops = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let counter = Counter::new(channel(service));
            for _ in 0..CALLS {
                let (mut counter, ending, answered) =
                    (counter.clone(), ending.clone(), answered.clone());
                loops.spawn(async move {
                    let mut failed = Vec::new();
                    while !ending.load(Ordering::Relaxed) {
                        let call = match when_lost {
                            WhenLost::SendAgain => counter.add().await,
                            WhenLost::Tell => counter.add_once().await,
                        };
                        match call {
                            Ok(_) => _ = answered.fetch_add(1, Ordering::Relaxed),
                            Err(status) => failed.push(status),
                        }
                    }
                    failed
                });
            }
        }
        Loops { ending, answered, loops }
    }

    /// Waits until so many more calls have been answered.
    async fn flow(&self, more: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        let flowing = async {
            while self.answered.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, flowing).await.expect("calls are answered");
    }

    async fn end(self) -> (u64, Vec<Status>) {
        self.ending.store(true, Ordering::Relaxed);
        let failed = self.loops.join_all().await.into_iter().flatten().collect();
        (self.answered.load(Ordering::Relaxed), failed)
    }
}

#[test]
fn unary_calls_under_load_lose_nothing_in_upgrades() {
    let service = Service::start(&CONTROL);
    let (answered, failed, counted) = runtime().block_on(async {
        let loops = Loops::start(&service, WhenLost::SendAgain);
        loops.flow(100).await;
        for _ in 0..stops() {
            tokio::task::block_in_place(|| service.upgrade());
            loops.flow(100).await;
        }
        let (answered, failed) = loops.end().await;
        (answered, failed, Counter::new(channel(&service)).add().await.unwrap())
    });
    assert!(failed.is_empty(), "{} of {answered}: {:?}", failed.len(), failed.first());
    assert_eq!(counted, answered + 1, "a call ran twice, or was answered and not counted");
    service.operate("stop", &[]);
}

/// At a stop nobody comes after: a call that the server had is answered, one that it refused was not run.
#[test]
fn unary_calls_in_hand_at_a_stop_are_answered() {
    for stop in 1..=stops() {
        let mut service = Service::start(&["--database", "sqlite:calls.db"]);
        let (answered, unanswered) = runtime().block_on(async {
            let loops = Loops::start(&service, WhenLost::Tell);
            loops.flow(200).await;
            service.signal(Signal::TERM);
            tokio::task::block_in_place(|| service.ends_clean());
            let (answered, failed) = loops.end().await;
            let refused = |status: &&Status| !is_refusal(status);
            let unanswered: Vec<_> = failed.iter().filter(refused).cloned().collect();
            (answered, unanswered)
        });
        assert!(unanswered.is_empty(), "stop {stop}: {:?}", unanswered.first());
        // What was counted was answered: a call whose answer was lost would be one more.
        let directory = service.into_directory();
        let flags = ["--database", "sqlite:calls.db"];
        let again =
            Service::start_in(directory, crate::service::User::Same, &["127.0.0.1:0"], &flags);
        assert_eq!(again.get("/b").1, format!(r#"{{"num":{}}}"#, answered + 1), "stop {stop}");
    }
}

/// Whether the call never reached a handler: no connection, or a GOAWAY that excluded it.
fn is_refusal(status: &Status) -> bool {
    if was_not_sent(status) {
        return true;
    }
    let text = format!("{status:?}");
    ["ConnectionRefused", "Connection refused", "tcp connect error", "GoAway", "not ready"]
        .iter()
        .any(|word| text.contains(word))
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
