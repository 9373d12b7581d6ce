//! A whole axum service that stops without losing anything. Try: start it, send load, press Ctrl-C.

use std::time::Duration;

use axum::{Router, routing::get};
use lameduck::Lifecycle;

#[tokio::main]
async fn main() -> Result<lameduck::Exit, lameduck::Error> {
    let life = Lifecycle::builder().grace_period(Duration::from_secs(9)).start()?;
    let app = Router::new().route("/b", get(|| async { "b\n" })).route(
        "/a",
        get(|| async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            "a\n"
        }),
    );
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = life.listen(&address).await?;
    life.log().line("listening", &format!("Listening on {}", listener.address()));
    life.serve("http", listener, app)?;
    Ok(life.run().await)
}
