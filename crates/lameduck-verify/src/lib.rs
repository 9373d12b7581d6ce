//! Tells the fate of every request at a stop or an upgrade of a server, in any language, from outside.
//!
//! Three lines in a test give the verdicts of the conformance suite, and a failure that says what was seen:
//!
//! ```no_run
//! // #[test] fn my_server_stops_without_losing_requests() {
//! lameduck_verify::check("my-server --port {port}").group("SIG").group("ACC").assert();
//! // }
//! ```
//!
//! Below that are its parts, for what the suite has no case for. The clients here are *careful*: they never
//! retry, and they look for a close before they reuse a connection. So each loss they report is the server's, and
//! each has exactly one class ([`Fate`](fate::Fate)); classes are never merged.
//!
//! ```no_run
//! use lameduck_verify::load::{Load, Mode, Until};
//! use lameduck_verify::target::{Ready, Signal, Target, free_address};
//! use std::time::Duration;
//!
//! let address = free_address()?;
//! let mut server = Target::command("my-server")
//!     .arg(address.to_string())
//!     .ready(Ready::Tcp(address))
//!     .start()?;
//! let load = Load::new(format!("http://{address}/").parse()?, Mode::KeepAlive)
//!     .connections(32)
//!     .until(Until::Gone { at_most: Duration::from_secs(30) })
//!     .start()?;
//! load.wait_flowing(Duration::from_secs(10))?;
//! server.signal(Signal::TERM)?;
//! let report = load.finish();
//! assert_eq!(report.lost(), 0, "{report}");
//! assert_eq!(server.wait(Duration::from_secs(10))?.code, Some(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`fate`] | what became of a request, and the count of each fate |
//! | [`answer`] | reads HTTP/1.1 answers from bytes; no sockets, no clock |
//! | [`load`] | closed-loop clients over HTTP/1.1 and HTTP/2; [`load::open`] an open loop over HTTP/1.1 |
//! | [`target`] | a server process: started, signalled, waited for, and surely gone afterwards |
//! | [`probe`] | connections in delicate states, and what came of each, byte by byte |
//! | [`check`](check()) | the suite in a test |
//! | [`adapter`] | how a server is started, stopped, upgraded and asked |
//! | [`case`], [`cases`] | what a case is; the cases, group by group |
//! | [`stage`] | what a case is given: a fresh server, the means to act and to look |
//! | [`run`] | the suite: chosen cases against a target, and the report |
//! | [`interrupt`] | leaving when told to, with nothing left behind |
//! | [`verdict`] | what a case found, and a whole run: what every report is made from |
//! | [`report`] | the terminal's text, JSON, JUnit and a page with timelines, all from one run |
//! | [`trace`] | what happened when, for the timeline |
//!
//! It runs on Linux: it reads `/proc` and waits on process descriptors.

pub mod adapter;
pub mod address;
pub mod answer;
pub mod case;
pub mod cases;
mod check;
pub mod fate;
pub mod interrupt;
pub mod load;
pub mod probe;
pub mod report;
pub mod run;
pub mod stage;
pub mod target;
pub mod trace;
mod trust;
pub mod verdict;

pub use check::{Check, check};
