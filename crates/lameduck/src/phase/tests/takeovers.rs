//! One script for each way a takeover can go, named after what it promises.

use super::super::Config;
use super::{check, config, ms};

#[test]
fn a_successor_takes_over_and_the_predecessor_leaves_after_probation() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms gate-closed -> settle | settle until 601ms settle
        502ms settled -> tell-finish | finish until 5500ms probation
        510ms idle -> | finish until 5500ms probation
        5500ms tick -> confirm close-resources | closing
        5501ms closed -> finished | stopped
        ",
    );
}

#[test]
fn long_work_stays_with_its_version() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms gate-closed -> settle | settle until 601ms settle
        502ms settled -> tell-finish | finish until 5500ms probation
        5500ms tick -> confirm | finish
        5501ms lost -> | finish
        7200000ms idle -> close-resources | closing
        7200001ms closed -> finished | stopped
        ",
    );
}

#[test]
fn a_takeover_drain_with_a_deadline_cuts_at_it() {
    check(
        &Config { upgrade_grace: Some(ms(9000)), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms gate-closed -> settle | settle until 601ms settle
        502ms settled -> tell-finish | finish until 5500ms probation
        5500ms tick -> confirm | finish until 9500ms deadline
        9500ms tick -> force close-by-9550ms | closing until 9550ms after-force
        9550ms closed -> deadline-exceeded | stopped
        ",
    );
}

#[test]
fn the_deadline_of_a_takeover_drain_leaves_room_for_the_probation() {
    check(
        &Config { upgrade_grace: Some(ms(400)), reserve: ms(200), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        # Probation ends at 5500 ms; closing has its reserve and the time after a force beyond that.
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms gate-closed -> settle | settle until 601ms settle
        502ms settled -> tell-finish | finish until 5500ms probation
        510ms idle -> | finish until 5500ms probation
        5500ms tick -> confirm close-by-5750ms | closing until 5750ms closing-deadline
        5501ms closed -> finished | stopped
        ",
    );
}

#[test]
fn a_successor_that_fails_to_start_changes_nothing() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        20ms failed -> | serving
        30ms asked 0 -> admit | serving
        40ms lost -> | serving
        50ms asked 0 -> admit | serving
        ",
    );
}

#[test]
fn a_successor_that_accepts_after_it_was_given_up_changes_nothing() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        20ms failed -> | serving
        30ms accepting -> | serving
        ",
    );
}

#[test]
fn each_refusal_has_its_reason() {
    check(
        &Config { lame_duck: ms(300), ..config() },
        "
        0ms asked 0 -> refuse-not-serving | starting
        1ms ready -> accept show-ready | serving
        2ms asked 3 -> refuse-too-many-generations | serving
        3ms asked 2 -> admit | serving
        4ms asked 0 -> refuse-another-starting | serving
        5ms failed -> | serving
        6ms stop TERM -> show-not-ready mark-answers | lame-duck until 306ms lame-duck
        7ms asked 0 -> refuse-not-serving | lame-duck until 306ms lame-duck
        306ms tick -> close-gate | gate until 1006ms deadline
        307ms asked 0 -> refuse-not-serving | gate until 1006ms deadline
        308ms force QUIT -> force close-by-358ms | closing until 358ms after-force
        309ms asked 0 -> refuse-not-serving | closing until 358ms after-force
        310ms closed -> forced-by-QUIT | stopped
        311ms asked 0 -> refuse-not-serving | stopped
        ",
    );
}

#[test]
fn a_stop_wins_over_a_takeover_under_way() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        20ms stop TERM -> refuse-not-serving show-not-ready mark-answers close-gate | gate until 1020ms deadline
        21ms failed -> | gate until 1020ms deadline
        22ms accepting -> | gate until 1020ms deadline
        ",
    );
}

#[test]
fn a_force_wins_over_a_takeover_under_way() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        20ms force QUIT -> refuse-not-serving show-not-ready close-gate force close-by-70ms | closing until 70ms after-force
        ",
    );
}

#[test]
fn a_stop_in_a_takeover_drain_sets_a_deadline_and_a_second_forces() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms gate-closed -> settle | settle until 601ms settle
        502ms settled -> tell-finish | finish until 5500ms probation
        600ms stop TERM -> confirm | finish until 1600ms deadline
        700ms lost -> | finish until 1600ms deadline
        800ms stop TERM -> force close-by-850ms | closing until 850ms after-force
        850ms tick -> forced-by-TERM | stopped
        ",
    );
}

#[test]
fn a_stop_in_a_takeover_drain_keeps_the_settle_that_runs() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms gate-closed -> settle | settle until 601ms settle
        502ms stop TERM -> confirm | settle until 601ms settle
        601ms tick -> tell-finish | finish until 1502ms deadline
        ",
    );
}

#[test]
fn a_stop_ends_the_wait_for_the_end_of_probation() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms gate-closed -> settle | settle until 601ms settle
        502ms settled -> tell-finish | finish until 5500ms probation
        510ms idle -> | finish until 5500ms probation
        600ms stop TERM -> confirm close-by-1600ms | closing until 1600ms closing-deadline
        601ms closed -> finished | stopped
        ",
    );
}

#[test]
fn a_first_stop_lets_a_takeover_drain_close_its_resources_and_a_second_does_not() {
    check(
        &Config { probation: ms(0), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate confirm | gate
        501ms gate-closed -> settle | settle until 601ms settle
        502ms settled -> tell-finish | finish
        510ms idle -> close-resources | closing
        600ms stop TERM -> | closing until 1600ms closing-deadline
        700ms stop TERM -> forced-by-TERM | stopped
        ",
    );
}

#[test]
fn a_stop_cannot_move_the_deadline_of_a_takeover_drain_away() {
    check(
        &Config { probation: ms(100), upgrade_grace: Some(ms(500)), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 600ms probation
        600ms tick -> confirm | gate until 1000ms deadline
        700ms stop TERM -> | gate until 1000ms deadline
        1000ms tick -> force close-by-1050ms | closing until 1050ms after-force
        ",
    );
}

#[test]
fn a_force_in_a_takeover_drain_ends_at_once() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms force QUIT -> force confirm close-by-551ms | closing until 551ms after-force
        502ms lost -> | closing until 551ms after-force
        503ms closed -> forced-by-QUIT | stopped
        ",
    );
}

#[test]
fn a_successor_lost_in_probation_gives_the_service_back() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms gate-closed -> settle | settle until 601ms settle
        502ms settled -> tell-finish | finish until 5500ms probation
        510ms idle -> | finish until 5500ms probation
        900ms lost -> resume | serving
        # Nothing of the drain is left over: another upgrade and a stop start afresh.
        6000ms asked 0 -> admit | serving
        6100ms failed -> | serving
        7000ms stop TERM -> show-not-ready mark-answers close-gate | gate until 8000ms deadline
        7001ms gate-closed -> settle | settle until 7101ms settle
        7002ms settled -> tell-finish | finish until 8000ms deadline
        7003ms idle -> close-by-8000ms | closing until 8000ms closing-deadline
        ",
    );
}

#[test]
fn a_successor_lost_while_settling_gives_the_service_back() {
    check(
        &Config { upgrade_grace: Some(ms(9000)), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms gate-closed -> settle | settle until 601ms settle
        502ms lost -> resume | serving
        503ms settled -> | serving
        ",
    );
}

/// The first gate acknowledges only after the service was given back and handed over again.
#[test]
fn the_acknowledgement_of_an_earlier_gate_is_not_taken_for_that_of_a_later_one() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms lost -> resume | serving
        502ms asked 0 -> admit | serving
        503ms accepting -> hand-over-gate | gate until 5503ms probation
        504ms gate-closed -> | gate until 5503ms probation
        505ms gate-closed -> settle | settle until 605ms settle
        ",
    );
}

#[test]
fn a_successor_that_keeps_the_service_ends_probation() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        # Nothing to keep yet.
        11ms keeps -> | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms gate-closed -> settle | settle until 601ms settle
        502ms settled -> tell-finish | finish until 5500ms probation
        510ms idle -> | finish until 5500ms probation
        600ms keeps -> confirm close-resources | closing
        601ms lost -> | closing
        602ms closed -> finished | stopped
        ",
    );
}

#[test]
fn a_version_that_is_rolled_back_hands_its_gate_over_and_finishes() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms rolled-back -> hand-over-gate | gate
        11ms gate-closed -> settle | settle until 111ms settle
        12ms settled -> tell-finish | finish
        # The first stop it hears gives it a deadline; it has nothing to show red.
        20ms stop TERM -> | finish until 1020ms deadline
        30ms idle -> close-by-1020ms | closing until 1020ms closing-deadline
        31ms closed -> finished | stopped
        ",
    );
}

#[test]
fn a_version_that_is_rolled_back_turns_its_own_successor_away() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        20ms rolled-back -> refuse-not-serving hand-over-gate | gate
        21ms failed -> | gate
        22ms asked 0 -> refuse-not-serving | gate
        ",
    );
}

#[test]
fn a_version_that_is_rolled_back_while_its_successor_is_in_probation_has_no_way_back() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        500ms accepting -> hand-over-gate | gate until 5500ms probation
        501ms rolled-back -> confirm | gate
        502ms lost -> | gate
        503ms gate-closed -> settle | settle until 603ms settle
        504ms settled -> tell-finish | finish
        505ms idle -> close-resources | closing
        506ms rolled-back -> | closing
        ",
    );
}

#[test]
fn a_rollback_before_ready_ends_at_once_and_one_in_the_lame_duck_shares_the_gate() {
    check(
        &Config { upgrade_grace: Some(ms(400)), ..config() },
        "
        5ms rolled-back -> tell-finish | finish until 405ms deadline
        6ms ready -> | finish until 405ms deadline
        ",
    );
    check(
        &Config { lame_duck: ms(300), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers | lame-duck until 310ms lame-duck
        20ms rolled-back -> hand-over-gate | gate until 1010ms deadline
        ",
    );
}
