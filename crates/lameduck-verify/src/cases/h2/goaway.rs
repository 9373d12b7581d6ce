//! GOAWAY: when it comes, what it says, and what becomes of streams that cross it.

use super::{FIRST, in_flight, open, record};
use crate::case::{Outcome, fail, inconclusive, pass};
use crate::cases::witness;
use crate::probe::End;
use crate::probe::http2::{Frame, NO_LAST_STREAM, acknowledgement, flag, kind};
use crate::stage::{SOON, Stage};
use std::time::Duration;

/// How late the client answers PINGs where a round trip is to be seen.
const LATE: Duration = Duration::from_millis(100);
/// `REFUSED_STREAM`: not processed, may be sent again.
const REFUSED_STREAM: u32 = 7;
const NO_ERROR: u32 = 0;

pub(super) fn idle(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let mut client = open(stage)?;
    client.get(&stage.fast(), FIRST)?;
    if !client.attend(|client| client.is_answered(FIRST), SOON)? {
        return inconclusive("the first stream was not answered");
    }
    stage.stop()?;
    client.attend(|client| client.wire.end() != End::Open, stage.exit_limit())?;
    record(stage, &client);
    match client.go_aways().as_slice() {
        [] => fail(format!("no GOAWAY came; the connection ended so: {:?}", client.wire.end())),
        told if told.iter().all(|(_, code)| *code == NO_ERROR) => {
            pass(format!("{} GOAWAY, then the end: {:?}", told.len(), client.wire.end()))
        }
        told => fail(format!("GOAWAY with the error code {}", told[0].1)),
    }
}

pub(super) fn warned(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (mut client, takes) = in_flight(stage, 1)?;
    stage.stop()?;
    // Bare reading: PINGs are not answered meanwhile.
    client.wait_frame(|frame| frame.kind == kind::GOAWAY, takes + SOON)?;
    let is_ping = |frame: &Frame| frame.kind == kind::PING && frame.flags & flag::ACK == 0;
    client.wait_frame(is_ping, LATE)?;
    let early = client.wait_frame(is_final, LATE)?;
    for ping in client.frames().iter().filter(|frame| is_ping(frame)) {
        client.send(&acknowledgement(kind::PING, &ping.payload))?;
    }
    client.wait_end(takes + SOON)?;
    record(stage, &client);
    let ids: Vec<u32> = client.go_aways().iter().map(|(id, _)| *id).collect();
    let told = ids
        .iter()
        .map(|id| if *id == NO_LAST_STREAM { "2^31-1".to_owned() } else { id.to_string() });
    let told: Vec<String> = told.collect();
    let told = told.join(", then ");
    match (ids.first(), ids.last()) {
        (None, _) => fail("no GOAWAY came"),
        (Some(&NO_LAST_STREAM), Some(&FIRST)) if !early => {
            pass(format!("GOAWAY {told}, a round trip apart"))
        }
        (Some(&NO_LAST_STREAM), Some(&FIRST)) => {
            fail(format!("GOAWAY {told}, the second before the client had answered the PING"))
        }
        (Some(&NO_LAST_STREAM), _) => fail(format!("GOAWAY {told}; the final one never came")),
        _ => fail(format!("GOAWAY {told}, without a warning before")),
    }
}

pub(super) fn never_grows(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let mut idle = open(stage)?;
    let (mut busy, takes) = in_flight(stage, 1)?;
    stage.stop()?;
    busy.attend(|client| client.wire.end() != End::Open, takes + SOON)?;
    idle.attend(|client| client.wire.end() != End::Open, SOON)?;
    record(stage, &idle);
    record(stage, &busy);
    let all = [idle.go_aways(), busy.go_aways()];
    if all.iter().all(Vec::is_empty) {
        return inconclusive("no GOAWAY came");
    }
    let grown = all.iter().flat_map(|told| told.windows(2)).find(|pair| pair[1].0 > pair[0].0);
    match grown {
        Some(pair) => fail(format!("GOAWAY {}, then {}", pair[0].0, pair[1].0)),
        None => pass(format!("{} GOAWAYs, none with a larger id than before", all.concat().len())),
    }
}

pub(super) fn crossing(stage: &mut Stage<'_>) -> Outcome {
    const CROSSING: u32 = FIRST + 2;
    stage.start()?;
    let (mut client, takes) = in_flight(stage, 1)?;
    stage.stop()?;
    if !client.wait_frame(|frame| frame.kind == kind::GOAWAY, takes / 2)? {
        return inconclusive("no GOAWAY came while the first stream was in flight");
    }
    client.get(&stage.fast(), CROSSING)?;
    client.attend(|client| client.wire.end() != End::Open, takes + SOON)?;
    record(stage, &client);
    let last = client.go_aways().last().map_or(NO_LAST_STREAM, |(id, _)| *id);
    match (client.is_answered(CROSSING), client.reset_code(CROSSING)) {
        (true, _) => pass("the stream was served"),
        (false, Some(REFUSED_STREAM)) => pass("the stream was refused with REFUSED_STREAM"),
        (false, _) if last < CROSSING => {
            pass(format!("the stream was excluded by the last id, {last}"))
        }
        (false, Some(code)) => fail(format!("the stream was reset with the error code {code}")),
        (false, None) => fail(format!(
            "the stream was taken and never answered; the end: {:?}",
            client.wire.end()
        )),
    }
}

pub(super) fn excluded(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let base = witness::counted(stage)?;
    let (mut client, takes) = in_flight(stage, 1)?;
    stage.stop()?;
    if !client.attend(|client| client.frames().iter().any(is_final), takes / 2)? {
        return inconclusive("no final GOAWAY came while the first stream was in flight");
    }
    let last = client.go_aways().last().map_or(0, |(id, _)| *id);
    let excluded = last + 2;
    client.get(&stage.fast(), excluded)?;
    client.attend(|client| client.wire.end() != End::Open, takes + SOON)?;
    record(stage, &client);
    if client.is_begun(excluded) {
        return fail(format!("the stream {excluded} was answered after GOAWAY {last}"));
    }
    if !client.is_answered(FIRST) {
        return inconclusive("the first stream was not answered");
    }
    let told = witness::number(&client.data(FIRST));
    match base.zip(told) {
        Some((base, told)) if told > base + 1 => {
            fail(format!("the stream {excluded} ran after GOAWAY {last}"))
        }
        Some(_) => pass(format!("the stream {excluded} was ignored after GOAWAY {last}")),
        None => inconclusive("it was not answered, and the target does not tell whether it ran"),
    }
}

/// A GOAWAY that excludes something.
fn is_final(frame: &Frame) -> bool {
    frame.go_away().is_some_and(|(id, _)| id != NO_LAST_STREAM)
}
