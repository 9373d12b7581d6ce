//! A service that tells its service manager how it is: READY, STOPPING, STATUS and requests for more time go to
//! `NOTIFY_SOCKET` by themselves, nothing in the program asks for it. `docs/systemd.md` has the unit files.
//!
//! `/a` takes two seconds, so that a stop has something to wait for and to tell; `/b` answers at once.

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
