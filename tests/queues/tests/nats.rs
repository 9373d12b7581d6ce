//! NATS: what a consumer and a producer lose at a stop, and what they keep.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, stream};
use futures_util::StreamExt as _;
use lameduck::jobs::JobEnd;
use lameduck::{Lifecycle, exit};
use lameduck_verify::target::{Ready, Target};
use queues::nats::Messages;

/// How long a start, an answer or an exit may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// A grace period that long messages do not fit into.
const GRACE: Duration = Duration::from_millis(800);
const SUBJECT: &str = "work";

/// A server of its own, with a store of its own.
struct Server {
    _target: Target,
    _store: tempfile::TempDir,
    url: String,
}

impl Server {
    fn start() -> Server {
        let store = tempfile::tempdir().unwrap();
        let address = lameduck_verify::target::free_address().unwrap();
        let command = Target::command("nats-server").args(["--addr", "127.0.0.1", "--jetstream"]);
        let command = command.args(["--port", &address.port().to_string(), "--store_dir"]);
        let command = command.arg(store.path()).ready(Ready::Stderr("Server is ready".to_owned()));
        let target = command.ready_limit(LIMIT).start().unwrap();
        Server { _target: target, _store: store, url: format!("nats://{address}") }
    }

    /// A stream with these messages, and a consumer on it.
    async fn with(&self, messages: &[&str]) -> (async_nats::Client, PullConsumer) {
        let client = async_nats::connect(&self.url).await.unwrap();
        let context = jetstream::new(client.clone());
        let config = stream::Config {
            name: "work".to_owned(),
            subjects: vec![SUBJECT.to_owned()],
            ..stream::Config::default()
        };
        let stream = context.create_stream(config).await.unwrap();
        for message in messages {
            let sent = context.publish(SUBJECT, (*message).to_owned().into()).await.unwrap();
            sent.await.unwrap();
        }
        let config = pull::Config {
            durable_name: Some("worker".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        (client, stream.create_consumer(config).await.unwrap())
    }
}

/// What nobody has acknowledged and nobody else can get, and what a new consumer gets at once.
async fn left(server: &Server) -> (usize, Vec<String>) {
    let client = async_nats::connect(&server.url).await.unwrap();
    let stream = jetstream::new(client).get_stream("work").await.unwrap();
    let mut consumer: PullConsumer = stream.get_consumer("worker").await.unwrap();
    let pending = consumer.info().await.unwrap().num_ack_pending;
    let mut batch = consumer.fetch().max_messages(100).messages().await.unwrap();
    let mut got = Vec::new();
    while let Some(message) = batch.next().await {
        got.push(String::from_utf8(message.unwrap().payload.to_vec()).unwrap());
    }
    (pending, got)
}

const SENT: [&str; 4] = ["short", "long", "long", "short"];

#[test]
fn a_naive_consumer_leaves_messages_that_nobody_gets() {
    let server = Server::start();
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let worker = runtime();
    let (taken, is_taken) = std::sync::mpsc::channel();
    worker.block_on(async {
        let (_client, consumer) = server.with(&SENT).await;
        drop(tokio::spawn(async move {
            let mut messages = consumer.messages().await.unwrap();
            while let Some(Ok(message)) = messages.next().await {
                taken.send(()).unwrap();
                drop(tokio::spawn(async move {
                    if message.payload.starts_with(b"long") {
                        tokio::time::sleep(Duration::from_secs(3_600)).await;
                    }
                    message.ack().await
                }));
            }
        }));
    });
    for _ in SENT {
        is_taken.recv_timeout(LIMIT).unwrap();
    }
    // It is told to stop, and its main returns.
    worker.shutdown_background();
    let (pending, got) = runtime().block_on(left(&server));
    assert!(pending >= 2 && got.is_empty(), "{pending} pending, {got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_acknowledges_what_it_finished_and_gives_the_rest_back() {
    let server = Server::start();
    let (client, consumer) = server.with(&SENT).await;
    let life = Lifecycle::builder().without_signals().grace_period(GRACE).start().unwrap();
    let flushed = client.clone();
    life.on_close("nats").run(move || async move { flushed.flush().await }).unwrap();
    let work = async |delivery: queues::nats::Delivery,
                      cancel: tokio_util::sync::CancellationToken| {
        if delivery.text() == "long" {
            cancel.cancelled().await;
            return Ok(JobEnd::Unfinished);
        }
        Ok(JobEnd::Ended)
    };
    let messages = Messages { client, consumer, work: move |job, cancel| work(job, cancel) };
    let mut worker = life.jobs("messages", messages).uses(["nats"]).start().unwrap();
    life.ready();
    tokio::time::timeout(LIMIT, worker.reached(|counts| counts.ended == 2 && counts.claimed == 4))
        .await
        .expect("all messages are in hand");
    life.stop();
    let ended = life.run().await;
    assert_eq!(ended.code(), exit::OK, "{:?}", ended.report());
    let counts = worker.counts();
    assert_eq!((counts.ended, counts.given_back, counts.charged), (2, 2, 0), "{counts:?}");
    // What was given back counts as pending until it is delivered again, which it is at once.
    let (_, got) = left(&server).await;
    assert_eq!(got, vec!["long".to_owned(); 2]);
}

/// How many of `all` messages of a producer arrive, which sends `sent` and ends as `end` says.
fn arrived(
    sent: usize,
    all: usize,
    end: impl FnOnce(&tokio::runtime::Runtime, async_nats::Client),
) -> usize {
    let server = Server::start();
    let listening = tokio::runtime::Runtime::new().unwrap();
    let arrived = Arc::new(Mutex::new(0));
    let (listener, mut messages) = listening.block_on(async {
        let listener = async_nats::connect(&server.url).await.unwrap();
        let messages = listener.subscribe(SUBJECT).await.unwrap();
        listener.flush().await.unwrap();
        (listener, messages)
    });
    let count = Arc::clone(&arrived);
    drop(listening.spawn(async move {
        while messages.next().await.is_some() {
            *count.lock().unwrap() += 1;
        }
    }));
    let producing = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let producer = producing.block_on(async {
        let producer = async_nats::connect(&server.url).await.unwrap();
        for _ in 0..sent {
            producer.publish(SUBJECT, "x".into()).await.unwrap();
        }
        producer
    });
    end(&producing, producer);
    drop(producing);
    // The server has handed on what it has when it answers a flush of the listener's.
    listening.block_on(async {
        listener.flush().await.unwrap();
        tokio::task::yield_now().await;
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(1);
    while *arrived.lock().unwrap() < all && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    *arrived.lock().unwrap()
}

#[test]
fn a_producer_that_is_not_flushed_loses_messages() {
    assert!(arrived(100, 100, |_, _| {}) < 100);
}

#[test]
fn a_producer_is_flushed_when_its_users_have_ended() {
    let arrived = arrived(100, 200, |runtime, producer| {
        runtime.block_on(async {
            let life = Lifecycle::builder().without_signals().start().unwrap();
            let nats = life.resource("nats", producer, |nats| async move { nats.flush().await });
            // Its user sends its last words when it is told to end.
            life.task("user", |drain| async move {
                drain.started().await;
                for _ in 0..100 {
                    nats.publish(SUBJECT, "x".into()).await.unwrap();
                }
            });
            life.ready();
            life.stop();
            assert_eq!(life.run().await.code(), exit::OK);
        });
    });
    assert_eq!(arrived, 200);
}
