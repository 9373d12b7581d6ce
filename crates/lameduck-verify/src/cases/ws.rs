//! WebSockets.

use crate::adapter::Protocol;
use crate::case::{Case, Fault, Need, Outcome, fail, inconclusive, pass};
use crate::probe::websocket::WebSocket;
use crate::probe::{self, End, Until, Wire};
use crate::stage::{SOON, Stage};
use crate::verdict::Level::{Must, Should};
use std::time::{Duration, Instant};

const WS: Need = Need::Speaks(Protocol::Ws);
const PATH: Need = Need::Path("ws");

/// `1001` going away, `1012` service restart.
const SAID: [u16; 2] = [1001, 1012];
/// What an exit may take beyond the deadline.
const QUICK: Duration = Duration::from_secs(1);
/// Sockets whose closes are to be spread.
const MANY: usize = 1000;
/// The time in which no more than twice the average may close.
const SLICE: Duration = Duration::from_millis(100);
/// A spread of fewer slices than this is none.
const SLICES: u32 = 5;
/// How long a WebSocket is tried again after the upgrade.
const LATER: Duration = Duration::from_millis(500);

pub(super) const CASES: &[Case] = &[
    Case {
        id: "WS/1",
        level: Must,
        title: "an open WebSocket is closed with a reason",
        setup: "an open WebSocket that has echoed",
        action: "the stop signal",
        criterion: "a close frame with code 1001 or 1012, not a bare FIN or a reset",
        why: "a client without a code cannot tell a restart from a failure, and reconnects as if the network had broken",
        source: "RFC 6455, section 7.4.1; IANA; uvicorn#1753",
        needs: &[Need::Stop, WS, PATH],
        run: says_why,
    },
    Case {
        id: "WS/2",
        level: Must,
        title: "a WebSocket whose client stays silent does not hold up the exit",
        setup: "an open WebSocket whose client never answers a close frame",
        action: "the stop signal",
        criterion: "the process is gone at most 1 s after the deadline",
        why: "a hijacked connection is easily forgotten by the drain",
        source: "aspnetcore#26482; Go ignores hijacked connections",
        needs: &[Need::Stop, Need::Deadline, WS, PATH],
        run: does_not_hold,
    },
    Case {
        id: "WS/3",
        level: Should,
        title: "many WebSockets are not closed at once",
        setup: "1000 open WebSockets",
        action: "the stop signal",
        criterion: "the closes are spread: over at least 500 ms, and in no 100 ms more than twice the average",
        why: "clients that are closed together come back together",
        source: "HAProxy close-spread-time; the lame duck mode of NATS",
        needs: &[Need::Stop, WS, PATH],
        run: spread,
    },
    Case {
        id: "WS/4",
        level: Should,
        title: "an open WebSocket lives through an upgrade",
        setup: "an open WebSocket that has echoed",
        action: "an upgrade",
        criterion: "it still echoes when the upgrade is done, and half a second later",
        why: "an upgrade that ends every session is a restart",
        source: "old sessions stay on the old generation until its deadline",
        needs: &[Need::Upgrade, WS, PATH],
        run: upgraded,
    },
];

fn open(stage: &Stage<'_>) -> Result<WebSocket, Fault> {
    let mut socket = WebSocket::open(&stage.path("ws")?, SOON)?;
    // Any message will do: not every socket echoes.
    match socket.echoes("hello", SOON)? || socket.has_message() {
        true => Ok(socket),
        false => Err(Fault("the WebSocket does not echo".to_owned())),
    }
}

fn says_why(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let mut socket = open(stage)?;
    stage.stop()?;
    let has_closed = |socket: &WebSocket| socket.close_code().is_some();
    socket.wait(has_closed, stage.exit_limit())?;
    let code = socket.close_code();
    if let Some(code) = code {
        // A peer that has closed the connection already does not wait for it.
        let _ = socket.answer_close(&code.to_be_bytes());
        socket.wait(|socket| socket.wire.end() != End::Open, SOON)?;
    }
    stage.recorder.wire("WebSocket", &socket.wire);
    match (code, socket.wire.end()) {
        (Some(code), End::Eof) if SAID.contains(&code) => {
            pass(format!("close frame {code}, then the end"))
        }
        (Some(code), end) if SAID.contains(&code) => {
            fail(format!("close frame {code}, then {end:?}"))
        }
        (Some(code), _) => fail(format!("close frame {code}, which says something else")),
        (None, end) => fail(format!("no close frame; the connection: {end:?}")),
    }
}

fn does_not_hold(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let socket = open(stage)?;
    let told = stage.stop()?;
    let limit = stage.lame_duck() + stage.deadline() + QUICK;
    let gone = stage.wait_gone(limit);
    stage.recorder.wire("WebSocket", &socket.wire);
    match gone {
        Some(gone) => pass(format!(
            "it exited {:.1} s after the stop",
            gone.at.duration_since(told).as_secs_f64()
        )),
        None => fail(format!("it still runs {limit:?} after the stop")),
    }
}

fn spread(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    probe::raise_open_files();
    let mut wires: Vec<Wire> = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        wires.push(WebSocket::open(&stage.path("ws")?, SOON)?.wire);
    }
    let before: Vec<u64> = wires.iter().map(Wire::received_bytes).collect();
    let told = stage.stop()?;
    probe::watch(&mut wires, Until::Closed, stage.exit_limit())?;
    // The last bytes of a socket are its close frame; where none came, its end.
    let closed = wires.iter().zip(before).filter_map(|(wire, before)| {
        let said = wire.last_byte().filter(|_| wire.received_bytes() > before);
        said.or(wire.ended())
    });
    let mut after: Vec<Duration> = closed.map(|at: Instant| at.duration_since(told)).collect();
    after.sort_unstable();
    wires.iter().take(50).for_each(|wire| stage.recorder.wire("WebSocket", wire));
    let (Some(first), Some(last)) = (after.first(), after.last()) else {
        return fail("no WebSocket was closed");
    };
    if after.len() < MANY {
        return fail(format!(
            "{} of {MANY} were still open after the deadline",
            MANY - after.len()
        ));
    }
    let took = *last - *first;
    stage.figure_ms("closes spread over", took);
    let most = after
        .iter()
        .map(|from| after.iter().filter(|at| **at >= *from && **at < *from + SLICE).count())
        .max();
    let most = most.unwrap_or(0);
    if took < SLICE * SLICES {
        return fail(format!("all {MANY} were closed within {} ms", took.as_millis()));
    }
    let average = MANY as f64 * SLICE.as_secs_f64() / took.as_secs_f64();
    let seen =
        format!("over {} ms; at most {most} in 100 ms, {average:.0} on average", took.as_millis());
    if most as f64 > 2.0 * average { fail(seen) } else { pass(seen) }
}

fn upgraded(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let mut socket = open(stage)?;
    stage.upgrade()?;
    let at_once = socket.echoes("after the upgrade", SOON)?;
    std::thread::sleep(LATER);
    let later = socket.echoes("and later", SOON)?;
    stage.recorder.wire("WebSocket", &socket.wire);
    match (at_once, later, socket.close_code()) {
        (true, true, None) => pass("it echoed when the upgrade was done and later"),
        (_, _, Some(code)) => fail(format!("it was closed with code {code}")),
        (_, _, None) if socket.wire.end() == End::Open => {
            inconclusive("it stayed open and did not echo")
        }
        (_, _, None) => fail(format!("it ended without a close frame: {:?}", socket.wire.end())),
    }
}
