//! The thread of an open loop: one poller, many connections, and the time of the next request.

use super::super::alarm::Alarm;
use super::super::ledger::{Known, Ledger};
use super::super::reach::fate_of;
use super::super::requests::Requests;
use super::super::stream::Look;
use super::super::{CONNECT_LIMIT, Mode};
use super::wire::{End, Wire};
use super::{LAG_MAX, Open, Report, Schedule};
use crate::fate::Fate;
use crate::trace::{ConnectionEnd, Number, Recording, end_after};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What one read may take.
const READ_BYTES: usize = 16 * 1024;

/// So many events are taken from the kernel at once: few, so that a request that is due waits for few.
const EVENTS: usize = 64;

/// Between two looks for requests that are over their limit, and for the order to stop.
const SWEEP: Duration = Duration::from_millis(20);

/// Where a request may go.
enum Found {
    Usable(usize),
    /// Every connection carries a request, and there may be no more.
    AllBusy,
    Unreachable(io::Error),
}

pub(super) struct Engine {
    load: Open,
    stopping: Arc<AtomicBool>,
    alarm: Arc<Alarm>,
    poller: OwnedFd,
    requests: Requests,
    wires: Vec<Option<Wire>>,
    /// Of each place its connection in the recording, and when its last request was given to it.
    traced: Vec<(Option<Number>, Instant)>,
    /// Places of connections that carry nothing, the one that has been idle for longest first.
    idle: VecDeque<usize>,
    /// Places without a connection.
    free: Vec<usize>,
    /// Places whose socket was not read to its end.
    unread: Vec<usize>,
    /// Intended times of requests that wait for a connection.
    waiting: VecDeque<Instant>,
    ledger: Ledger,
    lag: Histogram<u64>,
    last_answer: Option<Instant>,
    silence: Duration,
}

impl Engine {
    /// Makes the connections.
    pub(super) fn new(
        load: Open,
        stopping: Arc<AtomicBool>,
        alarm: Arc<Alarm>,
    ) -> io::Result<Engine> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let lag = Histogram::new_with_bounds(1, LAG_MAX, 3).expect("constant bounds are valid");
        let now = Instant::now();
        let recording = load.recorded_since.map(|begun| Recording::new(begun, 0));
        let mut engine = Engine {
            requests: Requests::new(&load.place, load.mode, 0),
            wires: (0..load.connections).map(|_| None).collect(),
            traced: vec![(None, now); load.connections],
            idle: VecDeque::new(),
            free: (0..load.connections).rev().collect(),
            unread: Vec::new(),
            waiting: VecDeque::new(),
            ledger: Ledger::new(now, recording),
            lag,
            last_answer: None,
            silence: Duration::ZERO,
            load,
            stopping,
            alarm,
            poller,
        };
        if engine.load.mode != Mode::NewConnection {
            let named = |error: io::Error| {
                let place = &engine.load.place;
                io::Error::new(error.kind(), format!("connect to {place}: {error}"))
            };
            let wires = engine.connections().map_err(named)?;
            for wire in wires {
                let place = engine.free.pop().expect("as many places as connections");
                engine.put(place, wire)?;
                engine.idle.push_back(place);
            }
        }
        Ok(engine)
    }

    /// All connections of a kept load, established.
    fn connections(&self) -> io::Result<Vec<Wire>> {
        let deadline = Instant::now() + CONNECT_LIMIT;
        let mut wires = Vec::with_capacity(self.load.connections);
        for _ in 0..self.load.connections {
            let mut wire = Wire::begin(&self.load.place.address)?;
            if wire.is_connecting() {
                let left = deadline.saturating_duration_since(Instant::now());
                let left = Timespec::try_from(left).ok();
                let out = rustix::event::PollFlags::OUT;
                let mut fds = [rustix::event::PollFd::new(&wire, out)];
                if rustix::event::poll(&mut fds, left.as_ref())? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                wire.connected()?;
            }
            wires.push(wire);
        }
        Ok(wires)
    }

    pub(super) fn run(mut self) -> io::Result<Report> {
        let begun = Instant::now();
        let recording = self.ledger.recording.take();
        self.ledger = Ledger::new(begun, recording).ringing(Arc::clone(&self.alarm));
        self.ledger.connections.opened = self.idle.len() as u64;
        let mut schedule = Schedule::new(begun, self.load.rate, self.load.lasting);
        let mut events = Vec::with_capacity(EVENTS);
        let mut buffer = vec![0; READ_BYTES];
        let mut sweep = begun + SWEEP;
        loop {
            let mut now = Instant::now();
            while let Some(intended) = schedule.take(now) {
                let lag = now.saturating_duration_since(intended).as_micros();
                self.lag.saturating_record(u64::try_from(lag).unwrap_or(u64::MAX));
                self.waiting.push_back(intended);
                self.serve_waiting()?;
                now = Instant::now();
            }
            self.serve_waiting()?;
            if now >= sweep {
                sweep = now + SWEEP;
                if self.stopping.load(Ordering::Relaxed) {
                    schedule.end();
                }
                self.give_up_overdue(now);
            }
            let next = schedule.due();
            if next.is_none() && self.waiting.is_empty() && self.is_quiet() {
                break;
            }
            let until = next.map_or(sweep, |next| next.min(sweep));
            let left = match self.unread.is_empty() {
                true => until.saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            events.clear();
            let left = Timespec::try_from(left).ok();
            match epoll::wait(&self.poller, spare_capacity(&mut events), left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for place in std::mem::take(&mut self.unread) {
                self.happened(place, &mut buffer);
            }
            for event in &events {
                let data = event.data;
                // The number is the place that was registered.
                self.happened(data.u64() as usize, &mut buffer);
            }
        }
        Ok(Report {
            target: self.load.place.to_string(),
            mode: self.load.mode,
            rate: self.load.rate,
            elapsed: begun.elapsed(),
            ledger: self.ledger,
            lag: self.lag,
            silence: self.silence,
        })
    }

    fn is_quiet(&self) -> bool {
        self.wires.iter().flatten().all(|wire| wire.carries.is_none())
    }

    /// Gives requests that wait to connections, while there are any.
    fn serve_waiting(&mut self) -> io::Result<()> {
        while let Some(intended) = self.waiting.front().copied() {
            let place = match self.connection()? {
                Found::Usable(place) => place,
                Found::AllBusy => return Ok(()),
                Found::Unreachable(error) => {
                    self.waiting.pop_front();
                    self.unsent(intended, fate_of(&error), || format!("connect: {error}"));
                    continue;
                }
            };
            self.waiting.pop_front();
            let request = self.requests.next();
            self.traced[place].1 = Instant::now();
            let wire = self.wires[place].as_mut().expect("a chosen place has a connection");
            let end = wire.send(intended, request);
            self.ended(place, end);
        }
        Ok(())
    }

    /// A connection that may carry a request.
    fn connection(&mut self) -> io::Result<Found> {
        while let Some(place) = self.idle.pop_front() {
            let look = self.wires[place].as_ref().map(Wire::look);
            match look {
                Some(Look::Quiet) => return Ok(Found::Usable(place)),
                Some(found) => self.found(place, found),
                None => {}
            }
        }
        let Some(place) = self.free.pop() else { return Ok(Found::AllBusy) };
        match Wire::begin(&self.load.place.address) {
            Ok(wire) => {
                self.ledger.connections.opened += u64::from(!wire.is_connecting());
                self.put(place, wire)?;
                Ok(Found::Usable(place))
            }
            Err(error) => {
                self.free.push(place);
                Ok(Found::Unreachable(error))
            }
        }
    }

    fn put(&mut self, place: usize, wire: Wire) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.poller, &wire, epoll::EventData::new_u64(place as u64), flags)?;
        self.wires[place] = Some(wire);
        self.traced[place].0 = self.ledger.open(place, Instant::now());
        Ok(())
    }

    /// An idle connection is of no use any more.
    fn found(&mut self, place: usize, found: Look) {
        let connections = &mut self.ledger.connections;
        let end = match found {
            Look::Quiet => return,
            Look::Closed => {
                connections.found_closed += 1;
                ConnectionEnd::ClosedByServer
            }
            Look::Truncated => {
                connections.found_truncated += 1;
                ConnectionEnd::ClosedByServer
            }
            Look::Reset => {
                connections.found_reset += 1;
                ConnectionEnd::Reset
            }
            Look::Bytes => {
                connections.found_unasked += 1;
                ConnectionEnd::ClosedByTester
            }
        };
        self.close(place, end);
    }

    fn close(&mut self, place: usize, end: ConnectionEnd) {
        self.ledger.close(self.traced[place].0.take(), end);
        self.wires[place] = None;
        self.free.push(place);
    }

    /// The socket of this place can be read or written, or has ended.
    fn happened(&mut self, place: usize, buffer: &mut [u8]) {
        // It may have been closed by an event before this one.
        let Some(wire) = self.wires[place].as_mut() else { return };
        if wire.carries.is_none() {
            return;
        }
        if wire.is_connecting() {
            if let Err(error) = wire.connected() {
                let end = End::Failed(fate_of(&error), format!("connect: {error}"));
                return self.ended(place, Some(end));
            }
            self.ledger.connections.opened += 1;
        }
        let end = wire.wants_to_write().then(|| wire.write()).flatten();
        let end = end.or_else(|| wire.read(buffer));
        if end.is_none() && wire.has_more() && !self.unread.contains(&place) {
            self.unread.push(place);
        }
        self.ended(place, end)
    }

    /// Records the end of a request, if it is there, and uses its connection for the next.
    fn ended(&mut self, place: usize, end: Option<End>) {
        let (Some(end), Some(wire)) = (end, self.wires[place].as_mut()) else { return };
        let Some(intended) = wire.carries.take() else { return };
        let ordinal = wire.requests;
        let now = Instant::now();
        let (connection, begun) = self.traced[place];
        let known = |fate| Known {
            connection,
            intended: Some(intended),
            begun,
            first_byte: None,
            fate,
            status: None,
        };
        let mut keep = false;
        let closed = match end {
            End::Answered { reusable, told } => {
                self.ledger.answered(known(Fate::Answered));
                self.ledger.connections.told_to_close += u64::from(told);
                keep = reusable && self.load.mode != Mode::NewConnection;
                if let Some(last) = self.last_answer.replace(now) {
                    self.silence = self.silence.max(now - last);
                }
                if told { ConnectionEnd::ClosedByServer } else { ConnectionEnd::ClosedByTester }
            }
            End::Failed(fate, detail) => {
                self.ledger.failed(known(fate), place, ordinal, || detail);
                end_after(fate)
            }
        };
        if keep {
            self.idle.push_back(place);
        } else {
            self.close(place, closed);
        }
    }

    /// A request that came due and found no connection.
    fn unsent(&mut self, intended: Instant, fate: Fate, detail: impl FnOnce() -> String) {
        let now = Instant::now();
        let connection = self.ledger.open(0, now);
        let known = Known { intended: Some(intended), ..Known::unsent(connection, now, fate) };
        self.ledger.failed(known, 0, 0, detail);
        self.ledger.close(connection, end_after(fate));
    }

    /// Requests whose limit is over, on a connection or still waiting for one.
    fn give_up_overdue(&mut self, now: Instant) {
        let limit = self.load.request_limit;
        let is_over = |intended: Instant| now.saturating_duration_since(intended) > limit;
        while let Some(intended) = self.waiting.front().copied().filter(|it| is_over(*it)) {
            self.waiting.pop_front();
            let detail = || format!("no connection was idle within {limit:?}");
            self.unsent(intended, Fate::ConnectTimedOut, detail);
        }
        for place in 0..self.wires.len() {
            let Some(wire) = &self.wires[place] else { continue };
            if wire.carries.is_some_and(is_over) {
                let fate =
                    if wire.is_connecting() { Fate::ConnectTimedOut } else { Fate::TimedOut };
                let end = End::Failed(fate, format!("no whole answer within {limit:?}"));
                self.ended(place, Some(end));
            }
        }
    }
}
