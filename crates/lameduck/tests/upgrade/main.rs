//! Upgrades of a real service: everything that can go wrong, and nothing that may be lost.

mod before;
mod chaos;
mod dropped;
mod failures;
mod groups;
mod hostile;
mod leaks;
mod load;
mod moves;
mod numbers;
mod probation;
mod probes;
mod signals;
mod starts;
mod superior;
mod support;
