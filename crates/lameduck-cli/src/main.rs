//! The command `lameduck`.
fn main() {}
