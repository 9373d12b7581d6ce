//! What many upgrades leave behind: no more than one does.

use lameduck_verify::target::proc::{descriptors, resident_kib, threads};

use crate::support::{BOUND, Service, Setup, times, wait, who};

/// Memory that a process of the same program may hold more than another, in KiB: its allocator's mood.
const MEMORY_SLACK: u64 = 4 * 1024;

#[test]
fn many_upgrades_leave_no_more_than_one() {
    let upgrades = times(20);
    let mut service = Setup::new().wish("probation 100").start();
    let mut kept = service.connect();
    kept.get("/");
    let (pid, _) = service.upgrade_and_move();
    assert_eq!(who(&kept.get("/")).1, pid);
    service.wait_processes(&[pid]);
    let after_one = look(&service, pid);
    let memory_after_one = resident_kib(pid).unwrap();
    let mut last = pid;
    for _ in 0..upgrades {
        last = service.upgrade_and_move().0;
    }
    assert_eq!(who(&kept.get("/")), (2 + upgrades, last));
    service.wait_processes(&[last]);
    // Fewer are fine: one that was on its way to being closed may have been counted before.
    let now = || look(&service, last);
    let no_more = |now: Look| {
        now.descriptors <= after_one.descriptors
            && now.threads <= after_one.threads
            && now.names <= after_one.names
    };
    wait(|| no_more(now()), || format!("{:?}, was {after_one:?}", now()));
    let memory = resident_kib(last).unwrap();
    assert!(memory <= memory_after_one + MEMORY_SLACK, "{memory} KiB, was {memory_after_one}");
    service.stop();
}

/// What a process has open, its threads, and what is in the directory of control sockets.
#[derive(Debug, Clone, Copy)]
struct Look {
    descriptors: usize,
    threads: usize,
    names: usize,
}

fn look(service: &Service, pid: u32) -> Look {
    let names = std::fs::read_dir(service.file("run")).unwrap().count();
    Look { descriptors: descriptors(pid).len(), threads: threads(pid).len(), names }
}

/// F30
#[test]
fn a_successor_inherits_no_descriptor() {
    let service = Service::start();
    // Open in the predecessor when it starts the successor.
    let open: Vec<_> = (0..10).map(|_| service.connect()).collect();
    service.get("/");
    service.wish("hang");
    // As many as one that this test starts: what it was itself started with is not the service's doing.
    let by_hand =
        service.by_hand(&crate::support::example("misbehaving_successor")).start().unwrap();
    let numbers = |pid| descriptors(pid).into_iter().map(|(number, _)| number).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let upgrading = scope.spawn(|| service.ask(lameduck::operate::Verb::Upgrade));
        let started = service.target.wait_stderr("Upgrading: started", BOUND).unwrap();
        let pid: u32 = started.rsplit(' ').next().unwrap().parse().unwrap();
        // While it is being loaded it has libraries open.
        wait(
            || !numbers(pid).is_empty() && numbers(pid) == numbers(by_hand.pid()),
            || format!("{:?}, by hand {:?}", descriptors(pid), descriptors(by_hand.pid())),
        );
        service.signal(pid, lameduck_verify::target::Signal::KILL);
        upgrading.join().unwrap();
    });
    drop(open);
    service.stop();
}
