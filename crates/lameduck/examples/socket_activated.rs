//! A service whose socket the service manager opened, so that clients wait instead of failing while it restarts.
//!
//! Try: `systemd-socket-activate -l 127.0.0.1:8080 --fdname=web target/debug/examples/socket_activated`, then
//! `curl http://127.0.0.1:8080/`. Without a manager it listens by itself, on the address it is given. With the path of a
//! control socket behind that it can be upgraded, and the successor has the manager's socket by the same name.

use std::time::Duration;

use axum::{Router, routing::get};
use lameduck::Lifecycle;

#[tokio::main]
async fn main() -> Result<lameduck::Exit, lameduck::Error> {
    let mut builder = Lifecycle::builder().grace_period(Duration::from_secs(9));
    if let Some(control) = std::env::args().nth(2) {
        builder = builder.control(control);
    }
    let life = builder.start()?;
    let inherited = life.inherited()?.into_iter().find(|(name, _)| name == "web");
    let listener = match inherited {
        Some((_, listener)) => {
            life.log().line("listening", &format!("Inherited {}", listener.address()));
            listener
        }
        None => {
            let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
            let listener = life.listen(&address).await?;
            life.log().line("listening", &format!("Listening on {}", listener.address()));
            listener
        }
    };
    life.serve("web", listener, Router::new().route("/", get(|| async { "hello\n" })))?;
    Ok(life.run().await)
}
