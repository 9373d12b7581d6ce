//! A service that upgrades itself: start it, keep a connection open, send SIGHUP, and the next answer on the same
//! connection comes from the next generation.
//!
//! `upgradable ADDRESS CONTROL`; `/` answers with the generation, the process and a count that all generations share.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::{Router, routing::get};
use lameduck::Lifecycle;

#[tokio::main]
async fn main() -> Result<lameduck::Exit, lameduck::Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let control = arguments.next().unwrap_or_else(|| "/tmp/upgradable/control".to_owned());
    let life =
        Lifecycle::builder().grace_period(Duration::from_secs(9)).control(control).start()?;
    let (count, _) = life.cells("count", 1, 1)?;
    let generation = life.generation();
    let app = Router::new().route(
        "/",
        get(move || {
            let number = count.get(0).fetch_add(1, Ordering::Relaxed) + 1;
            let pid = std::process::id();
            async move { format!("generation {generation}, pid {pid}, number {number}\n") }
        }),
    );
    let app = app.route(
        "/slow",
        get(move || async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            format!("generation {generation}\n")
        }),
    );
    let listener = life.listen(&address).await?;
    life.log().line("listening", &format!("Listening on {}", listener.address()));
    life.serve("http", listener, app)?;
    Ok(life.run().await)
}
