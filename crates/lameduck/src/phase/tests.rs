//! How the machine is tested: scripts of text for each edge, every order of inputs up to a length, and long random
//! runs. All three feed the machine through [`Run`], which holds it against its invariants after each step.

mod invariants;
mod orders;
mod stops;
mod takeovers;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{Action, Bound, Cause, Config, Input, Machine, Outcome, Refusal};
use invariants::Witness;

const TERM: Cause = Cause::Signal(15);
const INT: Cause = Cause::Signal(2);
const QUIT: Cause = Cause::Signal(3);

/// The durations most tests start from; small and all different, so that no two timers are taken for each other.
fn config() -> Config {
    Config {
        grace: Some(ms(1000)),
        reserve: Duration::ZERO,
        lame_duck: Duration::ZERO,
        settle: ms(100),
        after_force: ms(50),
        probation: ms(5000),
        upgrade_grace: None,
        max_generations: 3,
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A machine under watch.
#[derive(Clone)]
struct Run {
    start: Instant,
    now: Instant,
    machine: Machine,
    witness: Witness,
}

impl Run {
    fn new(config: &Config, start: Instant) -> Run {
        Run {
            start,
            now: start,
            machine: Machine::new(config.clone()),
            witness: Witness::new(config.clone(), start),
        }
    }

    /// Feeds one input, checks every invariant and returns what the machine wants done.
    fn step(&mut self, now: Instant, input: Input) -> Result<Vec<Action>, String> {
        self.now = now;
        self.machine.handle(now, input);
        let actions: Vec<Action> = std::iter::from_fn(|| self.machine.poll_action()).collect();
        self.witness.check(now, input, &actions, &self.machine)?;
        Ok(actions)
    }

    fn millis(&self, at: Instant) -> u128 {
        (at - self.start).as_millis()
    }

    /// The state after a step as scripts write it: `phase` and, while a timer runs, `until TIME BOUND`.
    fn state(&self) -> String {
        let mut text = self.machine.phase().to_string();
        if let Some(at) = self.machine.poll_timeout() {
            let bound = self.machine.bound().map_or("?", bound_word);
            let _ = write!(text, " until {}ms {bound}", self.millis(at));
        }
        text
    }
}

/// Runs `script` and compares what the machine does with what each line says.
///
/// A line is `TIME INPUT -> ACTIONS | STATE`; see [`Run::state`]. Lines that begin with `#` say why. A script that lets
/// a timer pass without a line of its own is wrong: the driver would have woken up there.
#[track_caller]
fn check(config: &Config, script: &str) {
    let mut run = Run::new(config, Instant::now());
    let mut expected = String::new();
    let mut actual = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let _ = writeln!(expected, "{}", words.join(" "));
        let head: Vec<&str> = words.iter().copied().take_while(|word| *word != "->").collect();
        let at = run.start + ms(head[0].strip_suffix("ms").unwrap().parse().unwrap());
        let _ = write!(actual, "{} ->", head.join(" "));
        if let Some(due) = run.machine.poll_timeout()
            && due < at
        {
            let _ = write!(actual, " MISSED THE TIMER AT {}ms", run.millis(due));
        }
        match run.step(at, parse_input(&head[1..])) {
            Ok(actions) => {
                let words: String = actions
                    .iter()
                    .map(|action| format!(" {}", action_word(&run, action)))
                    .collect();
                let _ = writeln!(actual, "{words} | {}", run.state());
            }
            Err(broken) => {
                let _ = writeln!(actual, " BROKE AN INVARIANT: {broken}");
            }
        }
    }
    assert!(actual == expected, "expected\n{expected}\nactual\n{actual}");
}

fn parse_input(words: &[&str]) -> Input {
    match words {
        ["ready"] => Input::Ready,
        ["stop", cause] => Input::Stop(parse_cause(cause)),
        ["force", cause] => Input::Force(parse_cause(cause)),
        ["gate-closed"] => Input::GateClosed,
        ["settled"] => Input::Settled,
        ["idle"] => Input::Idle,
        ["closed"] => Input::Closed,
        ["tick"] => Input::Tick,
        ["asked", draining] => Input::TakeoverAsked { draining: draining.parse().unwrap() },
        ["failed"] => Input::TakeoverFailed,
        ["accepting"] => Input::SuccessorAccepting,
        ["lost"] => Input::SuccessorLost,
        ["keeps"] => Input::SuccessorKeeps,
        ["rolled-back"] => Input::PredecessorResumed,
        _ => panic!("no such input: {words:?}"),
    }
}

fn parse_cause(word: &str) -> Cause {
    match word {
        "TERM" => TERM,
        "INT" => INT,
        "QUIT" => QUIT,
        "request" => Cause::Request,
        _ => panic!("no such cause: {word}"),
    }
}

fn action_word(run: &Run, action: &Action) -> String {
    match action {
        Action::ShowReady => "show-ready".to_owned(),
        Action::ShowNotReady => "show-not-ready".to_owned(),
        Action::Accept => "accept".to_owned(),
        Action::MarkAnswers => "mark-answers".to_owned(),
        Action::CloseGate { shared: false } => "close-gate".to_owned(),
        Action::CloseGate { shared: true } => "hand-over-gate".to_owned(),
        Action::Settle => "settle".to_owned(),
        Action::TellFinish => "tell-finish".to_owned(),
        Action::Force => "force".to_owned(),
        Action::CloseResources { until: None } => "close-resources".to_owned(),
        Action::CloseResources { until: Some(at) } => format!("close-by-{}ms", run.millis(*at)),
        Action::Stop(Outcome::Finished) => "finished".to_owned(),
        Action::Stop(Outcome::DeadlineExceeded) => "deadline-exceeded".to_owned(),
        Action::Stop(Outcome::Forced(cause)) => format!("forced-by-{}", cause_word(*cause)),
        Action::AdmitSuccessor => "admit".to_owned(),
        Action::RefuseSuccessor(Refusal::NotServing) => "refuse-not-serving".to_owned(),
        Action::RefuseSuccessor(Refusal::AnotherStarting) => "refuse-another-starting".to_owned(),
        Action::RefuseSuccessor(Refusal::TooManyGenerations) => {
            "refuse-too-many-generations".to_owned()
        }
        Action::Resume => "resume".to_owned(),
        Action::ConfirmSuccessor => "confirm".to_owned(),
    }
}

fn cause_word(cause: Cause) -> &'static str {
    match cause {
        TERM => "TERM",
        INT => "INT",
        QUIT => "QUIT",
        Cause::Signal(_) => "signal",
        Cause::Request => "request",
        Cause::Successor => "successor",
        Cause::Predecessor => "predecessor",
    }
}

fn bound_word(bound: Bound) -> &'static str {
    match bound {
        Bound::LameDuck => "lame-duck",
        Bound::Settle => "settle",
        Bound::Deadline => "deadline",
        Bound::ClosingDeadline => "closing-deadline",
        Bound::AfterForce => "after-force",
        Bound::Probation => "probation",
    }
}
