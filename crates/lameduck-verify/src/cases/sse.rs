//! Server-sent events.

use crate::adapter::Protocol;
use crate::case::{Case, Need, Outcome, fail, inconclusive, pass};
use crate::probe::{End, Until, Wire};
use crate::stage::{SOON, Stage};
use crate::verdict::Level::Must;
use std::time::{Duration, Instant};

/// So many events have come when the stop is sent.
const EVENTS: usize = 2;
/// A stream that is silent for so long is given something to tell.
const QUIET: Duration = Duration::from_millis(100);
/// A cut this long before the deadline was not the deadline's.
const TOLERANCE: Duration = Duration::from_millis(150);

pub(super) const CASES: &[Case] = &[Case {
    id: "SSE/1",
    level: Must,
    title: "an event stream ends between two events",
    setup: "a stream of server-sent events of which two have come",
    action: "the stop signal",
    criterion: "it ends after a whole event, or is cut by the deadline",
    why: "half an event is lost: the client resumes after the last whole one",
    source: "sse-starlette#73; WHATWG HTML, section 9.2",
    needs: &[Need::Stop, Need::Speaks(Protocol::Sse), Need::Path("sse")],
    run: between_events,
}];

fn between_events(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.path("sse")?;
    let mut wires = stage.silent("events", 1)?;
    wires[0].request(&place.get("accept: text/event-stream\r\n"));
    let deadline = Instant::now() + SOON;
    while events(&wires[0]).0 < EVENTS && wires[0].end() == End::Open {
        if wires[0].wait_bytes(QUIET)? {
            continue;
        }
        // A service that tells of what it does has nothing to tell while nobody asks for anything.
        stage.ask(&stage.fast())?;
        if Instant::now() >= deadline {
            return inconclusive(format!("{} events came within {SOON:?}", events(&wires[0]).0));
        }
    }
    let told = stage.stop()?;
    let limit = stage.exit_limit();
    wires.watch(Until::Answered, limit)?;
    let wire = &wires[0];
    let (count, is_whole) = events(wire);
    let ended = if wire.is_answered() { wire.last_byte() } else { wire.ended() };
    let Some(ended) = ended else {
        return fail(format!("the stream was still open {limit:?} after the stop"));
    };
    let after = ended.duration_since(told);
    let how = if wire.is_answered() { "ended" } else { "cut" };
    let seen = format!("{how} {:.0} ms after the stop, {count} events", after.as_secs_f64() * 1e3);
    let by_deadline = stage.adapter.stop.deadline.is_some()
        && after + TOLERANCE >= stage.lame_duck() + stage.deadline();
    match (is_whole, by_deadline) {
        (true, _) => pass(seen),
        (false, true) => pass(format!("{seen}, within an event, by the deadline")),
        (false, false) => fail(format!("{seen}, within an event")),
    }
}

/// How many whole events came, and whether nothing came after the last of them.
fn events(wire: &Wire) -> (usize, bool) {
    let text = wire.body_text();
    let text = text.replace("\r\n", "\n");
    (text.matches("\n\n").count(), text.is_empty() || text.ends_with("\n\n"))
}
