//! A duration for people.

use std::time::Duration;

/// A duration as people read it: `0.4 ms`, `21 ms`, `1.204 s`, `12.3 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    match duration {
        d if d < Duration::from_millis(10) => format!("{millis:.1} ms"),
        d if d < Duration::from_secs(1) => format!("{millis:.0} ms"),
        d if d < Duration::from_secs(10) => format!("{:.3} s", d.as_secs_f64()),
        d => format!("{:.1} s", d.as_secs_f64()),
    }
}
