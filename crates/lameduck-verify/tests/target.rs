//! Targets: known to be ready, never blocked on their output, and surely gone.

use lameduck_verify::target::{Ready, Signal, Target, free_address, proc};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn shell(script: &str) -> lameduck_verify::target::Start {
    Target::command("/bin/sh").args(["-c", script])
}

/// A process id printed by a script.
fn number(line: &str) -> u32 {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn is_gone(pid: u32) -> bool {
    proc::threads(pid).is_empty() || proc::is_zombie(pid)
}

fn wait_gone(pid: u32) -> bool {
    let deadline = Instant::now() + SOON;
    while !is_gone(pid) && Instant::now() < deadline {
        std::thread::yield_now();
    }
    is_gone(pid)
}

#[test]
fn the_end_of_a_server_is_told() {
    let mut exits = shell("exit 3").start().unwrap();
    assert_eq!(exits.wait(SOON).unwrap().code, Some(3));
    let mut killed =
        shell("echo up; exec sleep 600").ready(Ready::Stdout("up".into())).start().unwrap();
    assert!(killed.is_running());
    assert!(killed.wait(Duration::from_millis(1)).is_err());
    killed.signal(Signal::TERM).unwrap();
    let exit = killed.wait(SOON).unwrap();
    assert_eq!((exit.code, exit.signal), (None, Some(15)));
    assert_eq!(killed.wait(SOON).unwrap(), exit, "it can be asked again");
}

/// Another process holds the stream open, so there is no end of it to wait for.
#[test]
fn the_last_word_of_a_server_that_has_ended_is_there_at_once() {
    for _ in 0..50 {
        let script = "sleep 600 & echo up; echo the last word >&2";
        let mut leaves = shell(script).start().unwrap();
        assert_eq!(leaves.wait(SOON).unwrap().code, Some(0));
        assert_eq!((leaves.stdout(), leaves.stderr()), ("up\n".into(), "the last word\n".into()));
    }
}

#[test]
fn a_server_is_not_blocked_by_its_output() {
    let script = "head -c 4000000 /dev/zero | tr '\\0' 'x'; echo; echo done; echo done >&2";
    let mut chatty = shell(script).start().unwrap();
    assert_eq!(chatty.wait(SOON).unwrap().code, Some(0));
    assert_eq!(chatty.wait_stderr("done", SOON).unwrap(), "done");
    assert!(chatty.whole_stdout(SOON).unwrap().len() > 4_000_000);
}

#[test]
fn a_server_that_never_becomes_ready_is_named_with_its_words() {
    let address = free_address().unwrap();
    let dead = shell("echo 'no database' >&2; exit 1").ready(Ready::Tcp(address)).start();
    let error = dead.unwrap_err().to_string();
    assert!(
        error.contains("ended before it was ready") && error.contains("no database"),
        "{error}"
    );
    let script = "head -c 4000000 /dev/zero | tr '\\0' 'x' >&2; echo 'no room' >&2; exit 1";
    let chatty = shell(script).ready(Ready::Tcp(address)).start().unwrap_err().to_string();
    assert!(chatty.contains("no room") && chatty.len() < 3000, "{} bytes", chatty.len());
    let mute = shell("exec sleep 600").ready(Ready::Tcp(address));
    let error = mute.ready_limit(Duration::from_millis(50)).start().unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    let absent = Target::command("/nonexistent/server").start().unwrap_err().to_string();
    assert!(absent.contains("/nonexistent/server"), "{absent}");
}

#[test]
fn no_process_is_left_behind_by_a_drop() {
    // The first child leaves the group of its parent; the other ignores every polite signal.
    let script =
        "setsid sleep 600 & echo first $!; (trap '' TERM HUP; sleep 600) & echo second $!; wait";
    let target = shell(script).ready(Ready::Stdout("second".into())).start().unwrap();
    let first = number(&target.wait_stdout("first", SOON).unwrap());
    let second = number(&target.wait_stdout("second", SOON).unwrap());
    assert!(target.tree().len() >= 3, "{:?}", target.tree());
    let pid = target.pid();
    drop(target);
    assert!(is_gone(pid) && wait_gone(first) && wait_gone(second));
}

#[test]
fn a_frozen_server_does_nothing_until_it_is_thawed() {
    let script = "trap 'echo heard; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let mut target = shell(script).ready(Ready::Stdout("up".into())).start().unwrap();
    target.freeze().unwrap();
    assert!(proc::is_stopped(target.pid()));
    target.signal(Signal::TERM).unwrap();
    assert!(target.wait(Duration::from_millis(50)).is_err());
    target.thaw().unwrap();
    assert_eq!(target.wait(SOON).unwrap().code, Some(0));
    assert!(target.whole_stdout(SOON).unwrap().contains("heard"));
}

#[test]
fn descriptors_threads_and_memory_are_listed() {
    let own = std::process::id();
    assert!(proc::descriptors(own).iter().any(|(number, _)| *number == 0));
    assert!(!proc::threads(own).is_empty());
    assert!(proc::resident_kib(own).unwrap() > 100);
    let file = std::fs::File::open("/etc/hostname").or_else(|_| std::fs::File::open("/etc/passwd"));
    let before = proc::descriptors(own).len();
    drop(file);
    assert!(before >= 3);
}

/// Not a test of its own: the other half of the next one, which runs it as a process and kills it.
#[test]
fn hold_a_server() {
    if std::env::var_os("HOLD_A_SERVER").is_none() {
        return;
    }
    let held = shell("echo up; exec sleep 600").ready(Ready::Stdout("up".into())).start().unwrap();
    println!("holding {}", held.pid());
    std::thread::park_timeout(Duration::from_secs(600));
}

#[test]
fn a_killed_tester_leaves_no_server() {
    let mut tester = Target::command(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_server", "--nocapture"])
        .env("HOLD_A_SERVER", "1")
        .ready(Ready::Stdout("holding ".into()))
        .start()
        .unwrap();
    let line = tester.wait_stdout("holding ", SOON).unwrap();
    let held = number(&line);
    assert!(!is_gone(held));
    tester.signal(Signal::KILL).unwrap();
    assert_eq!(tester.wait(SOON).unwrap().signal, Some(9));
    assert!(wait_gone(held), "process {held} outlived its tester");
}

/// Not a test of its own: a tester that does nothing but start servers, for the next one, which kills it.
#[test]
fn start_servers() {
    let Some(name) = std::env::var_os("START_SERVERS") else { return };
    println!("starting");
    loop {
        let script = "exec sleep 600";
        let started = Target::command("/bin/sh").args(["-c", script]).env("SERVED", &name).start();
        drop(started);
    }
}

/// The living processes that carry this name in their environment.
fn named(name: &str) -> usize {
    let wanted = format!("SERVED={name}");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let has_name = |entry: &std::fs::DirEntry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    processes.filter(has_name).count()
}

#[test]
fn a_tester_killed_while_it_starts_a_server_leaves_none() {
    for round in 0..20 {
        let name = format!("{}-{round}", std::process::id());
        let mut tester = Target::command(std::env::current_exe().unwrap())
            .args(["--exact", "start_servers", "--nocapture"])
            .env("START_SERVERS", &name)
            .ready(Ready::Stdout("starting".into()))
            .start()
            .unwrap();
        let deadline = Instant::now() + SOON;
        while named(&name) == 0 && Instant::now() < deadline {}
        tester.signal(Signal::KILL).unwrap();
        tester.wait(SOON).unwrap();
        while named(&name) > 0 {
            assert!(Instant::now() < deadline, "round {round}: a server outlived its tester");
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_the_first_process_passes_on_is_there_before_the_others_go_on() {
    // A shell looks at USR1 before CONT when both are there, and at CONT first when USR1 comes later.
    let script = r#"
        (trap 'echo told; exit 0' USR1; trap 'echo went on' CONT; echo child; while :; do :; done) & child=$!
        trap 'kill -USR1 $child; wait $child; exit 0' TERM
        echo first
        wait
    "#;
    for _ in 0..10 {
        // Both have their traps, whichever comes to it first.
        let mut target = shell(script).ready(Ready::Stdout("child".into())).start().unwrap();
        target.wait_stdout("first", SOON).unwrap();
        target.freeze().unwrap();
        target.signal(Signal::TERM).unwrap();
        target.thaw().unwrap();
        target.wait(SOON).unwrap();
        let said = target.whole_stdout(SOON).unwrap();
        assert_eq!(said.lines().nth(2), Some("told"), "{said}");
    }
}
