//! WebSockets at a stop and at an upgrade: what their clients see, with handlers that know nothing of us.

#[path = "websockets/clients.rs"]
mod clients;
#[path = "websockets/closes.rs"]
mod closes;
#[path = "websockets/enemies.rs"]
mod enemies;
#[path = "websockets/foreign.rs"]
mod foreign;
#[path = "websockets/moves.rs"]
mod moves;
#[path = "websockets/naive.rs"]
mod naive;
#[path = "websockets/returning.rs"]
mod returning;
