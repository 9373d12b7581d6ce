//! What holds in every state the world can reach, and what must be reachable.

use stateright::Property;

use lameduck::generation::Timer;
use lameduck::phase::Phase;

use crate::world::{End, Order, Process, Takeovers, World};

pub const SOMEBODY_ACCEPTS: &str =
    "somebody accepts while one that served and was not relieved lives";
pub const ONE_COMMIT: &str = "never two successors hold a commit";
pub const ONE_SERVES: &str = "one process serves when nothing is under way";
pub const FAILURE_CHANGES_NOTHING: &str = "a failed upgrade leaves the predecessor serving";
pub const LOST_IS_REPLACED: &str = "a successor lost in probation is replaced by its predecessor";
pub const PHASES_AGREE: &str = "the phases follow the takeover";

pub const NAME_LEADS: &str = "the name leads to who serves when nothing is under way";

pub const ANSWERED_FIRST: &str = "who asks to be probed accepts only once it has answered well";
pub const SIGNALS_COUNT: &str = "a signal is followed by an upgrade that began after it";
pub const NOT_TOO_MANY: &str = "there are no more upgrades than signals";

const LAWS: [&str; 10] = [
    ANSWERED_FIRST,
    NAME_LEADS,
    SIGNALS_COUNT,
    NOT_TOO_MANY,
    SOMEBODY_ACCEPTS,
    ONE_COMMIT,
    ONE_SERVES,
    FAILURE_CHANGES_NOTHING,
    LOST_IS_REPLACED,
    PHASES_AGREE,
];

pub fn is_law(name: &str) -> bool {
    LAWS.contains(&name)
}

pub fn properties(model: &Takeovers) -> Vec<Property<Takeovers>> {
    let mut properties = vec![
        Property::always(SOMEBODY_ACCEPTS, |_, world: &World| somebody_accepts(world)),
        Property::always(ONE_COMMIT, |_, world: &World| one_commit(world)),
        Property::always(ONE_SERVES, |_, world: &World| !is_at_rest(world) || serving(world) <= 1),
        Property::always(NAME_LEADS, |_, world: &World| !is_at_rest(world) || name_leads(world)),
        Property::always(ANSWERED_FIRST, |model: &Takeovers, world: &World| {
            !model.probes || answered_first(world)
        }),
        Property::always(FAILURE_CHANGES_NOTHING, |_, world: &World| {
            failure_changes_nothing(world)
        }),
        Property::always(LOST_IS_REPLACED, |_, world: &World| {
            world.broken != Some(LOST_IS_REPLACED)
        }),
        Property::always(PHASES_AGREE, |_, world: &World| {
            world.broken.is_none_or(|broken| broken == LOST_IS_REPLACED)
        }),
        Property::always(SIGNALS_COUNT, |_, world: &World| {
            !world.owed || !is_at_rest(world) || is_awaited(world)
        }),
        Property::always(NOT_TOO_MANY, |model: &Takeovers, world: &World| {
            model.reloads == 0 || world.begun <= model.reloads - world.reloads
        }),
        Property::sometimes("a takeover is final", |_, world: &World| {
            serves(&world.processes[1]) && !world.processes[0].is_alive() && !world.killed
        }),
        Property::sometimes("a takeover fails and the first goes on", |_, world: &World| {
            serves(&world.processes[0]) && ended(world, 1) && !world.processes[0].handed_over
        }),
    ];
    if model.deaths > 0 {
        properties.extend([
            Property::sometimes("a successor takes over late", |_, world: &World| {
                world.channels.iter().flatten().any(|channel| channel.late)
                    || (world.killed && serves(&world.processes[1]) && ended(world, 0))
            }),
            Property::sometimes(
                "a successor dies and the first serves again",
                |_, world: &World| {
                    let first = &world.processes[0];
                    serves(first) && first.handed_over && first.accepting && ended(world, 1)
                },
            ),
        ]);
    }
    if model.rollbacks > 0 {
        properties.push(Property::sometimes(
            "a successor gives back and finishes",
            |_, world: &World| {
                let (first, second) = (&world.processes[0], &world.processes[1]);
                serves(first)
                    && first.accepting
                    && second.is_alive()
                    && !second.accepting
                    && first.handed_over
            },
        ));
    }
    if model.reloads > 1 {
        properties.push(Property::sometimes("one signal is for two", |model, world: &World| {
            is_at_rest(world) && world.reloads == 0 && world.begun < model.reloads
        }));
    }
    if model.processes > 2 {
        properties.push(Property::sometimes("a third generation serves", |_, world: &World| {
            serves(&world.processes[2]) && world.processes[1].handed_over
        }));
        properties.push(Property::sometimes(
            "a second attempt follows a failed one",
            |_, world: &World| {
                let first = &world.processes[0];
                ended(world, 1)
                    && serves(&world.processes[2])
                    && first.is_alive()
                    && first.handed_over
            },
        ));
    }
    properties
}

fn serves(process: &Process) -> bool {
    process.is_alive() && process.generation.life().phase() == Phase::Serving
}

fn ended(world: &World, process: usize) -> bool {
    world.processes[process].life == crate::world::Life::Ended
}

fn serving(world: &World) -> usize {
    world.processes.iter().filter(|process| serves(process)).count()
}

/// While one lives that served, and was neither told to stop nor rolled back nor relieved for good by a successor whose
/// probation is over, somebody accepts at this very moment. A death leaves a gap until the end of file is read and the
/// accept loops run again; clients wait in the kernel's queue meanwhile.
fn somebody_accepts(world: &World) -> bool {
    let living = || world.processes.iter().filter(|process| process.is_alive());
    let owed = living().any(|process| process.owes);
    let accepts = living().any(|process| process.accepting);
    let recovers = world.killed && (0..world.processes.len()).any(|id| recovers(world, id));
    !owed || accepts || recovers
}

/// Whether a process has a death still to hear of, or has heard and begins to accept.
fn recovers(world: &World, id: usize) -> bool {
    let process = &world.processes[id];
    let mut below = world.channels.iter().flatten().filter(|channel| channel.predecessor == id);
    let hears =
        below.any(|channel| channel.next(End::Predecessor).is_some() && !channel.successor_open);
    process.is_alive() && (hears || process.orders.contains(&Order::Open))
}

/// Of the successors of one process, at most one lives with a commit and was not sent away.
fn one_commit(world: &World) -> bool {
    (0..world.processes.len()).all(|predecessor| {
        let commits = world.channels.iter().enumerate().filter(|(successor, channel)| {
            channel.as_ref().is_some_and(|channel| {
                channel.predecessor == predecessor && channel.committed && !channel.dismissed
            }) && world.processes[*successor].is_alive()
        });
        commits.count() <= 1
    })
}

/// One whose predecessor died has nobody who could ask, and serves all the same.
fn answered_first(world: &World) -> bool {
    let committed = |channel: &&crate::world::Channel| channel.committed && !channel.late;
    world.channels.iter().flatten().filter(committed).all(|channel| channel.answered)
}

/// Whether nothing is on its way: no message, no end of file, no order, nobody initialising.
fn is_at_rest(world: &World) -> bool {
    let mut channels = world.channels.iter().flatten();
    let mut living = world.processes.iter().filter(|process| process.is_alive());
    world.ended.is_empty()
        && channels.all(|channel| {
            channel.next(End::Predecessor).is_none()
                && channel.next(End::Successor).is_none()
                && !channel.probing
        })
        && living.all(|process| {
            let is_told = process.passes_on || process.is_unwanted;
            process.orders.is_empty() && !process.initialising && !is_told
        })
}

/// Whether somebody waits for a successor, or for its process, within a bound.
fn is_awaited(world: &World) -> bool {
    let mut living = world.processes.iter().filter(|process| process.is_alive());
    living.any(|process| {
        let mut timers = process.generation.timers();
        timers.any(|(timer, _)| matches!(timer, Timer::Below(_) | Timer::Process(_)))
    })
}

/// Whoever serves is found under the control name.
fn name_leads(world: &World) -> bool {
    let serving = world.processes.iter().position(serves);
    serving.is_none_or(|serving| world.name == serving)
}

/// Who was not told to stop, was not rolled back and never saw a successor accept, serves as if nothing had happened.
fn failure_changes_nothing(world: &World) -> bool {
    world.processes.iter().filter(|process| process.is_alive() && process.owes).all(|process| {
        process.handed_over || (serves(process) && process.accepting && process.green)
    })
}
