//! The takeover checked exhaustively: every order in which messages arrive, timers fire, processes are killed and the
//! operator acts, with the very machines that run in the service.

#[path = "takeover_model/driver.rs"]
mod driver;
#[path = "takeover_model/laws.rs"]
mod laws;
#[path = "takeover_model/world.rs"]
mod world;

use stateright::{Checker, HasDiscoveries, Model};

use driver::Fault;
use world::Takeovers;

/// The whole space of `model`: no law is broken anywhere, and each notable state is reached.
#[track_caller]
fn holds(model: Takeovers, at_least: usize) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    println!("{states} states, the deepest after {} steps", checker.max_depth());
    assert!(states >= at_least, "only {states} states were reached");
}

/// A model with a fault in it breaks a law: the checker sees what it is for.
#[track_caller]
fn is_caught(model: Takeovers, law: &'static str) {
    let found = HasDiscoveries::AnyOf([law].into());
    let checker = model.checker().threads(2).finish_when(found).spawn_bfs().join();
    let broken: Vec<&str> =
        checker.discoveries().into_keys().filter(|name| laws::is_law(name)).collect();
    assert!(broken.contains(&law), "{law:?} was not found broken, but {broken:?}");
}

/// Two versions; anything may happen, as often as it can.
#[test]
fn a_takeover_with_deaths_stops_and_rollbacks_at_every_step() {
    holds(
        Takeovers {
            processes: 2,
            deaths: 2,
            stops: 2,
            rollbacks: 2,
            reloads: 0,
            probes: false,
            fault: None,
        },
        1_000,
    );
}

/// Three versions: a second attempt beside the first, after it failed, after it was rolled back, and a chain.
#[test]
fn two_takeovers_with_deaths_stops_and_rollbacks_at_every_step() {
    holds(
        Takeovers {
            processes: 3,
            deaths: 2,
            stops: 2,
            rollbacks: 2,
            reloads: 0,
            probes: false,
            fault: None,
        },
        50_000,
    );
}

#[test]
fn three_takeovers_with_a_death_at_every_step() {
    holds(
        Takeovers {
            processes: 4,
            deaths: 1,
            stops: 0,
            rollbacks: 0,
            reloads: 0,
            probes: false,
            fault: None,
        },
        30_000,
    );
}

/// Signals to upgrade, to any process at any moment, also to one that serves no more.
#[test]
fn each_signal_is_followed_by_an_upgrade_or_refused() {
    holds(
        Takeovers {
            processes: 2,
            deaths: 1,
            stops: 1,
            rollbacks: 1,
            reloads: 3,
            probes: false,
            fault: None,
        },
        15_000,
    );
    holds(
        Takeovers {
            processes: 3,
            deaths: 1,
            stops: 0,
            rollbacks: 0,
            reloads: 2,
            probes: false,
            fault: None,
        },
        10_000,
    );
    holds(
        Takeovers {
            processes: 3,
            deaths: 0,
            stops: 1,
            rollbacks: 1,
            reloads: 2,
            probes: false,
            fault: None,
        },
        100_000,
    );
}

#[test]
fn a_generation_that_loses_a_signal_which_is_for_another_is_caught() {
    let faulty = Takeovers { reloads: 2, ..faulty(3, Fault::LosesSignals) };
    is_caught(faulty, laws::SIGNALS_COUNT);
}

/// The same where every version asks to be probed: answers, good and bad, at any moment, and none at all.
#[test]
fn a_takeover_with_a_probe_and_deaths_stops_and_rollbacks_at_every_step() {
    holds(
        Takeovers {
            processes: 2,
            deaths: 2,
            stops: 2,
            rollbacks: 2,
            reloads: 0,
            probes: true,
            fault: None,
        },
        1_000,
    );
}

#[test]
fn two_takeovers_with_probes_and_a_death_at_every_step() {
    holds(
        Takeovers {
            processes: 3,
            deaths: 1,
            stops: 1,
            rollbacks: 0,
            reloads: 0,
            probes: true,
            fault: None,
        },
        10_000,
    );
}

fn faulty(processes: usize, fault: Fault) -> Takeovers {
    Takeovers {
        processes,
        deaths: 1,
        stops: 0,
        rollbacks: 1,
        reloads: 0,
        probes: false,
        fault: Some(fault),
    }
}

#[test]
fn a_predecessor_that_stops_accepting_at_the_commit_is_caught() {
    is_caught(faulty(2, Fault::ClosesGateAtCommit), laws::SOMEBODY_ACCEPTS);
}

#[test]
fn a_predecessor_that_does_not_take_the_service_back_is_caught() {
    is_caught(faulty(2, Fault::IgnoresLoss), laws::SOMEBODY_ACCEPTS);
}

#[test]
fn a_predecessor_that_rolls_back_before_it_accepts_is_caught() {
    is_caught(faulty(2, Fault::RollsBackTooEarly), laws::SOMEBODY_ACCEPTS);
}

#[test]
fn a_predecessor_that_admits_another_beside_a_hanging_successor_is_caught() {
    is_caught(faulty(3, Fault::LetsTheDoomedLive), laws::ONE_COMMIT);
}

#[test]
fn a_predecessor_that_gives_up_without_a_word_is_caught() {
    is_caught(faulty(2, Fault::ClosesWithoutAWord), laws::ONE_SERVES);
}

#[test]
fn a_version_that_admits_a_successor_in_its_own_probation_is_caught() {
    is_caught(faulty(3, Fault::AdmitsInProbation), laws::ONE_SERVES);
}

#[test]
fn a_successor_that_fails_the_service_with_it_is_caught() {
    is_caught(faulty(2, Fault::StopsServingOnFailure), laws::FAILURE_CHANGES_NOTHING);
}

#[test]
fn a_predecessor_that_admits_another_while_it_takes_the_service_back_is_caught() {
    is_caught(faulty(3, Fault::AdmitsWhileTakingBack), laws::ONE_COMMIT);
}

#[test]
fn a_predecessor_that_takes_any_answer_to_its_probe_is_caught() {
    let model = Takeovers { probes: true, ..faulty(2, Fault::TakesAnyAnswer) };
    is_caught(model, laws::ANSWERED_FIRST);
}
