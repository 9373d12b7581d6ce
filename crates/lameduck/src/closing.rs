//! Closes resources in order: each after its last user, in parallel where they may, each within its own budget.
//!
//! # Invariants
//!
//! 1. A resource closes only after everything registered as using it has closed, failed or been cut.
//! 2. A resource can only use what is registered already, so there are no cycles.
//! 3. What hangs is passed over when its budget ends, what fails is passed over at once; both are named.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::panics::panic_words;

/// How long a resource may take to close when nothing else was said. It is clipped to the deadline.
pub const DEFAULT_BUDGET: Duration = Duration::from_secs(10);

/// Resources a lifecycle holds at most.
pub const RESOURCES_AT_MOST: usize = 1_000;

pub(crate) type CloseFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
pub(crate) type CloseFn = Box<dyn FnOnce() -> CloseFuture + Send>;

/// What a closing function may return: nothing, or a result whose error is reported.
pub trait CloseOutcome {
    /// The error's words, if there is one.
    fn into_result(self) -> Result<(), String>;
}

impl CloseOutcome for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: std::fmt::Display> CloseOutcome for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// How one resource's closing ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClosingEnd {
    /// It closed.
    Closed,
    /// It returned an error, or panicked; the words say which.
    Failed(String),
    /// Its budget, or the deadline, came first.
    Cut,
    /// The deadline came before it could begin.
    NotBegun,
}

/// One resource's closing, as the report names it.
#[derive(Debug, Clone)]
pub struct ClosingReport {
    /// The resource's name.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub end: ClosingEnd,
}

struct Entry {
    name: String,
    uses: Vec<usize>,
    budget: Option<Duration>,
    turn: Turn,
    close: Option<CloseFn>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// After its users.
    Ordered,
    /// After everything that is not last itself.
    Last,
}

/// Whether closing ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AllClosed {
    /// Each resource closed, failed or used up its own budget.
    InTime,
    /// The deadline cut a resource.
    DeadlineCame,
}

#[derive(Debug, Clone)]
enum State {
    Waiting,
    Closing { since: Instant },
    Done(ClosingReport),
}

/// The registered resources. Shared between the program, the driver and the report.
#[derive(Default)]
pub(crate) struct Resources {
    entries: Mutex<Vec<Entry>>,
}

impl Resources {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn register(
        &self,
        name: &str,
        uses: &[String],
        budget: Option<Duration>,
        turn: Turn,
        close: CloseFn,
    ) -> Result<(), Error> {
        let mut entries = self.lock();
        if entries.len() >= RESOURCES_AT_MOST {
            return Err(Error::name(format!(
                "register resource '{name}': {RESOURCES_AT_MOST} are registered already"
            )));
        }
        if entries.iter().any(|entry| entry.name == name) {
            return Err(Error::name(format!("register resource '{name}': the name is taken")));
        }
        let mut indices = Vec::with_capacity(uses.len());
        for used in uses {
            match entries.iter().position(|entry| entry.name == *used) {
                Some(index) => indices.push(index),
                None => {
                    return Err(Error::name(format!(
                        "register resource '{name}': it uses '{used}', which is not registered"
                    )));
                }
            }
        }
        entries.push(Entry {
            name: name.to_owned(),
            uses: indices,
            budget,
            turn,
            close: Some(close),
            state: State::Waiting,
        });
        Ok(())
    }

    /// Takes back a registration that nothing can use yet.
    pub(crate) fn forget(&self, name: &str) {
        let mut entries = self.lock();
        if entries.last().is_some_and(|entry| entry.name == name) {
            entries.pop();
        }
    }

    /// The longest chain of budgets that were asked for by name: what closing has reserved.
    pub(crate) fn reserve(&self) -> Duration {
        let entries = self.lock();
        let order: Vec<(Duration, Vec<usize>, Turn)> = entries
            .iter()
            .map(|entry| (entry.budget.unwrap_or_default(), entry.uses.clone(), entry.turn))
            .collect();
        longest_chain(&order)
    }

    /// What may begin now.
    fn take_ready(&self) -> Vec<(usize, Duration, CloseFn)> {
        let mut entries = self.lock();
        let mut blocked = BTreeSet::new();
        let mut ordered_left = false;
        for entry in entries.iter() {
            if !matches!(entry.state, State::Done(_)) {
                blocked.extend(entry.uses.iter().copied());
                ordered_left |= entry.turn == Turn::Ordered;
            }
        }
        let mut ready = Vec::new();
        for (index, entry) in entries.iter_mut().enumerate() {
            let turn = entry.turn == Turn::Ordered || !ordered_left;
            if turn
                && !blocked.contains(&index)
                && let Some(close) = entry.close.take()
            {
                entry.state = State::Closing { since: Instant::now() };
                let budget = entry.budget.unwrap_or(DEFAULT_BUDGET);
                ready.push((index, budget, close));
            }
        }
        ready
    }

    fn done(&self, index: usize, end: ClosingEnd) {
        let entry = &mut self.lock()[index];
        let took = match &entry.state {
            State::Closing { since } => since.elapsed(),
            State::Waiting | State::Done(_) => Duration::ZERO,
        };
        entry.state = State::Done(ClosingReport { name: entry.name.clone(), took, end });
    }

    /// Closes everything; returns when each resource is done or `until` has come, and says which.
    pub(crate) async fn close_all(self: Arc<Self>, until: Option<Instant>) -> AllClosed {
        let (finished, mut endings) = tokio::sync::mpsc::unbounded_channel();
        let mut running = 0_usize;
        let mut all = AllClosed::InTime;
        loop {
            for (index, budget, close) in self.take_ready() {
                running += 1;
                let finished = finished.clone();
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                let (budget, bound) = match left {
                    Some(left) if left <= budget => (left, AllClosed::DeadlineCame),
                    Some(_) | None => (budget, AllClosed::InTime),
                };
                tokio::spawn(async move {
                    let end = close_one(budget, close).await;
                    let _ = finished.send((index, end, bound));
                });
            }
            if running == 0 {
                return all;
            }
            match endings.recv().await {
                Some((index, end, bound)) => {
                    running -= 1;
                    if end == ClosingEnd::Cut && bound == AllClosed::DeadlineCame {
                        all = AllClosed::DeadlineCame;
                    }
                    self.done(index, end);
                }
                None => return all,
            }
        }
    }

    /// The names of what has not closed yet.
    pub(crate) fn open_names(&self) -> Vec<String> {
        let open = |entry: &&Entry| !matches!(entry.state, State::Done(_));
        self.lock().iter().filter(open).map(|entry| entry.name.clone()).collect()
    }

    /// How each resource's closing stands, in the order of registration.
    pub(crate) fn reports(&self) -> Vec<ClosingReport> {
        let describe = |entry: &Entry| match &entry.state {
            State::Done(report) => report.clone(),
            State::Closing { since } => ClosingReport {
                name: entry.name.clone(),
                took: since.elapsed(),
                end: ClosingEnd::Cut,
            },
            State::Waiting => ClosingReport {
                name: entry.name.clone(),
                took: Duration::ZERO,
                end: ClosingEnd::NotBegun,
            },
        };
        self.lock().iter().map(describe).collect()
    }
}

/// Runs one closing on a task of its own, so that one that blocks or panics takes nobody with it.
async fn close_one(budget: Duration, close: CloseFn) -> ClosingEnd {
    let mut task = tokio::spawn(async move { close().await });
    match tokio::time::timeout(budget, &mut task).await {
        Ok(Ok(Ok(()))) => ClosingEnd::Closed,
        Ok(Ok(Err(words))) => ClosingEnd::Failed(words),
        Ok(Err(error)) => ClosingEnd::Failed(match error.try_into_panic() {
            Ok(panic) => format!("panicked: {}", panic_words(&*panic)),
            Err(_) => "cancelled".to_owned(),
        }),
        Err(_) => {
            task.abort();
            ClosingEnd::Cut
        }
    }
}

/// The longest chain of budgets from a first user down to the last resource it needs, then the last ones.
fn longest_chain(entries: &[(Duration, Vec<usize>, Turn)]) -> Duration {
    // A resource uses only earlier ones, so walking backwards meets each user before what it uses.
    let mut begins_after = vec![Duration::ZERO; entries.len()];
    let mut longest = Duration::ZERO;
    let mut longest_last = Duration::ZERO;
    for (index, (budget, uses, turn)) in entries.iter().enumerate().rev() {
        let ends = begins_after[index].saturating_add(*budget);
        for used in uses {
            begins_after[*used] = begins_after[*used].max(ends);
        }
        match turn {
            Turn::Ordered => longest = longest.max(ends),
            Turn::Last => longest_last = longest_last.max(ends),
        }
    }
    longest.saturating_add(longest_last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_reserve_is_the_longest_chain_not_the_sum() {
        let ordered = Turn::Ordered;
        let entries = vec![
            (seconds(2), vec![], ordered),    // 0 database
            (seconds(1), vec![0], ordered),   // 1 counter uses database
            (seconds(5), vec![], ordered),    // 2 producer, alone
            (seconds(1), vec![], Turn::Last), // 3 logs
        ];
        assert_eq!(longest_chain(&entries), seconds(6));
        assert_eq!(longest_chain(&entries[..2]), seconds(3));
    }

    #[tokio::test]
    async fn a_resource_closes_after_its_users_and_beside_strangers() {
        let resources = Arc::new(Resources::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |name: &'static str| -> CloseFn {
            let order = Arc::clone(&order);
            Box::new(move || {
                Box::pin(async move {
                    order.lock().unwrap().push(name);
                    Ok(())
                })
            })
        };
        let register = |name: &'static str, uses: &[&str], turn| {
            let uses: Vec<String> = uses.iter().map(ToString::to_string).collect();
            resources.register(name, &uses, None, turn, note(name)).unwrap();
        };
        register("logs", &[], Turn::Last);
        register("database", &[], Turn::Ordered);
        register("counter", &["database"], Turn::Ordered);
        register("cache", &["counter", "database"], Turn::Ordered);
        Arc::clone(&resources).close_all(None).await;
        assert_eq!(*order.lock().unwrap(), ["cache", "counter", "database", "logs"]);
        assert!(resources.reports().iter().all(|report| report.end == ClosingEnd::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_or_fails_is_named_and_passed_over() {
        let resources = Arc::new(Resources::default());
        let hang: CloseFn = Box::new(|| Box::pin(std::future::pending()));
        let fail: CloseFn = Box::new(|| Box::pin(async { Err("disk full".to_owned()) }));
        let panics: CloseFn = Box::new(|| Box::pin(async { panic!("boom") }));
        let fine: CloseFn = Box::new(|| Box::pin(async { Ok(()) }));
        let budget = Some(seconds(1));
        resources.register("base", &[], budget, Turn::Ordered, fine).unwrap();
        let on_base = ["base".to_owned()];
        resources.register("hangs", &on_base, budget, Turn::Ordered, hang).unwrap();
        resources.register("fails", &on_base, budget, Turn::Ordered, fail).unwrap();
        resources.register("panics", &on_base, budget, Turn::Ordered, panics).unwrap();
        assert_eq!(Arc::clone(&resources).close_all(None).await, AllClosed::InTime);
        let ends: Vec<ClosingEnd> = resources.reports().into_iter().map(|r| r.end).collect();
        assert_eq!(
            ends,
            [
                ClosingEnd::Closed,
                ClosingEnd::Cut,
                ClosingEnd::Failed("disk full".to_owned()),
                ClosingEnd::Failed("panicked: boom".to_owned()),
            ]
        );
    }

    #[tokio::test]
    async fn a_resource_that_the_deadline_cuts_did_not_close_in_time() {
        let resources = Arc::new(Resources::default());
        let hang: CloseFn = Box::new(|| Box::pin(std::future::pending()));
        resources.register("hangs", &[], None, Turn::Ordered, hang).unwrap();
        let until = Some(Instant::now() + Duration::from_millis(1));
        assert_eq!(Arc::clone(&resources).close_all(until).await, AllClosed::DeadlineCame);
        assert_eq!(resources.reports()[0].end, ClosingEnd::Cut);
    }

    #[test]
    fn a_resource_can_only_use_what_is_registered() {
        let resources = Resources::default();
        let close: CloseFn = Box::new(|| Box::pin(async { Ok(()) }));
        let error = resources
            .register("counter", &["database".to_owned()], None, Turn::Ordered, close)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "register resource 'counter': it uses 'database', which is not registered"
        );
    }
}
