//! How a running service is replaced by its next version.

pub mod wire;
