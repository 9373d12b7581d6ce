//! A pull consumer of NATS JetStream as a queue: it fetches no more than it works on.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{AckKind, Message};
use futures_util::StreamExt as _;
use lameduck::jobs::{JobEnd, Queue};
use tokio_util::sync::CancellationToken;

use crate::LOOK_EVERY;

/// The stream and its consumer, which have one name here.
pub const CONSUMER: &str = "work";

/// A delivered message.
#[derive(Clone)]
pub struct Delivery(Arc<Message>);

impl Delivery {
    /// What the server delivered.
    #[must_use]
    pub fn new(message: Message) -> Delivery {
        Delivery(Arc::new(message))
    }

    /// How often it was delivered, this time included.
    #[must_use]
    pub fn times(&self) -> i64 {
        self.0.info().map_or(1, |info| info.delivered)
    }

    /// Tells the server that it is done, and waits for it to say that it knows.
    ///
    /// # Errors
    ///
    /// When the server does not say so.
    pub async fn acknowledge(&self) -> Result<(), async_nats::Error> {
        // One that was only sent may be lost with the connection.
        self.0.double_ack().await
    }

    /// What was sent.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.payload).into_owned()
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.info() {
            Ok(info) => write!(f, "{} #{}", self.0.subject, info.stream_sequence),
            Err(_) => f.write_str(&self.0.subject),
        }
    }
}

/// The messages of a consumer, worked on by `work`.
pub struct Messages<F> {
    /// To flush what was said of messages.
    pub client: async_nats::Client,
    /// Its messages are worked on.
    pub consumer: PullConsumer,
    /// Handles one.
    pub work: F,
}

type Failure = async_nats::Error;

impl<F, Fut> Queue for Messages<F>
where
    F: Fn(Delivery, CancellationToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<JobEnd, Failure>> + Send,
{
    type Job = Delivery;
    type Error = Failure;

    async fn claim(&self, most: usize) -> Result<Vec<Delivery>, Failure> {
        let mut batch = self.consumer.fetch().max_messages(most).messages().await?;
        let mut claimed = Vec::new();
        while let Some(message) = batch.next().await {
            claimed.push(Delivery::new(message?));
        }
        Ok(claimed)
    }

    async fn arrival(&self) {
        // A fetch that waits would be a claim that is not given up.
        tokio::time::sleep(LOOK_EVERY).await;
    }

    async fn work(&self, job: Delivery, cancel: CancellationToken) -> Result<JobEnd, Failure> {
        let end = (self.work)(job.clone(), cancel).await?;
        if end == JobEnd::Ended {
            job.acknowledge().await?;
        }
        Ok(end)
    }

    async fn keep(&self, claimed: Vec<Delivery>) -> Result<(), Failure> {
        for job in claimed {
            job.0.ack_with(AckKind::Progress).await?;
        }
        Ok(())
    }

    async fn give_back(&self, claimed: Vec<Delivery>) -> Result<(), Failure> {
        for job in claimed {
            job.0.ack_with(AckKind::Nak(None)).await?;
        }
        Ok(self.client.flush().await?)
    }

    async fn charge(&self, job: Delivery, _why: String) -> Result<(), Failure> {
        // The server counts deliveries; after as many as the consumer allows, it delivers no more.
        job.0.ack_with(AckKind::Nak(Some(LOOK_EVERY))).await
    }
}
