//! What a program looks at itself before it says that it is ready.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{CatchPanic, Lifecycle};
use crate::control::Message;
use crate::error::Error;
use crate::generation::Input;
use crate::takeover::wire::{MAX_TEXT, Reason, Why};
use crate::text::printable;

/// How long one check may take.
pub const CHECK: Duration = Duration::from_secs(10);

/// Checks of one life.
pub const CHECKS_AT_MOST: usize = 100;

type Making = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The checks that were asked for, and whether they have been made.
#[derive(Default)]
pub(super) struct Checks {
    state: Mutex<State>,
}

enum State {
    Collecting(Vec<(String, Making)>),
    UnderWay,
    Passed,
}

impl Default for State {
    fn default() -> State {
        State::Collecting(Vec::new())
    }
}

/// What is to be done before it can be said that the service is ready.
enum Before {
    Nothing,
    Make(Vec<(String, Making)>),
    /// It is said when those under way have passed.
    Wait,
}

impl Checks {
    fn add(&self, name: &str, making: Making) -> Result<(), Error> {
        let refuse = |why: &str| Err(Error::name(format!("check '{name}': {why}")));
        match &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Collecting(checks) if checks.len() < CHECKS_AT_MOST => {
                checks.push((name.to_owned(), making));
                Ok(())
            }
            State::Collecting(_) => refuse("there are as many as may be"),
            State::UnderWay | State::Passed => refuse("the service is said to be ready already"),
        }
    }

    fn before(&self) -> Before {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::UnderWay) {
            State::Collecting(checks) if !checks.is_empty() => Before::Make(checks),
            State::UnderWay => Before::Wait,
            State::Collecting(_) | State::Passed => {
                *state = State::Passed;
                Before::Nothing
            }
        }
    }

    fn passed(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Passed;
    }
}

impl Lifecycle {
    /// Looks at something before this service is ready, at each of its starts: all checks together, when
    /// [`ready`](Lifecycle::ready) or [`run`](Lifecycle::run) says so.
    ///
    /// As long as one is under way nothing is accepted. One that fails, panics or lasts longer than [`CHECK`] ends the
    /// start: a successor tells its predecessor why, which serves on as if nothing had happened; [`run`](Lifecycle::run)
    /// returns with code [`FAILED`](crate::exit::FAILED), and the report has the words. A stop overtakes them.
    ///
    /// # Errors
    ///
    /// When the service was said to be ready before, or there are more than [`CHECKS_AT_MOST`].
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
    /// let life = lameduck::Lifecycle::builder().without_signals().start()?;
    /// life.check("templates", || async { Err("no such directory") })?;
    /// let exit = life.run().await;
    /// assert_eq!(exit.code(), lameduck::exit::FAILED);
    /// assert_eq!(exit.report().unfit.as_deref(), Some("check 'templates': no such directory"));
    /// # Ok(()) }
    /// ```
    pub fn check<F, Fut, E>(&self, name: &str, check: F) -> Result<(), Error>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let making = async move { check().await.map_err(|error| error.to_string()) };
        self.shared.checks.add(name, Box::pin(making))
    }

    /// Says that the service is ready, once every check has passed.
    pub(super) fn ready_when_checked(&self) {
        match self.shared.checks.before() {
            Before::Nothing => self.say_ready(),
            Before::Wait => {}
            Before::Make(checks) => {
                let life = self.clone();
                drop(self.shared.runtime.spawn(async move {
                    let drain = life.drain();
                    match drain.token().run_until_cancelled(make(checks)).await {
                        Some(Ok(())) => {
                            life.shared.checks.passed();
                            life.say_ready();
                        }
                        Some(Err(what)) => {
                            let why = Why::new(Reason::Failed, what);
                            life.shared.control.send(Message::Input(Input::Unfit(why)));
                        }
                        // A stop came first.
                        None => {}
                    }
                }));
            }
        }
    }
}

/// The first that fails is told; the others are dropped.
async fn make(checks: Vec<(String, Making)>) -> Result<(), String> {
    let mut under_way = JoinSet::new();
    for (name, making) in checks {
        under_way.spawn(async move {
            let made = match timeout(CHECK, CatchPanic(making)).await {
                Ok(Ok(made)) => made,
                Ok(Err(panic)) => Err(format!("it panicked: {panic}")),
                Err(_) => Err(format!("it did not end in {CHECK:?}")),
            };
            // Goes to another process and into logs.
            made.map_err(|why| printable(&format!("check '{name}': {why}"), MAX_TEXT))
        });
    }
    while let Some(made) = under_way.join_next().await {
        // Nothing aborts one, and a panic was caught.
        made.unwrap_or(Ok(()))?;
    }
    Ok(())
}
