//! HTTP/1.1.

use crate::case::{Case, Need, Outcome, fail, pass};
use crate::cases::acc::losses;
use crate::probe::Until;
use crate::stage::{SOON, Stage};
use crate::verdict::Level::Must;

/// Requests in flight.
const IN_FLIGHT: usize = 10;

pub(super) const CASES: &[Case] = &[Case {
    id: "H1/1",
    level: Must,
    title: "requests in flight are answered in full",
    setup: "ten slow requests are being worked on",
    action: "the stop signal",
    criterion: "each answer comes in full, with its whole length",
    why: "this is what a graceful stop is for",
    source: "RFC 9112, section 9.6",
    needs: &[Need::Stop, Need::Path("slow")],
    run: in_flight,
}];

fn in_flight(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (mut wires, takes) = stage.in_flight(IN_FLIGHT)?;
    stage.stop()?;
    wires.watch(Until::Answered, takes + SOON)?;
    let fates = wires.fates();
    match fates.answered() {
        answered if answered == IN_FLIGHT as u64 => pass(format!("all {IN_FLIGHT} were answered")),
        answered => fail(format!("{answered} of {IN_FLIGHT} were answered; {}", losses(&fates))),
    }
}
