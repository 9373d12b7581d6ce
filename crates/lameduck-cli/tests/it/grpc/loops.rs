//! Closed loops of unary calls: what a stop and an upgrade make of them, over any connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lameduck_verify::target::Signal;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;

use super::clients::{Counter, runtime, was_not_sent};
use crate::service::{LIMIT, Service, User, stops};

/// A counter that outlives its service.
pub const STORED: [&str; 2] = ["--database", "sqlite:calls.db"];

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
    fn start(channel: impl Fn() -> Channel, when_lost: WhenLost) -> Loops {
        let (ending, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut loops = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let counter = Counter::new(channel());
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

/// Upgrades under load: each call is answered, and none ran twice.
#[track_caller]
pub fn upgrades_lose_no_call(service: &Service, channel: impl Fn() -> Channel) {
    let (answered, failed, counted) = runtime().block_on(async {
        let loops = Loops::start(&channel, WhenLost::SendAgain);
        loops.flow(100).await;
        for _ in 0..stops() {
            tokio::task::block_in_place(|| service.upgrade());
            loops.flow(100).await;
        }
        let (answered, failed) = loops.end().await;
        (answered, failed, Counter::new(channel()).add().await.unwrap())
    });
    assert!(failed.is_empty(), "{} of {answered}: {:?}", failed.len(), failed.first());
    assert_eq!(counted, answered + 1, "a call ran twice, or was answered and not counted");
    service.operate("stop", &[]);
}

/// A stop under load: each call is answered, or the server refused it and never ran it. How many were answered.
#[track_caller]
pub fn a_stop_answers_what_it_has(
    service: &mut Service,
    channel: impl Fn(&Service) -> Channel,
) -> u64 {
    let (answered, failed) = runtime().block_on(async {
        let loops = Loops::start(|| channel(service), WhenLost::Tell);
        loops.flow(200).await;
        service.signal(Signal::TERM);
        tokio::task::block_in_place(|| service.ends_clean());
        loops.end().await
    });
    let unanswered: Vec<_> = failed.iter().filter(|status| !is_refusal(status)).collect();
    assert!(unanswered.is_empty(), "{} of {answered}: {:?}", unanswered.len(), unanswered.first());
    answered
}

/// What was counted was answered: a call whose answer was lost would be one more.
#[track_caller]
pub fn counted_before(directory: TempDir, answered: u64) {
    let again = Service::start_in(directory, User::Same, &["127.0.0.1:0"], &STORED);
    assert_eq!(again.get("/b").1, format!(r#"{{"num":{}}}"#, answered + 1));
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
