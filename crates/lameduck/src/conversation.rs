//! One conversation with another generation: what it says is passed on in order, and what is said to it is sent in order.
//!
//! # Invariants
//!
//! 1. Who says something never waits: what the kernel does not take at once is sent by a task, within [`SEND`] each.
//! 2. At most [`INBOX`] messages that came are on their way inside this process.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::takeover::channel::{AsyncChannel, Came, borrow};
use crate::takeover::wire::Message;

/// How long a send to another generation may take: it reads, or it is given up.
pub const SEND: Duration = Duration::from_secs(5);

/// Messages of one conversation that came and have not been looked at.
pub const INBOX: usize = 64;

/// What came, and its place in the inbox.
pub(crate) struct Heard {
    pub(crate) what: What,
    _place: OwnedSemaphorePermit,
}

/// What another generation said.
pub(crate) enum What {
    Said(Message),
    /// Something that is no message.
    Unreadable(io::Error),
    /// It is gone.
    End,
    /// Something could not be sent to it.
    Unsent(io::Error),
}

struct Letter {
    message: Message,
    descriptors: Vec<OwnedFd>,
}

/// One end of it. When it is dropped, what was said is still sent, and nothing more is heard.
pub(crate) struct Conversation {
    channel: Arc<AsyncChannel>,
    outbox: mpsc::UnboundedSender<Letter>,
    /// Letters that wait for the task.
    queued: Arc<AtomicUsize>,
    reading: AbortHandle,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Conversation {
    /// Begins to listen. `take` keeps what is not to be heard, such as a connection.
    pub(crate) fn new(
        runtime: &Handle,
        channel: AsyncChannel,
        take: impl Fn(Message, Vec<OwnedFd>) -> Option<Message> + Send + 'static,
        hear: impl Fn(Heard) + Clone + Send + 'static,
    ) -> Conversation {
        let channel = Arc::new(channel);
        let (outbox, letters) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let inbox = Arc::new(Semaphore::new(INBOX));
        let sends = send(Arc::clone(&channel), letters, Arc::clone(&queued), {
            let (hear, inbox) = (hear.clone(), Arc::clone(&inbox));
            move |error| {
                if let Ok(place) = Arc::clone(&inbox).try_acquire_owned() {
                    hear(Heard { what: What::Unsent(error), _place: place });
                }
            }
        });
        drop(runtime.spawn(sends));
        let listens = listen(Arc::clone(&channel), inbox, take, hear);
        let reading = runtime.spawn(listens).abort_handle();
        Conversation { channel, outbox, queued, reading }
    }

    /// Says something: at once if nothing waits and the kernel takes it.
    pub(crate) fn say(&self, message: Message, descriptors: Vec<OwnedFd>) {
        if self.queued.load(Ordering::Acquire) == 0
            && self.channel.try_send(&message, &borrow(&descriptors)).is_ok()
        {
            return;
        }
        self.queued.fetch_add(1, Ordering::AcqRel);
        // Closed when the runtime is gone, and with it everything that could be said.
        let _ = self.outbox.send(Letter { message, descriptors });
    }

    /// Keeps the other end from saying anything more. What it has said is still heard, and then its end.
    pub(crate) fn shut(&self) {
        self.channel.shut();
    }

    /// For whoever sends connections beside what is said.
    pub(crate) fn channel(&self) -> Arc<AsyncChannel> {
        Arc::clone(&self.channel)
    }
}

async fn send(
    channel: Arc<AsyncChannel>,
    mut letters: mpsc::UnboundedReceiver<Letter>,
    queued: Arc<AtomicUsize>,
    failed: impl Fn(io::Error),
) {
    while let Some(Letter { message, descriptors }) = letters.recv().await {
        let sent = channel.send_within(SEND, &message, &borrow(&descriptors)).await;
        queued.fetch_sub(1, Ordering::AcqRel);
        if let Err(error) = sent {
            failed(error);
        }
    }
}

async fn listen(
    channel: Arc<AsyncChannel>,
    inbox: Arc<Semaphore>,
    take: impl Fn(Message, Vec<OwnedFd>) -> Option<Message>,
    hear: impl Fn(Heard),
) {
    loop {
        let what = match channel.receive().await {
            Ok(Came::Message(message, descriptors)) => match take(message, descriptors) {
                Some(message) => What::Said(message),
                None => continue,
            },
            Ok(Came::End) => What::End,
            Err(error) if is_of_one_message(&error) => What::Unreadable(error),
            Err(_) => What::End,
        };
        let is_end = matches!(what, What::End);
        let Ok(place) = Arc::clone(&inbox).acquire_owned().await else { return };
        hear(Heard { what, _place: place });
        if is_end {
            return;
        }
    }
}

/// Without room for a descriptor, with a message of another version, or with something that no message can say, the
/// conversation goes on: to end it would tell that a process died.
pub(crate) fn is_of_one_message(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Other)
}

/// What `work` gives, or nothing if `stop` is over first. `work` must be cancel safe.
pub(crate) async fn unless<T>(
    mut stop: Pin<&mut impl Future<Output = ()>>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match stop.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => work.as_mut().poll(cx).map(Some),
    })
    .await
}
