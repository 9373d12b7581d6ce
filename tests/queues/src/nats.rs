//! A pull consumer of NATS JetStream as a queue: it fetches no more than it works on.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{AckKind, Message};
use futures_util::StreamExt as _;
use lameduck::jobs::{JobEnd, Queue};
use tokio_util::sync::CancellationToken;

/// How often an idle consumer looks for messages. A fetch that waits would be a claim that is not given up.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A delivered message.
#[derive(Clone)]
pub struct Delivery(Arc<Message>);

impl Delivery {
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
    Fut: Future<Output = JobEnd> + Send,
{
    type Job = Delivery;
    type Error = Failure;

    async fn claim(&self, most: usize) -> Result<Vec<Delivery>, Failure> {
        let mut batch = self.consumer.fetch().max_messages(most).messages().await?;
        let mut claimed = Vec::new();
        while let Some(message) = batch.next().await {
            claimed.push(Delivery(Arc::new(message?)));
        }
        Ok(claimed)
    }

    async fn arrival(&self) {
        tokio::time::sleep(LOOK_EVERY).await;
    }

    async fn work(&self, job: Delivery, cancel: CancellationToken) -> Result<JobEnd, Failure> {
        let end = (self.work)(job.clone(), cancel).await;
        if end == JobEnd::Ended {
            // Confirmed by the server: one that was only sent may be lost with the connection.
            job.0.double_ack().await?;
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
