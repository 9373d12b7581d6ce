//! Whether the service asks for traffic: one flag that health endpoints read and tasks can wait on.

use tokio::sync::watch;

/// Whether the service asks for new work, as balancers and orchestrators see it.
///
/// Cloning is cheap; all clones see the same state.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// # let life = lameduck::Lifecycle::builder().without_signals().start()?;
/// let mut readiness = life.readiness();
/// assert!(!readiness.is_ready() && !readiness.has_started());
/// life.ready();
/// readiness.ready().await;
/// life.stop();
/// readiness.not_ready().await;
/// assert!(!readiness.is_ready() && readiness.has_started());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Readiness {
    state: watch::Receiver<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Ready,
    NotReady,
    /// The service finishes, and will not be ready again; whether it has ever been.
    Over {
        started: bool,
    },
}

impl State {
    fn is_over(self) -> bool {
        matches!(self, State::Over { .. })
    }

    fn has_started(self) -> bool {
        match self {
            State::Starting => false,
            State::Ready | State::NotReady => true,
            State::Over { started } => started,
        }
    }
}

/// The writing side, held by the lifecycle.
#[derive(Debug)]
pub(crate) struct Sign {
    state: watch::Sender<State>,
}

impl Sign {
    pub(crate) fn new() -> Sign {
        Sign { state: watch::Sender::new(State::Starting) }
    }

    pub(crate) fn show(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Nobody need wait for it any more. Where it is green another generation serves, and it stays so.
    pub(crate) fn is_over(&self) {
        self.state.send_if_modified(|state| {
            let is_red = matches!(state, State::Starting | State::NotReady);
            if is_red {
                *state = State::Over { started: state.has_started() };
            }
            is_red
        });
    }

    pub(crate) fn readiness(&self) -> Readiness {
        Readiness { state: self.state.subscribe() }
    }
}

impl Readiness {
    /// Whether the service asks for new work now.
    pub fn is_ready(&self) -> bool {
        *self.state.borrow() == State::Ready
    }

    /// Whether it has ever been ready: what a start-up probe asks.
    pub fn has_started(&self) -> bool {
        self.state.borrow().has_started()
    }

    /// Waits until the service is ready; returns at once if it is.
    ///
    /// Ends too, without being ready, when the drain of a stop begins: a task that waits here does not hold it. Cancel safe.
    pub async fn ready(&mut self) {
        // An error means the sender is gone: nothing more will change.
        let _ = self.state.wait_for(|state| *state == State::Ready || state.is_over()).await;
    }

    /// Waits until readiness turns red; returns at once if the service is past it.
    ///
    /// Cancel safe.
    pub async fn not_ready(&mut self) {
        let _ = self.state.wait_for(|state| *state == State::NotReady || state.is_over()).await;
    }
}
