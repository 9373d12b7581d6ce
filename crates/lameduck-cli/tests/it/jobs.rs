//! Background jobs over stops, upgrades and kills: each has its effect once, and only a killed worker is charged (loss 31).

mod attacked;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lameduck_verify::address::{Address, Place as Aim};
use lameduck_verify::target::Signal;
use private_postgres::Cluster;
use serde_json::Value;
use sqlx::{Connection, Row};

use crate::service::{LIMIT, Service, User, let_pass, new_directory, stops};
use crate::upgrade::{WITH_CONTROL, alive_in_group};

/// A grace period that the longest jobs do not fit into, and giving back does: three processes wait for SQLite's lock then,
/// which is a matter of polling, and on a busy machine of some hundred milliseconds.
const GRACE: &str = "1200ms";
/// Jobs that do not fit into it, and some that do.
const TAKES_MS: [u64; 8] = [0, 5, 20, 1_500, 1, 50, 10, 300];
/// How many jobs each service has in hand. With fewer they would fall behind what is posted, and what is given back would
/// wait for a hand and not for a word.
const HANDS: &str = "32";
/// How soon a job that was given back is in another worker's hands.
const PICKUP: Duration = Duration::from_secs(1);
/// The random operations are the same in each run; `LAMEDUCK_SEED` asks for others.
fn seed() -> u64 {
    const SEED: u64 = 31;
    std::env::var("LAMEDUCK_SEED").map_or(SEED, |text| {
        text.parse().unwrap_or_else(|_| panic!("LAMEDUCK_SEED={text}: not a number"))
    })
}

/// A database that two services share.
enum Shared {
    Sqlite(tempfile::TempDir),
    Postgres(Cluster, String),
}

impl Shared {
    fn sqlite() -> Shared {
        Shared::Sqlite(new_directory())
    }

    fn postgres() -> Shared {
        let cluster = Cluster::start();
        let url = cluster.create_database("arena");
        Shared::Postgres(cluster, url)
    }

    fn url(&self) -> String {
        match self {
            Shared::Sqlite(directory) => format!("sqlite:{}", self.file(directory)),
            Shared::Postgres(_, url) => url.clone(),
        }
    }

    fn file(&self, directory: &tempfile::TempDir) -> String {
        directory.path().join("jobs.db").display().to_string()
    }

    /// One column of text, read apart from the service.
    fn read(&self, sql: &'static str) -> Vec<String> {
        match self {
            Shared::Postgres(cluster, _) => {
                cluster.query("arena", sql).lines().map(str::to_owned).collect()
            }
            Shared::Sqlite(directory) => {
                let file = format!("sqlite:{}", self.file(directory));
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let mut connection = sqlx::SqliteConnection::connect(&file).await.unwrap();
                    let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
                    rows.iter().map(|row| row.get(0)).collect()
                })
            }
        }
    }
}

impl Shared {
    /// Changes something behind the service's back.
    fn write(&self, sql: &'static str) {
        match self {
            Shared::Postgres(cluster, _) => drop(cluster.query("arena", sql)),
            Shared::Sqlite(directory) => {
                let file = format!("sqlite:{}", self.file(directory));
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let mut connection = sqlx::SqliteConnection::connect(&file).await.unwrap();
                    sqlx::query(sql).execute(&mut connection).await.unwrap();
                });
            }
        }
    }
}

/// Posts one job; its number once it is acknowledged, nothing if the service was not there to do it.
fn post(aim: &Aim, take_ms: u64) -> Option<i64> {
    let Address::Tcp(address) = &aim.address else { panic!("{aim}: not TCP") };
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let head = format!("POST /jobs?take={take_ms} HTTP/1.1\r\nhost: test\r\nconnection: close");
    stream.write_all(format!("{head}\r\ncontent-length: 0\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let answer: Value = serde_json::from_str(body).ok()?;
    assert!(head.starts_with("HTTP/1.1 201 "), "{text}");
    Some(answer["id"].as_i64().unwrap())
}

#[track_caller]
fn states(service: &Service) -> Value {
    let (status, text) = service.get("/jobs");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Asks again and again until it is so.
#[track_caller]
fn wait_states(service: &Service, is_it: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let states = states(service);
        if is_it(&states) {
            return states;
        }
        assert!(Instant::now() < deadline, "{states:#}");
        let_pass(Duration::from_millis(10));
    }
}

/// Everything posted is done, each once.
#[track_caller]
fn all_done(service: &Service, shared: &Shared, acknowledged: &BTreeSet<i64>) -> Value {
    let states = wait_states(service, |states| states["waiting"] == 0 && states["claimed"] == 0);
    assert_eq!(states["failed"], 0, "{states:#}");
    assert_eq!(states["effects"], states["done"], "{states:#}");
    assert_eq!(states["sum"], states["expected"], "{states:#}");
    let effects = shared.read("SELECT CAST(job AS TEXT) FROM job_effects ORDER BY job");
    let once: BTreeSet<i64> = effects.iter().map(|job| job.parse().unwrap()).collect();
    assert_eq!(once.len(), effects.len(), "a job had its effect twice");
    let lost: Vec<_> = acknowledged.difference(&once).collect();
    assert!(lost.is_empty(), "acknowledged and not done: {lost:?}");
    states
}

/// What befalls the one service, while the other one works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Stop,
    Upgrade,
    Kill,
}

/// The processes of the service, killed ones among them.
struct Site {
    service: Option<Service>,
    flags: Vec<String>,
    address: String,
    killed: BTreeSet<u32>,
}

impl Site {
    fn start(shared: &Shared) -> Site {
        let mut flags: Vec<String> = WITH_CONTROL.map(str::to_owned).to_vec();
        flags.extend(["--grace", GRACE, "--probation", "0s", "--database"].map(str::to_owned));
        flags.extend([shared.url(), "--jobs".to_owned(), HANDS.to_owned()]);
        let borrowed: Vec<&str> = flags.iter().map(String::as_str).collect();
        let service = Service::start(&borrowed);
        let address = service.addresses[0].clone();
        Site { service: Some(service), flags, address, killed: BTreeSet::new() }
    }

    fn start_again(&mut self, directory: tempfile::TempDir) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.service = Some(Service::start_in(directory, User::Same, &[&self.address], &flags));
    }

    fn befall(&mut self, event: Event) {
        let mut service = self.service.take().unwrap();
        match event {
            Event::Upgrade => {
                service.upgrade();
                self.service = Some(service);
            }
            Event::Stop => {
                let ended = service.operate("stop", &[]);
                assert_eq!(ended.code, Some(0), "{ended:#?}\n{}", service.target.stderr());
                // Older generations may still finish what they have in hand.
                service.leaves_no_process();
                self.start_again(service.into_directory());
            }
            Event::Kill => {
                self.killed.extend(alive_in_group(service.target.pid()));
                service.target.signal_group(Signal::KILL).unwrap();
                service.leaves_no_process();
                self.start_again(service.into_directory());
            }
        }
    }
}

/// Says so when it goes, also where an assertion failed: whoever posts would go on for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A small generator: which operation comes next is random, and the same each time.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

#[track_caller]
fn each_job_has_its_effect_once(shared: &Shared) {
    let other = Service::start(&["--database", &shared.url(), "--jobs", HANDS]);
    let mut site = Site::start(shared);
    let (aim, stop) = (other.place("/jobs"), AtomicBool::new(false));
    let own = site.service.as_ref().unwrap().place("/jobs");
    let (acknowledged, events) = thread::scope(|threads| {
        let posting = [aim, own].map(|aim| {
            let stop = &stop;
            threads.spawn(move || {
                let takes = TAKES_MS.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed));
                let posted = takes.filter_map(|take_ms| {
                    let_pass(Duration::from_millis(15));
                    post(&aim, *take_ms)
                });
                posted.collect::<BTreeSet<i64>>()
            })
        });
        let over = Over(&stop);
        let (mut seed, mut events) = (seed(), Vec::new());
        for _ in 0..2 * stops() {
            let_pass(Duration::from_millis(100 + next(&mut seed) % 400));
            let event = [Event::Stop, Event::Upgrade, Event::Kill][next(&mut seed) as usize % 3];
            site.befall(event);
            events.push(event);
        }
        drop(over);
        let acknowledged = posting.into_iter().flat_map(|posting| posting.join().unwrap());
        (acknowledged.collect::<BTreeSet<i64>>(), events)
    });
    let states = all_done(&other, shared, &acknowledged);
    // Charged are workers that were killed, and nobody else.
    for workers in shared.read("SELECT charged_to FROM jobs WHERE charged_to <> ''") {
        for worker in workers.split_terminator(';') {
            let pid: u32 = worker.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(site.killed.contains(&pid), "{worker} was charged; killed: {:?}", site.killed);
        }
    }
    let count = |event| events.iter().filter(|befallen| **befallen == event).count();
    let [stops, upgrades, kills] = [Event::Stop, Event::Upgrade, Event::Kill].map(count);
    let befallen = format!("{stops} stops, {upgrades} upgrades, {kills} kills");
    eprintln!("{befallen}; {} jobs acknowledged: {states}", acknowledged.len());
}

#[test]
fn each_job_has_its_effect_once_on_sqlite_whatever_happens_to_its_worker() {
    each_job_has_its_effect_once(&Shared::sqlite());
}

#[test]
fn each_job_has_its_effect_once_on_postgresql_whatever_happens_to_its_worker() {
    each_job_has_its_effect_once(&Shared::postgres());
}

/// A stop gives back what does not fit into the grace period, uncharged, and another worker has it within a second.
#[track_caller]
fn what_a_stop_gives_back_is_picked_up(shared: &Shared) {
    let url = shared.url();
    let mut first = Service::start(&["--grace", GRACE, "--database", &url]);
    let posted: BTreeSet<i64> =
        (0..3).map(|_| post(&first.place("/jobs"), 2_000).unwrap()).collect();
    wait_states(&first, |states| states["claimed"] == 3);
    let other = Service::start(&["--database", &url]);
    first.signal(Signal::TERM);
    first.ends_clean();
    let words = first.last_words();
    assert!(words.contains("jobs: gave back 3 jobs\n"), "{words}");
    let states = all_done(&other, shared, &posted);
    assert_eq!((&states["attempts"], &states["effects"]), (&0.into(), &3.into()), "{states:#}");
    let pickup = Duration::from_millis(states["longest_pickup_ms"].as_u64().unwrap());
    assert!(pickup <= PICKUP, "{states:#}");
}

#[test]
fn what_a_stop_gives_back_is_picked_up_within_a_second_on_sqlite() {
    what_a_stop_gives_back_is_picked_up(&Shared::sqlite());
}

#[test]
fn what_a_stop_gives_back_is_picked_up_within_a_second_on_postgresql() {
    what_a_stop_gives_back_is_picked_up(&Shared::postgres());
}

#[test]
fn a_generation_finishes_what_it_claimed_and_leaves_new_jobs_to_its_successor() {
    let service = Service::upgradable(&["--probation", "1h"]);
    let jobs = service.place("/jobs");
    post(&jobs, 2_000).unwrap();
    wait_states(&service, |states| states["claimed"] == 1);
    service.upgrade();
    service.wait_answers_from(2);
    post(&jobs, 0).unwrap();
    let states = wait_states(&service, |states| states["done"] == 2);
    assert_eq!((&states["attempts"], &states["effects"]), (&0.into(), &2.into()), "{states:#}");
    // The second was done while the first was still in hand, and by the successor.
    let file = service.path("lameduck.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let by: Vec<String> = runtime.block_on(async {
        let url = format!("sqlite:{}", file.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let select = sqlx::query_scalar("SELECT worker FROM job_effects ORDER BY job");
        select.fetch_all(&mut connection).await.unwrap()
    });
    assert!(by[0].starts_with("generation 1,") && by[1].starts_with("generation 2,"), "{by:?}");
    // A rollback: the first generation claims again.
    assert_eq!(service.operate("rollback", &[]).code, Some(0));
    service.wait_answers_from(1);
    post(&jobs, 0).unwrap();
    wait_states(&service, |states| states["done"] == 3);
}

#[test]
fn a_killed_workers_jobs_are_taken_over_and_charged() {
    let shared = Shared::sqlite();
    let mut first = Service::start(&["--database", &shared.url()]);
    let posted = BTreeSet::from([post(&first.place("/jobs"), 600).unwrap()]);
    wait_states(&first, |states| states["claimed"] == 1);
    first.signal(Signal::KILL);
    first.wait();
    let other = Service::start(&["--database", &shared.url()]);
    let states = all_done(&other, &shared, &posted);
    assert_eq!(states["attempts"], 1, "{states:#}");
}
