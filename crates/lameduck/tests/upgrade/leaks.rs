//! What many upgrades leave behind: no more than one does.

use lameduck_verify::target::proc::{descriptors, threads};

use crate::support::{BOUND, Service, wait, who};

/// Upgrades of one test.
const UPGRADES: u32 = 20;

#[test]
fn twenty_upgrades_leave_no_more_than_one() {
    let mut service = Service::start();
    let mut kept = service.connect();
    kept.get("/");
    let (pid, _) = service.upgrade_and_move();
    kept.get("/");
    let after_one = look(&service, pid);
    let mut last = pid;
    for _ in 0..UPGRADES {
        last = service.upgrade_and_move().0;
    }
    assert_eq!(who(&kept.get("/")), (2 + UPGRADES, last));
    service.target.wait(BOUND).unwrap();
    // The last one and its predecessor, which is there until probation ends.
    wait(|| service.processes().len() == 2, || format!("{:?}", service.processes()));
    wait(
        || look(&service, last) == after_one,
        || format!("{:?}, was {after_one:?}", look(&service, last)),
    );
    service.stop();
}

/// Descriptors and threads of a process, and names in the directory of control sockets.
fn look(service: &Service, pid: u32) -> (usize, usize, usize) {
    let names = std::fs::read_dir(service.file("run")).unwrap().count();
    (descriptors(pid).len(), threads(pid).len(), names)
}

// F30
#[test]
fn a_successor_inherits_no_descriptor() {
    let service = Service::start();
    // Open in the predecessor when it starts the successor.
    let open: Vec<_> = (0..10).map(|_| service.connect()).collect();
    service.get("/");
    service.wish("hang");
    let hanging = std::thread::scope(|scope| {
        let upgrading = scope.spawn(|| service.ask(lameduck::operate::Verb::Upgrade));
        let started = service.target.wait_stderr("Upgrading: started", BOUND).unwrap();
        let pid: u32 = started.rsplit(' ').next().unwrap().parse().unwrap();
        let program = crate::support::example("misbehaving_successor");
        let runs =
            || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
        wait(runs, || pid.to_string());
        let inherited = descriptors(pid);
        service.signal(pid, lameduck_verify::target::Signal::KILL);
        upgrading.join().unwrap();
        inherited
    });
    drop(open);
    assert!(hanging.iter().all(|(number, _)| *number <= 2), "{hanging:?}");
    service.stop();
}
