//! What does what the machine of one process decides, as the service's own driver has to: each action before the next
//! input. Each rule here is a rule there.

use std::collections::VecDeque;

use lameduck::generation::{Action, AttemptId, Generation, Input, Timer};
use lameduck::phase::{self, Cause, Phase};
use lameduck::takeover::wire::{Message, Ready, Reason, Why};
use lameduck::takeover::{Inventory, predecessor, successor};

use crate::laws;
use crate::world::{End, Event, Life, Order, Process, Takeovers, World, epoch};

/// What a driver can do wrong. Each is a test of the tester.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The predecessor's gate closes when the commit is sent instead of when the successor accepts.
    ClosesGateAtCommit,
    /// The death of a successor in probation is not told.
    IgnoresLoss,
    /// The accept loops are said to run before they do.
    RollsBackTooEarly,
    /// A successor that hangs with the commit in hand is not killed, but said to be gone.
    LetsTheDoomedLive,
    /// A successor is said to be gone while the service is on its way back from it.
    AdmitsWhileTakingBack,
    /// A predecessor that gives up closes the channel without a `Refuse`.
    ClosesWithoutAWord,
    /// The predecessor is said to have let go of the listeners as soon as it is asked to.
    AdmitsInProbation,
    /// A failed takeover stops the predecessor.
    StopsServingOnFailure,
    /// A probe is said to be answered well whatever comes.
    TakesAnyAnswer,
    /// A signal that is for another is said to be passed on, and is not.
    LosesSignals,
}

/// The machine of one process at work.
struct Driver<'a> {
    fault: Option<Fault>,
    world: &'a mut World,
    id: usize,
    work: VecDeque<Input>,
}

/// Who asks in these worlds.
const OPERATOR: u64 = 1;

fn ready(probes: bool) -> Input {
    let probe = probes.then(|| "/".to_owned());
    Input::Ready(Ready { probe, ..Ready::default() })
}

fn below(successor: usize, input: predecessor::Input) -> Input {
    Input::Below { line: successor as u64, input }
}

impl Takeovers {
    /// The first process has started without a predecessor and serves.
    pub fn serve_first(&self, world: &mut World) {
        world.processes[0].life = Life::Alive;
        self.drive(world, 0, [ready(self.probes)]);
        self.happens(world, Event::LoopsObey(0));
    }

    fn drive(&self, world: &mut World, id: usize, work: impl IntoIterator<Item = Input>) {
        let work = work.into_iter().collect();
        Driver { fault: self.fault, world, id, work }.run();
    }

    pub fn happens(&self, world: &mut World, event: Event) {
        match event {
            Event::Starts(id, predecessor) => {
                world.start(id, predecessor);
                self.drive(world, id, [Input::Above(successor::Input::Tick)]);
            }
            Event::Arrives(id, end) => self.arrives(world, id, end),
            Event::IsReady(id) => {
                world.processes[id].initialising = false;
                self.drive(world, id, [ready(self.probes)]);
            }
            Event::CannotServe(id) => {
                world.processes[id].initialising = false;
                let why = Why::new(Reason::Failed, "");
                self.drive(world, id, [Input::Above(successor::Input::CannotServe(why))]);
            }
            Event::Answers(id, well) => self.answers(world, id, well),
            Event::LoopsObey(id) => self.loops_obey(world, id),
            Event::IsIdle(id) => self.drive(world, id, [Input::Life(phase::Input::Idle)]),
            Event::Fires(id, timer) => self.fires(world, id, timer),
            Event::Dies(id) => {
                world.deaths -= 1;
                world.kill(id);
            }
            Event::IsStopped(id) => {
                world.stops -= 1;
                self.stops(world, id);
            }
            Event::IsAskedToGiveBack(id) | Event::IsAskedToTakeBack(id) => {
                world.rollbacks -= 1;
                self.drive(world, id, [Input::RollbackAsked { ticket: OPERATOR }]);
            }
            Event::IsToReload(id) => {
                world.reloads -= 1;
                world.owed = true;
                self.drive(world, id, [Input::Reload]);
            }
            Event::PassesOn(id) => self.passes_on(world, id),
            Event::IsUnwanted(id) => {
                world.processes[id].is_unwanted = false;
                self.stops(world, id);
            }
            Event::ChildEnds => {
                if let Some((parent, attempt)) = world.ended.pop_front() {
                    let how = String::new();
                    self.drive(world, parent, [Input::Exited { attempt, how }]);
                }
            }
        }
        forget_what_is_over(world);
    }

    /// The name leads to whoever is to hear.
    fn passes_on(&self, world: &mut World, id: usize) {
        world.processes[id].passes_on = false;
        let serves = world.name;
        let done = if self.fault == Some(Fault::LosesSignals) {
            Ok(())
        } else if serves != id && world.processes[serves].gives() {
            self.drive(world, serves, [Input::Reload]);
            Ok(())
        } else {
            Err(String::new())
        };
        self.drive(world, id, [Input::PassedOn(done)]);
    }

    fn arrives(&self, world: &mut World, successor: usize, end: End) {
        let Some(channel) = &mut world.channels[successor] else { return };
        let predecessor = channel.predecessor;
        match end {
            End::Predecessor => {
                let input = match channel.to_predecessor.pop_front() {
                    Some(Message::Hello(hello)) => Input::Hello { line: successor as u64, hello },
                    Some(message) => below(successor, predecessor::Input::Received(message)),
                    None if self.fault == Some(Fault::IgnoresLoss) && channel.accepted => {
                        channel.close(End::Predecessor);
                        return;
                    }
                    None => below(successor, predecessor::Input::Gone),
                };
                self.drive(world, predecessor, [input]);
            }
            End::Successor => {
                let input = match channel.to_successor.pop_front() {
                    Some(message) => successor::Input::Received(message),
                    None => successor::Input::Gone,
                };
                // Read to the end: nothing more comes.
                if input == successor::Input::Gone {
                    channel.close(End::Successor);
                }
                self.drive(world, successor, [Input::Above(input)]);
            }
        }
    }

    fn answers(&self, world: &mut World, successor: usize, well: bool) {
        let Some(channel) = &mut world.channels[successor] else { return };
        channel.probing = false;
        channel.answered = well;
        let taken = match well || self.fault == Some(Fault::TakesAnyAnswer) {
            true => Ok(()),
            false => Err(String::new()),
        };
        let predecessor = channel.predecessor;
        self.drive(world, predecessor, [below(successor, predecessor::Input::Probed(taken))]);
    }

    /// The accept loops do the next thing they were told, and report.
    fn loops_obey(&self, world: &mut World, id: usize) {
        let process = &mut world.processes[id];
        let Some(order) = process.orders.pop_front() else { return };
        let done = match order {
            Order::Close => {
                process.accepting = false;
                Input::Life(phase::Input::GateClosed)
            }
            Order::Open => {
                process.accepting = true;
                let serves = process.generation.life().phase() == Phase::Serving;
                process.owes |= serves && !world.service_stopped;
                Input::GateOpened
            }
            Order::LetGo => Input::CopiesClosed,
        };
        self.drive(world, id, [done]);
    }

    /// One timer fires at its own instant, whatever the others show.
    fn fires(&self, world: &mut World, id: usize, timer: Timer) {
        let generation = &mut world.processes[id].generation;
        let at = generation.timers().find(|(runs, _)| *runs == timer).map(|(_, at)| at);
        if let Some(at) = at {
            generation.fire(at, timer);
        }
        // What is to be done is picked up with the next input, which is none.
        self.drive(world, id, [Input::Above(successor::Input::Tick)]);
    }

    fn stops(&self, world: &mut World, id: usize) {
        let process = &mut world.processes[id];
        process.stopped = true;
        process.owes = false;
        if process.accepting {
            // A stop of the one in charge is a stop of the service: nobody is to go on in its place.
            world.processes.iter_mut().for_each(|process| process.owes = false);
            world.service_stopped = true;
        }
        self.drive(world, id, [Input::Life(phase::Input::Stop(Cause::Signal(15)))]);
    }
}

/// Channels that nobody holds: worlds that differ only in them are one.
fn forget_what_is_over(world: &mut World) {
    for channel in &mut world.channels {
        if channel.as_ref().is_some_and(|open| !open.predecessor_open && !open.successor_open) {
            *channel = None;
        }
    }
}

impl Driver<'_> {
    fn run(mut self) {
        while let Some(input) = self.work.pop_front() {
            if !self.process().is_alive() {
                return;
            }
            self.generation().handle(epoch(), input);
            while let Some(action) = self.generation().poll_action() {
                self.act(action);
                if !self.process().is_alive() {
                    return;
                }
            }
        }
    }

    fn process(&mut self) -> &mut Process {
        &mut self.world.processes[self.id]
    }

    fn generation(&mut self) -> &mut Generation {
        &mut self.process().generation
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Life(action) => self.live(action),
            Action::OpenGate => {
                self.process().orders.push_back(Order::Open);
                if self.fault == Some(Fault::RollsBackTooEarly) && self.process().handed_over {
                    self.work.push_back(Input::GateOpened);
                }
            }
            Action::CloseGate(_) => self.process().orders.push_back(Order::Close),
            Action::LetGo => self.process().orders.push_back(Order::LetGo),
            Action::CountDraining(line) => {
                self.work.push_back(Input::Counted { line, draining: 0 });
            }
            Action::TakeInventory { line, generation } => {
                let inventory = Inventory { generation, ..Inventory::default() };
                self.work.push_back(Input::Inventory { line, inventory: Ok(inventory) });
            }
            Action::Probe { line, .. } => {
                if let Some(channel) = &mut self.world.channels[line as usize] {
                    channel.probing = true;
                }
                self.send_below(line as usize, Message::Probe);
            }
            Action::Send(line, message) => self.send_below(line as usize, message),
            Action::Close(line) => {
                if let Some(channel) = &mut self.world.channels[line as usize] {
                    channel.close(End::Predecessor);
                }
            }
            Action::HandOn { line, .. } => self.hand_on(line as usize),
            Action::TakeBack { heir, .. } => self.take_back(heir.pid as usize),
            Action::KillPeer(line) if self.fault == Some(Fault::LetsTheDoomedLive) => {
                self.work.push_back(below(line as usize, predecessor::Input::Gone));
            }
            Action::KillPeer(line) => {
                self.world.kill(line as usize);
            }
            Action::UpgradeFailed { .. } if self.fault == Some(Fault::StopsServingOnFailure) => {
                let stop = phase::Input::Stop(Cause::Request);
                self.work.push_back(Input::Life(stop));
            }
            Action::Initialise => self.process().initialising = true,
            Action::Tell(message) => self.tell(message),
            Action::HangUp => {
                if let Some(channel) = &mut self.world.channels[self.id] {
                    channel.close(End::Successor);
                }
            }
            Action::TakeOver(predecessor) => {
                if let Some(channel) = &mut self.world.channels[self.id] {
                    channel.committed = true;
                    channel.late = predecessor == successor::Presence::Lost;
                }
            }
            Action::GiveBack(_) => self.process().owes = false,
            // It has nothing to serve with.
            Action::NotTakingOver(_) => self.world.end(self.id),
            Action::Start(attempt) => self.begin(attempt),
            Action::End(attempt) => {
                if let Some(child) = self.child(attempt) {
                    self.world.processes[child].is_unwanted = true;
                }
            }
            Action::Kill(attempt) => {
                if let Some(child) = self.child(attempt) {
                    self.world.kill(child);
                }
            }
            Action::PassOn => self.process().passes_on = true,
            Action::UpgradeRefused { ticket: None, .. } => self.world.owed = false,
            Action::TakeName => self.world.name = self.id,
            Action::UpgradeBegins(_)
            | Action::Progress(_)
            | Action::Unfit(_)
            | Action::SuccessorLeft
            | Action::UpgradeFailed { .. }
            | Action::UpgradeRefused { .. }
            | Action::UpgradeFollows(_)
            | Action::SuccessorRefused(_)
            | Action::Upgraded { .. }
            | Action::AskAgain { .. }
            | Action::RolledBack { .. }
            | Action::PredecessorLetGo => {}
        }
    }

    /// Starts the next process that was not, if there is one left.
    fn begin(&mut self, attempt: AttemptId) {
        self.world.owed = false;
        self.world.begun += 1;
        let not_started = |process: &Process| process.life == Life::NotStarted;
        let Some(child) = self.world.processes.iter().position(not_started) else {
            return self.work.push_back(Input::NotStarted { attempt, why: String::new() });
        };
        self.world.start(child, self.id);
        self.world.processes[child].parent = Some((self.id, attempt));
        self.work.push_back(Input::Started { attempt, pid: child as u32 });
        let work = VecDeque::from([Input::Above(successor::Input::Tick)]);
        Driver { fault: self.fault, world: self.world, id: child, work }.run();
    }

    /// The process of an attempt, if it lives.
    fn child(&mut self, attempt: AttemptId) -> Option<usize> {
        let started = Some((self.id, attempt));
        self.world.processes.iter().position(|process| process.parent == started)
    }

    fn live(&mut self, action: phase::Action) {
        use phase::Action;
        match action {
            Action::ShowReady => self.process().green = true,
            Action::ShowNotReady => self.process().green = false,
            Action::Settle => self.work.push_back(Input::Life(phase::Input::Settled)),
            Action::CloseResources { .. } => {
                self.work.push_back(Input::Life(phase::Input::Closed));
            }
            Action::Stop(_) => self.world.end(self.id),
            Action::ConfirmSuccessor => self.process().owes = false,
            Action::Resume | Action::MarkAnswers | Action::TellFinish | Action::Force => {}
            Action::Accept
            | Action::CloseGate { .. }
            | Action::AdmitSuccessor
            | Action::RefuseSuccessor(_) => self.world.broken = Some(laws::PHASES_AGREE),
        }
    }

    fn send_below(&mut self, successor: usize, message: Message) {
        match message {
            Message::Refuse(_) if self.fault == Some(Fault::ClosesWithoutAWord) => return,
            Message::Commit(_) if self.fault == Some(Fault::ClosesGateAtCommit) => {
                self.process().orders.push_back(Order::Close);
            }
            _ => {}
        }
        let Some(channel) = &mut self.world.channels[successor] else { return };
        channel.committed |= matches!(message, Message::Commit(_));
        // One that may or may not accept is not rid of by a word that it may never read.
        let known = channel.accepted || self.world.processes[self.id].stopped;
        channel.dismissed |= known && matches!(message, Message::Rollback(_));
        if channel.successor_open {
            channel.to_successor.push_back(message);
        }
    }

    fn hand_on(&mut self, successor: usize) {
        if let Some(channel) = &mut self.world.channels[successor] {
            channel.accepted = true;
        }
        let process = self.process();
        process.handed_over = true;
        if !matches!(process.generation.life().phase(), Phase::Draining(_)) {
            self.world.broken = Some(laws::PHASES_AGREE);
        }
    }

    fn take_back(&mut self, successor: usize) {
        if self.generation().life().phase() != Phase::Serving {
            self.world.broken = Some(laws::LOST_IS_REPLACED);
        }
        let here = self.world.channels[successor].as_ref().is_some_and(|open| open.successor_open);
        if self.fault == Some(Fault::AdmitsWhileTakingBack) && here {
            self.work.push_back(below(successor, predecessor::Input::Gone));
        }
    }

    fn tell(&mut self, message: Message) {
        let Some(channel) = &mut self.world.channels[self.id] else { return };
        if message == Message::Final {
            // From here on this version and its own successors are in charge.
            self.world.processes[channel.predecessor].owes = false;
            if self.fault == Some(Fault::AdmitsInProbation) {
                let early = successor::Input::Received(Message::Final);
                self.work.push_back(Input::Above(early));
            }
        }
        if channel.predecessor_open {
            channel.to_predecessor.push_back(message);
        }
    }
}
