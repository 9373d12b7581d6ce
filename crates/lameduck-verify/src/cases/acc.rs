//! The listener and its queue.

use crate::address::{Address, Scheme};
use crate::answer::Persistence;
use crate::case::{Case, Fault, Need, Outcome, fail, inconclusive, pass, skip, warn};
use crate::fate::{Fate, Tally};
use crate::load::{Mode, Until as LoadUntil};
use crate::probe::http1::HalfHeads;
use crate::probe::{End, Until, Wire};
use crate::stage::{Arrivals, Stage};
use crate::verdict::Level::{Must, Should};
use crate::verdict::Verdict;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// Connections put into the accept queue.
const QUEUED: usize = 500;
/// The same over TLS, where each costs a handshake: a server that cannot make so many by its deadline is slow, not careless.
const SECURE: usize = 100;
/// What races with the close is tried so often, until something is lost: a race that is won once is not won always.
const ROUNDS: usize = 3;
/// Connections with half a head.
const HALF: usize = 10;
/// Connections in the queue of each of two listeners: more than a server takes before it hears of the stop.
const AT_EACH: usize = 50;
/// When the other half follows, after the stop.
const HALF_PAUSE: Duration = Duration::from_millis(500);
/// What a connection that is not work may hold an exit.
const SILENT_EXIT: Duration = Duration::from_secs(1);
/// How long a refusal may take: a balancer waits for it.
const REFUSAL: Duration = Duration::from_secs(1);
/// Clients that open a connection for each request, as fast as they can, to see how many a second there can be.
const CLIENTS: usize = 32;
/// New connections a second, as many as the case wants.
const RATE: f64 = 10_000.0;
/// The part of what the server takes at most that still leaves it time to stop in.
const BEARABLE: f64 = 0.8;
/// So many of them wait when the stop comes.
const BURST: u32 = 60;
/// How long they may take to come: as long as a container has no processor that has used up its share.
const THROTTLED: Duration = Duration::from_millis(100);
/// Connections that may be open at a time.
const AT_ONCE: usize = 256;
/// So often a storm is tried, until something is lost.
const STORMS: usize = 6;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "ACC/1",
        level: Must,
        title: "requests in the accept queue are answered",
        setup: "the server is stopped by SIGSTOP while 500 clients (over TLS 100; or as many as its queue takes) connect and send a request each",
        action: "the stop signal, then SIGCONT; three times",
        criterion: "each of them is answered in full",
        why: "the kernel accepted these connections in the server's name; closing the listener resets them",
        source: "gunicorn#3397; six of six servers measured lose some",
        needs: &[Need::Start],
        run: queue,
    },
    Case {
        id: "ACC/2",
        level: Must,
        title: "silent connections in the accept queue are closed in order",
        setup: "as ACC/1, but the clients send nothing",
        action: "the stop signal, then SIGCONT; three times",
        criterion: "each is closed with FIN, none reset, before the server's deadline",
        why: "a reset looks like a crash to a client that was about to send",
        source: "measured: closing a listener resets what waits in its queue",
        needs: &[Need::Start],
        run: silent_queue,
    },
    Case {
        id: "ACC/3",
        level: Must,
        title: "half a request head is not cut by a reset",
        setup: "10 connections were accepted and have sent half of a request's head",
        action: "the stop signal; the other half follows 500 ms later",
        criterion: "no connection is reset before it was answered or closed; served with Connection: close to pass without a warning",
        why: "the client's packets may be under way for that long",
        source: "Go gives a new connection 5 s (StateNew)",
        needs: &[Need::Start],
        run: half_head,
    },
    Case {
        id: "ACC/4",
        level: Should,
        title: "a silent connection does not hold the exit",
        setup: "one connection was accepted and has sent nothing",
        action: "the stop signal",
        criterion: "the server exits within 1 s",
        why: "a scanner, a health check or a browser's spare connection is not work",
        source: "measured: Go 5.25 s; nginx, gunicorn and Node more than 15 s",
        needs: &[Need::Stop],
        run: silent_exit,
    },
    Case {
        id: "ACC/5",
        level: Must,
        title: "after the listener is closed, a connection is refused at once",
        setup: "a drain is running: a request holds it",
        action: "a new connection, once nothing listens any more",
        criterion: "it is refused within 1 s, and does not hang",
        why: "a balancer needs the refusal to go elsewhere",
        source: "a SYN that is dropped is sent again after 1 s, 3 s, 7 s",
        needs: &[Need::Stop, Need::Holds],
        run: refused,
    },
    Case {
        id: "ACC/6",
        level: Must,
        title: "the port can be bound again right after the exit",
        setup: "the server has closed connections itself, and has exited",
        action: "it is started again at the same port",
        criterion: "it becomes ready",
        why: "connections in TIME_WAIT hold the port for a minute without SO_REUSEADDR",
        source: "RFC 9293, section 3.6.1",
        needs: &[Need::Stop],
        run: bind_again,
    },
    Case {
        id: "ACC/7",
        level: Should,
        title: "a storm of new connections meets refusals, and no reset",
        setup: "10,000 connections a second, one for each request, or four fifths of what the server takes where that is less; the same load without a stop shows nothing, and with a kill it does",
        action: "the server has no processor (SIGSTOP) until 60 of them wait, or 100 ms; the stop signal, then SIGCONT; six times, or until one is lost",
        criterion: "every request that was sent is answered; only connections after the close are refused",
        why: "connections arrive between the last accept and the close",
        source: "HAProxy management guide, section 4",
        needs: &[Need::Start],
        run: storm,
    },
    Case {
        id: "ACC/8",
        level: Must,
        title: "both of two listeners are drained and closed",
        setup: "the server is stopped by SIGSTOP while clients connect to both of its addresses and send a request each",
        action: "the stop signal, then SIGCONT; three times",
        criterion: "every request is answered, the server exits, and both addresses refuse",
        why: "lists of listeners are where one is forgotten",
        source: "-",
        needs: &[Need::Start, Need::Also],
        run: two_listeners,
    },
    Case {
        id: "ACC/9",
        level: Must,
        title: "the path of a Unix socket is removed, unless it is another's by now",
        setup: "the server listens on a Unix socket; once its path stays, once another server has bound it anew",
        action: "the stop signal",
        criterion: "the server's own path is removed, and the other's is not",
        why: "a stale path refuses clients; removing the successor's path cuts it off",
        source: "the wrong generation unlinks the path",
        needs: &[Need::Start, Need::Also],
        run: unix_path,
    },
];

/// Tries it [`ROUNDS`] times, or until it is not passed.
fn again_and_again(stage: &mut Stage<'_>, once: impl Fn(&mut Stage<'_>) -> Outcome) -> Outcome {
    let mut found = once(stage)?;
    for _ in 1..ROUNDS {
        if found.verdict != Verdict::Pass {
            break;
        }
        found = once(stage)?;
    }
    Ok(found)
}

fn queue(stage: &mut Stage<'_>) -> Outcome {
    again_and_again(stage, queue_once)
}

fn queue_once(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let clients = match stage.fast().scheme {
        Scheme::Https => SECURE,
        Scheme::Http => QUEUED,
    };
    let mut queued = stage.backlog(clients)?;
    stage.stop()?;
    stage.thaw()?;
    queued.watch(Until::Answered, stage.exit_limit())?;
    let (fates, queued) = (queued.fates(), queued.len() as u64);
    if fates.sent() < queued {
        return inconclusive(format!("only {} of {queued} requests were sent", fates.sent()));
    }
    match fates.answered() {
        answered if answered == queued => pass(format!("all {queued} were answered")),
        answered => fail(format!("{answered} of {queued} were answered; {}", losses(&fates))),
    }
}

fn silent_queue(stage: &mut Stage<'_>) -> Outcome {
    again_and_again(stage, silent_queue_once)
}

fn silent_queue_once(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let mut queued = stage.silent_backlog(QUEUED)?;
    stage.stop()?;
    stage.thaw()?;
    let closed = queued.watch(Until::Closed, stage.exit_limit())?;
    let (reset, count) = (queued.ended(End::Reset), queued.len());
    if reset > 0 {
        fail(format!("{reset} of {count} were reset"))
    } else if !closed {
        let open = queued.ended(End::Open);
        fail(format!("{open} of {count} are open {:?} after the stop", stage.exit_limit()))
    } else {
        pass(format!("all {count} were closed in order"))
    }
}

fn half_head(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let HalfHeads { wires, rest } = HalfHeads::open(&stage.fast(), HALF)?;
    let mut wires = stage.keep("half a head", wires);
    stage.wait_accepted()?;
    stage.stop()?;
    wires.watch(Until::Closed, HALF_PAUSE)?;
    // What was closed in order is left alone: bytes that are sent after a FIN are the client's own fault.
    for wire in wires.iter_mut() {
        if !wire.has_closed() {
            wire.request(&rest);
        }
    }
    wires.watch(Until::Closed, stage.exit_limit())?;
    let served = wires.iter().filter(|wire| wire.answers().iter().any(|head| head.status < 300));
    let announced =
        served.clone().filter(|wire| wire.answers()[0].persistence == Persistence::Close);
    let (served, announced) = (served.count(), announced.count());
    let reset = wires.iter().filter(|wire| wire.end() == End::Reset && wire.answers().is_empty());
    match reset.count() {
        0 if announced == HALF => pass(format!("all {HALF} were served, with Connection: close")),
        0 if served == HALF => warn(format!("all {HALF} were served, without Connection: close")),
        0 => warn(format!("{served} of {HALF} were served, the others closed in order")),
        reset => fail(format!("{reset} of {HALF} were reset, {served} served")),
    }
}

fn silent_exit(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let silent = stage.silent("silent", 1)?;
    stage.wait_accepted()?;
    let told = stage.stop()?;
    let gone = stage.wait_gone(stage.exit_limit().max(Duration::from_secs(6)));
    drop(silent);
    let Some(gone) = gone else {
        return fail(format!("it still runs {:.1} s after the stop", told.elapsed().as_secs_f64()));
    };
    let took = gone.at.duration_since(told);
    stage.figure_ms("exit with a silent connection", took);
    let text = format!("it exited {:.2} s after the stop", took.as_secs_f64());
    let lame_duck = stage.adapter.stop.lame_duck.map_or(Duration::ZERO, |span| *span);
    if took <= lame_duck + SILENT_EXIT { pass(text) } else { fail(text) }
}

fn refused(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let held = stage.hold(1)?;
    stage.wait_accepted()?;
    stage.stop()?;
    let lame_duck = stage.adapter.stop.lame_duck.map_or(Duration::ZERO, |span| *span);
    if !stage.wait_not_listening(lame_duck + Duration::from_secs(2))? {
        return fail("2 s after the stop its listener is still open, while it drains");
    }
    if stage.wait_gone(Duration::ZERO).is_some() {
        return inconclusive("it exited before its drain could be looked at");
    }
    let begun = Instant::now();
    let attempt = Wire::connect(&stage.address());
    let took = begun.elapsed();
    drop(held);
    match attempt {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && took <= REFUSAL => {
            pass(format!("refused within {:.1} ms", took.as_secs_f64() * 1000.0))
        }
        Err(error) => fail(format!("after {:.1} s: {error}", took.as_secs_f64())),
        Ok(_) => fail("a connection was accepted though nothing listens"),
    }
}

fn bind_again(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.fast();
    for _ in 0..CLIENTS {
        // With `Connection: close` the server closes first, so it is its side that waits.
        stage.ask(&place)?;
    }
    let idle = stage.idle(CLIENTS)?;
    stage.stop()?;
    let Some(_) = stage.wait_gone(stage.exit_limit()) else {
        return inconclusive("it did not exit, so it could not be started again");
    };
    drop(idle);
    if let Err(Fault(why)) = stage.start_again() {
        return fail(format!("it could not be started again at once: {why}"));
    }
    match stage.ask(&place) {
        Ok(asked) if asked.status < 300 => pass("it was started again at once, and answers"),
        Ok(asked) => fail(format!("started again, it answers {}", asked.status)),
        Err(Fault(why)) => fail(format!("started again, it does not answer: {why}")),
    }
}

fn storm(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let load = arrivals(stage)?;
    let mut all = Tally::default();
    for _ in 0..STORMS {
        let limit = stage.exit_limit();
        let (seen, gone) = stage.under_arrivals(&load, |stage| {
            stage.freeze()?;
            stage.wait_queued(BURST, THROTTLED)?;
            stage.stop()?;
            stage.thaw()?;
            Ok(stage.wait_gone(limit))
        })?;
        if gone.is_none() {
            return fail(format!("under load it still runs {limit:?} after the stop"));
        }
        stage.start_again()?;
        all.merge(&seen);
        if all.lost() > 0 {
            break;
        }
    }
    if let Some(blind) = stage.control_of_arrivals(&load)? {
        return blind;
    }
    match all.lost() {
        0 => pass(format!("all {} requests that were sent were answered", all.sent())),
        lost => fail(format!("{lost} of {} requests were lost; {}", all.sent(), losses(&all))),
    }
}

/// As many new connections as the server bears. Over TLS there is no open loop: 32 clients as fast as they can.
fn arrivals(stage: &mut Stage<'_>) -> Result<Arrivals, Fault> {
    if stage.fast().scheme == Scheme::Https {
        let load = stage.load(stage.fast(), Mode::NewConnection).connections(CLIENTS);
        let load = load.pause(Duration::ZERO);
        return Ok(Arrivals::Closed(load.until(LoadUntil::Gone { at_most: stage.exit_limit() })));
    }
    let rate = stage.bearable_rate(RATE, CLIENTS, BEARABLE)?;
    Ok(Arrivals::Open(stage.open_load(rate, AT_ONCE)))
}

fn two_listeners(stage: &mut Stage<'_>) -> Outcome {
    again_and_again(stage, two_listeners_once)
}

fn two_listeners_once(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (first, second) = (stage.fast(), stage.also()?);
    stage.freeze()?;
    let mut wires = Vec::new();
    for place in [&first, &second] {
        for _ in 0..AT_EACH {
            let mut wire = Wire::open(place)?;
            wire.put_off_handshake();
            wire.request(&place.get(""));
            wires.push(wire);
        }
    }
    let mut wires = stage.keep("two listeners", wires);
    stage.stop()?;
    stage.thaw()?;
    wires.watch(Until::Answered, stage.exit_limit())?;
    let fates = wires.fates();
    let count = wires.len() as u64;
    drop(wires);
    if fates.answered() < count {
        return fail(format!("{} of {count} were answered; {}", fates.answered(), losses(&fates)));
    }
    if stage.wait_gone(stage.exit_limit()).is_none() {
        return fail("all were answered, and it does not exit");
    }
    for place in [first, second] {
        if Wire::connect(&place.address).is_ok() {
            return fail(format!("after its exit {} still accepts connections", place.address));
        }
    }
    pass(format!("all {count} were answered, and both addresses refuse"))
}

fn unix_path(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let Address::Unix(path) = stage.also()?.address else {
        return skip("the second address of the target is not a Unix socket");
    };
    stage.stop()?;
    if stage.wait_gone(stage.exit_limit()).is_none() {
        return inconclusive("it did not exit");
    }
    if path.exists() {
        return fail(format!("its path {} is still there after the exit", path.display()));
    }
    stage.start()?;
    let Address::Unix(path) = stage.also()?.address else { return inconclusive("it has moved") };
    let beside = path.with_extension("other");
    let _other = UnixListener::bind(&beside)?;
    std::fs::rename(&beside, &path)?;
    let inode = std::fs::metadata(&path)?.ino();
    stage.stop()?;
    if stage.wait_gone(stage.exit_limit()).is_none() {
        return inconclusive("it did not exit");
    }
    match std::fs::metadata(&path).map(|found| found.ino()) {
        Ok(found) if found == inode => pass("its own path is removed, and another's is not"),
        Ok(_) | Err(_) => fail("it removed the path that another server had bound"),
    }
}

/// As in `12 RESET_BEFORE_RESPONSE, 3 TRUNCATED`.
pub(super) fn losses(fates: &Tally) -> String {
    let lost = fates.met(crate::fate::Kind::Lost);
    let lost: Vec<String> =
        lost.map(|(fate, count): (Fate, u64)| format!("{count} {}", fate.name())).collect();
    if lost.is_empty() { "nothing lost".to_owned() } else { lost.join(", ") }
}
