//! Any bytes at all, given to the wire format of takeovers.

#![no_main]

#[path = "../../crates/lameduck/tests/wire/holds.rs"]
mod holds;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| holds::holds_for(bytes));
