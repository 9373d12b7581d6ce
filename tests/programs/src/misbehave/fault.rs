//! The list of what can be wrong.

/// One way to misbehave. The names on the command line are the keys of [`Fault::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Ignores the stop signals.
    IgnoreStop,
    /// A second stop signal changes nothing.
    IgnoreSecondStop,
    /// Never leaves at the deadline: what does not end holds the process for ever.
    NoDeadline,
    /// Exits 0 although work was cut, and does not say so.
    ExitZeroAfterCut,
    /// Looks only every two seconds whether everything has ended.
    ExitLate,
    /// Binds, says so and never accepts.
    NeverReady,
    /// Crashes as soon as it drains.
    DieInDrain,
    /// Crashes when repeated stop signals come.
    DieOfRepeats,
    /// Installs its signal handling late, and until then ignores the stop.
    LateHandler,
    /// Leaves a child process of a handler behind.
    LeaveChild,
    /// Says nothing while it drains.
    SilentDrain,
    /// The last line of the log is lost.
    LastLineLost,
    /// A closing function that never ends holds the exit.
    HangingHook,
    /// Dies when a client vanishes while it is answered.
    DieOfBrokenPipe,

    /// Closes the listener with connections in its queue.
    DropQueue,
    /// Keeps the listener open and accepts no more.
    HangListener,
    /// A silent connection holds the exit until the deadline.
    SilentHolds,
    /// Cuts a connection with half a head at the stop.
    CutHalfHead,

    /// Cuts requests in flight at the stop.
    CutInFlight,
    /// Does not announce the close.
    NoConnectionClose,
    /// Resets idle connections at the stop.
    ResetIdle,
    /// Runs a request that came after the stop, and resets the connection instead of answering.
    RunUnanswered,
    /// Idle kept connections hold the exit until the deadline.
    IdleHolds,
    /// Gives up reading an upload at the stop.
    CutUpload,
    /// Closes with unread bytes after an early answer, so that the kernel resets the connection.
    CloseUnread,
    /// Runs pipelined requests and answers the first alone.
    RunPipelined,
    /// Resets a connection with pipelined requests after the first answer.
    ResetPipelined,
    /// Ends a streamed answer at the stop as if it were whole.
    EndStreamEarly,
    /// Never says `100 Continue` while it drains.
    NoContinue,
    /// Gives a slow reader up at the stop.
    CutSlowReader,
    /// Writes half a head at the deadline.
    HalfHead,
    /// Answers HTTP/1.0 without closing.
    Http10Open,

    /// Closes HTTP/2 connections without a GOAWAY.
    NoGoAway,
    /// One GOAWAY with the final id at once, and no warning before it.
    OneGoAway,
    /// The last stream id grows from one GOAWAY to the next.
    GrowingGoAway,
    /// Takes new streams after the first GOAWAY and never answers them.
    MuteNewStreams,
    /// Runs streams above the id of the last GOAWAY.
    RunExcluded,
    /// Leaves HTTP/2 connections open after their last stream.
    LingerHttp2,
    /// Closes HTTP/2 connections at the deadline with a reset.
    ResetHttp2,
    /// Ends a gRPC stream without trailers.
    BareGrpc,

    /// Ends WebSockets without a close frame.
    NoCloseFrame,
    /// WebSockets hold the exit for ever.
    WebSocketHolds,
    /// Closes all WebSockets at the same moment.
    NoSpread,
    /// Cuts WebSockets when it is upgraded.
    CutAtUpgrade,
    /// Ends an event stream within an event.
    CutEvent,
    /// Ends TLS without `close_notify`.
    NoCloseNotify,
    /// A paused TLS handshake holds the exit for ever.
    HandshakeHolds,
    /// Tickets of the predecessor are not known.
    NoResumption,

    /// Readiness stays green in the drain.
    ReadyWhileDraining,
    /// Closes the listener at once, whatever the lame-duck delay.
    NoLameDuck,
    /// Liveness turns red in the drain.
    DeadWhileDraining,
    /// Readiness is green before the service answers.
    ReadyTooEarly,
    /// Readiness turns red for a moment when it is upgraded.
    RedAtUpgrade,
    /// Holds long polls to their end.
    HoldLongPolls,

    /// The successor binds anew with `SO_REUSEPORT`.
    Rebind,
    /// Stops when its successor fails.
    DieOfFailedUpgrade,
    /// Leaves a successor alone that never becomes ready.
    KeepHungSuccessor,
    /// After one upgrade it refuses every other.
    OneUpgrade,
    /// Each upgrade leaks descriptors to the successor.
    LeakDescriptors,
    /// Goes on accepting beside its successor.
    KeepAccepting,
    /// A stop in the middle of an upgrade leaves the successor behind.
    OrphanSuccessor,
    /// Writes its process id into the file in two halves.
    TearPidFile,
    /// A successor serves the addresses that its predecessor had, whatever the file says.
    FixedAddresses,
    /// Anybody may ask for an upgrade.
    OpenControl,
    /// Refuses an upgrade without a word.
    RefuseSilently,
    /// Dies with its supervisor.
    DieWithSupervisor,
    /// A supervisor that starts itself anew starts its child anew as well.
    RestartChild,
}

impl Fault {
    /// Every fault with its name.
    pub const ALL: &[(&str, Fault)] = &[
        ("ignore-stop", Fault::IgnoreStop),
        ("ignore-second-stop", Fault::IgnoreSecondStop),
        ("no-deadline", Fault::NoDeadline),
        ("exit-zero-after-cut", Fault::ExitZeroAfterCut),
        ("exit-late", Fault::ExitLate),
        ("never-ready", Fault::NeverReady),
        ("die-in-drain", Fault::DieInDrain),
        ("die-of-repeats", Fault::DieOfRepeats),
        ("late-handler", Fault::LateHandler),
        ("leave-child", Fault::LeaveChild),
        ("silent-drain", Fault::SilentDrain),
        ("last-line-lost", Fault::LastLineLost),
        ("hanging-hook", Fault::HangingHook),
        ("die-of-broken-pipe", Fault::DieOfBrokenPipe),
        ("drop-queue", Fault::DropQueue),
        ("hang-listener", Fault::HangListener),
        ("silent-holds", Fault::SilentHolds),
        ("cut-half-head", Fault::CutHalfHead),
        ("cut-in-flight", Fault::CutInFlight),
        ("no-connection-close", Fault::NoConnectionClose),
        ("reset-idle", Fault::ResetIdle),
        ("run-unanswered", Fault::RunUnanswered),
        ("idle-holds", Fault::IdleHolds),
        ("cut-upload", Fault::CutUpload),
        ("close-unread", Fault::CloseUnread),
        ("run-pipelined", Fault::RunPipelined),
        ("reset-pipelined", Fault::ResetPipelined),
        ("end-stream-early", Fault::EndStreamEarly),
        ("no-continue", Fault::NoContinue),
        ("cut-slow-reader", Fault::CutSlowReader),
        ("half-head", Fault::HalfHead),
        ("http10-open", Fault::Http10Open),
        ("no-go-away", Fault::NoGoAway),
        ("one-go-away", Fault::OneGoAway),
        ("growing-go-away", Fault::GrowingGoAway),
        ("mute-new-streams", Fault::MuteNewStreams),
        ("run-excluded", Fault::RunExcluded),
        ("linger-http2", Fault::LingerHttp2),
        ("reset-http2", Fault::ResetHttp2),
        ("bare-grpc", Fault::BareGrpc),
        ("no-close-frame", Fault::NoCloseFrame),
        ("websocket-holds", Fault::WebSocketHolds),
        ("no-spread", Fault::NoSpread),
        ("cut-at-upgrade", Fault::CutAtUpgrade),
        ("cut-event", Fault::CutEvent),
        ("no-close-notify", Fault::NoCloseNotify),
        ("handshake-holds", Fault::HandshakeHolds),
        ("no-resumption", Fault::NoResumption),
        ("ready-while-draining", Fault::ReadyWhileDraining),
        ("no-lame-duck", Fault::NoLameDuck),
        ("dead-while-draining", Fault::DeadWhileDraining),
        ("ready-too-early", Fault::ReadyTooEarly),
        ("red-at-upgrade", Fault::RedAtUpgrade),
        ("hold-long-polls", Fault::HoldLongPolls),
        ("rebind", Fault::Rebind),
        ("die-of-failed-upgrade", Fault::DieOfFailedUpgrade),
        ("keep-hung-successor", Fault::KeepHungSuccessor),
        ("one-upgrade", Fault::OneUpgrade),
        ("leak-descriptors", Fault::LeakDescriptors),
        ("keep-accepting", Fault::KeepAccepting),
        ("orphan-successor", Fault::OrphanSuccessor),
        ("tear-pid-file", Fault::TearPidFile),
        ("fixed-addresses", Fault::FixedAddresses),
        ("open-control", Fault::OpenControl),
        ("refuse-silently", Fault::RefuseSilently),
        ("die-with-supervisor", Fault::DieWithSupervisor),
        ("restart-child", Fault::RestartChild),
    ];

    /// The fault of this name.
    pub fn named(name: &str) -> Option<Fault> {
        Fault::ALL.iter().find(|(known, _)| *known == name).map(|(_, fault)| *fault)
    }
}
