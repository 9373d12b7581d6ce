//! How a running service is replaced by its next version.

pub(crate) mod channel;
pub mod wire;
