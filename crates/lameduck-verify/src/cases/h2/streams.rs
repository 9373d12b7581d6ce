//! Streams and connections that have to end.

use super::{FIRST, in_flight, open, record};
use crate::address::Place;
use crate::case::{Outcome, fail, inconclusive, pass};
use crate::probe::End;
use crate::probe::http2::{Client, Frame, UpTo, data, flag, get, kind, post, window_update};
use crate::stage::{SOON, Stage};
use std::time::{Duration, Instant};

const IN_FLIGHT: u32 = 5;
/// What a close, or an exit, may take when nothing is left to be done.
const QUICK: Duration = Duration::from_secs(1);
/// Before this much of the deadline an exit was not the deadline's.
const BEFORE_DEADLINE: Duration = Duration::from_millis(200);
/// When the client opens its window after the stop.
const BLOCKED_FOR: Duration = Duration::from_millis(300);
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;
/// Between two DATA frames that nobody reads.
const DATA_PAUSE: Duration = Duration::from_millis(10);

pub(super) fn streams_in_flight(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (mut client, takes) = in_flight(stage, IN_FLIGHT)?;
    stage.stop()?;
    client.attend(|client| client.wire.end() != End::Open, takes + SOON)?;
    record(stage, &client);
    let streams = (0..IN_FLIGHT).map(|number| FIRST + 2 * number);
    let answered = streams.filter(|stream| client.is_answered(*stream)).count();
    match (answered, client.wire.end()) {
        (answered, End::Open) => {
            fail(format!("{answered} of {IN_FLIGHT} were answered; the connection stays open"))
        }
        (answered, end) if answered < IN_FLIGHT as usize => fail(format!(
            "{answered} of {IN_FLIGHT} were answered; the connection ended so: {end:?}"
        )),
        (_, end) => {
            pass(format!("all {IN_FLIGHT} were answered, then the connection ended: {end:?}"))
        }
    }
}

pub(super) fn closes_after_last(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (mut client, takes) = in_flight(stage, 1)?;
    stage.stop()?;
    if !client.attend(|client| client.is_answered(FIRST), takes + SOON)? {
        return inconclusive("the stream was not answered");
    }
    let last = Instant::now();
    client.attend(|client| client.wire.end() != End::Open, stage.exit_limit())?;
    let after = client.wire.ended().map(|ended| ended.saturating_duration_since(last));
    record(stage, &client);
    let Some(after) = after else { return fail("the connection stays open after its last stream") };
    stage.figure_ms("connection closed after its last stream", after);
    if client.wire.end() == End::Reset {
        return fail("the connection was reset after its last stream");
    }
    if after > QUICK {
        return fail(format!(
            "the connection was closed {:.1} s after its last stream",
            after.as_secs_f64()
        ));
    }
    match stage.wait_gone(QUICK) {
        Some(_) => {
            pass(format!("it was closed {:.0} ms after its last stream", after.as_secs_f64() * 1e3))
        }
        None => fail("the process still runs 1 s after its last connection closed"),
    }
}

pub(super) fn no_preface(stage: &mut Stage<'_>) -> Outcome {
    const EACH: usize = 3;
    stage.start()?;
    let silent = stage.silent("silent", EACH)?;
    let begun = (0..EACH).map(|_| Client::open(&stage.fast(), UpTo::PartOfPreface, SOON));
    let begun: Vec<Client> = begun.collect::<Result<_, _>>()?;
    // Accepted and seen, not only in the queue.
    std::thread::sleep(BLOCKED_FOR);
    let told = stage.stop()?;
    let gone = stage.wait_gone(stage.exit_limit());
    begun.iter().for_each(|client| record(stage, client));
    drop(silent);
    let Some(gone) = gone else { return fail("the process still runs after the deadline") };
    let took = gone.at.duration_since(told);
    stage.figure_ms("exit with connections that say nothing", took);
    match took + BEFORE_DEADLINE < stage.lame_duck() + stage.deadline() {
        true => pass(format!("it exited {:.0} ms after the stop", took.as_secs_f64() * 1e3)),
        false => {
            fail(format!("it exited {:.1} s after the stop, at the deadline", took.as_secs_f64()))
        }
    }
}

pub(super) fn unfinished_head(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let mut client = open(stage)?;
    let whole = get(&stage.fast(), FIRST);
    client.send(&Frame { flags: flag::END_STREAM, ..whole })?;
    if client.attend(|client| client.is_begun(FIRST), BLOCKED_FOR)?
        || client.wire.end() != End::Open
    {
        return inconclusive("it did not wait for the rest of the header block");
    }
    let told = stage.stop()?;
    let limit = stage.lame_duck() + stage.deadline() + QUICK;
    let gone = stage.wait_gone(limit);
    record(stage, &client);
    match gone {
        Some(gone) => {
            let took = gone.at.duration_since(told);
            pass(format!("it exited {:.1} s after the stop", took.as_secs_f64()))
        }
        None => fail(format!("it still runs {limit:?} after the stop")),
    }
}

pub(super) fn blocked(stage: &mut Stage<'_>) -> Outcome {
    const ROOM: u32 = 1 << 20;
    stage.start()?;
    let place = stage.fast();
    let mut client = Client::open_with(&place, &[(INITIAL_WINDOW, 0)], SOON)?;
    client.get(&place, FIRST)?;
    if !client.attend(|client| client.is_begun(FIRST), SOON)? {
        return inconclusive("the stream was not answered");
    }
    if client.is_answered(FIRST) {
        return inconclusive("the answer has no body that could be blocked");
    }
    stage.stop()?;
    client.attend(|client| client.is_answered(FIRST), BLOCKED_FOR)?;
    // A server that has closed does not take it; what came of the stream tells.
    let _ = client.send(&window_update(FIRST, ROOM));
    client.attend(|client| client.is_answered(FIRST), stage.exit_limit())?;
    record(stage, &client);
    match client.is_answered(FIRST) {
        true => pass("the body came when the window was opened"),
        false => fail(format!("the body never came; the connection: {:?}", client.wire.end())),
    }
}

pub(super) fn grpc(stage: &mut Stage<'_>) -> Outcome {
    const FIELDS: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];
    /// No compression, and a message of no bytes.
    const EMPTY: [u8; 5] = [0; 5];
    stage.start()?;
    let place = stage.path("grpc_stream")?;
    let mut client = open(stage)?;
    client.send(&post(&place, FIRST, &FIELDS))?;
    client.send(&data(FIRST, &EMPTY, flag::END_STREAM))?;
    let has_message = |client: &Client| {
        client
            .frames()
            .iter()
            .any(|it| it.kind == kind::DATA && it.stream == FIRST && !it.payload.is_empty())
    };
    if !client.attend(has_message, SOON)? {
        return inconclusive(format!("no message came on {place}"));
    }
    stage.stop()?;
    let is_over = |client: &Client| client.is_answered(FIRST) || client.reset_code(FIRST).is_some();
    client.attend(is_over, stage.exit_limit())?;
    record(stage, &client);
    let frames = client.frames();
    let trailers =
        frames.iter().filter(|it| it.kind == kind::HEADERS && it.stream == FIRST).count() > 1;
    match (trailers && client.is_answered(FIRST), client.reset_code(FIRST)) {
        (true, _) => pass("trailers with a status came"),
        (false, Some(code)) => fail(format!("a bare RST_STREAM came, error code {code}")),
        (false, None) => fail(format!("no trailers came; the connection: {:?}", client.wire.end())),
    }
}

pub(super) fn unread_data(stage: &mut Stage<'_>) -> Outcome {
    /// Little enough that the peer's first window holds all of it.
    const BYTES: [u8; 64] = [b'x'; 64];
    stage.start()?;
    let place: Place = stage.path("upload")?;
    let mut client = open(stage)?;
    client.send(&post(&place, FIRST, &[]))?;
    client.attend(|client| client.wire.end() != End::Open, BLOCKED_FOR)?;
    if client.is_answered(FIRST)
        || client.reset_code(FIRST).is_some()
        || client.wire.end() != End::Open
    {
        return inconclusive(format!("{place} does not take a POST that goes on"));
    }
    stage.stop()?;
    let limit = Instant::now() + stage.exit_limit();
    while client.wire.end() == End::Open && Instant::now() < limit {
        // A failed write is seen again as the end of the connection.
        let _ = client.send(&data(FIRST, &BYTES, flag::NONE));
        client.attend(|client| client.wire.end() != End::Open, DATA_PAUSE)?;
    }
    record(stage, &client);
    match (client.go_aways().is_empty(), client.wire.end()) {
        (_, End::Open) => fail("the connection is open after the deadline"),
        (true, end) => fail(format!("no GOAWAY came; the connection ended so: {end:?}")),
        (false, End::Eof) => pass("the GOAWAY was read, and the connection ended with a FIN"),
        (false, End::Reset) => fail("a reset came while the client was sending"),
    }
}
