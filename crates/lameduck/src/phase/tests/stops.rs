//! One script for each edge of the table, named after what it promises.

use super::super::Config;
use super::{check, config, ms};

#[test]
fn a_stop_goes_through_every_step() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 1010ms deadline
        12ms gate-closed -> settle | settle until 112ms settle
        13ms settled -> tell-finish | finish until 1010ms deadline
        20ms idle -> close-by-1010ms | closing until 1010ms closing-deadline
        21ms closed -> finished | stopped
        ",
    );
}

#[test]
fn a_lame_duck_goes_on_accepting_until_it_is_over() {
    check(
        &Config { lame_duck: ms(300), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers | lame-duck until 310ms lame-duck
        309ms tick -> | lame-duck until 310ms lame-duck
        310ms tick -> close-gate | gate until 1010ms deadline
        ",
    );
}

#[test]
fn a_second_stop_ends_the_lame_duck_and_a_third_forces() {
    check(
        &Config { lame_duck: ms(300), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers | lame-duck until 310ms lame-duck
        20ms stop INT -> close-gate | gate until 1010ms deadline
        30ms stop INT -> force close-by-80ms | closing until 80ms after-force
        40ms closed -> forced-by-INT | stopped
        ",
    );
}

#[test]
fn a_stop_before_ready_has_no_gate_to_close() {
    check(
        &config(),
        "
        5ms stop TERM -> tell-finish | finish until 1005ms deadline
        6ms ready -> | finish until 1005ms deadline
        7ms idle -> close-by-1005ms | closing until 1005ms closing-deadline
        8ms closed -> finished | stopped
        ",
    );
}

#[test]
fn a_second_stop_before_ready_forces() {
    check(
        &config(),
        "
        5ms stop TERM -> tell-finish | finish until 1005ms deadline
        6ms stop TERM -> force close-by-56ms | closing until 56ms after-force
        56ms tick -> forced-by-TERM | stopped
        ",
    );
}

#[test]
fn a_force_before_ready_ends_at_once() {
    check(
        &config(),
        "
        5ms force QUIT -> show-not-ready force close-by-55ms | closing until 55ms after-force
        6ms closed -> forced-by-QUIT | stopped
        ",
    );
}

#[test]
fn a_force_while_serving_closes_the_gate_as_well() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        5ms force QUIT -> show-not-ready close-gate force close-by-55ms | closing until 55ms after-force
        6ms gate-closed -> | closing until 55ms after-force
        7ms closed -> forced-by-QUIT | stopped
        ",
    );
}

#[test]
fn a_force_in_the_lame_duck_closes_the_gate_as_well() {
    check(
        &Config { lame_duck: ms(300), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers | lame-duck until 310ms lame-duck
        20ms force QUIT -> close-gate force close-by-70ms | closing until 70ms after-force
        ",
    );
}

#[test]
fn a_second_stop_forces_at_the_gate() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 1010ms deadline
        11ms stop INT -> force close-by-61ms | closing until 61ms after-force
        12ms gate-closed -> | closing until 61ms after-force
        61ms tick -> forced-by-INT | stopped
        62ms stop INT -> | stopped
        63ms force QUIT -> | stopped
        ",
    );
}

#[test]
fn a_second_stop_forces_while_settling() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 1010ms deadline
        12ms gate-closed -> settle | settle until 112ms settle
        13ms stop TERM -> force close-by-63ms | closing until 63ms after-force
        14ms settled -> | closing until 63ms after-force
        15ms closed -> forced-by-TERM | stopped
        ",
    );
}

#[test]
fn a_second_stop_forces_while_finishing() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms stop request -> show-not-ready mark-answers close-gate | gate until 1010ms deadline
        12ms gate-closed -> settle | settle until 112ms settle
        112ms tick -> tell-finish | finish until 1010ms deadline
        500ms stop request -> force close-by-550ms | closing until 550ms after-force
        501ms idle -> | closing until 550ms after-force
        502ms closed -> forced-by-request | stopped
        ",
    );
}

#[test]
fn a_second_stop_gives_up_on_closing() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 1010ms deadline
        12ms gate-closed -> settle | settle until 112ms settle
        13ms settled -> tell-finish | finish until 1010ms deadline
        20ms idle -> close-by-1010ms | closing until 1010ms closing-deadline
        30ms stop TERM -> forced-by-TERM | stopped
        31ms closed -> | stopped
        ",
    );
}

#[test]
fn a_force_skips_every_step() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 1010ms deadline
        12ms gate-closed -> settle | settle until 112ms settle
        13ms settled -> tell-finish | finish until 1010ms deadline
        14ms force QUIT -> force close-by-64ms | closing until 64ms after-force
        15ms force QUIT -> forced-by-QUIT | stopped
        ",
    );
}

#[test]
fn the_deadline_cuts_what_is_left_and_then_closes() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 1010ms deadline
        12ms gate-closed -> settle | settle until 112ms settle
        13ms settled -> tell-finish | finish until 1010ms deadline
        1010ms tick -> force close-by-1060ms | closing until 1060ms after-force
        1020ms closed -> deadline-exceeded | stopped
        ",
    );
}

#[test]
fn the_deadline_ends_a_gate_that_never_acknowledges() {
    check(
        &config(),
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 1010ms deadline
        1010ms tick -> force close-by-1060ms | closing until 1060ms after-force
        1060ms tick -> deadline-exceeded | stopped
        ",
    );
}

#[test]
fn the_deadline_ends_a_settle_that_would_last_longer() {
    check(
        &Config { settle: ms(3000), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 1010ms deadline
        12ms gate-closed -> settle | settle until 1010ms deadline
        1010ms tick -> force close-by-1060ms | closing until 1060ms after-force
        ",
    );
}

#[test]
fn the_reserve_of_the_grace_period_belongs_to_closing() {
    check(
        &Config { reserve: ms(200), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 810ms deadline
        12ms gate-closed -> settle | settle until 112ms settle
        13ms settled -> tell-finish | finish until 810ms deadline
        810ms tick -> force close-by-1010ms | closing until 1010ms after-force
        1010ms tick -> deadline-exceeded | stopped
        ",
    );
}

#[test]
fn work_that_ends_in_time_leaves_closing_all_that_is_left_of_the_grace_period() {
    check(
        &Config { reserve: ms(200), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 810ms deadline
        12ms gate-closed -> settle | settle until 112ms settle
        13ms settled -> tell-finish | finish until 810ms deadline
        14ms idle -> close-by-1010ms | closing until 1010ms closing-deadline
        1010ms tick -> deadline-exceeded | stopped
        ",
    );
}

/// The driver refuses such a budget before the service starts; the machine must end all the same.
#[test]
fn a_reserve_longer_than_the_grace_period_leaves_work_no_time() {
    check(
        &Config { reserve: ms(2000), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate force close-by-1010ms | closing until 1010ms after-force
        20ms closed -> deadline-exceeded | stopped
        ",
    );
}

#[test]
fn a_lame_duck_longer_than_the_grace_period_ends_with_it() {
    check(
        &Config { lame_duck: ms(2000), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers | lame-duck until 1010ms deadline
        1010ms tick -> close-gate force close-by-1060ms | closing until 1060ms after-force
        ",
    );
}

#[test]
fn without_a_deadline_it_waits_as_long_as_work_lasts() {
    check(
        &Config { grace: None, ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate
        12ms gate-closed -> settle | settle until 112ms settle
        13ms settled -> tell-finish | finish
        9000000ms idle -> close-resources | closing
        9000001ms closed -> finished | stopped
        ",
    );
}

#[test]
fn without_a_deadline_a_second_stop_still_ends_the_wait() {
    check(
        &Config { grace: None, ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate
        12ms gate-closed -> settle | settle until 112ms settle
        13ms settled -> tell-finish | finish
        90000ms stop TERM -> force close-by-90050ms | closing until 90050ms after-force
        90050ms tick -> forced-by-TERM | stopped
        ",
    );
}

#[test]
fn durations_beyond_the_clock_are_long_waits() {
    let forever = std::time::Duration::MAX;
    let config = Config {
        grace: Some(forever),
        settle: forever,
        after_force: forever,
        probation: forever,
        upgrade_grace: Some(forever),
        ..config()
    };
    check(
        &config,
        "
        0ms ready -> accept show-ready | serving
        10ms asked 0 -> admit | serving
        20ms accepting -> hand-over-gate | gate until 946080000020ms probation
        ",
    );
    check(
        &Config { lame_duck: forever, ..config },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers | lame-duck until 946080000010ms lame-duck
        20ms stop TERM -> close-gate | gate until 946080000010ms deadline
        30ms gate-closed -> settle | settle until 946080000010ms deadline
        40ms settled -> tell-finish | finish until 946080000010ms deadline
        ",
    );
}

#[test]
fn a_late_driver_takes_every_expired_wait_at_once() {
    check(
        &Config { lame_duck: ms(300), settle: ms(0), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers | lame-duck until 310ms lame-duck
        310ms tick -> close-gate | gate until 1010ms deadline
        400ms gate-closed -> settle tell-finish | finish until 1010ms deadline
        ",
    );
}

#[test]
fn what_cut_the_work_is_the_outcome_even_if_a_signal_ends_the_closing() {
    check(
        &Config { reserve: ms(200), ..config() },
        "
        0ms ready -> accept show-ready | serving
        10ms stop TERM -> show-not-ready mark-answers close-gate | gate until 810ms deadline
        810ms tick -> force close-by-1010ms | closing until 1010ms after-force
        820ms stop TERM -> deadline-exceeded | stopped
        ",
    );
}

#[test]
fn acknowledgements_nobody_asked_for_change_nothing() {
    check(
        &config(),
        "
        0ms gate-closed -> | starting
        0ms settled -> | starting
        0ms idle -> | starting
        0ms closed -> | starting
        1ms ready -> accept show-ready | serving
        2ms ready -> | serving
        2ms gate-closed -> | serving
        2ms settled -> | serving
        2ms idle -> | serving
        2ms closed -> | serving
        3ms stop TERM -> show-not-ready mark-answers close-gate | gate until 1003ms deadline
        4ms settled -> | gate until 1003ms deadline
        4ms idle -> | gate until 1003ms deadline
        4ms closed -> | gate until 1003ms deadline
        5ms gate-closed -> settle | settle until 105ms settle
        6ms idle -> | settle until 105ms settle
        ",
    );
}
