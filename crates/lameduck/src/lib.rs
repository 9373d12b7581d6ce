//! A service that leaves without dropping what it accepted. It will have left by its deadline, and says what it cut.
//!
//! More exactly: a request whose first byte reached the process before its listener closed is answered in full, and so
//! is one that comes on a kept-alive connection within the linger. The bound is the grace period, 30 seconds unless you
//! choose another: at its end what is left is cut and named, and the process is gone within 0.2 seconds, also when
//! every thread of the runtime is blocked, a closing function hangs or a client never reads.
//!
#![cfg_attr(feature = "http", doc = "```no_run")]
#![cfg_attr(not(feature = "http"), doc = "```text")]
//! use axum::{Router, routing::get};
//! use lameduck::{Error, Exit, Lifecycle};
//!
//! #[tokio::main]
//! async fn main() -> Result<Exit, Error> {
//!     let life = Lifecycle::builder().start()?;
//!     let app = Router::new().route("/", get(async || "hello\n"));
//!     life.serve("http", life.listen("127.0.0.1:8080").await?, app)?;
//!     Ok(life.run().await)
//! }
//! ```
//!
//! TERM and Ctrl-C stop it, a second one stops it at once, USR1 prints what is in hand. `main` returns the documented
//! [exit code](exit), and the report is on standard error. An `axum::serve` program changes two lines instead: see
//! [`lameduck::axum::serve`](axum/fn.serve.html).
//!
//! # What a stop does
//!
//! 1. **Lame duck**: readiness turns red and each answer says `Connection: close`, while everybody is still accepted
//!    ([`Builder::lame_duck`]; none by default).
//! 2. **Gate**: new connections are kept out, those under way complete and are accepted, then the listener closes.
//! 3. **Settle**: each accepted connection is read once, so that none is taken for idle that has a request waiting.
//! 4. **Finish**: tasks get the [drain signal](Drain); requests are answered; idle connections are still answered for
//!    the [linger](Builder::linger), half-closed and read to their end.
//! 5. **Closing**: [resources](Lifecycle::on_close) close after their last user, each within its budget.
//! 6. The [report](Report) and the [exit code](exit).
//!
//! Work that is not done when the time is up is cut, and named. Signals and the deadline live on a thread of their own,
//! outside the runtime, so that neither depends on the runtime.
//!
//! # The map
//!
//! | module | what it is |
//! |---|---|
//! | [`lifecycle`] | [`Lifecycle`], the handle a program holds: serve, tasks, blocking calls, resources, run |
//! | [`listener`] | [`Listener`]: TCP and Unix sockets, and the gate that closes them without a loss |
//! | [`http`](http/index.html) | HTTP/1.1 and cleartext HTTP/2 for any tower service, and the admin server (feature `http`) |
//! | [`http::tls`](http/tls/index.html), [`tickets`](tickets/index.html) | TLS in front of it, certificates that can be replaced, tickets that outlive an upgrade (feature `rustls023`) |
//! | [`http::streams`](http/streams/index.html) | event streams and others that last end at a boundary |
//! | [`axum`](axum/index.html) | in the place of `axum::serve` (feature `axum08`) |
//! | [`websocket`] | WebSockets: close frames at a stop, names, and those that move |
//! | [`tonic`](tonic/index.html) | gRPC: the health service that turns first, streams that end with a status (feature `tonic014`) |
//! | [`work`] | live work by name, as snapshots and reports tell it |
//! | [`closing`] | resources that close in order, each within its own budget |
//! | [`signals`] | which signal means what |
//! | [`exit`] | the exit codes, in one place |
//! | [`upgrade`], [`handover`] | the live upgrade: a successor takes over, connections included ([`Builder::control`]) |
//! | [`shared`], [`states`] | what moves with it: counters both versions write, and states |
//! | [`jobs`] | a worker on any queue that gives back what it could not finish |
//! | [`child`] | child processes that do not outlive the service |
//! | [`operate`] | what `lameduck status`, `stop`, `upgrade` and `rollback` do |
//! | [`takeover`] | both ends of an upgrade as pure machines, and what they say to each other |
//! | [`notify`] | what a service manager is told |
//! | [`generation`] | the pure machine that decides for one generation: its life and its takeovers |
//! | [`phase`] | the pure machine that decides what happens next in a life: no task, no socket, no clock |
//!
//! # Defaults
//!
//! Each wait, queue and list has a bound, and each bound has a name. Those with a method beside them are yours to choose.
//!
//! | name | value | what it bounds |
//! |---|---|---|
//! | [`lifecycle::GRACE_PERIOD`] | 30 s | a stop, from its beginning to force ([`Builder::grace_period`]) |
//! | [`lifecycle::LINGER`] | 250 ms | how long an idle kept-alive connection is still answered ([`Builder::linger`]) |
//! | [`lifecycle::UPGRADE_LINGER`] | 5 s | how long an idle connection that cannot move is still answered after an upgrade ([`Builder::upgrade_linger`]) |
//! | [`lifecycle::SETTLE`] | 100 ms | the first read of each accepted connection ([`Builder::settle`]) |
//! | [`closing::DEFAULT_BUDGET`] | 10 s | the closing of one resource ([`Closing::budget`]), within the grace period |
//! | [`lifecycle::AFTER_FORCE`] | 150 ms | all closing, once a stop was forced and no budget was reserved |
//! | `control::LEAVE` | 30 ms | how long a forced process may take to leave `main` |
//! | `control::PROGRESS` | 1 s | the time between two lines of a stop that lasts |
//! | `log::WRITE_BOUND` | 20 ms | how long a line may wait for standard error |
//! | [`listener::HANDSHAKE`] | 20 ms | handshakes under way when the gate closes |
//! | [`listener::HANDSHAKE_LONGEST`] | 1 s | one that the kernel says is under way, or half of what is left until the cut |
//! | [`listener::HANDSHAKE_ROUNDS`] | 5 | how often they are waited for where the kernel does not say |
//! | [`listener::QUEUE`] | 4096 | connections the kernel may hold for us |
//! | [`listener::BACK_OFF`] | 5 ms | the first pause after an accept error that lasts: no descriptor is left, say |
//! | [`listener::BACK_OFF_MOST`] | 500 ms | the longest such pause |
//! | [`listener::STARVED_GATE`] | 1 s | how long the gate tries to empty the queue while there is such an error |
//! | [`http::HEAD`](http/constant.HEAD.html) | 800 ms | the rest of a half-sent head |
//! | [`http::FIRST_BYTE`](http/constant.FIRST_BYTE.html) | 700 ms | the first byte of a connection accepted at the gate |
//! | [`http::PING`](http/constant.PING.html) | 500 ms | an HTTP/2 client's answer to PING, and its preface |
//! | [`http::QUIET`](http/constant.QUIET.html) | 200 ms | silence after a half-close, before the close |
//! | [`http::QUIET_UPLOAD`](http/constant.QUIET_UPLOAD.html) | 1 s | the same for a client that was answered within its upload |
//! | [`http::QUIET_IDLE`](http/constant.QUIET_IDLE.html) | 50 ms | the same for a connection that was idle |
//! | [`http::LINGERING`](http/constant.LINGERING.html) | 5 s | everything that is read after a half-close |
//! | [`http::PIPELINED`](http/constant.PIPELINED.html) | 256 | pipelined requests of one connection answered after the stop began |
//! | [`http::GRPC_STATUS`](http/constant.GRPC_STATUS.html) | 250 ms | how long before the cut a gRPC call that still lasts gets its status |
//! | [`http::TLS_HANDSHAKE`](http/constant.TLS_HANDSHAKE.html) | 10 s | a TLS handshake |
//! | [`http::TLS_HANDSHAKE_AT_STOP`](http/constant.TLS_HANDSHAKE_AT_STOP.html) | 1 s | the rest of one under way at a stop |
//! | `tickets::ROTATION` | 21600 s | how long one key makes session tickets, and how long a ticket can be used |
//! | [`websocket::CLOSE_SPREAD`] | 5 s | the close frames of many WebSockets ([`CloseFrames::spread`](websocket::CloseFrames::spread)) |
//! | [`websocket::CLOSE_STEP`] | 10 ms | the pause between two of them |
//! | [`websocket::CLOSE_ANSWER`] | 2 s | a client's own close frame ([`CloseFrames::answer_within`](websocket::CloseFrames::answer_within)) |
//! | [`websocket::MESSAGE_END`] | 1 s | the end of a message in fragments, before a close frame goes between them |
//! | [`websocket::MOVE_FLUSH`](websocket/constant.MOVE_FLUSH.html) | 1 s | what was sent over a WebSocket, before it moves |
//! | [`websocket::LAST_CALL`] | 1 s | from the close frames to the cut, for handlers that close themselves |
//! | [`closing::RESOURCES_AT_MOST`] | 1000 | resources of one life |
//! | [`http::streams::SPREAD`](http/streams/constant.SPREAD.html) | 1 s | over how long the ends of streams are spread ([`Streams::spread`](http/streams/struct.Streams.html#method.spread)) |
//! | [`http::streams::RETRY`](http/streams/constant.RETRY.html) | 100 ms | how soon an event stream's client should come back ([`Streams::retry`](http/streams/struct.Streams.html#method.retry)) |
//! | [`http::streams::RETRY_SPREAD`](http/streams/constant.RETRY_SPREAD.html) | 1 s | over how long clients should come back (the same) |
//! | [`child::TERM_TO_KILL`] | 5 s | how long a child may take from TERM to its end |
//! | [`child::KILL_AHEAD`] | 200 ms | how long before the cut it is killed otherwise |
//! | [`jobs::CONCURRENCY`] | 4 | jobs that a worker has in hand at once ([`Jobs::concurrency`](jobs::Jobs::concurrency)) |
//! | [`jobs::KEEP_EVERY`] | 1 s | the time between two signs that its claims are alive ([`Jobs::keep_every`](jobs::Jobs::keep_every)) |
//! | [`jobs::CANCEL_AHEAD`] | 1 s | how long before the cut jobs are asked to end |
//! | [`jobs::GIVE_BACK`] | 500 ms | how long before the cut they are dropped and given back |
//! | [`jobs::UNWIND`] | 50 ms | how long dropped jobs may take to be gone |
//! | [`jobs::BACK_OFF`] | 100 ms | the first pause after a claim that failed |
//! | [`jobs::BACK_OFF_MOST`] | 5 s | the longest such pause |
//! | [`lifecycle::LAST_CALL`] | 1 s | how long before the cut blocking work is told to stop while the runtime is blocked |
//! | [`work::NAMED_AT_MOST`] | 200 | pieces of work a report or snapshot names; the counts are whole |
//! | [`lifecycle::PROBATION`] | 10 s | how long a successor's death gives the service back ([`Builder::probation`]) |
//! | [`lifecycle::CHECK`] | 10 s | one check before the service is ready ([`Lifecycle::check`]) |
//! | [`lifecycle::CHECKS_AT_MOST`] | 100 | checks of one life |
//! | [`lifecycle::MAX_GENERATIONS`] | 4 | older generations that may drain at once ([`Builder::max_generations`]) |
//! | `listener::LET_GO` | 1 s | how long a stop soon after an upgrade waits for the predecessor to let go of the socket |
//! | `notify::teller::EXTEND` | 5 s | what the service manager is asked for at a time |
//! | `notify::teller::EXTEND_PAST_DEADLINE` | 1 s | the same past the deadline, at most |
//! | `notify::teller::RETRY` | 50 ms | the pause before a message is sent again to a manager whose queue is full |
//! | `notify::teller::BARRIER` | 500 ms | how long a generation that has handed on waits at its end for the manager to know |
//! | `notify::teller::WATCHDOG_LEAST` | 1 ms | the shortest time between two signs of life |
//! | `operate::ASK` | 5 s | how long a service may take to take in a command |
//! | `operate::ANSWER` | 1 days | how long its answer may take |
//! | [`operate::FOLLOW`] | 5 | how often it is asked again when whoever was asked has left and another has the name |
//! | `operate::GONE` | 5 s | how long a service that has told its end may take until its process is gone |
//! | `operator::FIRST_WORD` | 5 s | how long whoever connects to the control socket may take to say what it wants |
//! | `operator::STATUS` | 1 s | how long another generation may take to tell its status |
//! | `respawn::BUSY` | 1 s | how long a program that is just being written is tried again |
//! | `succeed::CONNECT` | 5 s | room for a successor in the queue at the control socket |
//! | `takeover::HELLO_TIMEOUT` | 10 s | a successor's first word, or a shorter [`Builder::takeover_timeout`] |
//! | `takeover::OFFER_TIMEOUT` | 10 s | the predecessor's offer |
//! | `takeover::TAKEOVER_TIMEOUT` | 60 s | a successor's way to being ready ([`Builder::takeover_timeout`]) |
//! | `takeover::TAKEOVER_LONGEST` | 600 s | the same, however often it asks for more |
//! | `takeover::PROBE_TIMEOUT` | 5 s | a successor's answer to the probe |
//! | `takeover::STATE_TIMEOUT` | 5 s | writing the states down |
//! | `takeover::COMMIT_TIMEOUT` | 15 s | the commit |
//! | `takeover::ACCEPTING_TIMEOUT` | 5 s | from the commit to accepting |
//! | `takeover::RETURN_TIMEOUT` | 5 s | from the wish to give the service back to the predecessor's serving |
//! | [`generation::EXIT`] | 1 s | from the end of a successor's conversation to its exit, and from there to the end of its last words |
//! | [`generation::KILL_AFTER`] | 5 s | from TERM to KILL for a successor that is not wanted |
//! | [`generation::QUEUED`] | 16 | upgrades that may wait for the one under way |
//! | `generations::CLAIM` | 5 s | a first start, for another one in the same directory to have found its place |
//! | `conversation::SEND` | 5 s | one message to another generation |
//! | `conversation::INBOX` | 64 | messages of another generation that have come and were not looked at |
//! | [`upgrade::CHECK_FIRST`] | 8 s | a program that checks itself before it is started ([`Builder::check_first`]) |
//! | [`upgrade::SEEK`] | 5 | how often a generation whose successor is gone looks for the one that serves |
//! | `upgrade::SEEK_PAUSE` | 50 ms | the time between two looks |
//! | `upgrade::LEAVE_WITH_US` | 500 ms | the same when this process itself is leaving |
//! | [`phase::LONGEST`] | 10950 days | any wait at all |
//!
//! # What it does not do
//!
//! * It does not save a request that a client sends after the linger, while the close is on the wire: the client sees
//!   an end of file, and no handler has run. Nobody can save it but the client.
//! * It does not wait longer for a handshake under way than [`listener::HANDSHAKE_LONGEST`], and where the kernel does not
//!   tell of them (a sandbox without `AF_NETLINK`) no longer than [`listener::HANDSHAKE`], repeated while others complete: a
//!   client that takes longer finds the connection reset that it was just making. Nothing of it had reached the process.
//! * It does not interrupt a blocking call, or a handler that blocks its thread. At the deadline the process leaves
//!   without them and says so.
//! * It does not move HTTP/2 connections, nor those over TLS, whose keys are in their process: at an upgrade they stay,
//!   are answered and told to go; TLS sessions resume with the successor.
//! * It does not end a connection that became a protocol it does not know: that is counted, waited for and cut at the
//!   deadline ([`Lifecycle::drain`] says when to end it). WebSockets it does know.
//! * It does not keep a balancer from sending to a closed port: give it a [lame duck](Builder::lame_duck) as long as your
//!   health checks take to notice.
//! * It does not restart anything, and it does not survive KILL: what must outlive that belongs into a database.
//!
//! # Where it runs
//!
//! On Linux; other systems are not built or tested. The gate needs `SO_ATTACH_FILTER`, or `IP_MINTTL` and
//! `IPV6_MINHOPCOUNT`, which need no privilege. Where they are not to be had (a Unix socket has none and needs none; a sandbox may refuse
//! them), the queue is emptied before the close, and only what arrives between the last accept and the close is lost.
//! Which handshakes are under way the kernel tells over a netlink socket, also without any privilege: a unit with
//! `RestrictAddressFamilies=` names `AF_NETLINK` for that.
//!
//! # Features
//!
//! | feature | what it adds | needs |
//! |---|---|---|
//! | (none) | lifecycle, signals, tasks, blocking calls, resources, streams of your own protocol | tokio, no proc macro |
//! | `http` | [`Lifecycle::serve`](lifecycle/struct.Lifecycle.html#method.serve) and `serve_admin` | hyper 1, tower-service |
//! | `tungstenite029` | [WebSockets that move](websocket) to a successor, and `http` | tokio-tungstenite 0.29 |
//! | `rustls023` | [`Lifecycle::serve_tls`](lifecycle/struct.Lifecycle.html#method.serve_tls), and `http` | rustls 0.23 on ring |
//! | `tonic014` | [`lameduck::tonic`](tonic/index.html), and `http` | tonic 0.14 |
//! | `axum08` | [`lameduck::axum::serve`](axum/fn.serve.html), and `http` | axum 0.8 |
//!
//! None is on by default, and none changes what another does. A new major version of a framework will be a new feature.

/// The programs of the README compile.
#[cfg(all(doctest, feature = "axum08"))]
#[doc = include_str!("../../../README.md")]
mod readme {}

#[cfg(feature = "axum08")]
pub mod axum;
pub mod child;
pub mod closing;
mod connection;
mod control;
mod conversation;
mod driver;
mod duration;
mod error;
pub mod exit;
pub mod generation;
mod generations;
pub mod handover;
#[cfg(feature = "http")]
pub mod http;
mod inherit;
pub mod jobs;
mod json;
pub mod lifecycle;
pub mod listener;
mod log;
mod memory;
pub mod notify;
pub mod operate;
mod operator;
mod panics;
pub mod phase;
mod readiness;
mod report;
mod respawn;
pub mod shared;
pub mod signals;
mod snapshot;
pub mod states;
mod succeed;
mod sys;
pub mod takeover;
mod text;
#[cfg(feature = "rustls023")]
pub mod tickets;
#[cfg(feature = "tonic014")]
pub mod tonic;
pub mod upgrade;
pub mod websocket;
pub mod work;
mod zombie;

pub use connection::Stream;
pub use error::Error;
pub use exit::Exit;
pub use lifecycle::{Blocking, Builder, Closing, Drain, Lifecycle, Task, TaskEnd};
pub use listener::Listener;
pub use log::{Log, LogFormat};
pub use phase::Asked;
pub use readiness::Readiness;
pub use report::Report;
pub use snapshot::Snapshot;
