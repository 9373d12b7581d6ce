//! Every order of inputs up to a length, and long random ones.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::super::{Action, Config, Input};
use super::{QUIT, Run, TERM, config, ms};

/// One thing that can happen next.
#[derive(Clone, Copy, Debug)]
enum Event {
    Input(Input),
    /// Time goes on to the instant the machine asked to be woken at.
    Due,
    /// Time goes on a little, past nothing or past an instant the driver was late for.
    Later(Duration),
}

const EVENTS: [Event; 16] = [
    Event::Input(Input::Ready),
    Event::Input(Input::Stop(TERM)),
    Event::Input(Input::Force(QUIT)),
    Event::Input(Input::GateClosed),
    Event::Input(Input::Settled),
    Event::Input(Input::Idle),
    Event::Input(Input::Closed),
    Event::Input(Input::TakeoverAsked { draining: 0 }),
    Event::Input(Input::TakeoverAsked { draining: 3 }),
    Event::Input(Input::TakeoverFailed),
    Event::Input(Input::SuccessorAccepting),
    Event::Input(Input::SuccessorLost),
    Event::Input(Input::SuccessorKeeps),
    Event::Input(Input::PredecessorResumed),
    Event::Due,
    Event::Later(Duration::from_millis(700)),
];

impl Run {
    fn take(&mut self, event: Event) -> Result<Vec<Action>, String> {
        let (now, input) = match event {
            Event::Input(input) => (self.now, input),
            Event::Due => (self.machine.poll_timeout().unwrap_or(self.now), Input::Tick),
            Event::Later(by) => (self.now + by, Input::Tick),
        };
        self.step(now, input)
    }
}

/// Configurations that differ in every way the machine decides by.
fn configs() -> Vec<Config> {
    let config = config();
    vec![
        config.clone(),
        Config { lame_duck: ms(300), reserve: ms(200), ..config.clone() },
        Config { grace: None, lame_duck: ms(300), ..config.clone() },
        Config { reserve: ms(2000), ..config.clone() },
        Config { settle: ms(3000), after_force: ms(1), reserve: ms(20), ..config.clone() },
        Config { upgrade_grace: Some(ms(400)), ..config.clone() },
        Config { upgrade_grace: Some(ms(9000)), reserve: ms(600), ..config.clone() },
        Config { grace: None, upgrade_grace: Some(ms(400)), probation: ms(0), ..config.clone() },
        Config { grace: Some(Duration::ZERO), ..config.clone() },
        Config { lame_duck: ms(2000), ..config },
    ]
}

struct Search<'a> {
    config: &'a Config,
    path: Vec<Event>,
    /// How many more events were tried after each state, by the state's hash. Two states of one hash among a million
    /// are a matter of one in ten millions.
    seen: HashMap<u64, usize>,
    steps: u64,
}

impl Search<'_> {
    /// Tries each order of `left` events after `run`. Orders that lead to the same state in machine and witness at the
    /// same time have the same future, so it is tried once.
    fn explore(&mut self, run: &Run, left: usize) {
        if left == 0 || !self.is_news(run, left) {
            return;
        }
        for event in EVENTS {
            let mut next = run.clone();
            self.path.push(event);
            self.steps += 1;
            if let Err(broken) = next.take(event) {
                panic!("{broken}\nafter {:?}\nwith {:?}", self.path, self.config);
            }
            self.explore(&next, left - 1);
            self.path.pop();
        }
    }

    fn is_news(&mut self, run: &Run, left: usize) -> bool {
        let mut hasher = DefaultHasher::new();
        (run.now, &run.machine, &run.witness).hash(&mut hasher);
        let tried = self.seen.entry(hasher.finish()).or_default();
        let news = *tried < left;
        *tried = left.max(*tried);
        news
    }
}

/// Long enough for a whole drain: ready, stop, gate, settle, idle, closed, and one surprise anywhere.
const LENGTH: usize = 7;

/// Enough for the second takeover after a rollback to reach the end of its settle.
const LENGTH_AFTER_ROLLBACK: usize = 5;

#[test]
fn no_order_of_inputs_breaks_an_invariant() {
    for config in &configs() {
        let mut search = Search { config, path: Vec::new(), seen: HashMap::new(), steps: 0 };
        search.explore(&Run::new(config, Instant::now()), LENGTH);
        assert!(search.steps > 10_000, "only {} steps were tried", search.steps);
    }
}

#[test]
fn no_order_of_inputs_after_a_rollback_breaks_an_invariant() {
    let rolled_back = [
        Input::Ready,
        Input::TakeoverAsked { draining: 0 },
        Input::SuccessorAccepting,
        Input::SuccessorLost,
    ];
    for config in &configs() {
        let mut run = Run::new(config, Instant::now());
        for input in rolled_back {
            // A probation of no length has no rollback; what follows then is worth trying as well.
            run.step(run.now, input).unwrap();
        }
        let path = rolled_back.into_iter().map(Event::Input).collect();
        let mut search = Search { config, path, seen: HashMap::new(), steps: 0 };
        search.explore(&run, LENGTH_AFTER_ROLLBACK);
    }
}

/// A generator that needs no crate: xorshift64*.
struct Random(u64);

impl Random {
    /// Neighbouring seeds begin far from each other.
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

const RUNS: u64 = 4_000;
const STEPS: usize = 60;

/// Runs seeds 1 to [`RUNS`]; the seed and the run it made are printed when one breaks an invariant.
#[test]
fn no_long_random_run_breaks_an_invariant() {
    let configs = configs();
    let mut resumed_twice = 0;
    let mut stopped = 0;
    for seed in 1..=RUNS {
        let mut random = Random::new(seed);
        let config = &configs[random.below(configs.len())];
        let mut run = Run::new(config, Instant::now());
        let mut path = Vec::new();
        let mut resumes = 0;
        for _ in 0..STEPS {
            let event = likely_event(&mut random);
            path.push(event);
            match run.take(event) {
                Ok(actions) => {
                    resumes += actions.iter().filter(|action| **action == Action::Resume).count();
                }
                Err(broken) => panic!("{broken}\nseed {seed}, after {path:?}\nwith {config:?}"),
            }
        }
        resumed_twice += usize::from(resumes > 1);
        stopped += usize::from(run.machine.phase() == super::super::Phase::Stopped);
    }
    assert!(
        resumed_twice > 0 && stopped > 0,
        "the runs never went deep: {resumed_twice} {stopped}"
    );
}

/// Stops and forces end a run early, so they come seldom.
fn likely_event(random: &mut Random) -> Event {
    match EVENTS[random.below(EVENTS.len())] {
        Event::Input(Input::Stop(_) | Input::Force(_)) if random.below(4) > 0 => {
            Event::Input(Input::SuccessorAccepting)
        }
        event => event,
    }
}
