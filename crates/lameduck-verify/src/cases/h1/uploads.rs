//! Bodies of requests at the stop.

use crate::case::{Outcome, fail, inconclusive, pass};
use crate::cases::acc::losses;
use crate::probe::{End, Until, Wire};
use crate::stage::{SOON, Stage};
use std::time::{Duration, Instant};

const BODY: usize = 1_000_000;
/// So many pieces a slow upload is sent in.
const PIECES: u32 = 20;
/// How long a slow upload takes when the deadline leaves the time.
const UPLOAD_TAKES: Duration = Duration::from_secs(2);
/// How long a server may take to say `100 Continue`.
const CONTINUE_LIMIT: Duration = Duration::from_secs(1);
/// How long an early answer may take; a server that waits for the body answers later.
const EARLY_LIMIT: Duration = Duration::from_millis(300);

fn head(place: &crate::address::Place, bytes: usize, more: &str) -> Vec<u8> {
    let (path, host) = (&place.path, &place.host);
    format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {bytes}\r\n{more}\r\n")
        .into_bytes()
}

/// Sends pieces at a steady pace; ends early when the connection has ended. Says whether a write failed.
fn send_pieces(wire: &mut Wire, pieces: u32, pause: Duration) -> bool {
    let piece = vec![b'x'; BODY / PIECES as usize];
    for _ in 0..pieces {
        let next = Instant::now() + pause;
        if wire.send(&piece).is_err() {
            return false;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    true
}

pub(super) fn slow_upload(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.path("upload")?;
    let mut wires = stage.silent("upload", 1)?;
    // Three quarters of it lie after the stop, and half of the deadline is left for them.
    let takes = UPLOAD_TAKES.min(stage.deadline() * 2 / 3);
    let pause = takes / PIECES;
    wires[0].request(&head(&place, BODY, ""));
    let mut is_written = send_pieces(&mut wires[0], PIECES / 4, pause);
    if !is_written || wires[0].has_closed() {
        return inconclusive("the upload was refused before the stop");
    }
    stage.stop()?;
    is_written &= send_pieces(&mut wires[0], PIECES - PIECES / 4, pause);
    wires.watch(Until::Answered, SOON)?;
    match (wires.fates().answered(), is_written) {
        (1, _) => pass("the whole upload was taken and answered"),
        (_, true) => fail(losses(&wires.fates())),
        (_, false) => {
            fail(format!("the upload could not be sent to its end; {}", losses(&wires.fates())))
        }
    }
}

pub(super) fn early_answer(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.path("reject")?;
    let mut wires = stage.silent("early answer", 1)?;
    wires[0].request(&head(&place, BODY, ""));
    if !send_pieces(&mut wires[0], 1, Duration::ZERO) {
        return inconclusive("the first piece could not be sent");
    }
    // Not read before the body is sent: a reset erases what was not read.
    wires[0].wait_readable(EARLY_LIMIT)?;
    stage.stop()?;
    // Without a pause: all of it is sent long before any server is tired of reading on.
    let is_written = send_pieces(&mut wires[0], PIECES - 1, Duration::ZERO);
    wires.watch(Until::Answered, SOON)?;
    let status = wires[0].answers().first().map(|head| head.status);
    match (status, is_written, wires[0].end()) {
        (Some(status), true, _) => {
            pass(format!("the answer, {status}, was read after the whole body was sent"))
        }
        (Some(status), false, _) => {
            fail(format!("a reset came while the body was sent; the answer was {status}"))
        }
        (None, true, End::Open) => fail("no answer came"),
        (None, _, end) => fail(format!("the answer was lost; the connection ended so: {end:?}")),
    }
}

pub(super) fn expecting(stage: &mut Stage<'_>) -> Outcome {
    const BYTES: usize = 1000;
    stage.start()?;
    let place = stage.path("upload")?;
    let mut wires = stage.silent("expecting", 1)?;
    wires[0].request(&head(&place, BYTES, "expect: 100-continue\r\n"));
    // It may also wait for the body, or for its handler to read: both are allowed.
    let deadline = Instant::now() + CONTINUE_LIMIT;
    while wires[0].received_bytes() == 0 && Instant::now() < deadline {
        wires[0].wait_bytes(deadline.saturating_duration_since(Instant::now()))?;
    }
    let continued = wires[0].received().starts_with(b"HTTP/1.1 100");
    if wires[0].is_answered() || wires[0].has_closed() {
        return inconclusive("it was answered before its body was sent");
    }
    stage.stop()?;
    std::thread::sleep(EARLY_LIMIT);
    // Where the answer has come already, the body is not wanted any more.
    let is_written = wires[0].send(&[b'x'; BYTES]).is_ok();
    wires.watch(Until::Answered, stage.exit_limit())?;
    let said = if continued { "100 Continue, then " } else { "" };
    match wires[0].answers().first() {
        Some(head) => pass(format!("{said}{}", head.status)),
        None if is_written => fail(format!("{said}no final answer: {}", losses(&wires.fates()))),
        None => fail(format!("{said}the connection was closed without an answer")),
    }
}
