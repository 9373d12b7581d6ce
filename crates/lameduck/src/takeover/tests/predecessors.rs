//! One script for each way an attempt can go, seen from the version in service.

use std::time::Instant;

use super::super::predecessor::{Action, Bound, Input, Predecessor};
use super::super::wire::{Reason, Why};
use super::{Done, check as check_script, inventory, limits, message, message_word, state};

#[track_caller]
fn check(script: &str) {
    let start = Instant::now();
    let mut machine = Predecessor::new(start, limits());
    check_script(script, start, |now, words| {
        machine.handle(now, input(words));
        let actions = std::iter::from_fn(|| machine.poll_action()).map(|action| word(&action));
        Done {
            actions: actions.collect(),
            waits: machine.poll_timeout().zip(machine.bound().map(bound_word)),
            note: note(&machine),
        }
    });
}

fn note(machine: &Predecessor) -> Option<&'static str> {
    match (machine.is_over(), machine.has_way_back(), machine.moves_connections()) {
        (true, _, _) => Some("over"),
        (false, true, _) => Some("probation"),
        (false, false, true) => Some("moves"),
        (false, false, false) => None,
    }
}

fn input(words: &[&str]) -> Input {
    match words {
        ["gone"] => Input::Gone,
        ["garbage"] => Input::Unreadable("not a frame".to_owned()),
        ["admitted"] => Input::Admitted(inventory()),
        ["admitted", "twice-named"] => {
            let mut inventory = inventory();
            inventory.listeners.extend(inventory.listeners.clone());
            Input::Admitted(inventory)
        }
        ["turned-away"] => Input::TurnedAway(Why::new(Reason::NotServing, "")),
        ["answered"] => Input::Probed(Ok(())),
        ["answered", "badly"] => Input::Probed(Err("answered 500".to_owned())),
        ["saved"] => Input::StateSaved(vec![state("counter")]),
        ["not-saved"] => Input::StateNotSaved(Why::new(Reason::State, "")),
        ["resumed"] => Input::Resumed,
        ["confirmed"] => Input::Confirmed,
        ["rollback-asked"] => Input::RollbackAsked(Why::new(Reason::Operator, "")),
        ["drained"] => Input::Drained,
        ["tick"] => Input::Tick,
        words => Input::Received(message(words).unwrap_or_else(|| panic!("{words:?}"))),
    }
}

fn word(action: &Action) -> String {
    match action {
        Action::Send(message) => message_word(message),
        Action::AskToAdmit(_) => "ask".to_owned(),
        Action::Progress(text) => format!("progress({text})"),
        Action::Probe { path } => format!("probe({path})"),
        Action::SaveState => "save".to_owned(),
        Action::SuccessorAccepting(ready) => {
            format!("accepting(uses:{},drops:{})", ready.used.join(","), ready.dropped.join(","))
        }
        Action::SuccessorLost(why) => format!("lost({:?})", why.reason),
        Action::SuccessorKeeps => "keeps".to_owned(),
        Action::Failed(why) => format!("failed({:?})", why.reason),
        Action::Kill(why) => format!("kill({:?})", why.reason),
        Action::Close => "close".to_owned(),
    }
}

fn bound_word(bound: Bound) -> String {
    format!("{bound:?}").to_lowercase()
}

#[test]
fn a_successor_takes_over() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        300ms Ready -> save | until 350ms state
        301ms saved -> Commit | until 371ms accepting
        302ms Accepting -> accepting(uses:http,drops:admin) | probation
        400ms drained -> Drained | probation
        5302ms confirmed -> Final | moves
        5400ms gone -> close | over
        ",
    );
}

#[test]
fn a_successor_that_answers_its_probe_well_takes_over() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        300ms Ready probed -> probe(/health) | until 340ms probe
        310ms Status -> progress(warming) | until 340ms probe
        330ms answered -> save | until 380ms state
        331ms answered badly -> | until 380ms state
        332ms saved -> Commit | until 402ms accepting
        ",
    );
}

#[test]
fn a_successor_that_does_not_answer_its_probe_well_is_sent_away() {
    let probed = "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        300ms Ready probed -> probe(/health) | until 340ms probe
        ";
    for (then, comes) in [
        ("310ms answered badly", "Refuse(Failed) failed(Failed) close | over"),
        ("340ms tick", "Refuse(TimedOut) failed(TimedOut) close | over"),
        ("310ms gone", "failed(Failed) close | over"),
        ("310ms Refuse", "failed(Failed) close | over"),
        ("310ms garbage", "Refuse(Unexpected) failed(Unexpected) close | over"),
        ("310ms Accepting", "Refuse(Unexpected) failed(Unexpected) close | over"),
        ("310ms turned-away", "Refuse(NotServing) failed(NotServing) close | over"),
    ] {
        check(&format!("{probed}\n{then} -> {comes}\n400ms answered -> | over"));
    }
}

#[test]
fn a_bad_answer_is_told_with_the_generation_the_path_and_the_bound() {
    let said = |last: Input| {
        let start = Instant::now();
        let mut machine = Predecessor::new(start, limits());
        for words in [&["Hello"][..], &["admitted"], &["Ready", "probed"]] {
            machine.handle(start, input(words));
        }
        machine.handle(start + super::ms(40), last);
        let told = std::iter::from_fn(|| machine.poll_action());
        let mut failed = told.filter_map(|action| match action {
            Action::Failed(why) => Some(why.text),
            _ => None,
        });
        failed.next().unwrap_or_default()
    };
    let bad = Input::Probed(Err("answered 500 Oh No".to_owned()));
    assert_eq!(said(bad), "generation 2 answered 500 Oh No to GET /health");
    assert_eq!(said(Input::Tick), "generation 2 gave no answer in 40ms to GET /health");
}

#[test]
fn a_peer_that_says_nothing_is_not_waited_for() {
    check("10ms tick -> Refuse(TimedOut) close | over");
}

#[test]
fn a_peer_that_speaks_something_else_is_sent_away() {
    check("1ms garbage -> Refuse(Unexpected) close | over");
    check("1ms Ready -> Refuse(Unexpected) close | over");
    check("1ms gone -> close | over");
    check("1ms Refuse -> close | over");
}

#[test]
fn protocols_that_do_not_overlap_are_named_in_the_refusal() {
    check("1ms Hello newer -> Refuse(Protocol) close | over");
    check("1ms Hello from older to newer -> ask | until 10ms hello");
    let start = Instant::now();
    let mut machine = Predecessor::new(start, limits());
    machine.handle(start, input(&["Hello", "newer"]));
    let Some(Action::Send(super::Message::Refuse(why))) = machine.poll_action() else {
        panic!("no refusal");
    };
    assert_eq!(why.text, "this version speaks 1 to 1, the other 2 to 3");
}

#[test]
fn a_successor_that_is_not_admitted_is_told_why() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms turned-away -> Refuse(NotServing) close | over
        2ms gone -> | over
        ",
    );
}

#[test]
fn a_successor_that_leaves_before_it_is_admitted_fails_only_if_it_is_admitted_then() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms gone -> close | over
        1ms admitted -> failed(Failed) | over
        ",
    );
}

#[test]
fn what_cannot_be_offered_is_not() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted twice-named -> Refuse(Names) failed(Names) close | over
        ",
    );
}

#[test]
fn a_successor_that_hangs_is_given_up() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        601ms tick -> Refuse(TimedOut) failed(TimedOut) close | over
        602ms Ready -> | over
        ",
    );
}

#[test]
fn a_successor_that_says_what_it_does_gets_more_time_within_a_bound() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        100ms Status -> progress(warming) | until 601ms takeover
        200ms Status 100 -> progress(warming) | until 601ms takeover
        500ms Status 700 -> progress(warming) | until 1200ms takeover
        1100ms Status 99999 -> progress(warming) | until 3001ms takeover
        3000ms Status 99999 -> progress(warming) | until 3001ms takeover
        3001ms tick -> Refuse(TimedOut) failed(TimedOut) close | over
        ",
    );
}

#[test]
fn a_successor_that_ends_before_the_commit_changes_nothing() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms gone -> failed(Failed) close | over
        ",
    );
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms gone -> failed(Failed) close | over
        4ms saved -> | over
        ",
    );
}

#[test]
fn a_successor_that_says_why_it_cannot_serve_is_quoted() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Refuse -> failed(Failed) close | over
        ",
    );
}

#[test]
fn a_successor_with_other_names_is_refused() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready wrong -> Refuse(Names) failed(Names) close | over
        ",
    );
}

#[test]
fn a_state_that_cannot_be_saved_ends_the_attempt() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms not-saved -> Refuse(State) failed(State) close | over
        ",
    );
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms Status -> progress(warming) | until 52ms state
        52ms tick -> Refuse(TimedOut) failed(TimedOut) close | over
        ",
    );
}

#[test]
fn a_stop_turns_a_successor_away_at_any_step() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms turned-away -> Refuse(NotServing) failed(NotServing) close | over
        ",
    );
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms turned-away -> Refuse(NotServing) failed(NotServing) close | over
        ",
    );
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms saved -> Commit | until 73ms accepting
        4ms turned-away -> failed(NotServing) Rollback(NotServing) |
        5ms Accepting -> |
        6ms gone -> close | over
        ",
    );
}

#[test]
fn a_successor_that_ends_between_commit_and_accept_changes_nothing() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms saved -> Commit | until 73ms accepting
        4ms garbage -> | until 73ms accepting
        5ms gone -> failed(Failed) close | over
        ",
    );
}

/// The one window in which a hanging successor may have connections: nobody else is let in before its end.
#[test]
fn a_successor_that_hangs_with_the_commit_is_killed_before_another_is_admitted() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms saved -> Commit | until 73ms accepting
        73ms tick -> Rollback(TimedOut) kill(TimedOut) |
        74ms Accepting -> |
        75ms turned-away -> |
        76ms gone -> failed(TimedOut) close | over
        ",
    );
}

#[test]
fn a_successor_lost_in_probation_gives_the_service_back() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms saved -> Commit | until 73ms accepting
        4ms Accepting -> accepting(uses:http,drops:admin) | probation
        5ms gone -> lost(Failed) close | over
        6ms resumed -> | over
        ",
    );
}

#[test]
fn a_rollback_tells_the_successor_once_somebody_else_accepts() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms saved -> Commit | until 73ms accepting
        4ms Accepting -> accepting(uses:http,drops:admin) | probation
        5ms rollback-asked -> lost(Operator) |
        6ms drained -> |
        7ms resumed -> Rollback(Operator) |
        8ms Final -> |
        9ms gone -> close | over
        ",
    );
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms saved -> Commit | until 73ms accepting
        4ms Accepting -> accepting(uses:http,drops:admin) | probation
        5ms Resume -> lost(Failed) |
        6ms resumed -> Rollback(Failed) |
        ",
    );
}

#[test]
fn a_stop_while_the_service_is_taken_back_leaves_it_where_it_is() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms saved -> Commit | until 73ms accepting
        4ms Accepting -> accepting(uses:http,drops:admin) | probation
        5ms Resume -> lost(Failed) |
        6ms confirmed -> Final | moves
        7ms resumed -> | moves
        ",
    );
}

#[test]
fn a_rollback_asked_for_too_late_changes_nothing() {
    check(
        "
        1ms rollback-asked -> | until 10ms hello
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms saved -> Commit | until 73ms accepting
        4ms Accepting -> accepting(uses:http,drops:admin) | probation
        5ms confirmed -> Final | moves
        6ms rollback-asked -> | moves
        7ms Resume -> | moves
        8ms drained -> Drained | moves
        9ms gone -> close | over
        ",
    );
}

#[test]
fn a_successor_that_keeps_the_service_gets_it_confirmed() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms saved -> Commit | until 73ms accepting
        4ms Accepting -> accepting(uses:http,drops:admin) | probation
        5ms Final -> keeps | moves
        6ms confirmed -> Final | moves
        7ms gone -> close | over
        ",
    );
}

#[test]
fn nobody_who_accepts_is_turned_away() {
    check(
        "
        1ms Hello -> ask | until 10ms hello
        1ms admitted -> Offer | until 601ms takeover
        2ms Ready -> save | until 52ms state
        3ms saved -> Commit | until 73ms accepting
        4ms Accepting -> accepting(uses:http,drops:admin) | probation
        5ms turned-away -> | probation
        ",
    );
}
