//! An axum service with the framework's own graceful shutdown.
fn main() {}
