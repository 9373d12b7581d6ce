//! Upgrades as operators ask for them.

use crate::adapter::Tells;
use crate::case::{Fault, Outcome, fail, inconclusive, pass, skip};
use crate::load::Mode;
use crate::probe::Wire;
use crate::stage::{COMMAND_LIMIT, SOON, Stage, Stand, run_command};
use crate::target::proc;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a way back may take.
const BACK: Duration = Duration::from_secs(1);
/// Upgrades while a file is read.
const READ: usize = 3;

pub(super) fn two_at_once(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let command = stage.adapter.upgrade.as_ref().and_then(|upgrade| upgrade.command.clone());
    let command = command.ok_or_else(|| Fault("there is no upgrade command".to_owned()))?;
    let words: Vec<String> = command.0.iter().map(|word| stage.service().put_in(word)).collect();
    let directory = stage.service().directory().to_owned();
    let one = || {
        let (words, directory) = (words.clone(), directory.clone());
        std::thread::spawn(move || run_command(&words, &directory, COMMAND_LIMIT))
    };
    let both = [one(), one()];
    let mut ended = Vec::new();
    for thread in both {
        ended.push(thread.join().map_err(|_| Fault("a thread panicked".to_owned()))??);
    }
    let worked = ended.iter().filter(|ran| ran.is_success()).count();
    let silent = ended.iter().any(|ran| !ran.is_success() && ran.stderr.trim().is_empty());
    if worked == 0 {
        return fail(format!("both failed: {}", ended[0].stderr.trim().replace('\n', "; ")));
    }
    if silent {
        return fail("one failed and did not say why");
    }
    let deadline = Instant::now() + SOON;
    loop {
        let who = stage.identities()?;
        // Workers of one generation are several, too; without an identity an answer is all that can be asked for.
        let tells = stage.adapter.identity.as_ref().map(|identity| identity.tells);
        let one = matches!(tells, None | Some(Tells::Worker)) || who.len() == 1;
        if one {
            break;
        }
        if Instant::now() >= deadline {
            return fail(format!("at the end several answer: {who:?}"));
        }
    }
    pass(match worked {
        2 => "both worked, one after the other".to_owned(),
        _ => "one worked, the other was refused with a reason".to_owned(),
    })
}

pub(super) fn rollback(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let command = stage.adapter.upgrade.as_ref().and_then(|upgrade| upgrade.rollback.clone());
    let command = command.ok_or_else(|| Fault("there is no rollback".to_owned()))?;
    let load = stage.load(stage.fast(), Mode::NewConnection);
    let (seen, back) = stage.under_load(&load, |stage| {
        let upgraded = stage.upgrade()?;
        stage.note("rollback");
        let begun = Instant::now();
        let ran = stage.service().run(&command, COMMAND_LIMIT)?;
        if !ran.is_success() {
            return Ok(Err(ran.stderr));
        }
        while !stage.identities()?.iter().all(|who| upgraded.before.contains(who)) {
            if begun.elapsed() > SOON {
                return Ok(Err("the new version still answers".to_owned()));
            }
        }
        Ok(Ok(begun.elapsed()))
    })?;
    let back = match back {
        Ok(back) => back,
        Err(why) => {
            return fail(format!("the way back does not work: {}", why.trim().replace('\n', "; ")));
        }
    };
    stage.figure_ms("the old version is back", back);
    let text = format!("the old version answered after {:.1} ms", back.as_secs_f64() * 1000.0);
    match seen.failures() {
        0 if back <= BACK => pass(text),
        0 => fail(text),
        _ => fail(format!("{text}; {}", seen.failures_text())),
    }
}

/// The process that answers.
fn answering(stage: &mut Stage<'_>) -> u32 {
    stage.service().main_pid()
}

pub(super) fn switched_link(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (program, real) = (stage.program()?, stage.real_program()?);
    let release = stage.service().directory().join("release-2");
    fs::create_dir(&release)?;
    let copy = release.join(program.file_name().unwrap_or_default());
    // A second name of the same file is as good as a copy, where the file systems allow it.
    if fs::hard_link(&real, &copy).is_err() {
        fs::copy(&real, &copy)?;
    }
    let beside = program.with_extension("next");
    symlink(&copy, &beside)?;
    fs::rename(&beside, &program)?;
    stage.upgrade()?;
    let pid = answering(stage);
    let runs = fs::read_link(format!("/proc/{pid}/exe"))?;
    let copy = fs::canonicalize(&copy)?;
    match runs == copy {
        true => pass(format!("the new generation runs {}", copy.display())),
        false => {
            fail(format!("the new generation runs {}, not {}", runs.display(), copy.display()))
        }
    }
}

pub(super) fn replaced_file(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    for nth in ["first", "second"] {
        stage.put_program(Stand::Copy)?;
        if let Some(why) = stage.try_upgrade()?.failed {
            return fail(format!("the file was replaced by rename for the {nth} time: {why}"));
        }
    }
    // Still being written: the same file is open for writing while it is executed.
    let program = stage.program()?;
    let beside = program.with_extension("next");
    fs::copy(stage.real_program()?, &beside)?;
    let writing = fs::OpenOptions::new().append(true).open(&beside)?;
    fs::rename(&beside, &program)?;
    let attempt = stage.try_upgrade_within(SOON)?;
    (&writing).flush()?;
    drop(writing);
    let busy = match (&attempt.failed, &attempt.ran) {
        (None, _) => "it waited until the file was written, or needs it not".to_owned(),
        (Some(_), Some(ran)) if ran.stderr.to_lowercase().contains("busy") => {
            "a file that is being written is reported as busy".to_owned()
        }
        (Some(why), Some(_)) => {
            return fail(format!(
                "a file that is being written: it does not say that it is busy: {why}"
            ));
        }
        (Some(_), None) => "a file that is being written is not started".to_owned(),
    };
    match stage.try_upgrade()?.failed {
        None => pass(format!("replaced twice by rename; {busy}")),
        Some(why) => fail(format!("once the file was written, the upgrade fails: {why}")),
    }
}

pub(super) fn pid_file(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let file = stage.adapter.upgrade.as_ref().and_then(|upgrade| upgrade.pid_file.clone());
    let file = file.ok_or_else(|| Fault("there is no pid file".to_owned()))?;
    let path = stage.service().file(&file);
    let ended = Arc::new(AtomicBool::new(false));
    let reading = {
        let ended = Arc::clone(&ended);
        std::thread::spawn(move || {
            let (mut reads, mut wrong) = (0_u64, Vec::new());
            while !ended.load(Ordering::Relaxed) {
                reads += 1;
                let text = fs::read_to_string(&path).unwrap_or_default();
                let pid = text.trim().parse().ok();
                if !pid.is_some_and(|pid| proc::is_alive(pid) && runs_a_program(pid)) {
                    wrong.push(text);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            (reads, wrong)
        })
    };
    let mut done = Ok(());
    for _ in 0..READ {
        done = done.and_then(|()| stage.upgrade().map(drop));
    }
    ended.store(true, Ordering::Relaxed);
    let (reads, wrong) = reading.join().map_err(|_| Fault("the reader panicked".to_owned()))?;
    done?;
    match wrong.first() {
        None => pass(format!("{reads} reads, each the number of a living process")),
        Some(first) => fail(format!("{} of {reads} reads were wrong, as {first:?}", wrong.len())),
    }
}

/// No thread of the kernel, whose low numbers the first half of another number may look like.
fn runs_a_program(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty())
}

pub(super) fn addresses(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let upgrade = stage.adapter.upgrade.as_ref();
    let probation = upgrade.and_then(|upgrade| upgrade.probation).map_or(Duration::ZERO, |it| it.0);
    let change = upgrade.and_then(|upgrade| upgrade.config.clone());
    let change = change.ok_or_else(|| Fault("there is no changed configuration".to_owned()))?;
    let path = stage.service().directory().join(&change.file);
    let (before, more) = (fs::read_to_string(&path)?, stage.service().put_in(&change.more));
    let address = stage.service().more;
    let taken = TcpListener::bind(address)?;
    fs::write(&path, &more)?;
    let refused = stage.try_upgrade_within(Duration::from_secs(2))?;
    if stage.ask(&stage.fast()).is_err() {
        return fail("with an address that is taken, the old version does not serve any more");
    }
    if refused.failed.is_none() {
        return fail("an upgrade to an address that is taken is reported as done");
    }
    drop(taken);
    if let Some(why) = stage.try_upgrade()?.failed {
        return fail(format!("with one more address, which is free, the upgrade fails: {why}"));
    }
    if Wire::connect(&address.into()).is_err() {
        return fail("the address that was added is not served");
    }
    fs::write(&path, &before)?;
    if let Some(why) = stage.try_upgrade()?.failed {
        return fail(format!("with one address fewer the upgrade fails: {why}"));
    }
    // As long as the upgrade can be taken back, what it removed may be needed again.
    let deadline = Instant::now() + probation + stage.exit_limit();
    while Wire::connect(&address.into()).is_ok() {
        if Instant::now() >= deadline {
            return fail("the address that was removed is still served");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    pass("a taken address is refused, a free one is served, a removed one is closed")
}

pub(super) fn control_socket(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let control = stage.adapter.upgrade.as_ref().and_then(|upgrade| upgrade.control.clone());
    let control = control.ok_or_else(|| Fault("there is no control socket".to_owned()))?;
    let path = stage.service().file(&control);
    let mode =
        |path: &std::path::Path| fs::metadata(path).map(|found| found.permissions().mode() & 0o777);
    let (file, directory) = (mode(&path)?, mode(path.parent().unwrap_or(&path))?);
    if file & 0o077 != 0 && directory & 0o077 != 0 {
        return fail(format!("the socket has mode {file:o} in a directory of mode {directory:o}"));
    }
    let names = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let abstracts = names.lines().filter_map(|line| line.split_ascii_whitespace().nth(7));
    let text = path.display().to_string();
    if abstracts.into_iter().any(|name| name.starts_with('@') && name.contains(&text)) {
        return fail("it also listens under an abstract name, which has no modes");
    }
    let owner = fs::metadata(&path)?.uid();
    if !rustix::process::geteuid().is_root() {
        return pass(format!(
            "socket {file:o} in directory {directory:o}; only root can try as another user"
        ));
    }
    let other = if owner == NOBODY { NOBODY - 1 } else { NOBODY };
    let words = ["python3", "-c", CONNECT, &text].map(str::to_owned);
    let mut target = crate::target::Target::command(&words[0]);
    target = target.args(&words[1..]).user(other, other).directory("/");
    let exit = match target.start() {
        Ok(mut target) => target.wait(COMMAND_LIMIT)?,
        Err(error) => return skip(format!("another user cannot be tried: {error}")),
    };
    match exit.code {
        Some(13) => {
            pass(format!("socket {file:o} in directory {directory:o}; another user is refused"))
        }
        Some(0) => fail("another user can connect to the control socket"),
        _ => inconclusive(format!("another user's attempt ended with {exit}")),
    }
}

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// Connects to a Unix socket; the exit code is the error's number.
const CONNECT: &str = "import socket,sys\ntry: socket.socket(socket.AF_UNIX).connect(sys.argv[1])\nexcept OSError as e: sys.exit(e.errno)";
