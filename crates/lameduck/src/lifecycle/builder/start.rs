//! The start of a life: its parts are made, its place among the generations is found, its thread begins.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Builder, Takeover};
use crate::closing::Resources;
use crate::control::{self, Hands, Scope, View};
use crate::driver::{Driver, Gates};
use crate::error::{Error, USE_CONTROL};
use crate::generation::Generation;
use crate::generations::Place;
use crate::handover::Handover;
use crate::lifecycle::closing::fits;
use crate::lifecycle::{self, AFTER_FORCE, Drain, Lifecycle, Settings, Shared};
use crate::listener::AcceptErrors;
use crate::log::{Log, LogFormat};
use crate::notify::Notifier;
use crate::notify::teller::Teller;
use crate::operator::{Operator, Strangers};
use crate::phase::{Config, Machine};
use crate::readiness::Sign;
use crate::respawn::{self, Program};
use crate::signals::Signals;
use crate::states::{Left, States};
use crate::succeed::{self, Adopting, Begun, Succession};
use crate::takeover::channel::{AsyncChannel, ControlSocket};
use crate::takeover::successor::Successor;
use crate::takeover::{Limits, TAKEOVER_LONGEST};
use crate::upgrade::{Parts, Started, Upgrades};
use crate::work::Registry;

impl Builder {
    /// Looks whether these settings can be used, and does nothing else: what [`start`](Builder::start) looks at first.
    ///
    /// # Errors
    ///
    /// When the lame duck does not fit into the grace period, a probe has no path, or the directory of the control socket
    /// is not this user's alone.
    pub fn validate(&self) -> Result<(), Error> {
        fits(self.grace, self.lame_duck, Duration::ZERO)?;
        self.probe.as_deref().map_or(Ok(()), super::upgrades::is_path)?;
        let Some(control) = &self.control else { return Ok(()) };
        Place::look(control)
            .map_err(|error| Error::io(USE_CONTROL, control.display().to_string(), error))
    }

    /// Starts the life: signals and deadline are armed when it returns, and nothing is accepted yet.
    ///
    /// A successor asks its predecessor for the service here, and blocks the thread meanwhile: 5 s at most until there is
    /// room in the queue at its control socket, and then for the offer, [`OFFER_TIMEOUT`](crate::takeover::OFFER_TIMEOUT)
    /// at most. Nothing else here waits.
    ///
    /// # Errors
    ///
    /// When called outside a tokio runtime, when the lame duck does not fit into the grace period or a
    /// [signal](Builder::signals) cannot be taken ([`Error::is_usage`]), and when the system gives no thread or
    /// descriptor. With a [control socket](Builder::control) also when it cannot be placed, when another service answers
    /// there, and when a predecessor that is asked to hand over refuses or, with [`take_over`](Builder::take_over), is
    /// not there.
    pub fn start(self) -> Result<Lifecycle, Error> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::no_runtime())?;
        self.validate()?;
        let Voices { scope, signals, log, notifier } = self.voices();
        signals.check()?;
        let joined = self.join()?;
        let Above { left, succession, machine: above, channel } = Above::of(joined.took_over)?;
        let states = Arc::new(States::took_over(left));
        let machine = self.machine(joined.generation, above);
        let registry = Registry::new();
        let resources = Arc::new(Resources::default());
        let accept_errors = Arc::new(AcceptErrors::default());
        let (drain, picked_up) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let sign = Sign::new();
        let readiness = sign.readiness();
        let handover = Arc::new(Handover::default());
        let gates = Arc::new(Gates::default());
        let (commands, orders) = mpsc::unbounded_channel();
        let (view, view_seen) = watch::channel(View::begin());
        let (ended, report) = watch::channel(None);
        let (to_unwanted, unwanted) = watch::channel(0);
        let started = Started::default();
        let parts = match &joined.place {
            Some(place) => Some(Parts {
                runtime: runtime.clone(),
                gates: Arc::clone(&gates),
                handover: Arc::clone(&handover),
                states: Arc::clone(&states),
                log: Arc::clone(&log),
                place: place.clone(),
                program: this_program()?,
                own: joined.generation,
                succession: succession.clone(),
                before: self.before(),
                started: started.clone(),
                respawned: joined.respawned,
            }),
            None => None,
        };
        let talk = channel.map(|channel| (channel, Adopting::new(&handover, &registry, &log)));
        let make_hands = |sender: &Arc<control::Sender>| Hands {
            registry: Arc::clone(&registry),
            sign,
            resources: Arc::clone(&resources),
            accept_errors: Arc::clone(&accept_errors),
            drain: drain.clone(),
            log: Arc::clone(&log),
            teller: Teller::new(notifier, Arc::clone(&log), Instant::now()),
            commands,
            picked_up: Arc::clone(&picked_up),
            handover: Arc::clone(&handover),
            upgrades: parts.map(|parts| Upgrades::new(parts, Arc::clone(sender), talk)),
            unwanted: to_unwanted,
            place: joined.place.clone().map(|place| (place, joined.generation)),
            view,
            ended,
        };
        let control = control::start(machine, signals, scope, make_hands)
            .map_err(|error| Error::io("start", "the control thread", error))?;
        let driver = Driver {
            orders,
            picked_up,
            gates: Arc::clone(&gates),
            resources: Arc::clone(&resources),
            control: Arc::clone(&control),
        };
        drop(runtime.spawn(driver.run()));
        let upgrades = joined.place.map(|place| lifecycle::Upgrades::new(place, started));
        let settings = self.settings(joined.generation);
        let shared = Shared {
            settings,
            started: Instant::now(),
            runtime,
            registry,
            resources,
            accept_errors,
            drain: Drain { token: drain, view: view_seen.clone() },
            log,
            control,
            gates,
            readiness,
            handover,
            states,
            checks: crate::lifecycle::check::Checks::default(),
            #[cfg(feature = "rustls023")]
            tickets: std::sync::Mutex::default(),
            succession,
            upgrades,
            unwanted,
            view: view_seen,
            report,
        };
        let life = Lifecycle { shared: Arc::new(shared) };
        if let Some(socket) = joined.socket {
            life.answer_operators(socket, scope);
        }
        Ok(life)
    }

    fn settings(self, generation: u32) -> Settings {
        Settings {
            grace: self.grace,
            lame_duck: self.lame_duck,
            generation,
            linger: self.linger,
            upgrade_linger: self.upgrade_linger,
            age: self.age,
            close_frames: self.close_frames,
            version: self.version,
            probe: self.probe,
        }
    }

    /// Whom it listens to and whom it tells, with the built-in signals and without.
    fn voices(&self) -> Voices {
        let (scope, signals, format) = match &self.signals {
            Some(signals) => (Scope::Process, signals.clone(), LogFormat::Text),
            None => (Scope::Library, Signals::none(), LogFormat::Silent),
        };
        let notifier = self.notifier.clone().unwrap_or_else(|| match scope {
            Scope::Process => Notifier::from_env(),
            Scope::Library => Notifier::none(),
        });
        let log = Arc::new(Log::new(self.log.unwrap_or(format)));
        Voices { scope, signals, log, notifier }
    }

    /// Finds the service's place and this process's generation in it; asks a predecessor for the service when there is
    /// one to ask.
    fn join(&self) -> Result<Joined, Error> {
        let Some(control) = &self.control else { return Ok(Joined::alone()) };
        let fail = |error| Error::io(USE_CONTROL, control.display().to_string(), error);
        let place = Place::prepare(control).map_err(fail)?;
        let asked = respawn::asked_to_take_over();
        let respawned = asked.is_some();
        // Of two that start at once the second finds the first.
        let is_first = asked.is_none() && self.takeover == Takeover::WhenAsked;
        let _claim = if is_first { place.claim().map_err(fail)? } else { None };
        let predecessor = match (asked, self.takeover) {
            (Some(asked), _) => Some(asked),
            (None, Takeover::Always) => Some(place.name().to_owned()),
            (None, Takeover::WhenAsked) if place.is_answered() => {
                return Err(fail(io::ErrorKind::AddrInUse.into()));
            }
            (None, Takeover::WhenAsked) => None,
        };
        let took_over = match predecessor {
            Some(predecessor) => Some(succeed::ask(&predecessor, &self.version)?),
            None => None,
        };
        let generation = match &took_over {
            Some(begun) => begun.succession.generation,
            // Older generations may still finish what a service that died here left to them.
            None => 1 + place.others(0).last().map_or(0, |(generation, _)| *generation),
        };
        // A dead process's socket may lie there; a live one would have counted above.
        let _ = std::fs::remove_file(place.socket(generation));
        let socket = ControlSocket::bind(&place.socket(generation), &place.beside(generation))
            .map_err(fail)?;
        if took_over.is_none() {
            place.point_to(generation).map_err(fail)?;
        }
        Ok(Joined { place: Some(place), socket: Some(socket), generation, respawned, took_over })
    }

    fn machine(&self, own: u32, above: Option<Successor>) -> Generation {
        let limits =
            Limits { takeover: self.takeover_timeout.min(TAKEOVER_LONGEST), ..Limits::default() };
        let life = Machine::new(Config {
            grace: self.grace,
            reserve: Duration::ZERO,
            lame_duck: self.lame_duck,
            settle: self.settle,
            after_force: AFTER_FORCE,
            probation: self.probation,
            upgrade_grace: self.upgrade_grace,
            max_generations: self.max_generations,
        });
        Generation::new(life, own, above, limits)
    }
}

/// What this process takes over, if it does.
#[derive(Default)]
struct Above {
    left: HashMap<String, Left>,
    succession: Option<Arc<Succession>>,
    machine: Option<Successor>,
    channel: Option<AsyncChannel>,
}

impl Above {
    fn of(begun: Option<Begun>) -> Result<Above, Error> {
        let Some(begun) = begun else { return Ok(Above::default()) };
        let channel = begun.channel.into_async();
        let channel = channel.map_err(|error| Error::io("use", "the control socket", error))?;
        Ok(Above {
            left: begun.left,
            succession: Some(Arc::new(begun.succession)),
            machine: Some(begun.machine),
            channel: Some(channel),
        })
    }
}

/// Whom a life listens to and whom it tells.
struct Voices {
    scope: Scope,
    signals: Signals,
    log: Arc<Log>,
    notifier: Notifier,
}

fn this_program() -> Result<Program, Error> {
    Program::of_this_process().map_err(|error| Error::io("find", "this program", error))
}

/// This process's place among the generations of its service.
struct Joined {
    place: Option<Place>,
    socket: Option<ControlSocket>,
    generation: u32,
    respawned: bool,
    took_over: Option<Begun>,
}

impl Joined {
    fn alone() -> Joined {
        Joined { place: None, socket: None, generation: 1, respawned: false, took_over: None }
    }
}

impl Lifecycle {
    fn answer_operators(&self, socket: ControlSocket, scope: Scope) {
        let Some(upgrades) = &self.shared.upgrades else { return };
        // Weak: answering operators must not keep alive the life they ask about.
        let shared = Arc::downgrade(&self.shared);
        let operator = Operator {
            control: Arc::clone(&self.shared.control),
            place: upgrades.place.clone(),
            own: self.generation(),
            snapshot: Box::new(move || Some(Lifecycle { shared: shared.upgrade()? }.snapshot())),
            report: self.shared.report.clone(),
            waiting: Arc::clone(&upgrades.waiting),
            scope,
            view: self.shared.view.clone(),
            adopting: Arc::new(Adopting {
                handover: Arc::clone(&self.shared.handover),
                registry: Arc::clone(&self.shared.registry),
                log: self.log(),
            }),
            strangers: Strangers::none(),
        };
        drop(self.shared.runtime.spawn(operator.run(socket)));
    }
}
