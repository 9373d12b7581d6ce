//! Whole lives in one process, without signals: what the report says of tasks, blocking calls and resources.

use std::future::pending;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lameduck::closing::ClosingEnd;
use lameduck::phase::{Asked, Cause, Outcome};
use lameduck::work::WorkKind;
use lameduck::{Builder, Exit, Lifecycle, TaskEnd, exit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Whatever should happen at once happens within this, on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// A deadline that is to be reached.
const SHORT: Duration = Duration::from_millis(300);

fn builder() -> Builder {
    Lifecycle::builder().without_signals().linger(Duration::from_millis(20))
}

fn start() -> Lifecycle {
    builder().grace_period(LIMIT).start().unwrap()
}

/// Stops a life that has begun to run, and waits for its end.
async fn stopped(life: Lifecycle) -> Exit {
    life.ready();
    life.stop();
    tokio::time::timeout(LIMIT, life.run()).await.expect("it ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_is_reported_and_holds_nothing() {
    let life = start();
    let broken = life.task("broken", |_| async { panic!("boom") });
    assert_eq!(broken.await, TaskEnd::Panicked("boom".to_owned()));
    let exit = stopped(life).await;
    assert_eq!(exit.code(), exit::FAILED);
    assert_eq!(exit.report().panics, ["task broken: boom"]);
    assert_eq!(exit.report().outcome, Outcome::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_call_that_panics_is_reported_and_holds_nothing() {
    let life = start();
    let broken = life.blocking("broken", |_| -> u8 { panic!("{} booms", 2) });
    assert_eq!(broken.await, Err("2 booms".to_owned()));
    let exit = stopped(life).await;
    assert_eq!(exit.report().panics, ["blocking call broken: 2 booms"]);
    assert_eq!(exit.code(), exit::FAILED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_gets_the_drain_and_is_waited_for() {
    let life = start();
    let (done, is_done) = oneshot::channel();
    life.task("mailer", |drain| async move {
        drain.started().await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        done.send(()).unwrap();
    });
    let exit = stopped(life).await;
    assert_eq!((exit.code(), exit.report().finished.tasks), (exit::OK, 1));
    is_done.await.unwrap();
}

/// Its destructors run, so that a lock or a claim it holds is given back.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_never_ends_is_cut_and_dropped_at_the_deadline() {
    struct GivenBack(Sender<()>);
    impl Drop for GivenBack {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let life = builder().grace_period(SHORT).start().unwrap();
    let (sender, given_back) = channel();
    let held = GivenBack(sender);
    let task = life.task("stubborn", |_| async move {
        let _held = held;
        pending::<()>().await;
    });
    let exit = stopped(life).await;
    let report = exit.report();
    assert_eq!((exit.code(), report.outcome), (exit::DEADLINE, Outcome::DeadlineExceeded));
    assert_eq!(report.cut.tasks, 1);
    assert_eq!((report.cut_work[0].kind, &*report.cut_work[0].name), (WorkKind::Task, "stubborn"));
    assert_eq!(task.await, TaskEnd::Aborted);
    given_back.recv_timeout(LIMIT).unwrap();
}

/// The end does not wait for what can never come any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_for_readiness_does_not_hold_a_stop_that_came_before() {
    let life = start();
    let mut readiness = life.readiness();
    life.task("announcer", |_| async move {
        readiness.ready().await;
        assert!(!readiness.is_ready() && !readiness.has_started());
        readiness.not_ready().await;
    });
    life.stop();
    let exit = tokio::time::timeout(LIMIT, life.ended()).await.expect("it ends");
    let report = exit.report();
    assert_eq!((report.outcome, report.finished.tasks), (Outcome::Finished, 1));
    assert_eq!(exit.code(), exit::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_begins_when_all_was_cut_is_cut_too() {
    let life = builder().grace_period(SHORT).start().unwrap();
    life.task("stubborn", |_| pending());
    assert_eq!(stopped(life.clone()).await.report().outcome, Outcome::DeadlineExceeded);
    let late = life.task("late", |_| pending());
    let end = tokio::time::timeout(LIMIT, late).await.expect("it is aborted");
    assert_eq!(end, TaskEnd::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_call_is_named_and_waited_for() {
    let life = start();
    let (go_on, wait) = channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    let call = life.blocking("import", move |drain| {
        begun.send(()).unwrap();
        wait.recv().unwrap();
        drain.should_stop()
    });
    has_begun.await.unwrap();
    let snapshot = life.snapshot();
    assert_eq!(snapshot.live.blocking, 1);
    assert_eq!((snapshot.work[0].kind, &*snapshot.work[0].name), (WorkKind::Blocking, "import"));
    life.ready();
    life.stop();
    life.drain().started().await;
    go_on.send(()).unwrap();
    let exit = tokio::time::timeout(LIMIT, life.run()).await.unwrap();
    assert_eq!((exit.code(), exit.report().finished.blocking), (exit::OK, 1));
    assert_eq!(call.await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_call_that_never_returns_is_named_at_the_deadline() {
    let life = builder().grace_period(SHORT).start().unwrap();
    let (go_on, wait) = channel::<()>();
    let _call = life.blocking("import", move |_| wait.recv().is_ok());
    let exit = stopped(life).await;
    assert_eq!(exit.code(), exit::DEADLINE);
    assert_eq!(&*exit.report().cut_work[0].name, "import");
    assert_eq!(exit.report().cut.blocking, 1);
    // The runtime waits for its threads when the test ends.
    drop(go_on);
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_close_after_the_work_and_in_order() {
    let life = start();
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |name: &'static str| {
        let order = Arc::clone(&order);
        move || {
            order.lock().unwrap().push(name);
            std::future::ready(Ok::<_, String>(()))
        }
    };
    life.on_close("logs").last().run(note("logs")).unwrap();
    let database = life.resource("database", note("database"), |close| close());
    life.on_close("counter").uses(["database"]).run(note("counter")).unwrap();
    life.on_close("cache").uses(["counter", "database"]).run(note("cache")).unwrap();
    let user = note("the task that uses them");
    life.task("user", |drain| async move {
        drain.started().await;
        tokio::task::yield_now().await;
        user().await.unwrap();
        drop(database);
    });
    let exit = stopped(life).await;
    assert_eq!(exit.code(), exit::OK, "{}", exit.report());
    let expected = ["the task that uses them", "cache", "counter", "database", "logs"];
    assert_eq!(*order.lock().unwrap(), expected);
    let names: Vec<_> = exit.report().resources.iter().map(|closed| closed.name.clone()).collect();
    assert_eq!(names, ["logs", "database", "counter", "cache"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_fails_hangs_or_panics_is_named_and_passed_over() {
    let life = start();
    let budget = Duration::from_millis(50);
    life.on_close("base").run(|| async {}).unwrap();
    life.on_close("fails").uses(["base"]).run(|| async { Err::<(), _>("disk full") }).unwrap();
    life.on_close("hangs").uses(["base"]).budget(budget).run(pending::<()>).unwrap();
    life.on_close("panics").uses(["base"]).run(boom).unwrap();
    let exit = stopped(life).await;
    let ends: Vec<_> = exit.report().resources.iter().map(|closed| closed.end.clone()).collect();
    let failed = |words: &str| ClosingEnd::Failed(words.to_owned());
    let expected =
        [ClosingEnd::Closed, failed("disk full"), ClosingEnd::Cut, failed("panicked: boom")];
    assert_eq!(ends, expected);
    assert_eq!((exit.code(), exit.report().outcome), (exit::DEADLINE, Outcome::Finished));
}

async fn boom() {
    panic!("boom");
}

#[tokio::test]
async fn what_cannot_fit_is_refused() {
    let second = Duration::from_secs(1);
    let refused = builder().grace_period(second).lame_duck(second * 2).start().unwrap_err();
    assert!(refused.is_usage() && refused.to_string().contains("lame duck of 2s"), "{refused}");

    let life = builder().grace_period(second * 3).lame_duck(second).start().unwrap();
    life.on_close("database").budget(second).run(|| async {}).unwrap();
    let closing = life.on_close("counter").uses(["database"]).budget(second * 2);
    let refused = closing.run(|| async {}).unwrap_err();
    assert!(
        refused.is_usage() && refused.to_string().contains("closing budgets of 3s"),
        "{refused}"
    );
    let refused = life.on_close("database").run(|| async {}).unwrap_err();
    assert!(refused.to_string().contains("'database': the name is taken"), "{refused}");
    let refused = life.on_close("cache").uses(["redis"]).run(|| async {}).unwrap_err();
    assert!(refused.to_string().contains("'redis', which is not registered"), "{refused}");
}

/// A successor is told the names of servers, and a log is read by lines.
#[tokio::test]
async fn a_server_has_a_name_that_can_be_told() {
    let life = start();
    let long = "x".repeat(65);
    for name in ["", "two\nlines", &long] {
        let listener = life.listen("127.0.0.1:0").await.unwrap();
        let refused = life.serve_streams(name, listener, |_, _| async {}).unwrap_err();
        assert!(refused.is_usage() && refused.to_string().contains("1 to 64 bytes"), "{refused}");
    }
    let listener = life.listen("127.0.0.1:0").await.unwrap();
    life.serve_streams(&long[1..], listener, |_, _| async {}).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stop_by_the_program_forces() {
    let life = start();
    life.task("stubborn", |_| pending());
    life.ready();
    life.stop();
    life.drain().started().await;
    life.stop();
    let exit = tokio::time::timeout(LIMIT, life.run()).await.unwrap();
    assert_eq!(exit.report().outcome, Outcome::Forced(Cause::Request));
    assert_eq!((exit.code(), exit.report().cut.tasks), (exit::DEADLINE, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_lives_in_one_process_do_not_meet() {
    let lives: Vec<Lifecycle> = (0..5).map(|_| start()).collect();
    for (number, life) in lives.iter().enumerate() {
        life.ready();
        for _ in 0..number {
            life.task("worker", |drain| async move { drain.started().await });
        }
    }
    lives[4].stop();
    let exit = tokio::time::timeout(LIMIT, lives[4].ended()).await.unwrap();
    assert_eq!((exit.code(), exit.report().finished.tasks), (exit::OK, 4));
    assert!(lives[..4].iter().all(|life| !life.drain().is_draining()));
    for (number, life) in lives[..4].iter().enumerate() {
        let exit = stopped(life.clone()).await;
        assert_eq!((exit.code(), exit.report().finished.tasks), (exit::OK, number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_drain_stops_nothing_but_its_holder() {
    let life = start();
    let (mine, another) = (life.drain().token(), life.drain().token());
    mine.cancel();
    assert!(!another.is_cancelled() && !life.drain().is_draining());
    life.ready();
    life.stop();
    tokio::time::timeout(LIMIT, another.cancelled()).await.unwrap();
    assert_eq!(stopped_again(life).await.code(), exit::OK);
}

/// Waits for the end of a life that was stopped before.
async fn stopped_again(life: Lifecycle) -> Exit {
    tokio::time::timeout(LIMIT, life.run()).await.unwrap()
}

/// A protocol of one's own: each connection is work until its stream is dropped, and cut at the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_live_until_it_is_dropped_and_cut_at_the_deadline() {
    let life = builder().grace_period(SHORT).start().unwrap();
    let listener = life.listen("127.0.0.1:0").await.unwrap();
    let address = listener.address().to_owned();
    let (told, errors) = channel();
    life.serve_streams("echo", listener, move |mut stream, _| {
        let told = told.clone();
        async move {
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte).await {
                stream.write_all(&byte).await.unwrap();
            }
            told.send(stream.read(&mut byte).await.map_err(|error| error.kind())).unwrap();
        }
    })
    .unwrap();
    life.ready();
    let mut finishes = TcpStream::connect(&address).await.unwrap();
    let mut stays = TcpStream::connect(&address).await.unwrap();
    for client in [&mut finishes, &mut stays] {
        client.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
    }
    life.stop();
    life.drain().started().await;
    drop(finishes);
    let exit = stopped_again(life).await;
    assert_eq!((exit.report().finished.connections, exit.report().cut.connections), (1, 1));
    assert_eq!(exit.code(), exit::DEADLINE);
    let both: Vec<_> = (0..2).map(|_| errors.recv_timeout(LIMIT).unwrap()).collect();
    assert!(both.contains(&Ok(0)), "{both:?}");
    assert!(both.contains(&Err(std::io::ErrorKind::ConnectionAborted)), "{both:?}");
    assert_eq!(stays.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_hears_what_it_is_asked_for_and_when_it_is_cut() {
    let life = builder().grace_period(LIMIT).lame_duck(SHORT).start().unwrap();
    let drain = life.drain();
    assert_eq!((drain.asked(), drain.cut_at()), (Asked::Serve, None));
    let (heard, hears) = std::sync::mpsc::channel();
    life.task("listener", |drain| async move {
        for step in [Asked::LameDuck, Asked::Finish] {
            heard.send(drain.asked_for(|asked| asked == step).await).unwrap();
        }
    });
    life.ready();
    life.stop();
    let exit = tokio::time::timeout(LIMIT, life.run()).await.expect("it ends");
    assert_eq!(exit.report().outcome, Outcome::Finished);
    assert_eq!(hears.iter().collect::<Vec<_>>(), [Asked::LameDuck, Asked::Finish]);
    assert!(drain.cut_at().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn work_hears_before_it_is_cut_however_short_the_grace_period() {
    let life = builder().grace_period(SHORT).start().unwrap();
    let (heard, hears) = std::sync::mpsc::channel();
    life.task("saves itself", |drain| async move {
        drain.nearly_cut(LIMIT).await;
        heard.send(drain.cut_at().unwrap() - std::time::Instant::now()).unwrap();
    });
    let exit = stopped(life).await;
    assert_eq!(exit.report().outcome, Outcome::Finished);
    let left = hears.recv().unwrap();
    assert!(left <= SHORT / 2, "{left:?}");
}

/// Whether anybody is left in a process group; zombies have left.
fn is_alive(group: u32) -> bool {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.into_iter().any(|entry| {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { return false };
        // Behind the name in parentheses: state, parent, group.
        let Some((_, fields)) = stat.rsplit_once(')') else { return false };
        let mut fields = fields.split_ascii_whitespace();
        fields.next() != Some("Z") && fields.nth(1) == Some(&group.to_string())
    })
}

/// Nobody is left, or is just being killed by the kernel.
async fn is_gone(group: u32) {
    let gone = async {
        while is_alive(group) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("nobody is left in the group");
}

/// A child that starts another one, tells that it has begun, and ends or does not when it is told to.
#[track_caller]
fn shell(life: &Lifecycle, script: &str) -> lameduck::child::Child {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).stdout(std::process::Stdio::piped());
    let mut child = life.child("converter", command).unwrap();
    let mut begun = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut begun).unwrap();
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_childs_whole_group_is_gone_at_the_end() {
    let life = start();
    let child = shell(&life, "sleep 1000 & echo begun; wait");
    let group = child.id();
    let exit = stopped(life).await;
    assert_eq!(exit.report().outcome, Outcome::Finished);
    assert!(!child.await.unwrap().success());
    is_gone(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_will_not_go_is_killed_before_work_is_cut() {
    let life = builder().grace_period(SHORT).start().unwrap();
    let child = shell(&life, "trap '' TERM; sleep 1000 & echo begun; while :; do wait; done");
    let group = child.id();
    let exit = stopped(life).await;
    assert_eq!(exit.report().outcome, Outcome::Finished, "{:?}", exit.report());
    assert!(!child.await.unwrap().success());
    is_gone(group).await;
}

/// The child itself ends when it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn a_grandchild_that_will_not_go_is_killed_with_its_group() {
    let life = builder().grace_period(SHORT).start().unwrap();
    let child = shell(&life, "(trap '' TERM; echo begun; exec sleep 1000) & wait");
    let group = child.id();
    let exit = stopped(life).await;
    assert_eq!(exit.report().outcome, Outcome::Finished, "{:?}", exit.report());
    assert!(!child.await.unwrap().success());
    is_gone(group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_leaves_nobody_behind_and_has_no_signal_blocked_or_ignored() {
    let life = start();
    let mut child =
        shell(&life, "sleep 1000 >/dev/null & echo begun; grep ^Sig[BI] /proc/self/status");
    let mut told = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut told).unwrap();
    let group = child.id();
    assert!((&mut child).await.unwrap().success());
    is_gone(group).await;
    // The runtime of Rust ignores SIGPIPE here; a child must not, and whatever this test was started with stays.
    const SIGPIPE: u64 = 1 << 12;
    // Behind the first 31 come the C library's own.
    const STANDARD: u64 = (1 << 31) - 1;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        u64::from_str_radix(line, 16).unwrap() & STANDARD
    };
    assert_ne!(mask(&own, "SigIgn:") & SIGPIPE, 0, "{own}");
    assert_eq!(mask(&told, "SigIgn:"), mask(&own, "SigIgn:") & !SIGPIPE, "{told}");
    assert_eq!(mask(&told, "SigBlk:"), 0, "{told}");
    assert_eq!(stopped(life).await.report().outcome, Outcome::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_child_outlives_whoever_started_it() {
    let life = start();
    let mut plain = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    assert_eq!(stopped(life).await.report().outcome, Outcome::Finished);
    assert!(plain.try_wait().unwrap().is_none(), "it has ended");
    plain.kill().unwrap();
    plain.wait().unwrap();
}
