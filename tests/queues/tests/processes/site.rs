//! One worker's process, and those that come after it.

use lameduck::operate::{Verb, ask};
use lameduck_verify::target::{Ready, Signal, Target};

use crate::LIMIT;
use crate::queue::Queue;

/// How a process has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Clean,
    Killed,
}

pub struct Site {
    target: Target,
    pid: u32,
    directory: tempfile::TempDir,
}

impl Site {
    #[track_caller]
    pub fn start(queue: &Queue) -> Site {
        let directory = tempfile::tempdir().unwrap();
        let target = run(queue, &directory);
        Site { pid: target.pid(), target, directory }
    }

    /// The process that works now.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    #[track_caller]
    pub fn stop(&mut self, queue: &Queue, how: Ended) {
        self.end(how);
        queue.gone(self.pid);
        self.target = run(queue, &self.directory);
        self.pid = self.target.pid();
    }

    #[track_caller]
    pub fn kill(&mut self, queue: &Queue) {
        self.target.signal(Signal::KILL).unwrap();
        self.wait(Ended::Killed);
        self.target = run(queue, &self.directory);
        self.pid = self.target.pid();
    }

    #[track_caller]
    pub fn upgrade(&mut self) {
        let answer = ask(&self.directory.path().join("control"), Verb::Upgrade, &[]).unwrap();
        assert_eq!(answer.code, 0, "{}: {}", answer.text, self.target.stderr());
        let numbers = answer.text.split(|c: char| !c.is_ascii_digit());
        self.pid = numbers.filter(|word| !word.is_empty()).next().unwrap().parse().unwrap();
    }

    /// Ends every generation.
    #[track_caller]
    pub fn end(&mut self, how: Ended) {
        let answer = ask(&self.directory.path().join("control"), Verb::Stop, &[]).unwrap();
        assert_eq!(answer.code, 0, "{}: {}", answer.text, self.target.stderr());
        self.wait(how);
    }

    #[track_caller]
    fn wait(&mut self, how: Ended) {
        let exit = self.target.wait(LIMIT).unwrap();
        let expected = if how == Ended::Clean { Some(0) } else { None };
        assert_eq!(exit.code, expected, "{exit}: {}", self.target.stderr());
    }
}

fn run(queue: &Queue, directory: &tempfile::TempDir) -> Target {
    let control = directory.path().join("control");
    let command = queue.worker(control.to_str().unwrap());
    command.ready(Ready::Stderr("Working: ".to_owned())).ready_limit(LIMIT).start().unwrap()
}
