//! An axum program that was here before, changed in two lines.
//!
//! ```text
//! cargo run -p lameduck --features axum08 --example axum_two_lines -- 127.0.0.1:8080
//! ```

use axum::{Router, routing::get};
use tokio::net::TcpListener;

// Before: `async fn main() {`
#[tokio::main]
async fn main() -> lameduck::Exit {
    let app = Router::new().route("/", get(async || "hello\n").post(async |body: String| body));
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&address).await.unwrap();
    println!("Listening on {}", listener.local_addr().unwrap());
    // Before: `axum::serve(listener, app).await.unwrap();`
    lameduck::axum::serve(listener, app).await
}
