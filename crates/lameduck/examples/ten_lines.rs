//! A whole axum service that stops without losing anything: the ten lines of the front page, with an address of
//! your choice and a handler that has something to lose.
//!
//! Run it, send it a request whose body you finish after Ctrl-C, and read what it says:
//!
//! ```text
//! cargo run -p lameduck --features axum08 --example ten_lines -- 127.0.0.1:8080
//! ```

use axum::{Router, routing::get};
use lameduck::{Error, Exit, Lifecycle};

#[tokio::main]
async fn main() -> Result<Exit, Error> {
    let life = Lifecycle::builder().start()?;
    let app = Router::new().route("/", get(async || "hello\n").post(async |body: String| body));
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let listener = life.listen(&address).await?;
    life.log().line("listening", &format!("Listening on {}", listener.address()));
    life.serve("http", listener, app)?;
    Ok(life.run().await)
}
