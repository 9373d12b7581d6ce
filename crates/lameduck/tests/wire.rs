//! The wire format of takeovers, from outside: round trips, limits, hostile frames, and frames of other versions.

#[path = "wire/compatibility.rs"]
mod compatibility;
#[path = "wire/corpus.rs"]
mod corpus;
#[path = "wire/holds.rs"]
mod holds;
#[path = "wire/limits.rs"]
mod limits;
#[path = "wire/messages.rs"]
mod messages;
