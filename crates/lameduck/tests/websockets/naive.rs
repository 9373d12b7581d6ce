//! The loss, on a server without us.

use std::sync::mpsc;

use crate::clients::{BOUND, End, connect, end, round_trip, router};

/// axum's own graceful shutdown does not know of upgraded connections: it ends at once, and what is left dies with the
/// runtime.
#[test]
fn without_us_a_websocket_ends_without_a_word() {
    let (address_is, address) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            address_is.send(listener.local_addr().unwrap()).unwrap();
            let graceful = async { drop(stopped.await) };
            axum::serve(listener, router()).with_graceful_shutdown(graceful).await.unwrap();
        });
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = connect(address.recv_timeout(BOUND).unwrap(), "/echo").await;
        round_trip(&mut client, "hello").await;
        stop.send(()).unwrap();
        let (_, how, _) = end(&mut client).await;
        assert_eq!(how, End::Bare);
    });
    server.join().unwrap();
}
