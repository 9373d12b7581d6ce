//! Durations as people write them: `9s`, `250ms`, `1m30s`, `1h`.

use std::time::Duration;

use crate::complaint::BadValue;

/// Units from the largest to the smallest, the order in which they may follow each other.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// The longest duration: a year, far from where adding two instants overflows.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);
const HINT: &str = "write a whole number with a unit, such as 250ms, 9s, 1m30s or 1h";

/// Reads a duration.
pub fn parse(text: &str) -> Result<Duration, BadValue> {
    if text.is_empty() {
        return Err(BadValue::new("a duration is missing", HINT));
    }
    if text.starts_with('-') {
        return Err(BadValue::new("a duration cannot be negative", HINT));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let hint = format!("write {text}s or {text}ms");
        return Err(BadValue::new("a duration needs a unit", hint));
    }
    let (mut rest, mut units, mut total) = (text, UNITS.as_slice(), 0_u64);
    while !rest.is_empty() {
        let (number, unit, after) = part(rest);
        if number.is_empty() {
            return Err(BadValue::new("not a duration", HINT));
        }
        let Some(at) = units.iter().position(|&(name, _)| name == unit) else {
            return Err(bad_unit(unit));
        };
        let milliseconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(units[at].1));
        total = milliseconds.and_then(|more| total.checked_add(more)).ok_or_else(too_long)?;
        (rest, units) = (after, &units[at + 1..]);
    }
    let total = Duration::from_millis(total);
    if total > LONGEST { Err(too_long()) } else { Ok(total) }
}

/// The digits at the front, the letters after them, and what is left.
fn part(text: &str) -> (&str, &str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    (number, unit, rest)
}

fn bad_unit(unit: &str) -> BadValue {
    if UNITS.iter().any(|&(name, _)| name == unit) {
        let hint = "name each unit once, the largest first: 1h2m3s4ms";
        BadValue::new(format!("the unit `{unit}` comes too late"), hint)
    } else if unit.is_empty() {
        BadValue::new("the last number has no unit", HINT)
    } else {
        BadValue::new(format!("no unit is called `{unit}`"), HINT)
    }
}

fn too_long() -> BadValue {
    BadValue::new("longer than a year", "write `unlimited` where that is allowed, or less")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<u64, &str>) {
        let got = parse(text).map(|duration| duration.as_millis() as u64);
        let got = got.map_err(|bad| bad.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn durations_are_read_as_written() {
        check("9s", Ok(9_000));
        check("250ms", Ok(250));
        check("0s", Ok(0));
        check("1m30s", Ok(90_000));
        check("1h", Ok(3_600_000));
        check("1h2m3s4ms", Ok(3_723_004));
        check("8760h", Ok(31_536_000_000));
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        check("", Err("a duration is missing"));
        check("9", Err("a duration needs a unit"));
        check("9x", Err("no unit is called `x`"));
        check("-1s", Err("a duration cannot be negative"));
        check("s", Err("not a duration"));
        check("1.5s", Err("no unit is called `.`"));
        check("9s ", Err("no unit is called `s `"));
        check("1m30", Err("the last number has no unit"));
        check("1s1s", Err("the unit `s` comes too late"));
        check("1s1m", Err("the unit `m` comes too late"));
        check("8761h", Err("longer than a year"));
        check("99999999999999999999s", Err("longer than a year"));
        check("18446744073709551615h", Err("longer than a year"));
        check("９s", Err("not a duration"));
        check("forever", Err("not a duration"));
    }
}
