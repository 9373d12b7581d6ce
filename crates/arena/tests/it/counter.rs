//! The counter continues where it was.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arena::counter::{Counter, FLUSH_EVERY};
use arena::store::Store;
use lameduck::shared::Cells;

use crate::databases::Database;

/// Where no generation has counted yet.
pub fn fresh_home() -> Cells {
    let life = lameduck::Lifecycle::builder().without_signals().start().unwrap();
    let (home, _) =
        life.cells(arena::counter::NAME, arena::counter::VERSION, arena::counter::CELLS).unwrap();
    home
}

async fn counter(store: &Store) -> Counter {
    counter_in(fresh_home(), store).await
}

async fn counter_in(home: Cells, store: &Store) -> Counter {
    Counter::continue_in(home, Counter::stored(store).await.unwrap(), store.clone())
}

async fn continues_after_a_stop(database: Database) {
    let store = database.open().await;
    let first = counter(&store).await;
    assert_eq!((1..=5).map(|_| first.next()).last(), Some(5));
    first.close().await.unwrap();
    first.close().await.unwrap();
    store.close().await.unwrap();

    let store = database.open().await;
    let second = counter(&store).await;
    assert_eq!((second.current(), second.next()), (5, 6));
    second.close().await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn it_continues_after_a_stop_on_sqlite() {
    continues_after_a_stop(Database::sqlite()).await;
}

#[tokio::test]
async fn it_continues_after_a_stop_on_postgres() {
    continues_after_a_stop(Database::postgres()).await;
}

#[tokio::test]
async fn a_stored_value_never_goes_down() {
    for database in [Database::sqlite(), Database::postgres()] {
        let store = database.open().await;
        for value in [7, 3, 9, 8] {
            store.raise_counter("requests", value).await.unwrap();
        }
        assert_eq!(store.counter("requests").await.unwrap(), 9);
        assert_eq!(store.counter("another").await.unwrap(), 0);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_a_predecessor_handed_over_is_stored_without_a_request() {
    let database = Database::sqlite();
    let store = database.open().await;
    let home = fresh_home();
    home.get(0).store(41, Ordering::Relaxed);
    let counter = counter_in(home, &store).await;
    assert_eq!(counter.current(), 41);
    counter.close().await.unwrap();
    assert_eq!(store.counter("requests").await.unwrap(), 41);
    store.close().await.unwrap();
}

/// A crash is a second connection that reads while the first has not closed.
#[tokio::test]
async fn a_crash_takes_back_one_second_at_most() {
    let database = Database::sqlite();
    let store = database.open().await;
    let counter = counter(&store).await;
    let _ = counter.next();
    let stored = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while Counter::stored(&store).await.unwrap() != 1 {
            ticks.tick().await;
        }
    };
    // Twice the period: the machine the tests run on may be busy.
    tokio::time::timeout(FLUSH_EVERY * 2, stored).await.expect("the value is stored each second");
    assert_eq!(counter.failed_flushes(), 0);
    counter.close().await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_is_given_out_twice() {
    let database = Database::sqlite();
    let store = database.open().await;
    let counter = Arc::new(counter(&store).await);
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move { (0..1000).map(|_| counter.next()).collect::<Vec<_>>() })
        })
        .collect();
    let mut seen = HashSet::new();
    for worker in workers {
        seen.extend(worker.await.unwrap());
    }
    assert_eq!(seen.len(), 4000);
    assert_eq!(counter.current(), 4000);
    counter.close().await.unwrap();
    store.close().await.unwrap();
}

/// The old generation's last flush comes after the new one has counted on, and takes nothing back.
#[tokio::test]
async fn two_generations_count_on_together_and_the_larger_value_stays() {
    for database in [Database::sqlite(), Database::postgres()] {
        let (old_store, new_store) = (database.open().await, database.open().await);
        let home = fresh_home();
        let old = counter_in(home.clone(), &old_store).await;
        assert_eq!((old.next(), old.next()), (1, 2));
        let new = counter_in(home, &new_store).await;
        assert_eq!((new.next(), old.next(), new.next()), (3, 4, 5));
        new.close().await.unwrap();
        assert_eq!(old.next(), 6);
        old.close().await.unwrap();
        assert_eq!(Counter::stored(&new_store).await.unwrap(), 6);
        new_store.raise_counter("requests", 5).await.unwrap();
        assert_eq!(Counter::stored(&old_store).await.unwrap(), 6);
        old_store.close().await.unwrap();
        new_store.close().await.unwrap();
    }
}
