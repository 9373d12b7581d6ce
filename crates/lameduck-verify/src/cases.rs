//! The cases of the suite, group by group.

mod acc;
mod drn;
mod h1;
mod h2;
mod hints;
mod rdy;
mod sig;
mod sse;
mod tls;
mod upg;
mod witness;
mod ws;

use crate::case::Case;
use std::time::Duration;

/// The groups in the order of the list: each name with its cases.
const GROUPS: &[(&str, &str, &[Case])] = &[
    ("SIG", "signals, exit, deadline", sig::CASES),
    ("ACC", "the listener and its queue", acc::CASES),
    ("H1", "HTTP/1.1", h1::CASES),
    ("H2", "HTTP/2 and gRPC", h2::CASES),
    ("WS", "WebSocket", ws::CASES),
    ("SSE", "server-sent events", sse::CASES),
    ("TLS", "TLS", tls::CASES),
    ("RDY", "readiness", rdy::CASES),
    ("DRN", "what remains after the drain", drn::CASES),
    ("UPG", "upgrades", upg::CASES),
];

/// Every case, in the order of the list.
pub fn all() -> impl Iterator<Item = &'static Case> {
    GROUPS.iter().flat_map(|(_, _, cases)| cases.iter())
}

/// The groups: name and what it is about.
pub fn groups() -> impl Iterator<Item = (&'static str, &'static str)> {
    GROUPS.iter().map(|(name, about, _)| (*name, *about))
}

/// The cases that take longer than others: they upgrade often, or wait for what is slow on purpose.
const LONGER: &[(&str, Duration)] = &[];

/// How long the case with this id takes, where it is one that takes longer than others.
pub(crate) fn longer(id: &str) -> Option<Duration> {
    LONGER.iter().find(|(of, _)| *of == id).map(|(_, takes)| *takes)
}

/// What usually causes a miss of the case with this id, and what mends it.
pub(crate) fn hint(id: &str) -> Option<&'static str> {
    hints::of(id)
}

/// The case with this id.
pub fn find(id: &str) -> Option<&'static Case> {
    all().find(|case| case.id.eq_ignore_ascii_case(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_order_and_texts_are_whole() {
        for (group, _, cases) in GROUPS {
            let numbers: Vec<u32> = cases
                .iter()
                .map(|case| {
                    let (name, number) = case.id.split_once('/').unwrap();
                    assert_eq!(name, *group, "{}", case.id);
                    number.parse().unwrap()
                })
                .collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{group}: {numbers:?}");
            for case in *cases {
                for text in
                    [case.title, case.setup, case.action, case.criterion, case.why, case.source]
                {
                    assert!(!text.is_empty(), "{}", case.id);
                }
            }
        }
    }
}
