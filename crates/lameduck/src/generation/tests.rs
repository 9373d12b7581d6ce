//! The machine in single steps. Its promises in every order are those of `tests/takeover_model.rs`.

use std::time::{Duration, Instant};

use super::{Action, AttemptId, Generation, Input, LineId};
use crate::phase::{self, Cause, Config, Machine};
use crate::takeover::Limits;
use crate::takeover::predecessor;
use crate::takeover::wire::{Hello, Message, PROTOCOLS, Ready};

/// A generation that serves, and how often it was made to start another.
struct Run {
    generation: Generation,
    now: Instant,
    starts: Vec<AttemptId>,
    follows: usize,
    /// Whom it would count older generations for, before it admits them.
    counts_for: Vec<LineId>,
    /// Who was sent away.
    turned_away: Vec<LineId>,
    refused: Vec<String>,
}

impl Run {
    fn serving() -> Run {
        let life = Machine::new(Config {
            grace: None,
            reserve: Duration::ZERO,
            lame_duck: Duration::ZERO,
            settle: Duration::from_millis(100),
            after_force: Duration::from_millis(50),
            probation: Duration::from_secs(10),
            upgrade_grace: None,
            max_generations: 4,
        });
        let generation = Generation::new(life, 1, None, Limits::default());
        let now = Instant::now();
        let (starts, refused) = (Vec::new(), Vec::new());
        let (counts_for, turned_away) = (Vec::new(), Vec::new());
        let mut run = Run { generation, now, starts, follows: 0, counts_for, turned_away, refused };
        run.feed(Input::Ready(Ready::default()));
        run.feed(Input::GateOpened);
        run
    }

    fn feed(&mut self, input: Input) {
        self.generation.handle(self.now, input);
        while let Some(action) = self.generation.poll_action() {
            match action {
                Action::Start(attempt) => self.starts.push(attempt),
                Action::UpgradeFollows(_) => self.follows += 1,
                Action::CountDraining(line) => self.counts_for.push(line),
                Action::Send(line, Message::Refuse(_)) => self.turned_away.push(line),
                Action::UpgradeRefused { ticket: None, why } => self.refused.push(why.text),
                _ => {}
            }
        }
    }

    fn not_started(&mut self) {
        let attempt = *self.starts.last().expect("one was started");
        self.feed(Input::NotStarted { attempt, why: "no such file".to_owned() });
    }
}

#[test]
fn many_signals_during_an_upgrade_are_followed_by_one() {
    let mut run = Run::serving();
    run.feed(Input::Reload);
    for _ in 0..10 {
        run.feed(Input::Reload);
    }
    assert_eq!((run.starts.len(), run.follows), (1, 10));
    run.not_started();
    assert_eq!(run.starts.len(), 2);
    run.not_started();
    assert_eq!(run.starts.len(), 2, "no more than that");
    run.feed(Input::Reload);
    assert_eq!(run.starts.len(), 3);
}

#[test]
fn what_was_to_follow_is_refused_by_a_stop_in_words() {
    let mut run = Run::serving();
    run.feed(Input::Reload);
    run.feed(Input::Reload);
    run.feed(Input::Life(phase::Input::Stop(Cause::Signal(15))));
    run.not_started();
    assert_eq!(run.starts.len(), 1);
    assert_eq!(run.refused, ["this generation is stopping"]);
}

fn hello(line: LineId, pid: u32) -> Input {
    let program = "service".to_owned();
    Input::Hello { line, hello: Hello { protocols: PROTOCOLS, program, pid, generation: None } }
}

/// The system may let it speak before it says that it was started.
#[test]
fn whoever_speaks_while_a_process_is_being_started_is_not_taken_for_it() {
    let mut run = Run::serving();
    run.feed(Input::Reload);
    let attempt = run.starts[0];
    run.feed(hello(1, 700));
    run.feed(hello(2, 500));
    run.feed(hello(3, 600));
    assert_eq!(run.counts_for, [0; 0], "nobody knows yet who is who");
    run.feed(Input::Below { line: 3, input: predecessor::Input::Gone });
    run.feed(Input::Started { attempt, pid: 500 });
    assert_eq!((run.counts_for, run.turned_away), (vec![2], vec![1]));
}

#[test]
fn a_process_that_was_given_up_is_not_admitted_when_it_speaks_after_all() {
    let mut run = Run::serving();
    run.feed(Input::Reload);
    let attempt = run.starts[0];
    run.feed(Input::Started { attempt, pid: 500 });
    run.now += crate::takeover::HELLO_TIMEOUT;
    run.feed(Input::Tick);
    run.feed(hello(1, 500));
    assert_eq!((run.counts_for.len(), run.turned_away.clone()), (0, vec![1]));
    run.feed(hello(2, 600));
    assert_eq!(run.counts_for, [2]);
}
