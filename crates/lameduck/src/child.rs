//! Child processes that do not outlive the service.
//!
//! A program that a handler starts is a process of its own: the service leaves, and the program goes on, with whatever it
//! has started itself. Here each child leads a process group, is a named piece of work that a stop waits for, and is
//! told: TERM to the whole group when the drain begins, KILL when it has not ended [`TERM_TO_KILL`] later or when work is
//! about to be cut. Whatever its leader leaves behind in the group is killed with it.
//!
//! On Linux that holds for every end of the service: when it is killed, crashes, or leaves at the deadline with its runtime
//! blocked, the kernel kills the whole group at once. For that a child has one descriptor more than it was given, the
//! readable end of a pipe, and whoever it starts has it too. Out of reach is who leaves the group (`setsid`), and a group in
//! which everybody has closed that descriptor.
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
//! use std::process::Command;
//!
//! # let life = lameduck::Lifecycle::builder().without_signals().start()?;
//! let mut convert = Command::new("sh");
//! convert.args(["-c", "sleep 1000 & sleep 1000"]);
//! let child = life.child("convert", convert)?;
//! life.stop();
//! assert_eq!(life.run().await.code(), lameduck::exit::OK);
//! assert!(child.await.is_some_and(|status| !status.success()));
//! # Ok(()) }
//! ```
//!
//! A child starts with no signal blocked and SIGPIPE as the system has it, as the standard library sees to; our own handlers
//! do not survive exec. A signal that the service itself was started with ignored (`nohup`) stays ignored.
//!
//! On other systems nobody tells the children when the service is killed: a service manager that ends the whole control
//! group does.

use std::future::Future;
use std::os::unix::process::CommandExt;
use std::pin::Pin;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::{Signal, kill_process_group};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::Error;
use crate::lifecycle::{Drain, Lifecycle};
use crate::zombie::{await_exit, number};

/// How long a child may take from TERM to its end, before it is killed.
pub const TERM_TO_KILL: Duration = Duration::from_secs(5);
/// How long before work is cut a child is killed that has not ended by then.
pub const KILL_AHEAD: Duration = Duration::from_millis(200);

impl Lifecycle {
    /// Starts a program that ends with the service, at the latest; see the [module](crate::child).
    ///
    /// It is put into a process group of its own, whatever the command says of that. The start blocks until the program
    /// runs or cannot.
    ///
    /// # Errors
    ///
    /// When the program cannot be started; names it.
    pub fn child(&self, name: &str, mut command: Command) -> Result<Child, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        let fail = |error| Error::io("start", program.clone(), error);
        command.process_group(0);
        let leash = Leash::around(&mut command).map_err(fail)?;
        let mut process = command.spawn().map_err(fail)?;
        // Only the child has its end of the leash from here on.
        drop(command);
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let group = Group { process, reaped: false, _leash: leash };
        let pid = group.process.id();
        let (exited, has_exited) = oneshot::channel();
        // A thread that holds nothing at exit. The child stays a zombie, so that its number stays its own.
        let waiting = std::thread::Builder::new().name("lameduck-child".to_owned());
        let waiting = waiting.spawn(move || {
            await_exit(pid);
            let _ = exited.send(());
        });
        drop(waiting.map_err(fail)?);
        let (ended, end) = oneshot::channel();
        drop(self.task(name, |drain| async move {
            let status = see_to_its_end(group, has_exited, drain).await;
            // Dropped without a status when it could not be had.
            if let Some(status) = status {
                let _ = ended.send(status);
            }
        }));
        let (stdin, stdout, stderr) = pipes;
        Ok(Child { pid, stdin, stdout, stderr, end })
    }
}

/// A running child, made by [`Lifecycle::child`].
///
/// Awaiting it gives its exit status, `None` if it was cut with its service; cancel safe. Dropping it lets the child go on.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    /// The pipe to its standard input, if the command asked for one.
    pub stdin: Option<ChildStdin>,
    /// The pipe from its standard output, if the command asked for one.
    pub stdout: Option<ChildStdout>,
    /// The pipe from its standard error, if the command asked for one.
    pub stderr: Option<ChildStderr>,
    end: oneshot::Receiver<ExitStatus>,
}

impl Child {
    /// Its process id, and that of its group.
    pub fn id(&self) -> u32 {
        self.pid
    }
}

impl Future for Child {
    type Output = Option<ExitStatus>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ExitStatus>> {
        Pin::new(&mut self.end).poll(cx).map(Result::ok)
    }
}

/// A child that has not been reaped, and whatever is in its group. Dropping it kills all of it.
struct Group {
    process: std::process::Child,
    reaped: bool,
    _leash: Leash,
}

/// This process's end of what ties a group to it. Dropping it kills whoever is in the group.
struct Leash {
    #[cfg(target_os = "linux")]
    _end: std::os::fd::OwnedFd,
}

impl Leash {
    #[cfg(target_os = "linux")]
    fn around(command: &mut Command) -> std::io::Result<Leash> {
        let (childs, own) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        crate::sys::kill_group_when_closed(command, childs);
        Ok(Leash { _end: own })
    }

    #[cfg(not(target_os = "linux"))]
    fn around(_: &mut Command) -> std::io::Result<Leash> {
        Ok(Leash {})
    }
}

impl Group {
    fn signal(&self, signal: Signal) {
        // Until the leader is reaped nobody else can have its number.
        if let (false, Some(group)) = (self.reaped, number(self.process.id())) {
            // Nobody left in it: then it has ended as it was asked to.
            let _ = kill_process_group(group, signal);
        }
    }

    /// The leader has exited: nobody is left behind in its group.
    fn reap(mut self) -> Option<ExitStatus> {
        self.signal(Signal::KILL);
        let status = self.process.wait().ok();
        self.reaped = true;
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

async fn see_to_its_end(
    group: Group,
    mut has_exited: oneshot::Receiver<()>,
    drain: Drain,
) -> Option<ExitStatus> {
    if drain.token().run_until_cancelled(&mut has_exited).await.is_none() {
        group.signal(Signal::TERM);
        // It is killed at its own bound or shortly before work is cut, whichever comes first.
        let bound = async {
            let _ = timeout(TERM_TO_KILL, drain.nearly_cut(KILL_AHEAD)).await;
        };
        if ends_before(&mut has_exited, bound).await.is_err() {
            group.signal(Signal::KILL);
            let _ = has_exited.await;
        }
    }
    group.reap()
}

/// Waits for an exit as long as `bound` has not ended.
async fn ends_before(
    has_exited: &mut oneshot::Receiver<()>,
    bound: impl Future<Output = ()>,
) -> Result<(), ()> {
    let mut bound = std::pin::pin!(bound);
    std::future::poll_fn(|cx| {
        if Pin::new(&mut *has_exited).poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        bound.as_mut().poll(cx).map(Err)
    })
    .await
}
