//! What connects the machines of one process, as the service's own driver has to: it does what an action says before
//! the next input. Each rule here is a rule there.

use std::collections::VecDeque;

use lameduck::phase::{self, Cause, Phase};
use lameduck::takeover::wire::{Message, Ready, Reason, Why};
use lameduck::takeover::{Inventory, predecessor, successor};

use crate::laws;
use crate::world::{End, Event, Life, Order, Process, Takeovers, Timer, World, epoch};

/// What a driver can do wrong. Each is a test of the tester.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The predecessor's gate closes when the commit is sent instead of when the successor accepts.
    ClosesGateAtCommit,
    /// A successor lost in probation is not replaced.
    IgnoresLoss,
    /// The successor is sent away before the predecessor's accept loops run again.
    RollsBackTooEarly,
    /// A successor that hangs with the commit in hand is not killed, and the next is admitted.
    LetsTheDoomedLive,
    /// A successor is admitted while the service is on its way back from another.
    AdmitsWhileTakingBack,
    /// A predecessor that gives up closes the channel without a `Refuse`.
    ClosesWithoutAWord,
    /// A version admits a successor while its own predecessor may still take the service back.
    AdmitsInProbation,
    /// A failed takeover stops the predecessor.
    StopsServingOnFailure,
}

/// What is still to be fed to the machines of one process.
enum Work {
    Phase(phase::Input),
    Up(successor::Input),
    Down(usize, predecessor::Input),
}

/// The machines of one process at work.
struct Driver<'a> {
    fault: Option<Fault>,
    world: &'a mut World,
    id: usize,
    work: VecDeque<Work>,
}

fn operator() -> Why {
    Why::new(Reason::Operator, "")
}

fn stopping() -> Why {
    Why::new(Reason::Stopping, "")
}

impl Takeovers {
    /// The first process has started without a predecessor and serves.
    pub fn serve_first(&self, world: &mut World) {
        world.processes[0].life = Life::Alive;
        self.drive(world, 0, [Work::Phase(phase::Input::Ready)]);
        self.happens(world, Event::LoopsObey(0));
    }

    fn drive(&self, world: &mut World, id: usize, work: impl IntoIterator<Item = Work>) {
        let work = work.into_iter().collect();
        Driver { fault: self.fault, world, id, work }.run();
    }

    pub fn happens(&self, world: &mut World, event: Event) {
        match event {
            Event::Starts(id, predecessor) => {
                self.start(world, id, predecessor);
                self.drive(world, id, [Work::Up(successor::Input::Tick)]);
            }
            Event::Arrives(id, end) => self.arrives(world, id, end),
            Event::IsReady(id) => {
                world.processes[id].initialising = false;
                let ready = successor::Input::Ready(Ready::default());
                self.drive(world, id, [Work::Up(ready)]);
            }
            Event::CannotServe(id) => {
                world.processes[id].initialising = false;
                let why = Why::new(Reason::Failed, "");
                self.drive(world, id, [Work::Up(successor::Input::CannotServe(why))]);
            }
            Event::LoopsObey(id) => self.loops_obey(world, id),
            Event::IsIdle(id) => self.drive(world, id, [Work::Phase(phase::Input::Idle)]),
            Event::Fires(id, timer) => self.fires(world, id, timer),
            Event::Dies(id) => {
                world.deaths -= 1;
                world.killed = true;
                world.end(id);
            }
            Event::IsStopped(id) => {
                world.stops -= 1;
                self.stops(world, id);
            }
            Event::IsAskedToGiveBack(id) => {
                world.rollbacks -= 1;
                self.drive(world, id, [Work::Up(successor::Input::GiveBackAsked(operator()))]);
            }
            Event::IsAskedToTakeBack(id) => {
                world.rollbacks -= 1;
                let ask = |id| Work::Down(id, predecessor::Input::RollbackAsked(operator()));
                let work: Vec<Work> = successors(&world.processes[id]).map(ask).collect();
                self.drive(world, id, work);
            }
        }
        forget_what_is_over(world);
    }

    fn arrives(&self, world: &mut World, successor: usize, end: End) {
        let Some(channel) = &mut world.channels[successor] else { return };
        let predecessor = channel.predecessor;
        match end {
            End::Predecessor => {
                let input = match channel.to_predecessor.pop_front() {
                    Some(message) => predecessor::Input::Received(message),
                    None => predecessor::Input::Gone,
                };
                self.drive(world, predecessor, [Work::Down(successor, input)]);
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
                self.drive(world, successor, [Work::Up(input)]);
            }
        }
    }

    /// The accept loops report: to the phases that they closed, to the takeovers that they opened.
    fn loops_obey(&self, world: &mut World, id: usize) {
        let process = &mut world.processes[id];
        let Some(order) = process.orders.pop_front() else { return };
        process.accepting = order == Order::Open;
        let work = match order {
            Order::Close => vec![Work::Phase(phase::Input::GateClosed)],
            Order::Open => {
                let serves = process.phase.phase() == Phase::Serving;
                process.owes |= serves && !world.service_stopped;
                let resumed = |id| Work::Down(id, predecessor::Input::Resumed);
                let mut work = Vec::new();
                // An order to close again that is on its way makes this report out of date.
                if process.orders.is_empty() {
                    work.extend(successors(process).map(resumed));
                    work.push(Work::Up(successor::Input::Accepting));
                }
                work
            }
        };
        self.drive(world, id, work);
    }

    fn fires(&self, world: &mut World, id: usize, timer: Timer) {
        let process = &mut world.processes[id];
        let mut work = Vec::new();
        match timer {
            Timer::Phase => {
                if let Some(at) = process.phase.poll_timeout() {
                    process.phase.handle(at, phase::Input::Tick);
                }
            }
            Timer::Up => {
                if let Some(up) = &mut process.up
                    && let Some(at) = up.poll_timeout()
                {
                    up.handle(at, successor::Input::Tick);
                }
            }
            Timer::Down(successor) => {
                if let Some((_, down)) = process.down.iter_mut().find(|(id, _)| *id == successor)
                    && let Some(at) = down.poll_timeout()
                {
                    down.handle(at, predecessor::Input::Tick);
                }
            }
        }
        // What the machines want done is picked up by the next input of each.
        work.push(Work::Phase(phase::Input::Tick));
        work.push(Work::Up(successor::Input::Tick));
        let tick = |id| Work::Down(id, predecessor::Input::Tick);
        work.extend(successors(&world.processes[id]).map(tick).collect::<Vec<_>>());
        self.drive(world, id, work);
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
        let process = &world.processes[id];
        let mut work = vec![Work::Phase(phase::Input::Stop(Cause::Signal(15)))];
        // Whatever the phases said: a service that is being taken back stays where it is.
        let confirm = |id| Work::Down(id, predecessor::Input::Confirmed);
        work.extend(successors(process).map(confirm));
        work.push(Work::Up(successor::Input::CannotServe(stopping())));
        work.push(Work::Up(successor::Input::Keep));
        self.drive(world, id, work);
    }
}

fn successors(process: &Process) -> impl Iterator<Item = usize> + use<> {
    process.down.iter().map(|(id, _)| *id).collect::<Vec<_>>().into_iter()
}

/// Attempts that ended and channels that nobody holds: worlds that differ only in them are one.
fn forget_what_is_over(world: &mut World) {
    for process in &mut world.processes {
        process.down.retain(|(_, down)| !down.is_over());
    }
    for channel in &mut world.channels {
        if channel.as_ref().is_some_and(|open| !open.predecessor_open && !open.successor_open) {
            *channel = None;
        }
    }
}

impl Driver<'_> {
    fn run(mut self) {
        while let Some(work) = self.work.pop_front() {
            let process = &mut self.world.processes[self.id];
            if !process.is_alive() {
                return;
            }
            match work {
                Work::Phase(input) => {
                    process.phase.handle(epoch(), input);
                    self.phase_acts();
                }
                Work::Up(input) => {
                    if let Some(up) = &mut process.up {
                        up.handle(epoch(), input);
                    }
                    self.up_acts();
                }
                Work::Down(successor, input) => {
                    let down = process.down.iter_mut().find(|(id, _)| *id == successor);
                    if let Some((_, down)) = down {
                        down.handle(epoch(), input);
                    }
                    self.down_acts(successor);
                }
            }
        }
    }

    fn process(&mut self) -> &mut Process {
        &mut self.world.processes[self.id]
    }

    /// What follows from an action comes before what was waiting already.
    fn next(&mut self, work: Work) {
        self.work.push_front(work);
    }

    fn phase_acts(&mut self) {
        while let Some(action) = self.process().phase.poll_action() {
            self.phase_action(action);
            if !self.process().is_alive() {
                return;
            }
        }
    }

    fn phase_action(&mut self, action: phase::Action) {
        use phase::Action;
        match action {
            Action::ShowReady => self.process().green = true,
            Action::ShowNotReady => self.process().green = false,
            Action::Accept => self.process().orders.push_back(Order::Open),
            Action::Resume => {
                self.process().orders.push_back(Order::Open);
                self.process().admitted = None;
            }
            Action::CloseGate { .. } => self.process().orders.push_back(Order::Close),
            Action::Settle => self.next(Work::Phase(phase::Input::Settled)),
            Action::CloseResources { .. } => self.next(Work::Phase(phase::Input::Closed)),
            Action::Stop(_) => self.world.end(self.id),
            Action::AdmitSuccessor => {
                if let Some(successor) = self.process().admitted {
                    let admitted = predecessor::Input::Admitted(Inventory::default());
                    self.next(Work::Down(successor, admitted));
                }
            }
            Action::RefuseSuccessor(refusal) => self.refuse(refusal),
            Action::ConfirmSuccessor => {
                self.process().owes = false;
                if let Some(successor) = self.process().admitted {
                    self.next(Work::Down(successor, predecessor::Input::Confirmed));
                }
            }
            Action::MarkAnswers | Action::TellFinish | Action::Force => {}
        }
    }

    /// The successor that was admitted is sent away; the one that only asked is answered where it asks.
    fn refuse(&mut self, refusal: phase::Refusal) {
        let reason = match refusal {
            phase::Refusal::NotServing => Reason::NotServing,
            phase::Refusal::AnotherStarting => Reason::AnotherStarting,
            phase::Refusal::TooManyGenerations => Reason::TooManyGenerations,
        };
        if let Some(successor) = self.process().admitted.take() {
            self.turn_away(successor, reason);
        }
    }

    /// Asks the phases about one more successor, and answers it.
    fn ask_to_admit(&mut self, successor: usize) {
        let taking_back = self.process().down.iter().any(|(_, down)| down.is_taking_back());
        if taking_back && self.fault != Some(Fault::AdmitsWhileTakingBack) {
            self.turn_away(successor, Reason::AnotherStarting);
            return;
        }
        let way_back = self.process().up.as_ref().is_some_and(|up| !up.holds_alone());
        if way_back && self.fault != Some(Fault::AdmitsInProbation) {
            self.process().asking.push(successor);
            self.next(Work::Up(successor::Input::Keep));
            return;
        }
        let before = self.process().admitted.replace(successor);
        self.process().phase.handle(epoch(), phase::Input::TakeoverAsked { draining: 0 });
        let answer = self.process().phase.poll_action();
        match answer {
            Some(action @ phase::Action::AdmitSuccessor) => self.phase_action(action),
            Some(action @ phase::Action::RefuseSuccessor(_)) => {
                self.phase_action(action);
                self.process().admitted = before;
            }
            _ => self.world.broken = Some("the phases did not answer"),
        }
    }

    fn turn_away(&mut self, successor: usize, reason: Reason) {
        let why = predecessor::Input::TurnedAway(Why::new(reason, ""));
        self.next(Work::Down(successor, why));
    }

    /// There is no way back any more: who asked meanwhile is answered.
    fn answer_the_asking(&mut self) {
        for successor in std::mem::take(&mut self.process().asking) {
            let here = |(id, down): &(usize, predecessor::Predecessor)| {
                *id == successor && !down.is_over()
            };
            if self.process().down.iter().any(here) {
                self.ask_to_admit(successor);
            }
        }
    }

    fn down_acts(&mut self, successor: usize) {
        loop {
            let process = self.process();
            let down = process.down.iter_mut().find(|(id, _)| *id == successor);
            let Some(action) = down.and_then(|(_, down)| down.poll_action()) else { return };
            self.down_action(successor, action);
        }
    }

    fn down_action(&mut self, successor: usize, action: predecessor::Action) {
        use predecessor::Action;
        match action {
            Action::Send(message) => self.send_down(successor, message),
            Action::AskToAdmit(_) => self.ask_to_admit(successor),
            Action::Progress(_) => {}
            Action::SaveState => {
                self.next(Work::Down(successor, predecessor::Input::StateSaved(Vec::new())));
            }
            Action::SuccessorAccepting(_) => self.successor_accepts(successor),
            Action::SuccessorLost(_) if self.fault == Some(Fault::IgnoresLoss) => {}
            Action::SuccessorLost(_) => self.take_back(successor),
            Action::SuccessorKeeps => self.next(Work::Phase(phase::Input::SuccessorKeeps)),
            Action::Failed(_) => self.attempt_failed(successor),
            Action::Kill(_) if self.fault == Some(Fault::LetsTheDoomedLive) => {
                self.attempt_failed(successor);
            }
            Action::Kill(_) => {
                self.world.killed = true;
                self.world.end(successor);
            }
            Action::Close => {
                if let Some(channel) = &mut self.world.channels[successor] {
                    channel.close(End::Predecessor);
                }
            }
        }
    }

    fn send_down(&mut self, successor: usize, message: Message) {
        match message {
            Message::Refuse(_) if self.fault == Some(Fault::ClosesWithoutAWord) => return,
            Message::Commit(_) if self.fault == Some(Fault::ClosesGateAtCommit) => {
                self.next(Work::Phase(phase::Input::SuccessorAccepting));
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

    fn successor_accepts(&mut self, successor: usize) {
        if let Some(channel) = &mut self.world.channels[successor] {
            channel.accepted = true;
        }
        let process = self.process();
        process.handed_over = true;
        process.phase.handle(epoch(), phase::Input::SuccessorAccepting);
        if process.admitted != Some(successor)
            || !matches!(process.phase.phase(), Phase::Draining(_))
        {
            self.world.broken = Some(laws::PHASES_AGREE);
        }
        self.phase_acts();
    }

    fn take_back(&mut self, successor: usize) {
        let process = self.process();
        process.phase.handle(epoch(), phase::Input::SuccessorLost);
        if process.phase.phase() != Phase::Serving {
            self.world.broken = Some(laws::LOST_IS_REPLACED);
        }
        self.phase_acts();
        if self.fault == Some(Fault::RollsBackTooEarly) {
            self.next(Work::Down(successor, predecessor::Input::Resumed));
        }
    }

    fn attempt_failed(&mut self, successor: usize) {
        if self.process().admitted == Some(successor) {
            self.process().admitted = None;
            self.next(Work::Phase(phase::Input::TakeoverFailed));
            if self.fault == Some(Fault::StopsServingOnFailure) {
                self.next(Work::Phase(phase::Input::Stop(Cause::Request)));
            }
        }
    }

    fn up_acts(&mut self) {
        while let Some(action) = self.process().up.as_mut().and_then(|up| up.poll_action()) {
            self.up_action(action);
        }
    }

    fn up_action(&mut self, action: successor::Action) {
        use successor::Action;
        match action {
            Action::Send(message) => {
                let Some(channel) = &mut self.world.channels[self.id] else { return };
                if message == Message::Final {
                    // From here on this version and its own successors are in charge.
                    self.world.processes[channel.predecessor].owes = false;
                }
                if channel.predecessor_open {
                    channel.to_predecessor.push_back(message);
                }
            }
            Action::Initialise(_) => self.process().initialising = true,
            Action::Accept { predecessor, .. } => {
                if let Some(channel) = &mut self.world.channels[self.id] {
                    channel.committed = true;
                    channel.late = predecessor == successor::Presence::Lost;
                }
                self.next(Work::Phase(phase::Input::Ready));
            }
            Action::GiveBack(_) => {
                self.process().owes = false;
                self.next(Work::Phase(phase::Input::PredecessorResumed));
                for successor in std::mem::take(&mut self.process().asking) {
                    self.turn_away(successor, Reason::NotServing);
                }
            }
            // It has nothing to serve with.
            Action::Failed(_) => self.world.end(self.id),
            Action::Close => {
                if let Some(channel) = &mut self.world.channels[self.id] {
                    channel.close(End::Successor);
                }
            }
            Action::PredecessorLost | Action::Confirmed => self.answer_the_asking(),
            Action::Adopt(_) => {}
        }
    }
}
