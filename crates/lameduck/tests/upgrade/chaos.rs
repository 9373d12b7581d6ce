//! Whatever happens in whatever order, under load: what is lost is what a killed process had in hand, and nothing else.
//!
//! `LAMEDUCK_EVENTS` asks for more events than the few of a quick run, `LAMEDUCK_SEED` for those of a run that failed.

use std::time::{Duration, SystemTime};

use lameduck::operate::{Verb, ask};
use lameduck_verify::fate::Fate;
use lameduck_verify::load::{Load, Mode, Report, Running, Until};
use lameduck_verify::target::{Ready, Signal};

use crate::support::{BOUND, Service, Setup, example, wait, wait_gone, who};

/// Events of a quick run.
const FEW: u64 = 30;

/// Clients that keep their connections, and others that make one for each request.
const KEPT: usize = 8;
const NEW: usize = 4;

/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(1);

/// When somebody is killed after an upgrade, at the latest: well within probation.
const LIVES: u64 = 40;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}: not a number")))
}

/// The same numbers for the same seed (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Signal,
    Command,
    Rollback,
    TwoAtOnce,
    StopAndStart,
    KillSuccessor {
        after: Duration,
    },
    KillPredecessor {
        after: Duration,
    },
    /// Once it has nothing in hand any more.
    KillIdlePredecessor,
}

impl Event {
    fn draw(chance: &mut Chance) -> Event {
        let after = Duration::from_millis(chance.below(LIVES));
        match chance.below(9) {
            0 | 1 => Event::Signal,
            2 => Event::Command,
            3 => Event::Rollback,
            4 => Event::TwoAtOnce,
            5 => Event::StopAndStart,
            6 => Event::KillSuccessor { after },
            7 => Event::KillPredecessor { after },
            _ => Event::KillIdlePredecessor,
        }
    }

    /// How many requests it may cost: one a client at most, of those that the killed process had in hand.
    fn may_cost(self) -> u64 {
        match self {
            Event::KillSuccessor { .. } | Event::KillPredecessor { .. } => (KEPT + NEW) as u64,
            Event::Signal
            | Event::Command
            | Event::Rollback
            | Event::TwoAtOnce
            | Event::StopAndStart
            | Event::KillIdlePredecessor => 0,
        }
    }

    fn happens(self, service: &mut Service) {
        let before = serving(service);
        match self {
            Event::Signal => {
                service.signal(before.1, Signal::HUP);
                wait(|| who(&service.get("/")).0 > before.0, || service.target.stderr());
            }
            Event::Command => drop(upgrade(service)),
            Event::Rollback => {
                upgrade(service);
                let answer = service.ask(Verb::Rollback);
                assert_eq!(answer.code, 0, "{}", answer.text);
                wait(|| who(&service.get("/")) == before, || service.target.stderr());
            }
            Event::TwoAtOnce => {
                std::thread::scope(|scope| {
                    let asking = [(); 2].map(|()| scope.spawn(|| upgrade(service)));
                    let pids = asking.map(|asking| asking.join().unwrap());
                    assert_ne!(pids[0], pids[1]);
                });
            }
            Event::StopAndStart => {
                assert_eq!(service.ask(Verb::Stop).code, 0);
                service.wait_processes(&[]);
                let ready = Ready::Stderr("listens".to_owned());
                let start = service.by_hand(&example("misbehaving_successor")).ready(ready);
                service.target = start.start().unwrap();
            }
            Event::KillSuccessor { after } => {
                let pid = upgrade(service);
                // Not a wait for anything: another moment each time.
                std::thread::sleep(after);
                service.signal(pid, Signal::KILL);
                wait_gone(pid);
                wait(|| who(&service.get("/")) == before, || service.target.stderr());
                service.wait_named();
            }
            Event::KillPredecessor { after } => {
                upgrade(service);
                std::thread::sleep(after);
                service.signal(before.1, Signal::KILL);
                wait_gone(before.1);
            }
            Event::KillIdlePredecessor => {
                upgrade(service);
                let left = || service.status()["generations"].as_array().unwrap().clone();
                let is_idle = |it: &serde_json::Value| {
                    it["generation"] == before.0 && it["live"]["connections"] == 0
                };
                wait(|| left().iter().any(is_idle), || service.status().to_string());
                service.signal(before.1, Signal::KILL);
                wait_gone(before.1);
            }
        }
    }
}

/// The generation and the process that serves, once nobody else answers: at a hand-over both do for a moment.
fn serving(service: &Service) -> (u32, u32) {
    let mut found = (0, 0);
    let is_settled = || {
        found = who(&service.get("/"));
        let answer = ask(&service.control(), Verb::Status, &[]);
        let status = answer.ok().and_then(|answer| serde_json::from_str(&answer.text).ok());
        status.is_some_and(|status: serde_json::Value| {
            let newest = &status["generations"][0];
            newest["pid"] == found.1 && newest["phase"] == "serving"
        })
    };
    wait(is_settled, || service.target.stderr());
    found
}

/// The successor's process. One that is refused because another is under way, or whose generation leaves, asks again.
fn upgrade(service: &Service) -> u32 {
    let (mut pid, mut why) = (0, String::new());
    let is_done = || match ask(&service.control(), Verb::Upgrade, &[]) {
        Ok(answer) if answer.code == 0 => {
            let told: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
            pid = u32::try_from(told["pid"].as_u64().unwrap()).unwrap();
            true
        }
        Ok(answer) => {
            why = answer.text;
            let passes = ["under way", "starting", "has taken over"];
            assert!(passes.iter().any(|word| why.contains(word)), "{why}");
            false
        }
        Err(_) => false,
    };
    wait(is_done, || service.target.stderr());
    pid
}

/// Both kinds of clients.
struct Clients([Running; 2]);

impl Clients {
    fn start(service: &Service) -> Clients {
        Clients([(Mode::KeepAlive, KEPT), (Mode::NewConnection, NEW)].map(|(mode, count)| {
            let load = Load::new(service.place("/"), mode).connections(count).pause(PAUSE);
            let running = load.until(Until::Elapsed(BOUND * 20)).start().unwrap();
            running.wait_flowing(BOUND).unwrap();
            running
        }))
    }

    fn finish(self) -> [Report; 2] {
        self.0.iter().for_each(Running::stop);
        self.0.map(Running::finish)
    }
}

/// What no death explains.
const NEVER: [Fate; 7] = [
    Fate::TimedOut,
    Fate::Http5xx,
    Fate::HttpOther,
    Fate::Malformed,
    Fate::Stale,
    Fate::Refused,
    Fate::ConnectTimedOut,
];

#[track_caller]
fn check(reports: [Report; 2], events: &[Event], seed: u64, service: &Service) {
    let tell = || {
        let [kept, new] = &reports;
        let words = service.target.stderr();
        format!("LAMEDUCK_SEED={seed}: {events:?}\n{kept}\n{new}\n{words}")
    };
    let lost: u64 = reports.iter().map(Report::lost).sum();
    let most = events.iter().map(|event| event.may_cost()).sum();
    assert!(lost <= most, "{lost} lost, {most} may be: {}", tell());
    // While it is stopped nobody is there to connect to.
    if !events.contains(&Event::StopAndStart) {
        let met = |fate: Fate| reports.iter().any(|report| report.count(fate) > 0);
        assert!(!NEVER.into_iter().any(met), "{}", tell());
    }
}

#[test]
fn any_order_of_events_loses_no_more_than_a_killed_process_had_in_hand() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("LAMEDUCK_SEED").unwrap_or(now.as_micros() as u64).max(1);
    let mut chance = Chance(seed);
    let mut service = Setup::new().wish("max-generations 64").start();
    // One load sees everything until somebody is killed, whose cost is counted by itself.
    let mut calm = Some((Clients::start(&service), Vec::new()));
    println!("LAMEDUCK_SEED={seed}");
    for _ in 0..number("LAMEDUCK_EVENTS").unwrap_or(FEW) {
        let event = Event::draw(&mut chance);
        if event.may_cost() == 0 {
            let (_, events) = calm.get_or_insert_with(|| (Clients::start(&service), Vec::new()));
            events.push(event);
            event.happens(&mut service);
            continue;
        }
        if let Some((clients, events)) = calm.take() {
            check(clients.finish(), &events, seed, &service);
        }
        let clients = Clients::start(&service);
        event.happens(&mut service);
        let reports = clients.finish();
        println!("{event:?}: {} and {} lost", reports[0].lost(), reports[1].lost());
        check(reports, &[event], seed, &service);
    }
    if let Some((clients, events)) = calm.take() {
        check(clients.finish(), &events, seed, &service);
    }
    let is_over = || {
        let _ = ask(&service.control(), Verb::Stop, &[]);
        service.processes().is_empty()
    };
    wait(is_over, || format!("LAMEDUCK_SEED={seed}: {:?}", service.processes()));
}
