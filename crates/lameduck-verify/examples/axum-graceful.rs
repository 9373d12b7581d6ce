//! axum with the framework's own graceful shutdown, the server against which the clients show that they can
//! see a loss. Usage: `axum-graceful ADDRESS`; SIGTERM stops it.

use axum::Router;
use axum::routing::{get, post};
use std::env;
use std::error::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The size of `GET /big`: more than the socket buffers of both ends hold.
const BIG: usize = 32 * 1024 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: axum-graceful ADDRESS")?;
    let mut term = signal(SignalKind::terminate())?;
    let app = Router::new()
        .route("/b", get(|| async { r#"{"num": 1}"# }))
        .route("/orders", post(|body: String| async { body }))
        .route("/big", get(|| async { "x".repeat(BIG) }));
    let listener = TcpListener::bind(address).await?;
    eprintln!("listening");
    let stop = async move {
        term.recv().await;
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    Ok(())
}
