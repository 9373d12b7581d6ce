//! What goes from one generation to the next, and what must not.

use super::quiet::{UPGRADES, upgrades};
use crate::address::Address;
use crate::case::{Fault, Outcome, fail, inconclusive, pass, skip};
use crate::probe::Wire;
use crate::stage::{SOON, Stage, listening};
use crate::target::proc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What the counts may differ by.
const GIVE_OR_TAKE: usize = 2;
/// Upgrades while a path is looked at.
const LOOKED_AT: usize = 10;

/// Descriptors of the process that signals go to, and of one that answers.
fn descriptors(stage: &mut Stage<'_>) -> usize {
    let main = stage.service().main_pid();
    proc::descriptors(main).len()
}

fn zombies(processes: &[u32]) -> usize {
    processes
        .iter()
        .flat_map(|pid| proc::descendants(*pid))
        .filter(|pid| proc::is_zombie(*pid))
        .count()
}

/// Counts of a service: descriptors, processes, zombies.
fn counts(stage: &mut Stage<'_>) -> [usize; 3] {
    let descriptors = descriptors(stage);
    let processes = stage.service().processes();
    [descriptors, processes.len(), zombies(&processes)]
}

pub(super) fn leaks(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    // The first upgrade sets up what stays: a control socket's link, a thread.
    stage.upgrade()?;
    let settled = |stage: &mut Stage<'_>, bound: Option<[usize; 3]>| {
        let deadline = Instant::now() + SOON;
        loop {
            let now = counts(stage);
            let is_fine = bound.is_some_and(|bound| is_as(now, bound));
            if is_fine || Instant::now() >= deadline {
                return now;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // The old generation has to be gone before anything is counted.
    let processes = stage.service().processes().len();
    let deadline = Instant::now() + Duration::from_secs(2);
    while stage.service().processes().len() >= processes
        && processes > 1
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let before = counts(stage);
    let done = upgrades(stage, UPGRADES)?;
    let after = settled(stage, Some(before));
    let text = |counts: [usize; 3]| {
        format!("{} descriptors, {} processes, {} zombies", counts[0], counts[1], counts[2])
    };
    match is_as(after, before) {
        true => pass(format!("after {done} upgrades as before: {}", text(after))),
        false => fail(format!("before: {}; after {done} upgrades: {}", text(before), text(after))),
    }
}

fn is_as(now: [usize; 3], before: [usize; 3]) -> bool {
    now.iter().zip(before).all(|(now, before)| *now <= before + GIVE_OR_TAKE)
}

/// The inode of the server's socket of a connection, from the kernel's table.
fn peer_inode(stage: &mut Stage<'_>, wire: &Wire) -> Result<Option<String>, Fault> {
    let server = stage.service().address;
    let Some(client) = wire.local_port()? else { return Ok(None) };
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let found = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
        let is_it = port(fields.get(1)?)? == server.port() && port(fields.get(2)?)? == client;
        is_it.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    });
    Ok(found)
}

pub(super) fn inherited(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let place = stage.path("post")?;
    let (wires, _) = stage.half_posts(&place, 1)?;
    stage.wait_accepted()?;
    let Some(socket) = peer_inode(stage, &wires[0])? else {
        return inconclusive("the server's end of the connection is not found");
    };
    let known = stage.service().processes();
    stage.upgrade()?;
    let new = stage.service().processes();
    let new: Vec<u32> = new.into_iter().filter(|pid| !known.contains(pid)).collect();
    if new.is_empty() {
        return inconclusive("the upgrade started no process");
    }
    for pid in &new {
        if proc::descriptors(*pid).iter().any(|(_, to)| *to == socket) {
            return fail(format!(
                "the new process {pid} holds a client's connection of the old one"
            ));
        }
        if let Some(variable) = stale_variable(*pid) {
            return fail(format!("the new process {pid} has {variable} in its environment"));
        }
    }
    pass(format!("{} new processes, none with a client's socket or a stale variable", new.len()))
}

/// A variable that names descriptors of another process.
fn stale_variable(pid: u32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&environment);
    let value = |name: &str| {
        text.split('\0').find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
    };
    value("LISTEN_FDS")?;
    let owner = value("LISTEN_PID").unwrap_or("nobody");
    (owner != pid.to_string()).then(|| format!("LISTEN_FDS with LISTEN_PID={owner}"))
}

pub(super) fn same_socket(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let port = stage.service().address.port();
    let inodes = |found: Vec<crate::stage::Listening>| {
        let mut inodes: Vec<u32> = found.into_iter().map(|one| one.inode).collect();
        inodes.sort_unstable();
        inodes
    };
    let before = inodes(listening(port)?);
    stage.upgrade()?;
    let after = inodes(listening(port)?);
    match before == after {
        true => pass(format!("socket {before:?} listens before and after")),
        false => fail(format!("before the upgrade {before:?} listened, after it {after:?}")),
    }
}

/// O_NONBLOCK of the socket in each process that holds it.
fn flags(stage: &mut Stage<'_>, inode: u32) -> Vec<bool> {
    const O_NONBLOCK: u32 = 0o4000;
    let socket = format!("socket:[{inode}]");
    let of = |pid: u32| {
        let held = proc::descriptors(pid).into_iter().filter(|(_, to)| *to == socket);
        held.filter_map(|(number, _)| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
            Some(u32::from_str_radix(flags.trim(), 8).ok()? & O_NONBLOCK != 0)
        })
        .collect::<Vec<bool>>()
    };
    let mut found: Vec<bool> = stage.service().processes().into_iter().flat_map(of).collect();
    found.sort_unstable();
    found.dedup();
    found
}

pub(super) fn non_blocking(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let port = stage.service().address.port();
    let inode = |stage: &mut Stage<'_>| -> Result<Vec<bool>, Fault> {
        let found = listening(port)?;
        Ok(found.into_iter().flat_map(|one| flags(stage, one.inode)).collect())
    };
    let before = inode(stage)?;
    if before.is_empty() {
        return inconclusive("the descriptors of the listener cannot be read");
    }
    for _ in 0..2 {
        stage.upgrade()?;
        let after = inode(stage)?;
        if after.first() != before.first() || after.len() != 1 {
            return fail(format!(
                "O_NONBLOCK was {before:?} before and is {after:?} after an upgrade"
            ));
        }
    }
    let word = if before[0] { "non-blocking" } else { "blocking" };
    pass(format!("the listener stays {word}"))
}

pub(super) fn unix_path(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let Address::Unix(path) = stage.also()?.address else {
        return skip("the second address of the target is not a Unix socket");
    };
    let ended = Arc::new(AtomicBool::new(false));
    let looking = {
        let (ended, path) = (Arc::clone(&ended), path.clone());
        std::thread::spawn(move || {
            let (mut looks, mut missing) = (0_u64, 0_u64);
            while !ended.load(Ordering::Relaxed) {
                looks += 1;
                missing += u64::from(std::os::unix::net::UnixStream::connect(&path).is_err());
                std::thread::sleep(Duration::from_micros(500));
            }
            (looks, missing)
        })
    };
    let done = upgrades(stage, LOOKED_AT);
    ended.store(true, Ordering::Relaxed);
    let (looks, missing) =
        looking.join().map_err(|_| Fault("the looking thread panicked".to_owned()))?;
    let done = done?;
    match missing {
        0 => pass(format!("{done} upgrades, and each of {looks} connections was made")),
        missing => {
            fail(format!("{done} upgrades, and {missing} of {looks} connections were not made"))
        }
    }
}
