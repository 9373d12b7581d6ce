//! gRPC: health that turns first, calls that finish, and streams that always end with a status (losses 9, 10, 12).

mod clients;
mod health;
mod loops;
mod python;
mod secure;
mod stops;
