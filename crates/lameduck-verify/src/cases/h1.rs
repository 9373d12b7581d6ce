//! HTTP/1.1.

mod bodies;
mod kept;
mod uploads;

use crate::answer::Persistence;
use crate::case::{Case, Need, Outcome, fail, inconclusive, pass};
use crate::cases::acc::losses;
use crate::probe::{End, Until};
use crate::stage::{SOON, Stage};
use crate::verdict::Level::{Must, Should};
use std::time::Duration;

/// Requests in flight.
const IN_FLIGHT: usize = 10;

/// How long after its answer a connection that is not kept may stay open.
const CLOSED_AFTER: Duration = Duration::from_secs(1);

pub(super) const CASES: &[Case] = &[
    Case {
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
    },
    Case {
        id: "H1/2",
        level: Must,
        title: "the last answer on a connection announces the close",
        setup: "ten slow requests are being worked on; no answer has begun",
        action: "the stop signal",
        criterion: "each answer says `Connection: close`",
        why: "a client that is not told keeps the connection in its pool and sends the next request into a close",
        source: "RFC 9112, section 9.6",
        needs: &[Need::Stop, Need::Path("slow")],
        run: announces_close,
    },
    Case {
        id: "H1/3",
        level: Must,
        title: "idle connections are closed in order",
        setup: "ten kept-alive connections, each answered once and idle since",
        action: "the stop signal",
        criterion: "each ends with a FIN before the deadline, none with a reset",
        why: "an idle connection must neither hold up the stop nor be reset under a client that is about to use it",
        source: "nginx#437; RFC 9112, section 9.6",
        needs: &[Need::Stop],
        run: kept::idle_is_closed,
    },
    Case {
        id: "H1/4",
        level: Should,
        title: "a request that crosses the close is answered or never run",
        setup: "100 kept-alive connections, idle; a slow request holds the drain",
        action: "the stop signal, and a request of 80 fields on each at the same moment, six times over, and 1, 5, 20 and 100 ms later",
        criterion: "each is answered, or its connection is closed and it has not run; none is lost after it ran",
        why: "a request that ran and was not answered cannot be sent again safely: the keep-alive race",
        source: "nginx keepalive_min_timeout; golang/go#23829; nodejs/node#60617",
        needs: &[Need::Stop, Need::Path("slow")],
        run: kept::crossing,
    },
    Case {
        id: "H1/5",
        level: Must,
        title: "an upload under way is taken to its end",
        setup: "a body of 1 MB is being sent over two seconds (less where the deadline is shorter)",
        action: "the stop signal after a quarter of it",
        criterion: "the upload is taken and answered with 2xx",
        why: "an upload that is cut has to be sent again from its beginning",
        source: "the motive of Meta's Partial Post Replay",
        needs: &[Need::Stop, Need::Path("upload")],
        run: uploads::slow_upload,
    },
    Case {
        id: "H1/6",
        level: Must,
        title: "an early answer survives the upload that it refuses",
        setup: "a body of 1 MB is being sent to a path that answers before it has read it",
        action: "the stop signal once the answer may have come; the client goes on to send the whole body, then reads",
        criterion: "the client reads the full answer; no reset comes while it sends",
        why: "closing with bytes unread makes the kernel send a reset, which erases the answer on its way",
        source: "RFC 9112, section 9.6: lingering close",
        needs: &[Need::Stop, Need::Path("reject")],
        run: uploads::early_answer,
    },
    Case {
        id: "H1/7",
        level: Must,
        title: "pipelined requests are answered or never run",
        setup: "three requests in one segment, the first of them slow",
        action: "the stop signal while the first is worked on",
        criterion: "the first is answered; the others are answered, or the connection is closed in order and they have not run",
        why: "a pipelined request that ran without an answer is lost, or is run twice when it is sent again",
        source: "RFC 9112, sections 9.3 and 9.6",
        needs: &[Need::Stop, Need::Path("slow")],
        run: kept::pipelined,
    },
    Case {
        id: "H1/8",
        level: Must,
        title: "a stream ends whole or visibly cut",
        setup: "an answer in chunks is being received, whose whole length is known from one before",
        action: "the stop signal",
        criterion: "the whole stream and its last chunk come, or the deadline cuts it so that the client can see it",
        why: "a short body that looks whole is worse than an error",
        source: "RFC 9112, section 7.1",
        needs: &[Need::Stop, Need::Path("stream")],
        run: bodies::stream,
    },
    Case {
        id: "H1/9",
        level: Should,
        title: "a client that waits for `100 Continue` is not left hanging",
        setup: "a POST with `Expect: 100-continue`, its body withheld",
        action: "the stop signal, then the body",
        criterion: "a final answer comes",
        why: "the request is in flight for its client, although the server has seen nothing of its body",
        source: "RFC 9110, section 10.1.1",
        needs: &[Need::Stop, Need::Path("upload")],
        run: uploads::expecting,
    },
    Case {
        id: "H1/10",
        level: Should,
        title: "a slow reader gets the whole answer",
        setup: "a client that reads a body of 10 MB slowly, and has read its beginning",
        action: "the stop signal",
        criterion: "the whole body comes within the deadline",
        why: "what lies in the server's buffers when the handler has returned is work that is not done",
        source: "a write buffer has to be flushed before the close",
        needs: &[Need::Stop, Need::Path("large")],
        run: bodies::slow_reader,
    },
    Case {
        id: "H1/11",
        level: Must,
        title: "no half-written head at the deadline",
        setup: "requests that end within a few milliseconds around the deadline",
        action: "the stop signal",
        criterion: "each has its whole answer, or none of it: no head breaks off",
        why: "a race between the last write and the cut",
        source: "found by trying",
        needs: &[Need::Stop, Need::Deadline, Need::Path("slow_for")],
        run: bodies::at_the_deadline,
    },
    Case {
        id: "H1/12",
        level: Should,
        title: "an HTTP/1.0 client is answered",
        setup: "a slow request of HTTP/1.0 without keep-alive is being worked on",
        action: "the stop signal",
        criterion: "the whole answer comes and the connection is closed in order at most 1 s later",
        why: "old clients and health checks are still about",
        source: "RFC 9112, section 9.3",
        needs: &[Need::Stop, Need::Path("slow")],
        run: old_version,
    },
];

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

fn announces_close(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (mut wires, takes) = stage.in_flight(IN_FLIGHT)?;
    stage.stop()?;
    wires.watch(Until::Answered, takes + SOON)?;
    let heads = wires.iter().filter_map(|wire| wire.answers().first());
    let announced: Vec<bool> = heads.map(|head| head.persistence == Persistence::Close).collect();
    let told = announced.iter().filter(|told| **told).count();
    match (announced.len(), told) {
        (0, _) => inconclusive(format!("no request was answered; {}", losses(&wires.fates()))),
        (answered, told) if told == answered => {
            pass(format!("all {answered} answers said `Connection: close`"))
        }
        (answered, told) => fail(format!("{told} of {answered} answers said `Connection: close`")),
    }
}

fn old_version(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.path("slow")?;
    let takes = stage.adapter.paths.slow_takes.map_or(SOON, |span| *span);
    let mut wires = stage.silent("HTTP/1.0", 1)?;
    let head = format!("GET {} HTTP/1.0\r\nhost: {}\r\n\r\n", place.path, place.host);
    wires[0].request(head.as_bytes());
    wires.watch(Until::Answered, takes / 5)?;
    if wires[0].received_bytes() > 0 {
        return inconclusive("it was answered before the stop");
    }
    stage.stop()?;
    wires.watch(Until::Closed, takes + SOON)?;
    let wire = &wires[0];
    let open_for = wire
        .last_byte()
        .zip(wire.ended())
        .map(|(last, ended)| ended.saturating_duration_since(last));
    match (wire.is_answered(), wire.end(), open_for) {
        (true, End::Eof, Some(open)) if open <= CLOSED_AFTER => {
            pass("it was answered and the connection closed")
        }
        (true, End::Eof, _) => fail("it was answered and the connection stayed open"),
        (true, end, _) => fail(format!("it was answered and the connection ended so: {end:?}")),
        (false, _, _) => fail(losses(&wires.fates())),
    }
}
