//! Does what the machine decided: here at once, or by a command to the async runtime.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Command, Control};
use crate::generation::Action as GenerationAction;
use crate::phase::{Action, Cause};
use crate::readiness::State;
use crate::work::Told;

impl Control {
    pub(super) fn act(&mut self) {
        while let Some(action) = self.generation.poll_action() {
            self.announce(&action);
            match action {
                GenerationAction::Life(action) => self.live(action),
                GenerationAction::Unfit(why) => {
                    self.hands.log.line("unfit", &format!("Not serving: {}", why.text));
                    self.unfit = Some(why.text);
                }
                GenerationAction::OpenGate => self.command(Command::OpenGate),
                GenerationAction::CloseGate(closing) => {
                    let cut_at = self.life().cut_at();
                    self.command(Command::CloseGate { closing, cut_at });
                }
                GenerationAction::LetGo => {
                    let cut_at = self.life().cut_at();
                    self.command(Command::LetGo { cut_at });
                }
                action => self.upgrade_acts(action),
            }
        }
    }

    fn upgrade_acts(&mut self, action: GenerationAction) {
        if let Some(upgrades) = &mut self.hands.upgrades {
            upgrades.act(action);
        }
    }

    /// What the service manager hears of an upgrade.
    fn announce(&mut self, action: &GenerationAction) {
        let now = Instant::now();
        match action {
            GenerationAction::UpgradeBegins(_) => self.hands.teller.reloading(now),
            GenerationAction::UpgradeFailed { .. } => {
                self.hands.teller.reloaded(now, "the upgrade failed, serving on");
            }
            // A manager that sent the signal waits for an answer, and hears no other process while the way back is open.
            GenerationAction::PassOn => {
                self.hands.teller.reloading(now);
                self.hands.teller.reloaded(now, "passed on: the successor on probation upgrades");
            }
            GenerationAction::HandOn { heir, .. } => self.hands.teller.upgraded(now, heir.pid),
            _ => {}
        }
    }

    fn live(&mut self, action: Action) {
        match action {
            Action::ShowReady => {
                self.hands.sign.show(State::Ready);
                self.hands.teller.ready(Instant::now());
            }
            Action::ShowNotReady => self.hands.sign.show(State::NotReady),
            Action::MarkAnswers => self.hands.registry.tell(Told::MarkAnswers),
            Action::Settle => self.hands.registry.settle(),
            Action::TellFinish => self.tell_finish(),
            Action::Force => self.force(),
            Action::CloseResources { until } => {
                self.hands.handover.close();
                self.command(Command::CloseResources { until });
            }
            Action::Stop(outcome) => self.report(outcome),
            Action::Resume => {
                // Whatever stop comes next is a new one, with an account of its own.
                self.stop = None;
                self.hands.registry.tell(Told::Serve);
                self.hands.sign.show(State::Ready);
                self.hands.teller.taken_back(Instant::now());
            }
            Action::ConfirmSuccessor => {
                // Until now background tasks went on, in case the service came back.
                self.hands.drain.cancel();
                self.hands.teller.handed_over(Instant::now());
                if self.life().cause() == Some(Cause::Successor)
                    && let Some(upgrades) = &self.hands.upgrades
                {
                    upgrades.successor_keeps();
                }
            }
            // The generation's own.
            Action::Accept
            | Action::CloseGate { .. }
            | Action::AdmitSuccessor
            | Action::RefuseSuccessor(_) => {}
        }
    }

    fn tell_finish(&self) {
        match self.life().cause() {
            Some(Cause::Successor) => {
                self.hands.registry.tell(Told::Move);
            }
            Some(Cause::Signal(_) | Cause::Request | Cause::Predecessor) | None => {
                self.hands.sign.is_over();
                self.hands.drain.cancel();
                self.hands.registry.tell(Told::Finish);
            }
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        // The time counts from the oldest command that still lies there.
        if self.hands.picked_up.load(Ordering::Acquire) >= self.commands_sent {
            self.command_sent_at = Some(Instant::now());
        }
        self.commands_sent += 1;
        // A closed channel means that the runtime is gone; the deadline sees to the rest.
        let _ = self.hands.commands.send(command);
    }

    fn force(&mut self) {
        let totals = self.totals();
        let registry = &self.hands.registry;
        if let Some(stop) = &mut self.stop {
            stop.at_force = Some(totals);
            stop.cut = registry.counts();
            stop.cut_work = registry.items();
        }
        self.hands.drain.cancel();
        registry.tell(Told::Force);
        registry.abort_tasks();
    }
}
