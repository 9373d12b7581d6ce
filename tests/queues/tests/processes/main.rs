//! Workers of other people's queues as real processes, through stops, upgrades and kills under load.
//!
//! The jobs write down apart from their queue who began them and which attempt it was. So it shows whether each has its
//! effect, whether one is repeated, and whether one was charged an attempt. A claim that is left behind shows too: in all
//! tests but those that kill, nobody but its worker would give it back before the test gives up.

mod naive;
mod queue;
mod site;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use queues::{CONCURRENCY, Claims};

use queue::{Kind, Queue};
use site::{Ended, Site};

/// How long a start, an answer or an end may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Jobs that do not fit into the grace period, and some that do.
const TAKES_MS: [u64; 8] = [0, 5, 20, 4_000, 1, 50, 10, 300];
/// How far apart they are posted.
const BETWEEN: Duration = Duration::from_millis(40);

/// How often each thing happens; `LAMEDUCK_STOPS` asks for more than a quick run makes.
fn times() -> usize {
    const FEW: usize = 3;
    std::env::var("LAMEDUCK_STOPS").map_or(FEW, |text| {
        text.parse().unwrap_or_else(|_| panic!("LAMEDUCK_STOPS={text}: not a number"))
    })
}

/// What befalls one worker, while another one works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Stop,
    Upgrade,
    Kill,
}

async fn through(kind: Kind, event: Event) {
    let claims = if event == Event::Kill { Claims::Expire } else { Claims::Kept };
    let queue = Arc::new(Queue::start(kind, claims).await);
    let mut other = Site::start(&queue);
    let mut site = Site::start(&queue);
    let stop = Arc::new(AtomicBool::new(false));
    let posting = tokio::spawn(post(Arc::clone(&queue), Arc::clone(&stop)));
    for _ in 0..times() {
        // Something that does not fit into the grace period is in its hands.
        let begins = queue.effects().has_in_hand(site.pid(), 1).await;
        let (pid, begun) = (site.pid(), queue.effects().begun().await);
        assert!(begins, "process {pid} begins nothing that lasts: {begun:?}: {}", site.words());
        match event {
            Event::Stop => site.stop(&queue, Ended::Clean),
            Event::Upgrade => site.upgrade(),
            Event::Kill => site.kill(&queue),
        }
    }
    stop.store(true, Ordering::Relaxed);
    let posted = posting.await.unwrap();
    let found = queue.effects().all_done(&posted).await;
    eprintln!("{kind:?}, {event:?}: {found}");
    assert_eq!(found.effects, posted.len(), "{found}");
    match event {
        Event::Stop | Event::Upgrade => {
            let charged = if kind == Kind::Nats { "deliveries" } else { "attempts" };
            // The server of NATS counts deliveries, and nobody can take one back.
            let most = if kind == Kind::Nats { i64::MAX } else { 1 };
            assert!(found.most_attempts <= most, "charged {charged}: {found}");
        }
        Event::Kill => {}
    }
    if event == Event::Upgrade {
        assert_eq!(found.begun_again, 0, "an upgrade interrupts no job: {found}");
    }
    let repeated_at_most = match (kind, event) {
        // What a killed worker had in hand, and no more.
        (_, Event::Kill) => CONCURRENCY * times(),
        // What is cut between its effect and the queue's knowing of it.
        (Kind::ApalisSqlite | Kind::ApalisPostgres | Kind::Graphile, Event::Stop) => {
            CONCURRENCY * times()
        }
        (_, Event::Stop | Event::Upgrade) => 0,
    };
    assert!(found.repeated <= repeated_at_most, "{found}");
    site.end(Ended::Clean);
    other.end(Ended::Clean);
    assert_eq!(queue.left().await.claimed, 0);
}

/// A successor that gives the service back gives back the work too.
async fn through_a_rollback(kind: Kind) {
    let queue = Queue::start(kind, Claims::Kept).await;
    let mut site = Site::start_on_probation(&queue);
    for id in 1..=3 {
        site.upgrade();
        site.roll_back();
        queue.post(id, 0).await;
        queue.effects().all_done(&(1..=id).collect()).await;
    }
    site.end(Ended::Clean);
    assert_eq!(queue.left().await.claimed, 0);
}

/// Posts jobs until it is told to stop; those whose queue has said that it has them.
async fn post(queue: Arc<Queue>, stop: Arc<AtomicBool>) -> BTreeSet<i64> {
    let mut posted = BTreeSet::new();
    for (id, take_ms) in (1..).zip(TAKES_MS.iter().cycle()) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        queue.post(id, *take_ms).await;
        posted.insert(id);
        tokio::time::sleep(BETWEEN).await;
    }
    posted
}

macro_rules! through {
    ($($name:ident: $kind:ident, $event:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                through(Kind::$kind, Event::$event).await;
            }
        )*
    };
}

through! {
    apalis_on_sqlite_loses_no_job_in_stops_and_charges_none: ApalisSqlite, Stop;
    apalis_on_sqlite_loses_no_job_in_upgrades_and_charges_none: ApalisSqlite, Upgrade;
    apalis_on_sqlite_loses_no_job_of_a_killed_worker: ApalisSqlite, Kill;
    apalis_on_postgresql_loses_no_job_in_stops_and_charges_none: ApalisPostgres, Stop;
    apalis_on_postgresql_loses_no_job_in_upgrades_and_charges_none: ApalisPostgres, Upgrade;
    apalis_on_postgresql_loses_no_job_of_a_killed_worker: ApalisPostgres, Kill;
    graphile_worker_loses_no_job_in_stops_and_charges_none: Graphile, Stop;
    graphile_worker_loses_no_job_in_upgrades_and_charges_none: Graphile, Upgrade;
    graphile_worker_loses_no_job_of_a_killed_worker: Graphile, Kill;
    jetstream_loses_no_message_in_stops: Nats, Stop;
    jetstream_loses_no_message_in_upgrades: Nats, Upgrade;
    jetstream_loses_no_message_of_a_killed_worker: Nats, Kill;
}

#[tokio::test(flavor = "multi_thread")]
async fn apalis_on_sqlite_works_again_after_a_rollback() {
    through_a_rollback(Kind::ApalisSqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apalis_on_postgresql_works_again_after_a_rollback() {
    through_a_rollback(Kind::ApalisPostgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn graphile_worker_works_again_after_a_rollback() {
    through_a_rollback(Kind::Graphile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_is_consumed_again_after_a_rollback() {
    through_a_rollback(Kind::Nats).await;
}
