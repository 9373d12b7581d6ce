//! Process 1 of a container: starts the service as its child, passes signals on, and buries whoever dies.
//!
//! Process 1 inherits every orphan of its container, and one that nobody waits for stays in the process table. A program
//! cannot wait for whatever dies without taking the ends of its own children from those who wait for them, so this is a
//! process of its own, with nothing else to do.
//!
//! The service leads a process group, and each generation of it is in that group, whoever started it: a successor is a
//! child of its predecessor and becomes one of ours when that leaves. So the group is the service. As long as one of
//! it lives this process does; then the container is over, and it ends as the service did.

use std::io::{self, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use lameduck::exit;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group,
    test_kill_process_group, wait, waitpgid, waitpid,
};

use crate::complaint::Complaint;

/// Whether this process has these duties.
pub fn is_called_for() -> bool {
    std::process::id() == 1
}

/// What is passed on: every signal that a service may give a meaning to.
const PASSED_ON: [Signal; 9] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
    Signal::CONT,
    Signal::WINCH,
];

/// Ends of generations that are remembered: one that crashed long ago says nothing of today's end.
const REMEMBERED: usize = 64;

/// Runs this very command as a child, until the last generation of it has ended; the code is the service's.
pub fn run() -> Result<ExitCode, Complaint> {
    let failed = |error: io::Error| {
        let message = format!("cannot start the service below process 1: {error}");
        Complaint::failed(message, "raise the limit of processes (ulimit -u, pids.max)")
    };
    // Armed before anybody can die.
    let mut signals = Signals::arm().map_err(failed)?;
    let group = start().map_err(failed)?;
    let mut account = Account::default();
    loop {
        for signal in signals.next() {
            if ends(signal) {
                account.stop(Members::newest(group));
            }
            if signal != Signal::CHILD {
                pass_on(group, signal);
            }
        }
        bury(group, &mut account);
        if test_kill_process_group(group) == Err(Errno::SRCH) {
            if let Some(words) = account.crash() {
                // Nobody reads standard error: the code still tells.
                let _ = writeln!(io::stderr(), "{words}");
            }
            return Ok(ExitCode::from(account.code()));
        }
    }
}

/// Starts the service at the head of a group of its own. A terminal's signals then reach it once, through us.
fn start() -> io::Result<Pid> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "lameduck".into());
    // Not by its name: that may lead to another program by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments).process_group(0);
    // Waited for by `bury` alone.
    let child = command.spawn()?;
    Ok(Pid::from_child(&child))
}

/// Whether it ends a service, so that every generation is to hear of it, one that has not come to listening too.
fn ends(signal: Signal) -> bool {
    [Signal::TERM, Signal::INT, Signal::QUIT].contains(&signal)
}

/// Gone meanwhile is as good as told.
fn pass_on(group: Pid, signal: Signal) {
    if ends(signal) || signal == Signal::CONT {
        let _ = kill_process_group(group, signal);
        return;
    }
    match Members::of(group) {
        // One is enough: who does not serve any more passes it on to the one that does.
        Some(members) if signal == Signal::HUP => {
            let oldest = members.that_catch(signal).min_by_key(|pid| pid.as_raw_nonzero());
            if let Some(oldest) = oldest {
                let _ = kill_process(oldest, signal);
            }
        }
        Some(members) => {
            for pid in members.that_catch(signal) {
                let _ = kill_process(pid, signal);
            }
        }
        None => {
            let _ = kill_process_group(group, signal);
        }
    }
}

/// Waits for everybody who is dead: the service's generations, whose ends count, and orphans.
fn bury(group: Pid, account: &mut Account) {
    while let Ok(Some((pid, status))) = waitpgid(group, WaitOptions::NOHANG) {
        account.ended(pid, status);
    }
    let Some(orphans) = Members::dead_orphans(group) else {
        // A generation that dies at this very moment passes for an orphan: there is no telling without /proc.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        return;
    };
    for orphan in orphans {
        let _ = waitpid(Some(orphan), WaitOptions::NOHANG);
    }
}

/// How the generations ended.
#[derive(Debug, Default)]
struct Account {
    ends: Vec<End>,
    stopping: bool,
}

#[derive(Debug, Clone, Copy)]
struct End {
    /// Its process number tells the newer from the older.
    number: i32,
    code: u8,
}

impl Account {
    /// The service is told to stop: how earlier generations ended does not matter any more, unless the service died with
    /// one: `newest` still lives, and is older.
    fn stop(&mut self, newest: Option<i32>) {
        if !self.stopping {
            self.stopping = true;
            let died_with = |end: &End| newest.is_some_and(|newest| end.number > newest);
            self.ends.retain(|end| died_with(end) && end.code != exit::OK);
        }
    }

    fn ended(&mut self, pid: Pid, status: WaitStatus) {
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => u8::try_from(code).unwrap_or(exit::FAILED),
            (None, Some(signal)) => exit::forced_by(signal),
            // It only paused.
            (None, None) => return,
        };
        self.take(End { number: pid.as_raw_nonzero().get(), code });
    }

    fn take(&mut self, end: End) {
        if self.ends.len() == REMEMBERED {
            self.ends.remove(0);
        }
        self.ends.push(end);
    }

    /// The code of who ended last. If all was well there, that of another who failed during the stop, or that was newer:
    /// the service died with it, and an older one only finished what it had in hand.
    fn code(&self) -> u8 {
        self.counts().map_or(exit::FAILED, |end| end.code)
    }

    /// Whose end is the service's.
    fn counts(&self) -> Option<&End> {
        let last = self.ends.last()?;
        let matters = |end: &&End| self.stopping || end.number > last.number;
        let mut failed = self.ends.iter().filter(|end| end.code != exit::OK).filter(matters);
        match last.code {
            exit::OK => failed.next().or(Some(last)),
            _ => Some(last),
        }
    }

    /// Says whose end counts where that is not the one that ended last: its own last words are not the newest in the log.
    fn crash(&self) -> Option<String> {
        let (counts, last) = (self.counts()?, self.ends.last()?);
        let pid = counts.number;
        let died = counts.number != last.number || counts.code > exit::DEADLINE;
        let code = counts.code;
        died.then(|| {
            format!("Ending with code {code}: so did pid {pid}, with which the service ended")
        })
    }
}

/// The processes of a container, as its /proc has them.
struct Members(Vec<Member>);

struct Member {
    pid: Pid,
    group: i32,
    parent: i32,
    is_dead: bool,
}

impl Members {
    /// Everybody, if there is a /proc of this container: one of another numbers its processes otherwise.
    fn all() -> Option<Members> {
        let itself = std::fs::read_link("/proc/self").ok()?;
        if itself.as_os_str() != "1" {
            return None;
        }
        let entries = std::fs::read_dir("/proc").ok()?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        Some(Members(pids.filter_map(Member::read).collect()))
    }

    /// The newest of a group that lives.
    fn newest(group: Pid) -> Option<i32> {
        let Members(living) = Members::of(group)?;
        living.iter().map(|member| member.pid.as_raw_nonzero().get()).max()
    }

    fn of(group: Pid) -> Option<Members> {
        let Members(mut all) = Members::all()?;
        all.retain(|member| member.group == group.as_raw_nonzero().get() && !member.is_dead);
        Some(Members(all))
    }

    fn dead_orphans(group: Pid) -> Option<impl Iterator<Item = Pid>> {
        let Members(all) = Members::all()?;
        let group = group.as_raw_nonzero().get();
        let dead = move |member: &Member| member.is_dead && member.parent == 1;
        Some(all.into_iter().filter(move |it| dead(it) && it.group != group).map(|it| it.pid))
    }

    /// One that does not catch it is still starting, or is no generation: the signal would kill it.
    fn that_catch(&self, signal: Signal) -> impl Iterator<Item = Pid> {
        let bit = 1u64 << (signal.as_raw() - 1);
        // In this order: what holds for a program does not hold for who is about to become it.
        let catches = move |member: &&Member| {
            member.is_itself() && caught(member.pid).is_some_and(|set| set & bit != 0)
        };
        self.0.iter().filter(catches).map(|member| member.pid)
    }
}

impl Member {
    fn read(pid: i32) -> Option<Member> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name in parentheses: state, parent, group.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let is_dead = fields.next()? == "Z";
        let mut number = || fields.next()?.parse().ok();
        let (parent, group) = (number()?, number()?);
        Some(Member { pid: Pid::from_raw(pid)?, group, parent, is_dead })
    }

    /// Whether it is more than a copy of its parent, which every process is before it becomes a program of its own: then it
    /// has its parent's handlers and loses them at any moment. A successor is told what its parent was not.
    fn is_itself(&self) -> bool {
        let told = |pid: i32| std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        // Nothing is told while the one becomes the other.
        let own = told(self.pid.as_raw_nonzero().get());
        self.parent == 1 || (!own.is_empty() && own != told(self.parent))
    }
}

/// The signals that a process has handlers for.
fn caught(pid: Pid) -> Option<u64> {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = std::fs::read_to_string(path).ok()?;
    let set = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

/// A pipe for each signal, so that repeated ones are counted.
struct Signals(Vec<(Signal, UnixStream)>);

impl Signals {
    fn arm() -> io::Result<Signals> {
        let arm = |signal: Signal| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(signal.as_raw(), write)?;
            Ok((signal, read))
        };
        let all = PASSED_ON.into_iter().chain([Signal::CHILD]);
        Ok(Signals(all.map(arm).collect::<io::Result<_>>()?))
    }

    /// Waits for some.
    fn next(&mut self) -> Vec<Signal> {
        let mut pipes: Vec<PollFd<'_>> =
            self.0.iter().map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN)).collect();
        // An interrupted wait is followed by another look at everything.
        let _ = poll(&mut pipes, None);
        let mut came = Vec::new();
        for (signal, pipe) in &mut self.0 {
            let mut bytes = [0; 64];
            while let Ok(n @ 1..) = pipe.read(&mut bytes) {
                came.extend(std::iter::repeat_n(*signal, n));
            }
        }
        came
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `check("stop>4 5:0 7:3", 3)`: a stop when 4 was the newest to live, then process 5 ended with 0, and 7 with 3.
    #[track_caller]
    fn check(story: &str, code: u8) {
        let mut account = Account::default();
        for word in story.split_whitespace() {
            match word.split_once(':') {
                Some((number, code)) => account
                    .take(End { number: number.parse().unwrap(), code: code.parse().unwrap() }),
                None => {
                    account.stop(word.split_once('>').map(|(_, newest)| newest.parse().unwrap()))
                }
            }
        }
        assert_eq!(account.code(), code, "for {story}");
    }

    #[test]
    fn the_code_is_that_of_the_service() {
        check("2:0", 0);
        check("2:3", 3);
        check("2:0 9:3", 3);
        // The newer one crashed, the older one only finished what it had in hand.
        check("9:137 2:0", 137);
        // The older one crashed when the newer one served already.
        check("2:134 9:0", 0);
        // The older one was told to stop when the newer one had crashed: the service was dead by then.
        check("9:137 stop>2 2:0", 137);
        // The older one had crashed long before the newer one was told to stop.
        check("2:137 stop>9 9:0", 0);
        // Nobody knows who lived then.
        check("9:137 stop 2:0", 0);
        // Each is told to stop, and something of either is cut.
        check("stop 2:3 9:0", 3);
        check("stop 9:3 2:0", 3);
        check("stop 9:0 2:143", 143);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut account = Account::default();
        for _ in 0..10 * REMEMBERED {
            account.take(End { number: 1, code: 1 });
        }
        assert_eq!(account.ends.len(), REMEMBERED);
    }
}
