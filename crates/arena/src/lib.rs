//! The reference service of `lameduck`: the smallest honest web service that has something to lose.
//!
//! It counts (`GET /a` after a while, `GET /b` at once), takes orders that are acknowledged only once they are
//! committed (`POST /orders`), and moves bytes both ways (`POST /upload`, `GET /download`). Nothing of that is lost
//! when it is stopped, and [`run`] shows how little a service has to do for it.

mod background;
pub mod counter;
mod error;
pub mod orders;
pub mod routes;
pub mod store;

pub use error::Error;
