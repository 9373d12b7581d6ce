//! What a case is given to work with: a fresh server in the state it wants, and the means to act and to look.
//!
//! Everything that happens through a stage is in the trace: connections, signals, the listener's queue. Everything that
//! a case opened is gone when the stage is: the server with all its processes, connections, threads, directories.

mod ask;
mod errand;
mod launch;
mod loads;
mod programs;
mod queue;
mod recorder;
pub(crate) mod scratch;
mod service;
mod upgrading;
mod wires;

pub use ask::{ASK_LIMIT, Asked, ask};
pub use errand::{COMMAND_LIMIT, Ran, find_program, run_command};
pub use launch::Launch;
pub use loads::Arrivals;
pub use programs::Stand;
pub use queue::{Listening, listening};
pub use recorder::Recorder;
pub use scratch::remove_scratch;
pub use service::{Gone, Service};
pub use upgrading::{Asking, Upgraded};
pub use wires::Wires;

use crate::adapter::{Adapter, Repeats};
use crate::address::{Address, Place, Scheme};
use crate::case::{Case, Fault};
use crate::fate::Tally;
use crate::probe::{self, End, Until, Wire};
use crate::target::Signal;
use crate::trace::{MarkKind, Trace};
use crate::verdict::Figure;
use queue::Sampler;
use std::path::Path;
use std::time::{Duration, Instant};

/// A bound for what takes no time when it works, on a busy machine.
pub const SOON: Duration = Duration::from_secs(5);

/// Between two looks at what the kernel has no way to wait for.
const POLL_PAUSE: Duration = Duration::from_millis(1);

/// Connections that are being worked on, and how long the whole takes.
type InFlight = Result<(Wires, Duration), Fault>;

/// One run of one case.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The target.
    pub adapter: &'a Adapter,
    /// What happens when.
    pub recorder: Recorder,
    build: &'a Path,
    random: u64,
    service: Option<Service>,
    /// Nobody answers a handshake.
    is_frozen: bool,
    sampler: Option<Sampler>,
    figures: Vec<Figure>,
}

/// What a stage leaves behind.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) trace: Trace,
    pub(crate) tally: Tally,
    pub(crate) figures: Vec<Figure>,
    pub(crate) said: Option<String>,
}

impl Left {
    /// What is known of a stage that cannot be asked any more.
    pub(crate) fn recorded(recorder: &Recorder) -> Left {
        let (trace, tally) = recorder.finish();
        Left { trace, tally, figures: Vec::new(), said: None }
    }
}

impl<'a> Stage<'a> {
    pub(crate) fn new(
        adapter: &'a Adapter,
        case: &Case,
        build: &'a Path,
        seed: u64,
        recorder: Recorder,
    ) -> Stage<'a> {
        // Each case has numbers of its own, whichever cases run before it.
        let of_case =
            case.id.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
        Stage {
            adapter,
            recorder,
            build,
            random: seed ^ of_case,
            service: None,
            is_frozen: false,
            sampler: None,
            figures: Vec::new(),
        }
    }

    // --- the server ---------------------------------------------------------------------------------------------

    /// Starts the server and waits until it is ready. One that was started before is killed.
    pub fn start(&mut self) -> Result<(), Fault> {
        self.start_as(Launch::default())
    }

    /// As [`start`](Stage::start), in another way.
    pub fn start_as(&mut self, launch: Launch) -> Result<(), Fault> {
        self.sampler = None;
        self.service = None;
        self.is_frozen = false;
        let service = Service::start(self.adapter, self.build, launch)?;
        self.recorder.mark(MarkKind::Process, format!("started, pid {}", service.main_pid()));
        self.sampler = Some(Sampler::start(service.address.port(), &self.recorder)?);
        self.service = Some(service);
        Ok(())
    }

    /// The server.
    ///
    /// # Panics
    /// Before [`start`](Stage::start): a mistake in the case.
    pub fn service(&mut self) -> &mut Service {
        self.service.as_mut().expect("the case starts the server first")
    }

    fn running(&self) -> &Service {
        self.service.as_ref().expect("the case starts the server first")
    }

    /// Asks for a stop, by the signal or the command of the adapter. A command runs on beside the case.
    pub fn stop(&mut self) -> Result<Instant, Fault> {
        let adapter = self.adapter;
        let Some(command) = &adapter.stop.command else {
            return self.signal(adapter.stop.signal);
        };
        let words: Vec<String> = command.0.iter().map(|word| self.service().put_in(word)).collect();
        let directory = self.service().directory().to_owned();
        self.recorder.mark(MarkKind::Action, words.join(" "));
        let at = Instant::now();
        std::thread::Builder::new().name("stop".into()).spawn(move || {
            // What it comes to is seen by what the server does.
            let _ = run_command(&words, &directory, COMMAND_LIMIT);
        })?;
        Ok(at)
    }

    /// Sends a signal to the process that stop signals go to.
    pub fn signal(&mut self, signal: Signal) -> Result<Instant, Fault> {
        if let Some(file) = self.adapter.stop.pid_file.clone()
            && let Some(pid) = read_pid(&self.service().file(&file))
        {
            self.service().set_main(pid);
        }
        self.recorder.mark(MarkKind::Action, crate::adapter::signal_name(signal));
        Ok(self.service().signal(signal)?)
    }

    /// Waits until the server's main process has ended; `None` if it still runs after `limit`.
    pub fn wait_gone(&mut self, limit: Duration) -> Option<Gone> {
        let gone = self.service().wait_gone(limit)?;
        self.recorder.mark_at(gone.at, MarkKind::Process, gone.text());
        Some(gone)
    }

    /// Stops (SIGSTOP) every process of the server: what comes now waits in the kernel.
    pub fn freeze(&mut self) -> Result<(), Fault> {
        self.service().freeze()?;
        self.is_frozen = true;
        self.recorder.mark(MarkKind::Action, "SIGSTOP");
        Ok(())
    }

    /// Lets the server go on (SIGCONT).
    pub fn thaw(&mut self) -> Result<(), Fault> {
        self.recorder.mark(MarkKind::Action, "SIGCONT");
        self.is_frozen = false;
        Ok(self.service().thaw()?)
    }

    /// Kills the server, and starts it again at the same address once it was `seen`: clients that had no processor while
    /// it was away have noticed nothing.
    pub fn kill_and_start(&mut self, seen: impl FnOnce() -> bool) -> Result<(), Fault> {
        self.recorder.mark(MarkKind::Action, "SIGKILL");
        self.service().kill()?;
        seen();
        self.start_again()
    }

    /// Starts the server again at the same address, after it has ended.
    pub fn start_again(&mut self) -> Result<(), Fault> {
        let adapter = self.adapter;
        self.service().start_again(adapter)?;
        self.recorder.mark(MarkKind::Process, "started again");
        Ok(())
    }

    /// The longest time the server gives its work. For cases that need [`Deadline`](crate::case::Need::Deadline).
    pub fn deadline(&self) -> Duration {
        self.adapter.stop.deadline.map_or(SOON, |span| *span)
    }

    /// A bound for an exit: the deadline, if the server declares one, and room for a busy machine.
    pub fn exit_limit(&self) -> Duration {
        self.deadline() + self.lame_duck() + SOON
    }

    /// How long the server goes on accepting after the stop.
    pub fn lame_duck(&self) -> Duration {
        self.adapter.stop.lame_duck.map_or(Duration::ZERO, |span| *span)
    }

    /// Whether a further stop signal is declared to force.
    pub fn forces(&self) -> bool {
        self.adapter.stop.repeats == Some(Repeats::Force)
    }

    // --- places -------------------------------------------------------------------------------------------------

    /// Where the server listens.
    pub fn address(&self) -> Address {
        match (&self.service, &self.adapter.running) {
            (None, Some(running)) => {
                let place: Result<Place, _> = running.url.parse();
                place.map_or_else(|_| Address::Unix("/".into()), |place| place.address)
            }
            _ => Address::Tcp(self.running().address),
        }
    }

    /// A path at the server's address.
    pub fn at(&self, path: &str) -> Place {
        if let (None, Some(running)) = (&self.service, &self.adapter.running)
            && let Ok(place) = running.url.parse::<Place>()
        {
            return Place { path: path.to_owned(), ..place };
        }
        let address = self.running().address;
        Place {
            scheme: self.adapter.scheme(),
            address: Address::Tcp(address),
            host: address.to_string(),
            path: path.to_owned(),
        }
    }

    /// The path that answers at once.
    pub fn fast(&self) -> Place {
        self.at(&self.adapter.paths.fast)
    }

    /// A path by its key in `[paths]`. For cases that need [`Path`](crate::case::Need::Path).
    ///
    /// # Errors
    /// When the adapter does not declare it.
    pub fn path(&self, key: &'static str) -> Result<Place, Fault> {
        let path = self.adapter.paths.get(key);
        let path = path.ok_or_else(|| Fault(format!("the target does not declare paths.{key}")))?;
        Ok(self.at(path))
    }

    /// The readiness or liveness path (`ready`, `live`), wherever it is served.
    pub fn admin(&self, key: &'static str) -> Result<Place, Fault> {
        let place = self.path(key)?;
        let Some(admin) = &self.adapter.paths.admin else { return Ok(place) };
        let text = self.running().put_in(admin);
        let (scheme, address) = (Scheme::Http, service::address(&text)?);
        Ok(Place { scheme, address, host: text, ..place })
    }

    /// The second address of the server. For cases that need [`Also`](crate::case::Need::Also).
    pub fn also(&self) -> Result<Place, Fault> {
        let also = self.adapter.also.as_deref();
        let also = also.ok_or_else(|| Fault("the target does not declare also".to_owned()))?;
        let text = self.running().put_in(also);
        let host = if text.starts_with("unix:") { "localhost".to_owned() } else { text.clone() };
        let path = self.adapter.paths.fast.clone();
        Ok(Place { scheme: self.adapter.scheme(), address: service::address(&text)?, host, path })
    }

    /// Where the server speaks TLS.
    ///
    /// # Errors
    /// When the adapter does not say.
    pub fn tls(&self) -> Result<Address, Fault> {
        let tls = self.adapter.tls.as_deref();
        let tls =
            tls.ok_or_else(|| Fault("the target does not declare tls (an address)".to_owned()))?;
        Ok(service::address(&self.running().put_in(tls))?)
    }

    // --- connections --------------------------------------------------------------------------------------------

    /// Takes wires on, so that they are recorded under this name when the case lets go of them.
    pub fn keep(&self, label: &str, wires: Vec<Wire>) -> Wires {
        Wires::new(label, wires, &self.recorder)
    }

    /// `count` connections, each with one whole `GET` sent.
    pub fn requests(&self, label: &str, place: &Place, count: usize) -> Result<Wires, Fault> {
        let mut wires = self.keep(label, probe::http1::silent(place, count)?);
        let request = place.get("");
        for wire in wires.iter_mut() {
            if self.is_frozen {
                wire.put_off_handshake();
            }
            wire.request(&request);
        }
        Ok(wires)
    }

    /// `count` connections on which nothing is sent.
    pub fn silent(&self, label: &str, count: usize) -> Result<Wires, Fault> {
        let wires = probe::http1::silent(&self.fast(), count)?;
        Ok(self.keep(label, wires))
    }

    /// `count` kept-alive connections, each answered once and idle since.
    pub fn idle(&self, count: usize) -> Result<Wires, Fault> {
        let wires = probe::http1::idle(&self.fast(), count)?;
        Ok(self.keep("idle", wires))
    }

    /// Stops the server's processes and puts `count` connections with a whole request each into its accept queue, or as
    /// many as its queue takes. Send the stop, then [`thaw`](Stage::thaw).
    pub fn backlog(&mut self, count: usize) -> Result<Wires, Fault> {
        let count = self.queue_room(count);
        self.freeze()?;
        let place = self.fast();
        self.requests("accept queue", &place, count)
    }

    /// As [`backlog`](Stage::backlog), with no byte sent.
    pub fn silent_backlog(&mut self, count: usize) -> Result<Wires, Fault> {
        let count = self.queue_room(count);
        self.freeze()?;
        self.silent("accept queue, silent", count)
    }

    /// How many of `count` connections the accept queue takes. Where the kernel does not tell, all.
    fn queue_room(&self, count: usize) -> usize {
        let found = listening(self.running().address.port()).unwrap_or_default();
        let most: usize = found.iter().map(|one| one.most as usize).sum();
        if most == 0 { count } else { count.min(most) }
    }

    /// One connection with a slow request, which the server is working on: nothing of the answer has come after a fifth
    /// of the time that it takes. Also says how long the whole takes.
    ///
    /// # Errors
    /// When the answer came sooner.
    pub fn in_flight(&self, count: usize) -> InFlight {
        let takes = self.adapter.paths.slow_takes.map_or(SOON, |span| *span);
        self.in_flight_at(&self.path("slow")?, count, takes)
    }

    /// As [`in_flight`](Stage::in_flight), with requests that take so long where the target lets that be chosen.
    pub fn in_flight_for(&self, count: usize, long: Duration) -> InFlight {
        let Some(path) = self.adapter.paths.get("slow_for") else { return self.in_flight(count) };
        let path = path.replace("{ms}", &long.as_millis().to_string());
        self.in_flight_at(&self.at(&path), count, long)
    }

    fn in_flight_at(&self, place: &Place, count: usize, takes: Duration) -> InFlight {
        let mut wires = self.requests("in flight", place, count)?;
        wires.watch(Until::Answered, takes / 5)?;
        if wires.iter().any(|wire| wire.received_bytes() > 0 || wire.end() != End::Open) {
            return Err(Fault(format!("{place} was answered sooner than it should take")));
        }
        Ok((wires, takes))
    }

    /// Connections that hold a drain until they are let go of: a request that never ends, an answer that is not read, or
    /// a body that does not come. For cases that need [`Holds`](crate::case::Need::Holds).
    pub fn hold(&self, count: usize) -> Result<Wires, Fault> {
        let paths = &self.adapter.paths;
        if let Some(path) = paths.get("endless") {
            return self.requests("held: endless", &self.at(path), count);
        }
        if let Some(path) = paths.get("large") {
            let place = self.at(path);
            let wires: Result<Vec<Wire>, _> =
                (0..count).map(|_| probe::http1::never_reads(&place)).collect();
            return Ok(self.keep("held: does not read", wires?));
        }
        if let Some(path) = paths.get("upload").or(paths.get("post")) {
            return Ok(self.half_posts(&self.at(path), count)?.0);
        }
        Ok(self.in_flight(count)?.0)
    }

    /// Connections with a `POST` of which half the body was sent, and the bytes that end it. The server works on them for
    /// as long as the client wants.
    pub fn half_posts(&self, place: &Place, count: usize) -> Result<(Wires, Vec<u8>), Fault> {
        let body = r#"{"id":"half-a-body","item":"duck","quantity":1}"#;
        let (first, rest) = body.split_at(body.len() / 2);
        let (path, host, length) = (&place.path, &place.host, body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{first}"
        );
        let mut wires = probe::http1::silent(place, count)?;
        for wire in &mut wires {
            wire.request(head.as_bytes());
        }
        Ok((self.keep("half a body", wires), rest.as_bytes().to_vec()))
    }

    /// Waits until no connection waits in the accept queue: the server has taken all that were made.
    pub fn wait_accepted(&self) -> Result<(), Fault> {
        let port = self.running().address.port();
        let deadline = Instant::now() + SOON;
        while listening(port)?.iter().any(|one| one.waiting > 0) {
            if Instant::now() >= deadline {
                return Err(Fault(format!("connections still wait to be accepted after {SOON:?}")));
            }
            std::thread::sleep(POLL_PAUSE);
        }
        Ok(())
    }

    /// Waits until so many connections wait in the accept queue, or `limit`.
    pub fn wait_queued(&self, count: u32, limit: Duration) -> Result<(), Fault> {
        let port = self.running().address.port();
        let deadline = Instant::now() + limit;
        while listening(port)?.iter().map(|one| one.waiting).sum::<u32>() < count
            && Instant::now() < deadline
        {
            std::thread::sleep(POLL_PAUSE);
        }
        Ok(())
    }

    /// Waits until nothing listens at the server's port; says whether that came within `limit`.
    pub fn wait_not_listening(&self, limit: Duration) -> Result<bool, Fault> {
        let port = self.running().address.port();
        let deadline = Instant::now() + limit;
        while !listening(port)?.is_empty() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(POLL_PAUSE);
        }
        self.recorder.mark(MarkKind::Phase, "listener closed");
        Ok(true)
    }

    /// Asks once, with a `GET` on a connection of its own that is not part of the trace.
    pub fn ask(&self, place: &Place) -> Result<Asked, Fault> {
        Ok(ask(place, ASK_LIMIT)?)
    }

    // --- notes --------------------------------------------------------------------------------------------------

    /// A number for the report.
    pub fn figure(&mut self, name: &str, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.to_owned(), value, unit });
    }

    /// A time for the report, in milliseconds.
    pub fn figure_ms(&mut self, name: &str, time: Duration) {
        self.figure(name, time.as_secs_f64() * 1000.0, "ms");
    }

    /// Marks this moment in the timeline.
    pub fn note(&self, text: impl Into<String>) {
        self.recorder.mark(MarkKind::Note, text);
    }

    /// The next random number of this case; the same again with the same seed.
    pub fn random(&mut self) -> u64 {
        // SplitMix64: any seed is good, also 0.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Lets go of everything and tells what was recorded.
    pub(crate) fn finish(mut self) -> Left {
        self.sampler = None;
        let said = self.service.as_mut().map(|service| service.target().stderr());
        let (trace, tally) = self.recorder.finish();
        Left { trace, tally, figures: self.figures, said: said.filter(|said| !said.is_empty()) }
    }
}

/// The process id in a file.
pub(crate) fn read_pid(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
