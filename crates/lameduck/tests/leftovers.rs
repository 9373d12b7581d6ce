//! A life leaves no descriptor and no thread in the process it was part of. Alone in its program, because it counts them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lameduck::Lifecycle;
use tokio::runtime::{Builder, Runtime};

/// A thread that was told to end is gone within this, on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

/// Descriptors and threads of this process.
fn holdings() -> (usize, usize) {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

#[track_caller]
fn holds_no_more_than(before: (usize, usize), runtime: &Runtime) {
    let deadline = Instant::now() + LIMIT;
    loop {
        // What was spawned for a life ends at its next turn after the life's thread has.
        runtime.block_on(tokio::task::yield_now());
        let now = holdings();
        if now.0 <= before.0 && now.1 <= before.1 {
            return;
        }
        assert!(Instant::now() < deadline, "descriptors and threads: {before:?}, then {now:?}");
    }
}

/// Where operators would find a life.
fn place() -> PathBuf {
    std::env::temp_dir().join(format!("lameduck-leftovers-{}/control", std::process::id()))
}

async fn start() -> Lifecycle {
    Lifecycle::builder().without_signals().control(place()).start().unwrap()
}

async fn one_life() {
    let life = start().await;
    #[cfg(feature = "http")]
    for server in ["http", "admin"] {
        let listener = life.listen("127.0.0.1:0").await.unwrap();
        match server {
            "http" => life.serve(server, listener, axum::Router::new()).unwrap(),
            _ => life.serve_admin(listener, |_| {}).unwrap(),
        }
    }
    let listener = life.listen("127.0.0.1:0").await.unwrap();
    life.serve_streams("nobody", listener, |stream, _| async move { drop(stream) }).unwrap();
    life.task("worker", |drain| async move { drain.started().await });
    life.on_close("resource").run(|| async {}).unwrap();
    life.ready();
    life.stop();
    assert_eq!(life.run().await.code(), 0);
}

#[test]
fn a_life_leaves_neither_descriptors_nor_threads() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(one_life());
    let before = holdings();
    for _ in 0..20 {
        runtime.block_on(one_life());
    }
    holds_no_more_than(before, &runtime);
    // Nor does one that never began.
    for _ in 0..20 {
        runtime.block_on(async { drop(start().await) });
        // Its name can be had again once it is gone.
        holds_no_more_than(before, &runtime);
    }
    let left = std::fs::read_dir(place().parent().unwrap()).unwrap().count();
    assert_eq!(left, 0, "nothing lies where it could be found");
    std::fs::remove_dir(place().parent().unwrap()).unwrap();
}
