//! One script for each way an attempt can go, seen from the version that takes over.

use std::time::Instant;

use super::super::successor::{Action, Bound, Input, Presence, Successor};
use super::super::wire::{Reason, Status, Why};
use super::{Done, check as check_script, hello, limits, message, message_word, ms, ready};

#[track_caller]
fn check(script: &str) {
    let start = Instant::now();
    let mut machine = Successor::new(start, limits(), hello(1, 1));
    check_script(script, start, |now, words| {
        if words != ["connected"] {
            machine.handle(now, input(words));
        }
        let actions = std::iter::from_fn(|| machine.poll_action()).map(|action| word(&action));
        Done {
            actions: actions.collect(),
            waits: machine.poll_timeout().zip(machine.bound().map(bound_word)),
            note: note(&machine),
        }
    });
}

fn note(machine: &Successor) -> Option<&'static str> {
    match (machine.has_way_back(), machine.holds_alone()) {
        (true, _) => Some("probation"),
        (false, true) => Some("alone"),
        (false, false) => None,
    }
}

fn input(words: &[&str]) -> Input {
    match words {
        ["gone"] => Input::Gone,
        ["garbage"] => Input::Unreadable("not a frame".to_owned()),
        ["ready"] => Input::Ready(ready(&["http"], &["admin"])),
        ["ready", "wrong"] => Input::Ready(ready(&["http"], &[])),
        ["status"] => Input::Status(Status { text: "warming".to_owned(), extend: ms(5) }),
        ["cannot-serve"] => Input::CannotServe(Why::new(Reason::Failed, "")),
        ["accepting"] => Input::Accepting,
        ["keep"] => Input::Keep,
        ["give-back-asked"] => Input::GiveBackAsked(Why::new(Reason::Operator, "")),
        ["tick"] => Input::Tick,
        words => Input::Received(message(words).unwrap_or_else(|| panic!("{words:?}"))),
    }
}

fn word(action: &Action) -> String {
    match action {
        Action::Send(message) => message_word(message),
        Action::Initialise(inventory) => format!("initialise({})", inventory.listeners.len()),
        Action::Accept { states, predecessor: Presence::Here } => {
            format!("accept({})", states.len())
        }
        Action::Accept { states, predecessor: Presence::Lost } => {
            format!("accept-late({})", states.len())
        }
        Action::Answer => "answer".to_owned(),
        Action::Adopt(_) => "adopt".to_owned(),
        Action::PredecessorLost => "predecessor-lost".to_owned(),
        Action::Confirmed => "confirmed".to_owned(),
        Action::GiveBack(why) => format!("give-back({:?})", why.reason),
        Action::NotGivenBack(why) => format!("not-given-back({:?})", why.reason),
        Action::Failed(why) => format!("failed({:?})", why.reason),
        Action::Close => "close".to_owned(),
    }
}

fn bound_word(bound: Bound) -> String {
    format!("{bound:?}").to_lowercase()
}

#[test]
fn a_takeover_goes_through_every_step() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer part -> | until 20ms offer
        2ms Offer rest -> initialise(2) |
        100ms status -> Status |
        200ms ready -> Ready | until 350ms commit
        200ms Probe -> answer | until 350ms commit
        201ms Commit -> accept(1) |
        202ms accepting -> Accepting | probation
        203ms Connection -> adopt | probation
        204ms Drained -> | probation
        5202ms Final -> confirmed | alone
        5203ms Connection -> adopt | alone
        5300ms gone -> | alone
        ",
    );
}

#[test]
fn a_refusal_ends_the_attempt() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Refuse -> failed(Failed) close |
        2ms gone -> |
        ",
    );
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms Refuse -> failed(Failed) close |
        3ms ready -> |
        4ms gone -> |
        ",
    );
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Refuse -> failed(Failed) close |
        4ms Commit -> |
        ",
    );
}

#[test]
fn a_predecessor_that_says_nothing_is_not_waited_for() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        20ms tick -> Refuse(TimedOut) failed(TimedOut) close |
        ",
    );
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        152ms tick -> Refuse(TimedOut) failed(TimedOut) close |
        153ms Commit -> |
        ",
    );
}

#[test]
fn a_predecessor_that_ends_before_its_offer_leaves_nothing() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer part -> | until 20ms offer
        2ms gone -> failed(Failed) close |
        ",
    );
}

#[test]
fn a_predecessor_that_dies_before_the_commit_is_replaced_late() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms gone -> predecessor-lost | alone
        300ms ready -> accept-late(0) | alone
        301ms accepting -> | alone
        ",
    );
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms gone -> predecessor-lost accept-late(0) | alone
        4ms accepting -> | alone
        ",
    );
}

#[test]
fn a_predecessor_that_dies_after_the_commit_is_not_missed() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Commit -> accept(1) |
        4ms gone -> predecessor-lost | alone
        5ms accepting -> | alone
        ",
    );
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Commit -> accept(1) |
        4ms accepting -> Accepting | probation
        5ms gone -> predecessor-lost | alone
        ",
    );
}

#[test]
fn a_program_that_cannot_serve_says_so() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms cannot-serve -> Refuse(Failed) failed(Failed) close |
        ",
    );
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms gone -> predecessor-lost | alone
        3ms cannot-serve -> failed(Failed) close |
        ",
    );
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Commit -> accept(1) |
        4ms cannot-serve -> Refuse(Failed) failed(Failed) close |
        5ms accepting -> |
        ",
    );
}

#[test]
fn a_program_that_forgets_a_listener_is_told_before_anything_changes() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready wrong -> Refuse(Names) failed(Names) close |
        ",
    );
}

#[test]
fn a_word_out_of_place_ends_the_attempt_before_the_accept_and_not_after() {
    for word in ["Commit", "Accepting", "Drained", "garbage", "Rollback"] {
        check(&format!(
            "
            0ms connected -> Hello | until 20ms offer
            1ms Offer -> initialise(2) |
            2ms {word} -> Refuse(Unexpected) failed(Unexpected) close |
            ",
        ));
    }
    for word in ["Commit", "Accepting", "Offer", "garbage", "Refuse"] {
        check(&format!(
            "
            0ms connected -> Hello | until 20ms offer
            1ms Offer -> initialise(2) |
            2ms ready -> Ready | until 152ms commit
            3ms Commit -> accept(1) |
            4ms accepting -> Accepting | probation
            5ms {word} -> | probation
            ",
        ));
    }
}

#[test]
fn an_offer_that_contradicts_itself_is_refused() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer part -> | until 20ms offer
        2ms Offer -> Refuse(Names) failed(Names) close |
        ",
    );
}

#[test]
fn a_rollback_is_obeyed_whenever_it_comes() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Commit -> accept(1) |
        4ms Rollback -> give-back(Operator) |
        5ms accepting -> |
        6ms gone -> close |
        ",
    );
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Commit -> accept(1) |
        4ms accepting -> Accepting | probation
        5ms give-back-asked -> Resume(Operator) | until 95ms returning
        6ms Connection -> adopt | until 95ms returning
        7ms Rollback -> give-back(Operator) |
        8ms Rollback -> |
        ",
    );
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Commit -> accept(1) |
        4ms accepting -> Accepting | probation
        5ms keep -> Final |
        6ms Rollback -> give-back(Operator) |
        ",
    );
}

#[test]
fn a_service_given_back_too_late_is_kept() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Commit -> accept(1) |
        4ms accepting -> Accepting | probation
        5ms give-back-asked -> Resume(Operator) | until 95ms returning
        6ms Final -> confirmed | alone
        ",
    );
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Commit -> accept(1) |
        4ms accepting -> Accepting | probation
        5ms give-back-asked -> Resume(Operator) | until 95ms returning
        6ms gone -> predecessor-lost | alone
        ",
    );
}

#[test]
fn a_predecessor_that_does_not_take_the_service_back_in_time_leaves_it_here() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Commit -> accept(1) |
        4ms accepting -> Accepting | probation
        5ms give-back-asked -> Resume(Operator) | until 95ms returning
        95ms tick -> not-given-back(TimedOut) | probation
        96ms Rollback -> give-back(Operator) |
        ",
    );
}

#[test]
fn a_version_that_keeps_the_service_holds_it_alone_once_that_is_confirmed() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms ready -> Ready | until 152ms commit
        3ms Commit -> accept(1) |
        4ms accepting -> Accepting | probation
        5ms keep -> Final |
        6ms Connection -> adopt |
        7ms Final -> confirmed | alone
        ",
    );
}

/// It can't have been replaced yet, and a stop says that it can't serve.
#[test]
fn there_is_nothing_to_keep_before_the_accept() {
    check(
        "
        0ms connected -> Hello | until 20ms offer
        1ms Offer -> initialise(2) |
        2ms keep -> |
        3ms ready -> Ready | until 153ms commit
        4ms Commit -> accept(1) |
        5ms keep -> |
        6ms accepting -> Accepting | probation
        ",
    );
}
