//! A backend of `apalis` that stops claiming with the service, and goes on telling its database what has ended.
//!
//! A worker that is stopped as apalis has it (`run_until`, a `Monitor`) asks its backend for nothing as long as a job is in
//! hand. What ends meanwhile waits in a channel with four places for each job of a batch; who finds it full waits for a
//! place, and nobody makes one before everything has ended. So with more in hand than that the worker never ends, and what
//! its jobs did is not told until it does. Here the worker runs on: it claims nothing, tells what has ended, and ends when
//! nothing is in hand.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use apalis::prelude::{Backend, Layer, PollStrategy, PollWith, Service, WorkerContext};
use apalis_core::backend::{BackendConfig, WireFormatBackend};
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use lameduck::{Asked, Drain};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::LOOK_EVERY;

/// A backend that can be told to fetch no job any more.
pub trait Fetches: Backend {
    /// What it fetches from now on is nothing; what is on its way still comes.
    fn fetch_nothing(&mut self);
}

macro_rules! fetches {
    ($($storage:ident: $config:path;)*) => {
        $(
            impl<T> Fetches for $storage<T> {
                fn fetch_nothing(&mut self) {
                    let mut config: $config = self.config().clone();
                    config.batch_size = 0;
                    let anew = $storage::new(self.pool());
                    *self = std::mem::replace(self, anew).with_config(config);
                }
            }
        )*
    };
}

fetches! {
    SqliteStorage: apalis_sqlite::Config;
    PostgresStorage: apalis_postgres::Config;
}

impl<B: Fetches, S: PollStrategy> Fetches for PollWith<B, S> {
    fn fetch_nothing(&mut self) {
        (**self).fetch_nothing();
    }
}

/// Jobs in hand, those among them whose end is not told yet.
#[derive(Clone, Default)]
struct InHand(Arc<AtomicUsize>);

impl InHand {
    fn one_more(&self) -> InHand {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.clone()
    }

    fn is_none(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }

    fn one_less(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A backend that drains.
pub struct Drained<B> {
    backend: B,
    /// Ends when no job is to be claimed any more.
    told: Pin<Box<dyn Future<Output = ()> + Send>>,
    fetches: bool,
    in_hand: InHand,
    looks: Interval,
}

impl<B> Drained<B> {
    /// The `backend` of a worker that claims until a stop begins or a successor works, and looks for jobs every
    /// [`LOOK_EVERY`].
    ///
    /// It looks by itself: apalis' `IntervalStrategy` winds its timer up after a look and does not wait for it. Where the
    /// database is so quick that nothing else is waited for either, nobody wakes the worker before its next sign of life.
    #[must_use]
    pub fn new(backend: B, drain: Drain) -> Drained<B> {
        let told = async move {
            drain.asked_for(|asked| asked != Asked::Serve).await;
        };
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Drained { backend, told: Box::pin(told), fetches: true, in_hand: InHand::default(), looks }
    }
}

impl<B: Fetches> Backend for Drained<B> {
    type Task = B::Task;
    type Error = B::Error;

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), B::Error>> {
        self.backend.poll_ready(cx, worker)
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<B::Task, B::Error>>> {
        if self.fetches && self.told.as_mut().poll(cx).is_ready() {
            self.fetches = false;
            self.backend.fetch_nothing();
        }
        if !self.fetches && self.in_hand.is_none() {
            // A worker whose backend has come to its end waits for this word all the same.
            let _ = worker.stop();
            return Poll::Ready(None);
        }
        while self.looks.poll_tick(cx).is_ready() {}
        // Also when it fetches nothing: a fetch that is on its way keeps everything else waiting.
        self.backend.poll_next(cx, worker)
    }

    fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), B::Error>> {
        self.backend.poll_close(cx, worker)
    }
}

impl<B: BackendConfig> BackendConfig for Drained<B> {
    type Args = B::Args;
    type Id = B::Id;
    type Kind = B::Kind;
    type Config = B::Config;
    type Layer = Counting<B::Layer>;

    fn config(&self) -> &B::Config {
        self.backend.config()
    }

    fn middleware(&mut self, worker: &mut WorkerContext) -> Counting<B::Layer> {
        Counting { within: self.backend.middleware(worker), in_hand: self.in_hand.clone() }
    }
}

impl<B: WireFormatBackend> WireFormatBackend for Drained<B> {
    type Codec = B::Codec;
    type Compact = B::Compact;

    fn codec(&self) -> &B::Codec {
        self.backend.codec()
    }
}

/// Counts jobs around what tells the database of them.
#[derive(Clone)]
pub struct Counting<T> {
    within: T,
    in_hand: InHand,
}

impl<S, L: Layer<S>> Layer<S> for Counting<L> {
    type Service = Counting<L::Service>;

    fn layer(&self, inner: S) -> Counting<L::Service> {
        Counting { within: self.within.layer(inner), in_hand: self.in_hand.clone() }
    }
}

impl<S, Task> Service<Task> for Counting<S>
where
    S: Service<Task>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.within.poll_ready(cx)
    }

    fn call(&mut self, task: Task) -> Self::Future {
        let (working, in_hand) = (self.within.call(task), self.in_hand.one_more());
        Box::pin(async move {
            let end = working.await;
            // One that is dropped is dropped with its worker, and nobody asks any more.
            in_hand.one_less();
            end
        })
    }
}
