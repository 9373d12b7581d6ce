//! One worker's process, and those that come after it.

use lameduck::operate::{Verb, ask};
use lameduck_verify::target::{Ready, Signal, Target};

use crate::LIMIT;
use crate::queue::Queue;

/// The control socket, in a directory that is made for it: that has to be its user's alone.
const CONTROL: &str = "run/control";

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

    /// One whose successors may be sent back for an hour.
    #[track_caller]
    pub fn start_on_probation(queue: &Queue) -> Site {
        let directory = tempfile::tempdir().unwrap();
        let target = start(queue, &directory, &["3600"]);
        Site { pid: target.pid(), target, directory }
    }

    /// The process that works now.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What its processes said.
    pub fn words(&self) -> String {
        self.target.stderr()
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
        let answer = ask(&self.directory.path().join(CONTROL), Verb::Upgrade, &[]).unwrap();
        assert_eq!(answer.code, 0, "{}: {}", answer.text, self.target.stderr());
        let answer: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        self.pid = answer["pid"].as_u64().unwrap().try_into().unwrap();
    }

    /// The successor gives the service back.
    #[track_caller]
    pub fn roll_back(&mut self) {
        let answer = ask(&self.directory.path().join(CONTROL), Verb::Rollback, &[]).unwrap();
        assert_eq!(answer.code, 0, "{}: {}", answer.text, self.target.stderr());
        self.pid = self.target.pid();
    }

    /// Ends every generation.
    #[track_caller]
    pub fn end(&mut self, how: Ended) {
        let answer = ask(&self.directory.path().join(CONTROL), Verb::Stop, &[]).unwrap();
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
    start(queue, directory, &[])
}

fn start(queue: &Queue, directory: &tempfile::TempDir, more: &[&str]) -> Target {
    let control = directory.path().join(CONTROL);
    let command = queue.worker(control.to_str().unwrap()).args(more);
    command.ready(Ready::Stderr("Working: ".to_owned())).ready_limit(LIMIT).start().unwrap()
}
