//! What a case is: text that explains it, what it needs, and the function that tries it.

use crate::adapter::{Adapter, Protocol};
use crate::address::Scheme;
use crate::stage::Stage;
use crate::target::TargetError;
use crate::verdict::{Level, Verdict};
use std::io;
use std::time::Duration;

/// How long a case takes at most that says nothing else.
pub const CASE_TAKES: Duration = Duration::from_secs(15);

/// One case of the suite.
#[derive(Debug)]
pub struct Case {
    /// As in `SIG/1`: the group, and the number in it.
    pub id: &'static str,
    /// Duty or good conduct.
    pub level: Level,
    /// What the case is about, in a few words.
    pub title: &'static str,
    /// The state that the target is brought into.
    pub setup: &'static str,
    /// What is done to it then.
    pub action: &'static str,
    /// What has to be seen.
    pub criterion: &'static str,
    /// Why it matters: what goes wrong in the field without it.
    pub why: &'static str,
    /// Where the rule comes from: a section of an RFC, a project, an issue.
    pub source: &'static str,
    /// What the target has to have; without it the case is skipped.
    pub needs: &'static [Need],
    /// Tries it.
    pub run: fn(&mut Stage<'_>) -> Outcome,
}

impl Case {
    /// As in `SIG`.
    pub fn group(&self) -> &'static str {
        self.id.split('/').next().unwrap_or(self.id)
    }

    /// What in a server usually causes a miss, and what mends it.
    pub fn hint(&self) -> Option<&'static str> {
        crate::cases::hint(self.id)
    }

    /// How long it takes at most, beside the times that its target declares, when all is well.
    pub fn takes(&self) -> Duration {
        crate::cases::longer(self.id).unwrap_or(CASE_TAKES)
    }

    /// Why this target cannot be tried, if it cannot.
    pub fn skipped(&self, adapter: &Adapter) -> Option<String> {
        self.needs.iter().find_map(|need| need.missing(adapter))
    }
}

/// What a case's run comes to.
pub type Outcome = Result<Finding, Fault>;

/// What a case found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The verdict. Of a SHOULD, a [`Verdict::Fail`] becomes a [`Verdict::Warn`].
    pub verdict: Verdict,
    /// What was seen, in one sentence.
    pub reason: String,
}

/// The criterion was met.
pub fn pass(reason: impl Into<String>) -> Outcome {
    Ok(Finding { verdict: Verdict::Pass, reason: reason.into() })
}

/// The criterion was not met.
pub fn fail(reason: impl Into<String>) -> Outcome {
    Ok(Finding { verdict: Verdict::Fail, reason: reason.into() })
}

/// The duty was met, and the good conduct that the same case asks for was not.
pub fn warn(reason: impl Into<String>) -> Outcome {
    Ok(Finding { verdict: Verdict::Warn, reason: reason.into() })
}

/// The case could not be judged.
pub fn inconclusive(reason: impl Into<String>) -> Outcome {
    Ok(Finding { verdict: Verdict::Inconclusive, reason: reason.into() })
}

/// This target cannot be tried, for a reason that only shows at run time.
pub fn skip(reason: impl Into<String>) -> Outcome {
    Ok(Finding { verdict: Verdict::Skip, reason: reason.into() })
}

/// Why a case came to no finding: the state it needs never was. Made by `?` from the errors of targets, loads and
/// sockets; the verdict is [`Verdict::Inconclusive`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault(error.to_string())
    }
}

impl From<TargetError> for Fault {
    fn from(error: TargetError) -> Fault {
        Fault(error.to_string())
    }
}

impl From<crate::load::NotFlowing> for Fault {
    fn from(error: crate::load::NotFlowing) -> Fault {
        Fault(error.to_string())
    }
}

/// Something that a target has to have, or to declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// The tester starts it: not something that runs already.
    Start,
    /// It can be stopped: every target that the tester starts.
    Stop,
    /// A stop signal, not a command: for the cases that send it at an exact moment or several times.
    StopSignal,
    /// `stop.deadline`.
    Deadline,
    /// `stop.repeats`.
    Repeats,
    /// `stop.lame_duck`.
    LameDuck,
    /// `stop.hanging_hook`.
    HangingHook,
    /// `stop.last_words`.
    LastWords,
    /// `stop.progress`.
    Progress,
    /// `[upgrade]`, or an action on something that runs already.
    Upgrade,
    /// `[upgrade] program`, so that another program can be put in its place.
    Program,
    /// `[upgrade] command`: an upgrade that has a result.
    UpgradeCommand,
    /// `[upgrade] ready_timeout`.
    ReadyTimeout,
    /// `[upgrade] other_version`.
    OtherVersion,
    /// `[upgrade] rollback`.
    Rollback,
    /// `[upgrade] generations`.
    Generations,
    /// `[upgrade] pid_file`.
    PidFile,
    /// `[upgrade] control`.
    Control,
    /// `[upgrade.config]`.
    Config,
    /// `[identity]`.
    Identity,
    /// `[supervisor]`.
    Supervisor,
    /// `also`: a second address.
    Also,
    /// It speaks this.
    Speaks(Protocol),
    /// It speaks HTTP/2 at its address: by prior knowledge, or over TLS where everything is spoken over TLS.
    Http2,
    /// A request that holds a drain: `paths.endless`, `large`, `upload`, `post` or `slow`.
    Holds,
    /// A request that lasts as long as the tester wants: `paths.endless`, `large`, `upload` or `post`.
    Lasts,
    /// A path, by its key in `[paths]`.
    Path(&'static str),
}

impl Need {
    /// What the target has to be or to declare, in the words of an adapter.
    pub fn words(self) -> String {
        match self {
            Need::Start => "a target that the tester starts".to_owned(),
            Need::Stop => "a target that the tester stops".to_owned(),
            Need::StopSignal => "a stop by a signal".to_owned(),
            Need::Http2 => "h2c in protocols, or h2 where everything is spoken over TLS".to_owned(),
            Need::Speaks(protocol) => format!("{} in protocols", protocol.word()),
            // What one without anything lacks.
            declared => {
                let lacks = declared.missing(&Adapter::of_command(Vec::new())).unwrap_or_default();
                lacks.trim_start_matches("the target does not declare ").to_owned()
            }
        }
    }

    /// Why this target does not meet the need, if it does not.
    pub fn missing(self, adapter: &Adapter) -> Option<String> {
        let declared =
            |there: bool, key: &str| (!there).then(|| format!("the target does not declare {key}"));
        let (stop, upgrade) = (&adapter.stop, adapter.upgrade.as_ref());
        if self == Need::Upgrade && adapter.running.is_some() {
            return None;
        }
        if adapter.running.is_some()
            && !matches!(self, Need::Path(_) | Need::Speaks(_) | Need::Http2 | Need::Identity)
        {
            return Some("the target was not started by the tester".to_owned());
        }
        match self {
            Need::Start | Need::Stop => None,
            Need::StopSignal => (stop.command.is_some())
                .then(|| "the target is stopped by a command, not by a signal".to_owned()),
            Need::Deadline => declared(stop.deadline.is_some(), "stop.deadline"),
            Need::Repeats => declared(stop.repeats.is_some(), "stop.repeats"),
            Need::LameDuck => {
                declared(stop.lame_duck.is_some() || adapter.lame_duck.is_some(), "lame_duck")
            }
            Need::HangingHook => declared(stop.hanging_hook.is_some(), "stop.hanging_hook"),
            Need::LastWords => declared(stop.last_words.is_some(), "stop.last_words"),
            Need::Progress => declared(stop.progress.is_some(), "stop.progress"),
            Need::Upgrade => declared(upgrade.is_some(), "[upgrade]"),
            Need::Program => {
                declared(upgrade.is_some_and(|it| it.program.is_some()), "upgrade.program")
            }
            Need::UpgradeCommand => {
                declared(upgrade.is_some_and(|it| it.command.is_some()), "upgrade.command")
            }
            Need::ReadyTimeout => declared(
                upgrade.is_some_and(|it| it.ready_timeout.is_some()),
                "upgrade.ready_timeout",
            ),
            Need::OtherVersion => declared(
                upgrade.is_some_and(|it| it.other_version.is_some()),
                "upgrade.other_version",
            ),
            Need::Rollback => {
                declared(upgrade.is_some_and(|it| it.rollback.is_some()), "upgrade.rollback")
            }
            Need::Generations => {
                declared(upgrade.is_some_and(|it| it.generations.is_some()), "upgrade.generations")
            }
            Need::PidFile => {
                declared(upgrade.is_some_and(|it| it.pid_file.is_some()), "upgrade.pid_file")
            }
            Need::Control => {
                declared(upgrade.is_some_and(|it| it.control.is_some()), "upgrade.control")
            }
            Need::Config => {
                declared(upgrade.is_some_and(|it| it.config.is_some()), "upgrade.config")
            }
            Need::Identity => declared(adapter.identity.is_some(), "[identity]"),
            Need::Supervisor => declared(adapter.supervisor.is_some(), "[supervisor]"),
            Need::Also => declared(adapter.also.is_some(), "also (a second address)"),
            Need::Speaks(protocol) => (!adapter.speaks(protocol))
                .then(|| format!("the target does not declare that it speaks {}", protocol.word())),
            Need::Http2 => match adapter.scheme() {
                Scheme::Http => Need::Speaks(Protocol::H2c).missing(adapter),
                Scheme::Https => Need::Speaks(Protocol::H2).missing(adapter),
            },
            Need::Holds => {
                let keys = ["endless", "large", "upload", "post", "slow"];
                let any = keys.iter().any(|key| adapter.paths.get(key).is_some());
                declared(any, "paths.endless, large, upload, post or slow")
            }
            Need::Lasts => {
                let keys = ["endless", "large", "upload", "post"];
                let any = keys.iter().any(|key| adapter.paths.get(key).is_some());
                declared(any, "paths.endless, large, upload or post")
            }
            Need::Path(key) => declared(adapter.paths.get(key).is_some(), &format!("paths.{key}")),
        }
    }
}
