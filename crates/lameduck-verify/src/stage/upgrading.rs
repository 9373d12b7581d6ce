//! Upgrades: asked for as the adapter says, and known to be done.

use super::errand::{COMMAND_LIMIT, Ran, run_command};
use super::launch::succeeds;
use super::{Stage, ask, read_pid};
use crate::adapter::{Command, Done, Readiness, Tells, Upgrade};
use crate::case::Fault;
use crate::target::{Signal, proc};
use crate::trace::MarkKind;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// So often the identity is asked for before an upgrade: several workers have several.
const IDENTITIES_ASKED: usize = 8;

/// So many answers in a row have to come from new identities until an upgrade counts as done.
const NEW_IN_A_ROW: usize = 4;

/// Between two questions for the identity.
const ASK_PAUSE: Duration = Duration::from_millis(2);

/// How long the workers of a version that was replaced may take to hear of it.
const CHANGED: Duration = Duration::from_secs(1);

/// How long one question for the identity may take: an answer that does not come is a question asked again.
const IDENTITY_LIMIT: Duration = Duration::from_secs(1);

/// An upgrade that was asked for.
#[derive(Clone, Debug)]
pub struct Upgraded {
    /// When it was asked for.
    pub at: Instant,
    /// From then until it was known to be done, or to have failed.
    pub took: Duration,
    /// What its command came to, if it has one.
    pub ran: Option<Ran>,
    /// Who may have answered before.
    pub before: BTreeSet<String>,
    /// Who answers now, if the server tells and the upgrade was done.
    pub after: Option<String>,
    /// Why it was not done, if it was not.
    pub failed: Option<String>,
}

/// An upgrade's command that runs beside the case. Dropping it does not end it; it ends with the server.
#[derive(Debug)]
pub struct Asking(Option<std::thread::JoinHandle<()>>);

impl Asking {
    /// Whether the command still runs.
    pub fn is_running(&self) -> bool {
        self.0.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Upgraded {
    /// This upgrade, if it was done.
    ///
    /// # Errors
    /// Why it was not.
    pub fn done(self) -> Result<Upgraded, Fault> {
        match self.failed {
            Some(why) => Err(Fault(why)),
            None => Ok(self),
        }
    }
}

impl Stage<'_> {
    /// Who answers a new connection now. For cases that need [`Identity`](crate::case::Need::Identity).
    ///
    /// # Errors
    /// When the server does not tell.
    pub fn identity(&self) -> Result<String, Fault> {
        let identity = self.adapter.identity.as_ref();
        let identity =
            identity.ok_or_else(|| Fault("the target does not declare [identity]".into()))?;
        let place = self.at(identity.path.as_deref().unwrap_or(&self.adapter.paths.fast));
        let asked = ask(&place, IDENTITY_LIMIT)?;
        let told = match (&identity.header, &identity.field) {
            (Some(header), _) => asked.header(header).map(str::to_owned),
            (None, Some(field)) => asked.field(field),
            (None, None) => Some(asked.body.trim().to_owned()),
        };
        told.ok_or_else(|| Fault(format!("{place} does not tell its identity: {}", asked.body)))
    }

    /// Everyone who answers new connections.
    pub fn identities(&self) -> Result<BTreeSet<String>, Fault> {
        match self.adapter.identity {
            Some(_) => (0..IDENTITIES_ASKED).map(|_| self.identity()).collect(),
            None => Ok(BTreeSet::new()),
        }
    }

    /// Everyone who may answer now: those who do, and where the server tells process ids, all its processes. One worker
    /// may answer many times in a row while others wait.
    pub fn old_ones(&mut self) -> Result<BTreeSet<String>, Fault> {
        let mut old = self.identities()?;
        let tells = self.adapter.identity.as_ref().map(|identity| identity.tells);
        if matches!(tells, Some(Tells::Pid | Tells::Worker)) && self.adapter.running.is_none() {
            old.extend(self.service().processes().iter().map(u32::to_string));
        }
        Ok(old)
    }

    /// Whether nobody answers but these.
    pub fn only_old_ones(&self, old: &BTreeSet<String>) -> bool {
        self.identities().is_ok_and(|now| now.is_subset(old))
    }

    /// Asks for an upgrade and waits until it is done.
    ///
    /// # Errors
    /// When it is not done by its deadline, or its command fails.
    pub fn upgrade(&mut self) -> Result<Upgraded, Fault> {
        self.try_upgrade()?.done()
    }

    /// Asks for an upgrade and waits until it is done or has failed.
    pub fn try_upgrade(&mut self) -> Result<Upgraded, Fault> {
        let limit =
            self.adapter.upgrade.as_ref().map_or(COMMAND_LIMIT, |upgrade| *upgrade.deadline);
        self.try_upgrade_within(limit)
    }

    /// As [`try_upgrade`](Stage::try_upgrade), with another limit than the adapter's.
    pub fn try_upgrade_within(&mut self, limit: Duration) -> Result<Upgraded, Fault> {
        let before = self.old_ones()?;
        if let Some(running) = self.adapter.running.clone() {
            return self.by_action(&running.action, before);
        }
        let upgrade = self.adapter.upgrade.clone();
        let upgrade =
            upgrade.ok_or_else(|| Fault("the target does not declare [upgrade]".into()))?;
        let lines = self.lines(&upgrade.done);
        let at = Instant::now();
        let mut upgraded =
            Upgraded { at, took: Duration::ZERO, ran: None, before, after: None, failed: None };
        self.ask_for_upgrade(&upgrade, &mut upgraded)?;
        if upgraded.failed.is_none() {
            self.wait_done(&upgrade, limit, lines, &mut upgraded);
        }
        upgraded.took = at.elapsed();
        if upgraded.failed.is_none() {
            upgraded.failed = self.not_ready_by(at + limit);
        }
        match &upgraded.failed {
            None => self.recorder.mark(MarkKind::Phase, "upgrade done"),
            Some(why) => self.recorder.mark(MarkKind::Phase, format!("upgrade failed: {why}")),
        }
        if upgraded.failed.is_none() {
            self.find_main(&upgrade, &upgraded);
        }
        Ok(upgraded)
    }

    /// Waits until nobody from before this upgrade is left but the main process, or, where that cannot be seen or is not
    /// so, until a second has passed. New ones answer as soon as they are there, also many times in a row, while old
    /// workers still wait for their turn to hear that they are old, and take a connection now and then.
    pub fn wait_changed(&mut self, upgraded: &Upgraded) {
        let since = Instant::now();
        while since.elapsed() < CHANGED && !self.has_changed(upgraded) {
            std::thread::sleep(ASK_PAUSE);
        }
    }

    fn has_changed(&mut self, upgraded: &Upgraded) -> bool {
        let tells = self.adapter.identity.as_ref().map(|identity| identity.tells);
        if !matches!(tells, Some(Tells::Pid | Tells::Worker)) || self.adapter.running.is_some() {
            return false;
        }
        let main = self.service().main_pid();
        let old: Vec<u32> = upgraded.before.iter().filter_map(|told| told.parse().ok()).collect();
        !old.is_empty() && old.into_iter().all(|pid| pid == main || !proc::is_alive(pid))
    }

    /// Asks for an upgrade and does not look at what comes of it.
    pub fn ask_only(&mut self) -> Result<(), Fault> {
        let upgrade = self.adapter.upgrade.as_ref();
        match upgrade.and_then(|upgrade| upgrade.signal) {
            Some(signal) => self.signal(signal).map(drop),
            None => self.ask_in_background().map(drop),
        }
    }

    /// Asks for an upgrade and goes on at once; its command, if it has one, runs on until the case ends.
    pub fn ask_in_background(&mut self) -> Result<Asking, Fault> {
        let upgrade = self.adapter.upgrade.clone();
        let upgrade =
            upgrade.ok_or_else(|| Fault("the target does not declare [upgrade]".into()))?;
        if let Some(signal) = upgrade.signal {
            self.signal(signal)?;
            return Ok(Asking(None));
        }
        let Some(command) = &upgrade.command else {
            return Err(Fault("an upgrade by replacement cannot be met in its middle".to_owned()));
        };
        let words: Vec<String> = command.0.iter().map(|word| self.service().put_in(word)).collect();
        let directory = self.service().directory().to_owned();
        self.recorder.mark(MarkKind::Action, "upgrade");
        let work = move || drop(run_command(&words, &directory, COMMAND_LIMIT));
        Ok(Asking(Some(std::thread::Builder::new().name("upgrade".into()).spawn(work)?)))
    }

    fn by_action(&mut self, action: &Command, before: BTreeSet<String>) -> Result<Upgraded, Fault> {
        let here = std::env::current_dir()?;
        self.recorder.mark(MarkKind::Action, action.to_string());
        let at = Instant::now();
        let ran = run_command(&action.0, &here, ACTION_LIMIT)?;
        let failed =
            (!ran.is_success()).then(|| format!("{action}: {} {}", ran.exit, ran.stderr.trim()));
        let after = self.adapter.identity.is_some().then(|| self.identity()).transpose()?;
        Ok(Upgraded { at, took: at.elapsed(), ran: Some(ran), before, after, failed })
    }

    fn ask_for_upgrade(&mut self, upgrade: &Upgrade, upgraded: &mut Upgraded) -> Result<(), Fault> {
        if let Some(signal) = upgrade.signal {
            self.signal(signal)?;
        } else if let Some(command) = &upgrade.command {
            self.recorder.mark(MarkKind::Action, "upgrade");
            let limit = COMMAND_LIMIT.max(*upgrade.deadline);
            let ran = self.service().run(command, limit)?;
            if !ran.is_success() {
                let said = ran.stderr.trim().replace('\n', "; ");
                upgraded.failed =
                    Some(format!("the upgrade's command ended with {}: {said}", ran.exit));
            }
            upgraded.ran = Some(ran);
        } else {
            self.replace()?;
        }
        Ok(())
    }

    /// A second copy beside the first, which is then told to stop.
    fn replace(&mut self) -> Result<(), Fault> {
        let adapter = self.adapter;
        self.recorder.mark(MarkKind::Action, "start beside");
        self.service().start_beside(adapter)?;
        let signal: Signal = adapter.stop.signal;
        self.recorder.mark(MarkKind::Action, "stop the old one");
        if let Some(old) = self.service().replaced()
            && old.is_running()
        {
            old.signal(signal)?;
        }
        Ok(())
    }

    fn wait_done(
        &mut self,
        upgrade: &Upgrade,
        limit: Duration,
        lines: usize,
        upgraded: &mut Upgraded,
    ) {
        let deadline = upgraded.at + limit;
        let by_identity = upgrade.done == Done::Identity && self.adapter.identity.is_some();
        let is_done = |stage: &mut Stage<'_>, upgraded: &mut Upgraded| match &upgrade.done {
            Done::Command => true,
            Done::Identity if !by_identity => true,
            Done::Identity => {
                upgraded.after = stage.new_identity(&upgraded.before);
                upgraded.after.is_some()
            }
            done @ (Done::Stdout(_) | Done::Stderr(_)) => stage.lines(done) > lines,
        };
        while !is_done(self, upgraded) {
            if Instant::now() >= deadline {
                upgraded.failed = Some(match &upgrade.done {
                    Done::Identity => format!("after {limit:?} the old generation still answers"),
                    done => format!(
                        "after {limit:?} it did not say that the upgrade is done ({done:?})"
                    ),
                });
                return;
            }
            std::thread::sleep(ASK_PAUSE);
        }
    }

    /// Why the command that tells when the server is ready does not succeed by then, where there is one. Until it does,
    /// signals may be lost.
    fn not_ready_by(&mut self, deadline: Instant) -> Option<String> {
        let Readiness::Command(command) = &self.adapter.ready else { return None };
        let words: Vec<String> = command.0.iter().map(|word| self.service().put_in(word)).collect();
        let directory = self.service().directory().to_owned();
        while let Err(why) = succeeds(&words, &directory) {
            if Instant::now() >= deadline {
                return Some(why);
            }
            std::thread::sleep(ASK_PAUSE);
        }
        None
    }

    /// Who answers, if several answers in a row come from none of those before.
    fn new_identity(&self, before: &BTreeSet<String>) -> Option<String> {
        let mut last = None;
        for _ in 0..NEW_IN_A_ROW {
            last = Some(self.identity().ok().filter(|told| !before.contains(told))?);
        }
        last
    }

    /// Lines that say that an upgrade is done, so far.
    fn lines(&mut self, done: &Done) -> usize {
        match done {
            Done::Stdout(text) => self.service().target().stdout().matches(text.as_str()).count(),
            Done::Stderr(text) => self.service().target().stderr().matches(text.as_str()).count(),
            Done::Identity | Done::Command => 0,
        }
    }

    /// The process that signals go to after an upgrade.
    fn find_main(&mut self, upgrade: &Upgrade, upgraded: &Upgraded) {
        let file = upgrade.pid_file.clone().and_then(|file| read_pid(&self.service().file(&file)));
        let tells_pid =
            self.adapter.identity.as_ref().is_some_and(|identity| identity.tells == Tells::Pid);
        let told = upgraded.after.as_ref().filter(|_| tells_pid).and_then(|told| told.parse().ok());
        if let Some(pid) = file.or(told) {
            self.service().set_main(pid);
        }
    }
}

/// How long an action on something that runs already may take: a fleet is restarted one by one.
const ACTION_LIMIT: Duration = Duration::from_secs(600);
