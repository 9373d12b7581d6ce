//! The world of the model: processes, the channels between them, and everything that can happen next.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use stateright::{Model, Property};

use lameduck::generation::{AttemptId, Generation, Timer};
use lameduck::phase::{self, Machine, Phase, Step};
use lameduck::takeover::Limits;
use lameduck::takeover::successor::Successor;
use lameduck::takeover::wire::{Hello, Message, PROTOCOLS};

use crate::driver::Fault;
use crate::laws;

/// Versions of one service that take over from each other, and what may befall them. Process 0 serves; each other is
/// started once, as successor of any that serves.
#[derive(Clone, Debug)]
pub struct Takeovers {
    pub processes: usize,
    /// How many processes may be killed.
    pub deaths: u8,
    /// How many stops the operator may order.
    pub stops: u8,
    /// How many rollbacks the operator may order.
    pub rollbacks: u8,
    /// Whether versions ask to be probed.
    pub probes: bool,
    /// How many signals to upgrade may come. With any, successors are started by nobody else.
    pub reloads: u8,
    /// What the drivers of the machines do wrong.
    pub fault: Option<Fault>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub processes: Vec<Process>,
    /// The channel of each process to its predecessor.
    pub channels: Vec<Option<Channel>>,
    pub deaths: u8,
    pub stops: u8,
    pub rollbacks: u8,
    pub reloads: u8,
    /// Upgrades that signals began.
    pub begun: u8,
    /// A signal came that no upgrade has begun after and nobody has refused.
    pub owed: bool,
    /// Processes that ended, whose parents have not heard.
    pub ended: VecDeque<(usize, AttemptId)>,
    /// Somebody was killed, by the world or by a predecessor that gave up on it.
    pub killed: bool,
    /// The operator stopped the one in charge, and with it the service.
    pub service_stopped: bool,
    /// Where the control name leads.
    pub name: usize,
    /// A law of a single step that was broken on the way here.
    pub broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    NotStarted,
    Alive,
    Ended,
}

/// What accept loops are told, and do some time later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    Open,
    Close,
    /// Close the copies kept for a way back.
    LetGo,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub life: Life,
    pub generation: Generation,
    pub initialising: bool,
    pub orders: VecDeque<Order>,
    /// The accept loops accept.
    pub accepting: bool,
    pub green: bool,
    /// It served once, and nobody took that from it: if nobody accepts, it should.
    pub owes: bool,
    /// The operator told it to stop.
    pub stopped: bool,
    /// One of its successors accepted.
    pub handed_over: bool,
    /// Who started it, and as what.
    pub parent: Option<(usize, AttemptId)>,
    /// Its parent told it to leave, and it has not heard.
    pub is_unwanted: bool,
    /// It tells whoever serves of a signal.
    pub passes_on: bool,
}

/// A socket that keeps message boundaries, between a successor and its predecessor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Channel {
    pub predecessor: usize,
    pub to_predecessor: VecDeque<Message>,
    pub to_successor: VecDeque<Message>,
    pub predecessor_open: bool,
    pub successor_open: bool,
    /// The successor holds a commit, or took over late.
    pub committed: bool,
    /// The predecessor heard that it accepts.
    pub accepted: bool,
    /// The predecessor knew what it sent away.
    pub dismissed: bool,
    /// The predecessor asks over a socket of its own, and has no answer.
    pub probing: bool,
    /// It was answered well.
    pub answered: bool,
    /// It took over late.
    pub late: bool,
}

/// One of the two ends of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Predecessor,
    Successor,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A process starts and asks another for its service.
    Starts(usize, usize),
    /// The next message on the channel of this successor arrives at that end, or the end of file.
    Arrives(usize, End),
    /// It could serve now.
    IsReady(usize),
    /// It finds that it can't serve.
    CannotServe(usize),
    /// It answers its predecessor's probe, well or not.
    Answers(usize, bool),
    /// The accept loops do what they were told.
    LoopsObey(usize),
    /// Nothing live is left.
    IsIdle(usize),
    Fires(usize, Timer),
    /// `kill -9`.
    Dies(usize),
    IsStopped(usize),
    /// The operator asks this one to give the service back.
    IsAskedToGiveBack(usize),
    /// The operator asks this one to take the service back.
    IsAskedToTakeBack(usize),
    /// A signal to upgrade reaches it.
    IsToReload(usize),
    /// Whoever serves hears from it of a signal, or nobody does.
    PassesOn(usize),
    /// It hears that it is not wanted.
    IsUnwanted(usize),
    /// The next parent hears of the end of its child.
    ChildEnds,
}

/// Every input comes at this instant and every timer fires at its own, so that the space is finite; which of two
/// timers of different machines fires first is left open, as if each had a clock of its own.
pub fn epoch() -> Instant {
    static EPOCH: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *EPOCH
}

fn phases() -> Machine {
    Machine::new(phase::Config {
        // Deadlines are the business of the machine's own tests; here work lasts as long as it likes.
        grace: None,
        reserve: Duration::ZERO,
        lame_duck: Duration::ZERO,
        settle: Duration::from_millis(100),
        after_force: Duration::from_millis(50),
        probation: Duration::from_secs(30),
        upgrade_grace: None,
        max_generations: usize::MAX,
    })
}

impl Process {
    pub fn not_started() -> Process {
        Process {
            life: Life::NotStarted,
            generation: Generation::new(phases(), 1, None, Limits::default()),
            initialising: false,
            orders: VecDeque::new(),
            accepting: false,
            green: false,
            owes: false,
            stopped: false,
            handed_over: false,
            parent: None,
            is_unwanted: false,
            passes_on: false,
        }
    }

    /// All that is left of a process that ended: worlds that differ only in how it ended are one.
    fn ended() -> Process {
        Process { life: Life::Ended, ..Process::not_started() }
    }

    /// Whether a successor can reach it: its control socket takes its place once it has taken over.
    pub fn gives(&self) -> bool {
        let took_over = self.generation.above().is_none_or(Successor::has_taken_over);
        self.is_alive() && self.generation.life().phase() == Phase::Serving && took_over
    }

    pub fn is_alive(&self) -> bool {
        self.life == Life::Alive
    }
}

impl Channel {
    /// What that end would read next: a message, an end of file (`Some(None)`), or nothing yet.
    pub fn next(&self, end: End) -> Option<Option<&Message>> {
        let (own, queue, other) = match end {
            End::Predecessor => (self.predecessor_open, &self.to_predecessor, self.successor_open),
            End::Successor => (self.successor_open, &self.to_successor, self.predecessor_open),
        };
        match (own, queue.front(), other) {
            (false, _, _) => None,
            (true, Some(message), _) => Some(Some(message)),
            (true, None, false) => Some(None),
            (true, None, true) => None,
        }
    }

    pub fn close(&mut self, end: End) {
        match end {
            End::Predecessor => {
                self.predecessor_open = false;
                self.to_predecessor.clear();
            }
            End::Successor => {
                self.successor_open = false;
                self.to_successor.clear();
            }
        }
    }
}

impl World {
    /// Ends a process by force: a signal that it had taken dies with it.
    pub fn kill(&mut self, process: usize) {
        self.killed = true;
        self.owed = false;
        self.end(process);
    }

    /// Ends a process: the kernel closes what it held. What it had sent can still be read.
    pub fn end(&mut self, process: usize) {
        if self.processes[process].passes_on {
            // The signal dies with it.
            self.owed = false;
        }
        let parent = self.processes[process].parent;
        self.ended.extend(parent.filter(|(parent, _)| self.processes[*parent].is_alive()));
        self.ended.retain(|(parent, _)| *parent != process);
        self.processes[process] = Process::ended();
        for (successor, channel) in self.channels.iter_mut().enumerate() {
            let Some(open) = channel else { continue };
            if successor == process {
                open.close(End::Successor);
            }
            if open.predecessor == process {
                open.close(End::Predecessor);
            }
        }
    }
}

impl Model for Takeovers {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        let mut world = World {
            processes: vec![Process::not_started(); self.processes],
            channels: vec![None; self.processes],
            deaths: self.deaths,
            stops: self.stops,
            rollbacks: self.rollbacks,
            reloads: self.reloads,
            begun: 0,
            owed: false,
            ended: VecDeque::new(),
            killed: false,
            service_stopped: false,
            name: 0,
            broken: None,
        };
        self.serve_first(&mut world);
        vec![world]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        for (id, process) in world.processes.iter().enumerate() {
            match process.life {
                Life::NotStarted if self.reloads > 0 => {}
                Life::NotStarted => {
                    let others =
                        (0..self.processes).filter(|other| world.processes[*other].gives());
                    events.extend(others.map(|other| Event::Starts(id, other)));
                    // Which of those not started goes first makes no difference.
                    return self.common_events(world, events);
                }
                Life::Alive => self.process_events(world, id, events),
                Life::Ended => {}
            }
        }
        self.common_events(world, events);
    }

    fn next_state(&self, world: &World, event: Event) -> Option<World> {
        let mut world = world.clone();
        self.happens(&mut world, event);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        laws::properties(self)
    }
}

impl Takeovers {
    fn process_events(&self, world: &World, id: usize, events: &mut Vec<Event>) {
        let process = &world.processes[id];
        if process.initialising {
            events.push(Event::IsReady(id));
            events.push(Event::CannotServe(id));
        }
        if !process.orders.is_empty() {
            events.push(Event::LoopsObey(id));
        }
        if process.generation.life().phase() == Phase::Draining(Step::Finish) {
            events.push(Event::IsIdle(id));
        }
        // They may fire also while there is something to read: a process may have been held up.
        let timers = process.generation.timers();
        events.extend(timers.map(|(timer, _)| Event::Fires(id, timer)));
        if world.deaths > 0 {
            events.push(Event::Dies(id));
        }
        if world.reloads > 0 {
            events.push(Event::IsToReload(id));
        }
        if process.passes_on {
            events.push(Event::PassesOn(id));
        }
        if process.is_unwanted {
            events.push(Event::IsUnwanted(id));
        }
        if world.stops > 0 && !process.stopped {
            events.push(Event::IsStopped(id));
        }
        if world.rollbacks > 0 {
            if process.generation.above().is_some_and(Successor::has_way_back) {
                events.push(Event::IsAskedToGiveBack(id));
            }
            if process.generation.below().any(|(_, below)| below.has_way_back()) {
                events.push(Event::IsAskedToTakeBack(id));
            }
        }
    }

    fn common_events(&self, world: &World, events: &mut Vec<Event>) {
        if !world.ended.is_empty() {
            events.push(Event::ChildEnds);
        }
        for (successor, channel) in world.channels.iter().enumerate() {
            let Some(channel) = channel else { continue };
            if channel.probing && world.processes[channel.predecessor].is_alive() {
                events.extend([true, false].map(|well| Event::Answers(successor, well)));
            }
            for end in [End::Predecessor, End::Successor] {
                if channel.next(end).is_some() {
                    events.push(Event::Arrives(successor, end));
                }
            }
        }
    }
}

impl World {
    /// Opens the channel of a process that starts.
    pub fn start(&mut self, id: usize, predecessor: usize) {
        let limits = Limits::default();
        let hello = Hello {
            protocols: PROTOCOLS,
            program: "service".to_owned(),
            pid: id as u32,
            generation: None,
        };
        self.channels[id] = Some(Channel {
            predecessor,
            to_predecessor: VecDeque::new(),
            to_successor: VecDeque::new(),
            predecessor_open: true,
            successor_open: true,
            committed: false,
            accepted: false,
            dismissed: false,
            probing: false,
            answered: false,
            late: false,
        });
        self.processes[id].life = Life::Alive;
        let above = Successor::new(epoch(), limits.clone(), hello);
        let number = id as u32 + 1;
        let generation = Generation::new(phases(), number, Some(above), limits);
        self.processes[id].generation = generation;
    }
}
