//! Orders are acknowledged once committed, and are there exactly once.

use std::sync::Arc;

use arena::orders::{ORDERS_PER_COMMIT, Order, Orders, PlaceError, Placed};
use tokio::task::JoinSet;

use crate::databases::Database;

fn order(id: impl ToString, quantity: i64) -> Order {
    Order { id: id.to_string(), item: "tea".to_owned(), quantity }
}

async fn is_there_exactly_once(database: Database) {
    let store = database.open().await;
    let orders = Orders::start(store.clone());
    assert_eq!(orders.place(order("o-1", 2)).await, Ok(Placed::Committed));
    assert_eq!(orders.place(order("o-1", 2)).await, Ok(Placed::Duplicate));
    assert_eq!(orders.place(order("o-1", 3)).await, Ok(Placed::Conflict));
    assert_eq!(orders.find("o-1").await, Ok(Some(order("o-1", 2))));
    assert_eq!(orders.find("o-2").await, Ok(None));
    assert_eq!(orders.count().await, Ok(1));
    assert_eq!(
        orders.tally(),
        [("committed", 1), ("duplicate", 1), ("conflict", 1), ("failed", 0)]
    );
    orders.close().await.unwrap();
    store.close().await.unwrap();

    let store = database.open().await;
    let orders = Orders::start(store.clone());
    assert_eq!(orders.place(order("o-1", 2)).await, Ok(Placed::Duplicate));
    orders.close().await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn an_order_is_there_exactly_once_on_sqlite() {
    is_there_exactly_once(Database::sqlite()).await;
}

#[tokio::test]
async fn an_order_is_there_exactly_once_on_postgres() {
    is_there_exactly_once(Database::postgres()).await;
}

/// Each id is sent three times at once: twice the same, once with another content that must win or lose as a whole.
async fn races_have_one_winner(database: Database) {
    const IDS: i64 = 3 * ORDERS_PER_COMMIT as i64 / 2;
    let store = database.open().await;
    let orders = Arc::new(Orders::start(store.clone()));
    let mut clients = JoinSet::new();
    for id in 0..IDS {
        for quantity in [1, 1, 2] {
            let orders = Arc::clone(&orders);
            clients.spawn(async move {
                (id, quantity, orders.place(order(id, quantity)).await.unwrap())
            });
        }
    }
    let mut fates = clients.join_all().await;
    fates.sort_by_key(|&(id, ..)| id);
    for fates in fates.chunks(3) {
        let id = fates[0].0;
        let won: Vec<_> = fates.iter().filter(|fate| fate.2 == Placed::Committed).collect();
        assert_eq!(won.len(), 1, "{fates:?}");
        let quantity = won[0].1;
        for &(_, sent, fate) in fates.iter().filter(|fate| fate.2 != Placed::Committed) {
            let expected = if sent == quantity { Placed::Duplicate } else { Placed::Conflict };
            assert_eq!(fate, expected, "{fates:?}");
        }
        assert_eq!(orders.find(&id.to_string()).await, Ok(Some(order(id, quantity))));
    }
    assert_eq!(orders.count().await, Ok(IDS as u64));
    orders.close().await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_for_an_id_has_one_winner_on_sqlite() {
    races_have_one_winner(Database::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_for_an_id_has_one_winner_on_postgres() {
    races_have_one_winner(Database::postgres()).await;
}

#[tokio::test]
async fn what_is_queued_at_the_close_is_written_first() {
    let database = Database::sqlite();
    let store = database.open().await;
    let orders = Arc::new(Orders::start(store.clone()));
    let mut clients = JoinSet::new();
    for id in 0..500 {
        let orders = Arc::clone(&orders);
        clients.spawn(async move { orders.place(order(id, 1)).await });
    }
    // On one thread: each client has queued its order when this task runs again, and the writer has not yet ended.
    tokio::task::yield_now().await;
    orders.close().await.unwrap();
    assert_eq!(orders.place(order("late", 1)).await, Err(PlaceError::Closed));
    let acknowledged = clients.join_all().await.into_iter().filter(|fate| fate.is_ok()).count();
    assert_eq!(acknowledged, 500);
    assert_eq!(orders.count().await, Ok(500));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_client_that_hangs_up_takes_nobody_with_it() {
    let database = Database::sqlite();
    let store = database.open().await;
    let orders = Arc::new(Orders::start(store.clone()));
    let impatient = tokio::spawn({
        let orders = Arc::clone(&orders);
        async move { orders.place(order("gone", 1)).await }
    });
    tokio::task::yield_now().await;
    impatient.abort();
    assert_eq!(orders.place(order("here", 1)).await, Ok(Placed::Committed));
    orders.close().await.unwrap();
    // It was queued before it was given up, so it is there; its id would have told.
    assert_eq!(orders.count().await, Ok(2));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_lost_database_is_an_error_and_not_an_acknowledgement() {
    let mut cluster = private_postgres::Cluster::start();
    let url = cluster.create_database("arena").parse().unwrap();
    let store = arena::store::Store::open(&url).await.unwrap();
    let orders = Orders::start(store.clone());
    assert_eq!(orders.place(order("before", 1)).await, Ok(Placed::Committed));
    cluster.stop();
    let error = orders.place(order("during", 1)).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("postgres://postgres@127.0.0.1:{}/arena", cluster.port())),
        "{error}"
    );
    cluster.start_again();
    assert_eq!(orders.place(order("after", 1)).await, Ok(Placed::Committed));
    assert_eq!(cluster.query("arena", "SELECT id FROM orders ORDER BY id"), "after\nbefore");
    orders.close().await.unwrap();
    store.close().await.unwrap();
}
