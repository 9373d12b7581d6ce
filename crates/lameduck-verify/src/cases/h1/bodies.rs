//! Bodies of answers at the stop and at the deadline.

use crate::case::{Fault, Outcome, fail, inconclusive, pass};
use crate::cases::acc::losses;
use crate::probe::{End, Until, Wire};
use crate::stage::{SOON, Stage};
use std::time::{Duration, Instant};

/// How long a stream that has an end may take.
const STREAM_LIMIT: Duration = Duration::from_secs(5);
/// So much of a stream has come when the stop is sent.
const STREAM_BEGUN: u64 = 64;
/// A cut this long before the deadline was not the deadline's.
const CUT_TOLERANCE: Duration = Duration::from_millis(150);
/// So much a large answer has at least.
const LARGE: u64 = 10_000_000;
/// How long the slow reader takes when the deadline leaves the time.
const READ_TAKES: Duration = Duration::from_millis(1500);
/// What a slow reader's kernel takes ahead of it: far less than the answer, and enough not to need thousands of rounds,
/// each of which waits its turn on a busy machine.
const READ_BUFFER: usize = 64 * 1024;
/// Requests around the deadline, and how far they lie apart.
const AROUND: i64 = 12;
const APART_MS: i64 = 2;

pub(super) fn stream(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.path("stream")?;
    let mut whole = stage.requests("whole stream", &place, 1)?;
    let has_end = whole.watch(Until::Answered, STREAM_LIMIT)? && whole[0].is_answered();
    let expected = has_end.then(|| whole[0].body_bytes());
    if whole[0].end() != End::Open && !has_end {
        return inconclusive(format!(
            "the stream broke off before the stop: {}",
            losses(&whole.fates())
        ));
    }
    drop(whole);
    let mut wires = stage.requests("stream", &place, 1)?;
    wait_bytes(&mut wires[0], STREAM_BEGUN)?;
    let told = stage.stop()?;
    let limit = stage.exit_limit();
    wires.watch(Until::Answered, limit)?;
    let wire = &wires[0];
    let got = wire.body_bytes();
    if wire.is_answered() {
        return match expected {
            Some(expected) if got < expected => {
                fail(format!("{got} of {expected} bytes came, presented as the whole"))
            }
            _ => pass(format!("the stream was ended in order after {got} bytes")),
        };
    }
    let Some(ended) = wire.ended() else {
        return fail(format!("the stream was still open {limit:?} after the stop"));
    };
    let after = ended.duration_since(told);
    let deadline = stage.lame_duck() + stage.deadline();
    match after + CUT_TOLERANCE >= deadline && stage.adapter.stop.deadline.is_some() {
        true => pass(format!("it was cut at the deadline, visibly, after {got} bytes")),
        false => fail(format!(
            "it was cut {:.0} ms after the stop, before the deadline",
            after.as_secs_f64() * 1e3
        )),
    }
}

pub(super) fn slow_reader(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.path("large")?;
    let mut wire = Wire::open_with_receive_buffer(&place, READ_BUFFER)?;
    wire.request(&place.get(""));
    let mut wires = stage.keep("slow reader", vec![wire]);
    wait_bytes(&mut wires[0], 1)?;
    stage.stop()?;
    let takes = READ_TAKES.min(stage.deadline() / 2);
    let pause = Duration::from_millis(5);
    let begun = Instant::now();
    let limit = begun + stage.exit_limit();
    while !wires[0].is_answered() && wires[0].end() == End::Open && Instant::now() < limit {
        let next = Instant::now() + pause;
        // By the clock and not by the pause: a reader that was held up itself catches up.
        let share = next.duration_since(begun).as_secs_f64() / takes.as_secs_f64();
        let goal = (LARGE as f64 * share) as u64;
        while wires[0].received_bytes() < goal
            && wires[0].end() == End::Open
            && wires[0].wait_bytes(pause)?
        {}
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let got = wires[0].body_bytes();
    if !wires[0].is_answered() {
        return fail(format!("{got} bytes came; {}", losses(&wires.fates())));
    }
    match got >= LARGE {
        true => pass(format!("all {got} bytes came")),
        false => fail(format!("{got} bytes came, presented as the whole; it has at least {LARGE}")),
    }
}

pub(super) fn at_the_deadline(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let template = stage.path("slow_for")?;
    let deadline = stage.lame_duck() + stage.deadline();
    let begun = Instant::now();
    // Room to connect and send all of them before the stop.
    let lead = Duration::from_millis(200);
    let mut wires = stage.silent("at the deadline", (2 * AROUND + 1) as usize)?;
    for (wire, step) in wires.iter_mut().zip(-AROUND..) {
        let left = (lead + deadline).saturating_sub(begun.elapsed()).as_millis() as i64;
        let ms = (left + step * APART_MS).max(0);
        let place = crate::address::Place {
            path: template.path.replace("{ms}", &ms.to_string()),
            ..template.clone()
        };
        wire.request(&place.get(""));
    }
    std::thread::sleep(lead.saturating_sub(begun.elapsed()));
    stage.stop()?;
    wires.watch(Until::Answered, deadline + SOON)?;
    let answered = wires.iter().filter(|wire| wire.is_answered()).count();
    let broken = wires.iter().filter(|wire| is_head_broken(wire)).count();
    let none = wires.iter().filter(|wire| wire.received_bytes() == 0).count();
    stage.figure("answered around the deadline", answered as f64, "requests");
    match broken {
        0 => pass(format!(
            "{answered} were answered, {none} were cut before their head, no head broke off"
        )),
        broken => fail(format!("{broken} of {} heads broke off", wires.len())),
    }
}

/// Something of a head came, and not all of it.
fn is_head_broken(wire: &Wire) -> bool {
    let received = wire.received();
    !received.is_empty() && !received.windows(4).any(|four| four == b"\r\n\r\n")
}

/// Reads until so many bytes have come.
fn wait_bytes(wire: &mut Wire, bytes: u64) -> Result<(), Fault> {
    let deadline = Instant::now() + SOON;
    while wire.received_bytes() < bytes && wire.end() == End::Open && !wire.is_answered() {
        if !wire.wait_bytes(deadline.saturating_duration_since(Instant::now()))? {
            return Err(Fault(format!("less than {bytes} bytes came within {SOON:?}")));
        }
    }
    match wire.is_answered() || wire.end() != End::Open {
        true => Err(Fault("the answer ended before the stop".to_owned())),
        false => Ok(()),
    }
}
