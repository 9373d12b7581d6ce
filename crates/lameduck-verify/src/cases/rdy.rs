//! Readiness and liveness.

use crate::address::{Address, Place};
use crate::case::{Case, Fault, Need, Outcome, fail, inconclusive, pass};
use crate::probe::{self, Until, Wire};
use crate::stage::{Launch, SOON, Stage, ask};
use crate::trace::MarkKind;
use crate::verdict::Level::{Must, Should};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks of a prober.
const LOOK_PAUSE: Duration = Duration::from_millis(3);
/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// The end of the lame-duck time may come this much early: the stop is told a moment before it is noted.
const EARLY: Duration = Duration::from_millis(50);
/// A liveness that fails this close to the exit is the exit.
const AT_EXIT: Duration = Duration::from_millis(150);
/// How long a fresh server is watched.
const START_WATCHED: Duration = Duration::from_secs(1);
/// A balancer's checks: this far apart, and out after this many failures.
const CHECK_EVERY: Duration = Duration::from_secs(1);
const CHECKS_FAILED: u32 = 2;
/// Between two requests through the balancer.
const REQUEST_EVERY: Duration = Duration::from_millis(5);
/// What readiness may take to be seen after the upgrade.
const AFTER_UPGRADE: Duration = Duration::from_millis(500);

pub(super) const CASES: &[Case] = &[
    Case {
        id: "RDY/1",
        level: Must,
        title: "readiness turns red before the first refusal",
        setup: "readiness is green; a prober looks at it and connects to the service every few milliseconds",
        action: "the stop signal",
        criterion: "readiness answers 503 before a connection is refused",
        why: "a balancer that is told too late sends clients to a closed port",
        source: "kube-apiserver; kubernetes#88911",
        needs: &[Need::Stop, Need::Path("ready")],
        run: red_before_refusal,
    },
    Case {
        id: "RDY/2",
        level: Must,
        title: "the lame-duck time is kept",
        setup: "a server with a lame-duck delay; new connections with a request every few milliseconds",
        action: "the stop signal",
        criterion: "new connections are served for at least the delay",
        why: "the delay is there for balancers that have not looked yet",
        source: "the SRE book; HAProxy grace; aspnetcore#30387",
        needs: &[Need::Stop, Need::LameDuck],
        run: lame_duck,
    },
    Case {
        id: "RDY/3",
        level: Must,
        title: "liveness stays green in the drain",
        setup: "a slow request holds the drain; a prober looks at liveness every few milliseconds",
        action: "the stop signal",
        criterion: "liveness answers 2xx until the process exits",
        why: "a liveness that fails makes the platform kill the drain",
        source: "lightship's /live answers 500 in the drain: the counter-example",
        needs: &[Need::Stop, Need::Path("live"), Need::Path("slow")],
        run: alive,
    },
    Case {
        id: "RDY/4",
        level: Must,
        title: "readiness never turns red in an upgrade",
        setup: "readiness is green; a prober looks at it every few milliseconds",
        action: "an upgrade",
        criterion: "readiness answers 2xx throughout",
        why: "the service never stops: a balancer must not think so",
        source: "HAProxy reloads without grace; at Meta the new process answers the checks",
        needs: &[Need::Upgrade, Need::Path("ready")],
        run: green_in_upgrade,
    },
    Case {
        id: "RDY/5",
        level: Must,
        title: "readiness is not green before the service answers",
        setup: "the server is being started; a prober looks from the first moment",
        action: "whenever readiness answers 2xx, a request",
        criterion: "the request is answered 2xx",
        why: "clients are sent to a server that is not there yet",
        source: "nginx waits 100 ms and guesses",
        needs: &[Need::Start, Need::Path("ready")],
        run: cold_start,
    },
    Case {
        id: "RDY/6",
        level: Should,
        title: "a balancer with checks every second loses nothing",
        setup: "a balancer that checks readiness each second and takes a server out after two failures; a request on a new \
                connection every 5 ms",
        action: "the stop signal",
        criterion: "no request fails until the balancer has taken the server out",
        why: "this is how most services are stopped, and where most requests are lost",
        source: "the race of endpoints and stops: kubernetes#43576",
        needs: &[Need::Stop, Need::LameDuck, Need::Path("ready")],
        run: balancer,
    },
];

/// Looks at a path again and again, in a thread of its own, until it is told to end.
struct Prober {
    ended: std::sync::Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Look>>>,
}

/// One look.
#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    /// The status, or why there is none.
    seen: Result<u16, String>,
}

impl Look {
    fn is_green(&self) -> bool {
        self.seen.as_ref().is_ok_and(|status| (200..300).contains(status))
    }

    fn text(&self) -> String {
        match &self.seen {
            Ok(status) => status.to_string(),
            Err(why) => why.clone(),
        }
    }
}

impl Prober {
    fn start(look: impl Fn() -> Result<u16, String> + Send + 'static) -> Result<Prober, Fault> {
        let ended = std::sync::Arc::new(AtomicBool::new(false));
        let is_over = ended.clone();
        let probing = move || {
            let mut looks = Vec::new();
            while !is_over.load(Ordering::SeqCst) {
                let at = Instant::now();
                looks.push(Look { at, seen: look() });
                std::thread::sleep(LOOK_PAUSE);
            }
            looks
        };
        let thread = std::thread::Builder::new().name("prober".into()).spawn(probing)?;
        Ok(Prober { ended, thread: Some(thread) })
    }

    fn of(place: &Place) -> Result<Prober, Fault> {
        let place = place.clone();
        Prober::start(move || status(&place))
    }

    fn finish(mut self) -> Vec<Look> {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

fn status(place: &Place) -> Result<u16, String> {
    ask(place, LOOK_LIMIT).map(|asked| asked.status).map_err(|error| error.to_string())
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// Readiness as it is before anything is done.
fn green(stage: &Stage<'_>) -> Result<Place, Fault> {
    let ready = stage.admin("ready")?;
    match status(&ready) {
        Ok(200..=299) => Ok(ready),
        Ok(status) => Err(Fault(format!("readiness answers {status} before anything was done"))),
        Err(why) => Err(Fault(format!("readiness does not answer: {why}"))),
    }
}

fn red_before_refusal(stage: &mut Stage<'_>) -> Outcome {
    stage.start_as(lame(stage))?;
    let ready = Prober::of(&green(stage)?)?;
    let Address::Tcp(address) = stage.address() else {
        return inconclusive("the address is no TCP address");
    };
    let connects = Prober::start(move || connects(&address))?;
    let told = stage.stop()?;
    stage.wait_gone(stage.exit_limit() + lame_duck_of(stage));
    // A server that is gone refuses; the prober has to see it once.
    std::thread::sleep(AT_EXIT);
    let (ready, connects) = (ready.finish(), connects.finish());
    let red =
        ready.iter().find(|look| matches!(look.seen, Ok(status) if !(200..300).contains(&status)));
    let refused = connects.iter().find(|look| look.seen.is_err());
    let Some(refused) = refused else { return inconclusive("no connection was refused") };
    let Some(red) = red else {
        return fail("readiness was never seen red before it could not be asked any more");
    };
    stage.recorder.mark_at(red.at, MarkKind::Phase, "not ready");
    stage.recorder.mark_at(refused.at, MarkKind::Phase, "refused");
    let (red, refused) =
        (red.at.saturating_duration_since(told), refused.at.saturating_duration_since(told));
    let seen =
        format!("not ready {} after the stop, the first refusal after {}", ms(red), ms(refused));
    if red < refused { pass(seen) } else { fail(seen) }
}

fn connects(address: &SocketAddr) -> Result<u16, String> {
    TcpStream::connect_timeout(address, LOOK_LIMIT).map(|_| 200).map_err(|error| error.to_string())
}

fn lame_duck(stage: &mut Stage<'_>) -> Outcome {
    stage.start_as(lame(stage))?;
    let delay = lame_duck_of(stage);
    let requests = Prober::of(&stage.fast())?;
    let told = stage.stop()?;
    stage.wait_gone(delay + stage.exit_limit());
    let looks = requests.finish();
    let bad = looks.iter().find(|look| look.at >= told && !look.is_green());
    let last = bad.map_or_else(Instant::now, |look| look.at);
    let served = looks.iter().filter(|look| look.at >= told && look.at < last).count();
    stage.figure("served in the lame-duck time", served as f64, "requests");
    let after = last.saturating_duration_since(told);
    match after + EARLY >= delay {
        true => pass(format!("{served} new connections were served for {}", ms(after))),
        false => fail(format!(
            "{} after the stop: {}; the delay is {}",
            ms(after),
            bad.map_or_else(String::new, Look::text),
            ms(delay)
        )),
    }
}

fn alive(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let live = stage.admin("live")?;
    match status(&live) {
        Ok(200..=299) => {}
        other => return inconclusive(format!("liveness before the stop: {other:?}")),
    }
    let (mut held, takes) = stage.in_flight(1)?;
    let prober = Prober::of(&live)?;
    let told = stage.stop()?;
    held.watch(Until::Answered, takes + SOON)?;
    let gone = stage.wait_gone(stage.exit_limit());
    let looks = prober.finish();
    let Some(gone) = gone else { return inconclusive("it did not exit") };
    let drained = gone.at.duration_since(told);
    let bad = looks.iter().find(|look| !look.is_green() && look.at + AT_EXIT < gone.at);
    match bad {
        None => pass(format!("green throughout a drain of {}", ms(drained))),
        Some(bad) => fail(format!(
            "{} after the stop, in a drain of {}: {}",
            ms(bad.at.saturating_duration_since(told)),
            ms(drained),
            bad.text()
        )),
    }
}

fn green_in_upgrade(stage: &mut Stage<'_>) -> Outcome {
    if stage.adapter.running.is_none() {
        stage.start()?;
    }
    let prober = Prober::of(&green(stage)?)?;
    let upgraded = stage.upgrade()?;
    std::thread::sleep(AFTER_UPGRADE);
    let looks = prober.finish();
    match looks.iter().find(|look| !look.is_green()) {
        None => pass(format!(
            "{} looks, all green, in an upgrade of {}",
            looks.len(),
            ms(upgraded.took)
        )),
        Some(bad) => fail(format!(
            "{} after the upgrade was asked for: {}",
            ms(bad.at.saturating_duration_since(upgraded.at)),
            bad.text()
        )),
    }
}

fn cold_start(stage: &mut Stage<'_>) -> Outcome {
    stage.start_as(Launch { unready: true, ..Launch::default() })?;
    let (ready, fast) = (stage.admin("ready")?, stage.fast());
    let begun = Instant::now();
    let mut first = None;
    let mut looks = 0;
    while first.is_none_or(|first: Instant| first.elapsed() < START_WATCHED) {
        if begun.elapsed() > crate::target::READY_LIMIT {
            return inconclusive("readiness never turned green");
        }
        if matches!(status(&ready), Ok(200..=299)) {
            looks += 1;
            let first = *first.get_or_insert_with(Instant::now);
            match status(&fast) {
                Ok(200..=299) => {}
                other => {
                    let since = first.duration_since(begun);
                    let seen = other.map_or_else(|why| why, |status| status.to_string());
                    return fail(format!(
                        "readiness was green {} after the start, and a request got: {seen}",
                        ms(since)
                    ));
                }
            }
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    let since = first.map(|first| first.duration_since(begun)).unwrap_or_default();
    pass(format!(
        "green {} after the start; {looks} requests behind it were all answered",
        ms(since)
    ))
}

fn balancer(stage: &mut Stage<'_>) -> Outcome {
    stage.start_as(lame(stage))?;
    let (ready, fast) = (green(stage)?, stage.fast());
    let told = stage.stop()?;
    // The checks' own rhythm has nothing to do with the stop: the worst is a check just before it.
    let mut next_check = told + CHECK_EVERY;
    let mut failures = 0;
    let (mut sent, mut lost) = (0, Vec::new());
    let request = fast.get("connection: close\r\n");
    let limit = told + CHECK_EVERY * (CHECKS_FAILED + 1) + SOON;
    while failures < CHECKS_FAILED && Instant::now() < limit {
        if Instant::now() >= next_check {
            failures = if matches!(status(&ready), Ok(200..=299)) { 0 } else { failures + 1 };
            next_check += CHECK_EVERY;
        }
        sent += 1;
        if let Some(why) = one_request(&fast, &request) {
            lost.push((told.elapsed(), why));
        }
        std::thread::sleep(REQUEST_EVERY);
    }
    stage.figure("requests through the balancer", f64::from(sent), "requests");
    match (failures < CHECKS_FAILED, lost.first()) {
        (true, _) => fail("the balancer never took the server out"),
        (false, None) => pass(format!("{sent} requests until the balancer took it out, none lost")),
        (false, Some((at, why))) => fail(format!(
            "{} of {sent} were lost, the first {} after the stop: {why}",
            lost.len(),
            ms(*at)
        )),
    }
}

/// Why a request on a connection of its own failed, if it did.
fn one_request(place: &Place, request: &[u8]) -> Option<String> {
    let mut wire = match Wire::open(place) {
        Ok(wire) => wire,
        Err(error) => return Some(error.to_string()),
    };
    wire.request(request);
    // A wire that cannot be watched shows as one that was not answered.
    let _ = probe::watch(std::slice::from_mut(&mut wire), Until::Answered, LOOK_LIMIT);
    let fate = wire.fates()[0];
    (fate != crate::fate::Fate::Answered).then(|| fate.name().to_owned())
}

/// With the lame-duck delay that the adapter has for these cases.
fn lame(stage: &Stage<'_>) -> Launch {
    let more = stage.adapter.lame_duck.as_ref().map(|lame_duck| lame_duck.add.clone());
    Launch { add: more.unwrap_or_default(), ..Launch::default() }
}

fn lame_duck_of(stage: &Stage<'_>) -> Duration {
    stage.adapter.lame_duck.as_ref().map_or(stage.lame_duck(), |lame_duck| *lame_duck.delay)
}
