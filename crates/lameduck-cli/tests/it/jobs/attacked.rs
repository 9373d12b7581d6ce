//! Jobs whose database restarts, hangs, is locked or full, and whose clock jumps: no job is lost or done twice, and the stop
//! ends by its deadline and says what could not be done.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use lameduck_verify::probe::{Until, Wire, watch};
use lameduck_verify::target::{Exit, Ready, Signal, Target, proc};
use private_postgres::Cluster;
use rustix::process::{Pid, kill_process};
use sqlx::Connection;

use super::{Shared, all_done, post, wait_states};
use crate::service::{LIMIT, Service, let_pass, new_directory};
use crate::upgrade::WITH_CONTROL;

/// A grace period of two seconds, and so late its end may be on a busy machine.
const GRACE: &str = "2s";
const LATEST: Duration = Duration::from_millis(2_500);

/// Ends at its deadline at the latest, and says that this could not be done.
#[track_caller]
fn ends_at_the_deadline(mut service: Service, names: &[&str]) {
    let exit = service.wait();
    let words = service.last_words();
    assert_eq!(exit.code, Some(3), "{exit}: {words}");
    assert!(exit.elapsed <= LATEST, "{exit}: {words}");
    for name in names {
        assert!(words.contains(name), "no {name} in: {words}");
    }
}

#[test]
fn jobs_outlast_a_restart_of_the_database_in_the_drain() {
    let mut cluster = Cluster::start();
    let url = cluster.create_database("arena");
    let mut first = Service::start(&["--grace", "20s", "--database", &url]);
    let jobs = first.place("/jobs");
    let posted: BTreeSet<i64> = (0..3).map(|_| post(&jobs, 3_000).unwrap()).collect();
    wait_states(&first, |states| states["claimed"] == 3);
    first.signal(Signal::TERM);
    first.target.wait_stderr("Shutting down server...", LIMIT).unwrap();
    cluster.stop();
    cluster.start_again();
    first.ends_clean();
    let shared = Shared::Postgres(cluster, url);
    let other = Service::start(&["--database", &shared.url()]);
    let states = all_done(&other, &shared, &posted);
    assert_eq!((&states["attempts"], &states["effects"]), (&0.into(), &3.into()), "{states:#}");
}

/// All processes of a database's server, stopped in the middle of whatever they do.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn freeze(cluster: &Cluster) -> Frozen {
        let file = cluster.directory().join("data/postmaster.pid");
        let server: u32 =
            fs::read_to_string(file).unwrap().lines().next().unwrap().parse().unwrap();
        let mut all = proc::descendants(server);
        all.push(server);
        let number = |pid: u32| Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let frozen = Frozen(all.into_iter().map(number).collect());
        frozen.signal(rustix::process::Signal::STOP);
        frozen
    }

    fn signal(&self, signal: rustix::process::Signal) {
        for pid in &self.0 {
            // One that has ended meanwhile need not be told.
            let _ = kill_process(*pid, signal);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::CONT);
    }
}

#[test]
fn a_database_that_hangs_at_giving_back_does_not_hold_the_stop() {
    let cluster = Cluster::start();
    let url = cluster.create_database("arena");
    let mut first = Service::start(&["--grace", GRACE, "--database", &url]);
    let jobs = first.place("/jobs");
    let posted: BTreeSet<i64> = (0..3).map(|_| post(&jobs, 4_000).unwrap()).collect();
    wait_states(&first, |states| states["claimed"] == 3);
    let frozen = Frozen::freeze(&cluster);
    first.signal(Signal::TERM);
    ends_at_the_deadline(first, &["cut: 1 task", "task jobs", "closing jobs"]);
    drop(frozen);
    let shared = Shared::Postgres(cluster, url);
    let other = Service::start(&["--database", &shared.url()]);
    all_done(&other, &shared, &posted);
}

#[test]
fn a_lock_that_another_process_holds_does_not_hold_the_stop() {
    let shared = Shared::sqlite();
    let mut first = Service::start(&["--grace", GRACE, "--database", &shared.url()]);
    let jobs = first.place("/jobs");
    // One that is given back, and one whose completion waits for the lock.
    let posted = BTreeSet::from([post(&jobs, 4_000).unwrap(), post(&jobs, 500).unwrap()]);
    wait_states(&first, |states| states["claimed"] == 2);
    let lock = Lock::hold(&shared);
    first.signal(Signal::TERM);
    ends_at_the_deadline(first, &["task jobs", "closing jobs"]);
    drop(lock);
    let other = Service::start(&["--database", &shared.url()]);
    all_done(&other, &shared, &posted);
}

#[test]
fn a_lock_that_another_process_holds_for_a_while_loses_nothing() {
    let shared = Shared::sqlite();
    let service = Service::start(&["--database", &shared.url()]);
    let jobs = service.place("/jobs");
    let mut posted = BTreeSet::from([post(&jobs, 200).unwrap()]);
    for _ in 0..3 {
        let lock = Lock::hold(&shared);
        let waiting = std::thread::spawn({
            let jobs = jobs.clone();
            move || post(&jobs, 10)
        });
        // Shorter than what a statement waits, longer than a sign of life of a claim takes to be due.
        let_pass(Duration::from_millis(1_500));
        drop(lock);
        posted.extend(waiting.join().unwrap());
    }
    let states = all_done(&service, &shared, &posted);
    assert_eq!((&states["attempts"], posted.len()), (&0.into(), 4), "{states:#}");
}

/// The one lock under which an SQLite file is written. Dropping it lets it go.
struct Lock {
    _connection: sqlx::SqliteConnection,
    _runtime: tokio::runtime::Runtime,
}

impl Lock {
    fn hold(shared: &Shared) -> Lock {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(async {
            let mut connection = sqlx::SqliteConnection::connect(&shared.url()).await.unwrap();
            sqlx::query("PRAGMA busy_timeout = 20000").execute(&mut connection).await.unwrap();
            sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
            connection
        });
        Lock { _connection: connection, _runtime: runtime }
    }
}

/// A file system of one megabyte, which a process keeps in a namespace of its own. Only root may make one.
struct SmallDisk {
    keeper: Target,
    directory: PathBuf,
    _above: tempfile::TempDir,
}

impl SmallDisk {
    fn make() -> Option<SmallDisk> {
        if !prerequisites::is_root() {
            return None;
        }
        let above = new_directory();
        let directory = above.path().join("small");
        fs::create_dir(&directory).unwrap();
        let script = "mount -t tmpfs -o size=1m none \"$0\" && echo mounted && exec sleep 3600";
        let keeper = Target::command("unshare").args(["--mount", "sh", "-c", script]);
        let keeper = keeper.arg(&directory).ready(Ready::Stdout("mounted".to_owned()));
        let keeper = keeper.ready_limit(LIMIT).start().unwrap();
        Some(SmallDisk { keeper, directory, _above: above })
    }

    fn serve(&self, flags: &[&str]) -> Service {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.keeper.pid());
        let database = format!("sqlite:{}", self.directory.join("jobs.db").display());
        let directory = new_directory();
        // Entering a namespace changes the directory.
        let script = "cd \"$0\" && exec \"$@\"";
        let command = Target::command("nsenter").args([&*namespace, "sh", "-c", script]);
        let command = command.arg(directory.path()).arg(env!("CARGO_BIN_EXE_lameduck"));
        let command = command.args(["serve", "--listen", "127.0.0.1:0", "--database", &database]);
        Service::run(directory, command.args(flags), Ready::Stderr("istening on ".into()), 1)
    }

    /// The disk from here.
    fn seen(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.pid()));
        root.join(self.directory.strip_prefix("/").unwrap()).join(name)
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.seen("fill")).unwrap();
        // Smaller and smaller pieces, until no byte more fits.
        for size in [4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.seen("fill")).unwrap();
    }
}

/// Posts jobs until the disk takes no more; those that were acknowledged.
fn post_until_refused(service: &Service) -> BTreeSet<i64> {
    let mut posted = BTreeSet::new();
    loop {
        let place = service.place("/jobs?take=1");
        let mut wire = Wire::connect(&place.address).unwrap();
        let head = "POST /jobs?take=1 HTTP/1.1\r\nhost: test\r\nconnection: close\r\n";
        wire.send(format!("{head}content-length: 0\r\n\r\n").as_bytes()).unwrap();
        assert!(watch(std::slice::from_mut(&mut wire), Until::Closed, LIMIT).unwrap());
        let text = String::from_utf8_lossy(wire.received()).into_owned();
        if !text.starts_with("HTTP/1.1 201 ") {
            assert!(text.starts_with("HTTP/1.1 50"), "{text}");
            return posted;
        }
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let answer: serde_json::Value = serde_json::from_str(body).unwrap();
        posted.insert(answer["id"].as_i64().unwrap());
    }
}

/// With room again everything that was acknowledged is there, and is done once.
#[track_caller]
fn everything_is_done(service: &Service, posted: &BTreeSet<i64>) {
    let states = wait_states(service, |states| states["waiting"] == 0 && states["claimed"] == 0);
    assert_eq!(states["failed"], 0, "{states:#}");
    assert_eq!(states["effects"], states["done"], "{states:#}");
    assert_eq!(states["sum"], states["expected"], "{states:#}");
    let done = states["done"].as_i64().unwrap();
    // One whose acknowledgement was lost may be there as well.
    assert!(done >= i64::try_from(posted.len()).unwrap(), "{states:#}, {} posted", posted.len());
}

#[track_caller]
fn said_if_it_failed(exit: &Exit, words: &str) {
    match exit.code {
        Some(0) => {}
        Some(1 | 3) => assert!(words.contains("full") || words.contains("disk I/O"), "{words}"),
        _ => panic!("{exit}: {words}"),
    }
}

#[test]
fn a_stop_on_a_full_disk_ends_in_time_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::make() else { return };
    let mut first = disk.serve(&["--grace", GRACE]);
    let mut posted = BTreeSet::from([post(&first.place("/jobs"), 4_000).unwrap()]);
    wait_states(&first, |states| states["claimed"] == 1);
    disk.fill();
    posted.extend(post_until_refused(&first));
    let exit = first.stop();
    assert!(exit.elapsed <= LATEST, "{exit}: {}", first.last_words());
    said_if_it_failed(&exit, &first.last_words());
    disk.free();
    let again = disk.serve(&[]);
    everything_is_done(&again, &posted);
}

#[test]
fn an_upgrade_on_a_full_disk_succeeds_or_changes_nothing() {
    let Some(disk) = SmallDisk::make() else { return };
    let mut service = disk.serve(&WITH_CONTROL);
    let mut posted = BTreeSet::from([post(&service.place("/jobs"), 10).unwrap()]);
    disk.fill();
    posted.extend(post_until_refused(&service));
    let ended = service.operate("upgrade", &[]);
    if ended.code != Some(0) {
        assert!(ended.stderr.contains("full") || ended.stderr.contains("disk I/O"), "{ended:?}");
    }
    // Whoever serves now answers, and takes jobs as soon as there is room.
    assert_eq!(service.get("/b").0, 200);
    disk.free();
    posted.insert(post(&service.place("/jobs"), 10).unwrap());
    everything_is_done(&service, &posted);
    assert_eq!(service.operate("stop", &[]).code, Some(0), "{}", service.target.stderr());
    service.leaves_no_process();
}

/// An hour forwards ends every claim at once; an hour back must not make a dead worker's last for an hour.
#[track_caller]
fn each_job_has_its_effect_once_when_the_clock_jumps(shared: &Shared) {
    const HOUR_FORWARDS: &str =
        "UPDATE jobs SET claim_ends_ms = claim_ends_ms - 3600000 WHERE state = 'claimed'";
    const HOUR_BACK: &str =
        "UPDATE jobs SET claim_ends_ms = claim_ends_ms + 3600000 WHERE state = 'claimed'";
    let other = Service::start(&["--database", &shared.url()]);
    let mut first = Service::start(&["--database", &shared.url()]);
    let jobs = first.place("/jobs");
    let mut posted: BTreeSet<i64> = (0..8).map(|_| post(&jobs, 1_000).unwrap()).collect();
    for jump in [HOUR_FORWARDS, HOUR_BACK] {
        wait_states(&other, |states| states["claimed"].as_i64().unwrap() > 0);
        shared.write(jump);
        posted.extend((0..4).map(|_| post(&jobs, 100).unwrap()));
    }
    all_done(&other, shared, &posted);
    // What the first one has in hand when it is killed is claimed for an hour and more.
    posted.extend((0..8).map(|_| post(&jobs, 1_000).unwrap()));
    wait_states(&other, |states| states["claimed"].as_i64().unwrap() >= 4);
    first.signal(Signal::KILL);
    first.wait();
    shared.write(HOUR_BACK);
    all_done(&other, shared, &posted);
}

#[test]
fn each_job_has_its_effect_once_on_sqlite_when_the_clock_jumps() {
    each_job_has_its_effect_once_when_the_clock_jumps(&Shared::sqlite());
}

#[test]
fn each_job_has_its_effect_once_on_postgresql_when_the_clock_jumps() {
    each_job_has_its_effect_once_when_the_clock_jumps(&Shared::postgres());
}
