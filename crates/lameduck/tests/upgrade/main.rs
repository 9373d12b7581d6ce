//! Upgrades of a real service: everything that can go wrong, and nothing that may be lost.

mod failures;
mod hostile;
mod leaks;
mod load;
mod moves;
mod probation;
mod signals;
mod superior;
mod support;
