//! What the machine is told, what it says, and the durations it is made with.

use std::fmt;
use std::time::{Duration, Instant};

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Initialising: not ready, not accepting.
    Starting,
    /// Ready and accepting.
    Serving,
    /// Not ready, still accepting: balancers get time to look away.
    LameDuck,
    /// Taking no new work, finishing what was taken.
    Draining(Step),
    /// Nothing live any more; resources close in order.
    Closing,
    /// Over. The outcome is fixed.
    Stopped,
}

/// The three steps of a drain, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Listeners close without losing a connection that was under way.
    Gate,
    /// Each accepted connection gets its first read.
    Settle,
    /// Connections and tasks finish.
    Finish,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::LameDuck => "lame-duck",
            Phase::Draining(Step::Gate) => "gate",
            Phase::Draining(Step::Settle) => "settle",
            Phase::Draining(Step::Finish) => "finish",
            Phase::Closing => "closing",
            Phase::Stopped => "stopped",
        })
    }
}

/// Who or what asked for the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A signal, by number.
    Signal(i32),
    /// A call in the program ([`Lifecycle::stop`](crate::Lifecycle::stop)).
    Request,
    /// A successor accepts in our place.
    Successor,
    /// The predecessor accepts in our place again: this version was rolled back.
    Predecessor,
}

/// What long-lived work is asked for: a queue's worker, an event stream, a match.
///
/// [`HandedOver`](Asked::HandedOver) is not final: a successor that is lost within its probation gives the service back,
/// and then it is [`Serve`](Asked::Serve) again. Everything else only moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asked {
    /// Go on, and take new work.
    Serve,
    /// A stop has begun: look for no new work, and serve what still comes by itself.
    LameDuck,
    /// A successor takes the new work: finish what is in hand, as long as that lasts.
    HandedOver,
    /// Finish what is in hand before it is cut.
    Finish,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    /// The program says it can serve.
    Ready,
    /// Stop gracefully; while draining, stop at once.
    Stop(Cause),
    /// Stop at once, whatever the phase.
    Force(Cause),
    /// Every accept loop has closed its listener.
    GateClosed,
    /// Each accepted connection has been read once.
    Settled,
    /// Nothing live is left.
    Idle,
    /// Each resource is closed, or was passed over.
    Closed,
    /// Time passed; nothing else did.
    Tick,
    /// A successor asks to take over while this many older generations still drain.
    TakeoverAsked {
        /// Generations that still drain, this one not counted.
        draining: usize,
    },
    /// The starting successor failed or went away before it accepted.
    TakeoverFailed,
    /// The successor accepts connections.
    SuccessorAccepting,
    /// The successor died, or gives the service back.
    SuccessorLost,
    /// The successor keeps the service whatever becomes of it: it was told to stop, or has a successor of its own.
    SuccessorKeeps,
    /// The predecessor accepts from our sockets again and wants us to go.
    PredecessorResumed,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Readiness turns green.
    ShowReady,
    /// Readiness turns red.
    ShowNotReady,
    /// Accept loops may accept.
    Accept,
    /// Every HTTP/1.1 answer from now on says `Connection: close`.
    MarkAnswers,
    /// Close the listeners and report back with one [`Input::GateClosed`]; the socket itself lives on in a
    /// successor when `shared`.
    CloseGate {
        /// Whether another process goes on accepting from the same socket.
        shared: bool,
    },
    /// Report back once each accepted connection has been read once.
    Settle,
    /// Tell connections and tasks to finish.
    TellFinish,
    /// Cut what is left, at the byte stream.
    Force,
    /// Close the resources in order; be done by `until`.
    CloseResources {
        /// When closing is passed over, whatever is left.
        until: Option<Instant>,
    },
    /// It is over.
    Stop(Outcome),
    /// Let the successor initialise.
    AdmitSuccessor,
    /// Turn the successor away.
    RefuseSuccessor(Refusal),
    /// The successor is lost: accept again as if nothing had happened.
    Resume,
    /// The successor keeps the service for good: give up what was kept for a way back.
    ConfirmSuccessor,
}

/// Why a successor is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The service is not serving (starting, or already on its way out).
    NotServing,
    /// Another successor is starting.
    AnotherStarting,
    /// As many generations drain as the cap allows.
    TooManyGenerations,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All work finished and all resources had their time.
    Finished,
    /// The deadline came first.
    DeadlineExceeded,
    /// A second stop, or a forced one, came first.
    Forced(Cause),
}

/// The name of what bounds the present wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// [`Config::lame_duck`].
    LameDuck,
    /// [`Config::settle`].
    Settle,
    /// [`Config::grace`] less [`Config::reserve`], from the stop on.
    Deadline,
    /// [`Config::grace`] while resources close.
    ClosingDeadline,
    /// [`Config::after_force`].
    AfterForce,
    /// [`Config::probation`].
    Probation,
}

/// The durations that bound each wait.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// The whole time from stop to force; `None` waits as long as work lasts.
    pub grace: Option<Duration>,
    /// The end of the grace period that belongs to closing: work is forced this much earlier.
    pub reserve: Duration,
    /// How long to go on accepting after readiness went red.
    pub lame_duck: Duration,
    /// How long accepted connections may take to their first read.
    pub settle: Duration,
    /// How long closing may still take after a force.
    pub after_force: Duration,
    /// How long a successor's death gives the service back.
    pub probation: Duration,
    /// The grace period of a drain that a successor caused; `None` lets long work last. The drain never ends
    /// before `probation` does, and leaves `reserve` and `after_force` to closing after that.
    pub upgrade_grace: Option<Duration>,
    /// How many older generations may drain at once.
    pub max_generations: usize,
}

/// No wait is longer than this: an [`Instant`] further away need not exist, and nobody waits for it.
pub const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
