//! A successor: started with the listener as its standard input, heard by a signal, then left alone with the service.

use super::Fault;
use super::server::{Phase, Server};
use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Sender;

/// So many descriptors a leaking upgrade adds.
const LEAKED: usize = 8;

/// The listener that stands where standard input was.
pub(super) fn inherited() -> io::Result<TcpListener> {
    let descriptor: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let empty = std::fs::File::open("/dev/null")?;
    // Two descriptors of one listener would keep it open when one is closed.
    rustix::stdio::dup2_stdin(&empty)?;
    let listener = TcpListener::from(descriptor);
    listener.local_addr()?;
    Ok(listener)
}

/// Says that this process serves from now on.
pub(super) fn tell_predecessor(server: &Server) {
    if let Some(pid) = server.options.predecessor.and_then(Pid::from_raw) {
        // It may have died meanwhile: then there is nobody to be told.
        let _ = kill_process(pid, Signal::USR1);
    }
}

/// Starts a successor and waits for it; tells `upgraded` when this process is to stop.
pub(super) async fn run(server: Arc<Server>, upgraded: Sender<bool>) -> Result<(), String> {
    let Some(_one) = server.upgrade() else {
        let why = "another upgrade is under way";
        server.say(&format!("upgrade refused: {why}"));
        return Err(why.to_owned());
    };
    let outcome = match server.has(Fault::OneUpgrade) && server.options.predecessor.is_some() {
        true => Err("it was upgraded before".to_owned()),
        false => attempt(&server).await,
    };
    match &outcome {
        Ok(()) => {
            server.say("upgraded");
            server.upgrades.fetch_add(1, SeqCst);
            let _ = upgraded.send(true).await;
        }
        Err(why) => {
            server.say(&format!("upgrade failed: {why}"));
            if server.has(Fault::DieOfFailedUpgrade) {
                let _ = upgraded.send(false).await;
            }
        }
    }
    outcome
}

async fn attempt(server: &Server) -> Result<(), String> {
    let mut ready = signal(SignalKind::user_defined1()).map_err(|error| error.to_string())?;
    let listener = server.listener().ok_or("the listener is closed")?;
    let mut command = tokio::process::Command::new(program(server)?);
    command.args(arguments(server)).stdin(Stdio::from(OwnedFd::from(listener)));
    let _leaked = leak(server);
    let mut child = command.spawn().map_err(|error| format!("start the successor: {error}"))?;
    // The command holds a descriptor of the listener.
    drop(command);
    let limit = server.options.ready_limit;
    tokio::select! {
        _ = ready.recv() => {
            return Ok(());
        }
        status = child.wait() => return Err(format!("the successor ended: {status:?}")),
        () = server.reached(Phase::LameDuck), if !server.has(Fault::OrphanSuccessor) => {
            let _ = child.kill().await;
            return Err("this process stops".to_owned());
        }
        () = tokio::time::sleep(limit) => {}
    }
    if !server.has(Fault::KeepHungSuccessor) {
        let _ = child.kill().await;
    }
    Err(format!("the successor was not ready within {limit:?}"))
}

fn program(server: &Server) -> Result<std::path::PathBuf, String> {
    match &server.options.next {
        Some(next) => Ok(next.into()),
        None => std::env::current_exe().map_err(|error| error.to_string()),
    }
}

/// This process's own, with another predecessor.
fn arguments(server: &Server) -> Vec<String> {
    let words = &server.options.words;
    let old = words.iter().position(|word| word == "--predecessor");
    let is_old = |at: usize| old.is_some_and(|old| at == old || at == old + 1);
    let kept = words.iter().enumerate().filter(|(at, _)| !is_old(*at));
    let mut arguments: Vec<String> = kept.map(|(_, word)| word.clone()).collect();
    arguments.extend(["--predecessor".to_owned(), std::process::id().to_string()]);
    arguments
}

/// Descriptors without close-on-exec, if this is the server that leaks them.
fn leak(server: &Server) -> Vec<OwnedFd> {
    let count = if server.has(Fault::LeakDescriptors) { LEAKED } else { 0 };
    let opened = (0..count).filter_map(|_| {
        let file = OwnedFd::from(std::fs::File::open("/dev/null").ok()?);
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).ok()?;
        Some(file)
    });
    opened.collect()
}
