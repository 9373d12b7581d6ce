//! Whether a request ran although its answer never came: told by a counter that the target itself keeps.
//!
//! The article's program answers each request on its fast and its slow path with `{"num": n}`, the number of requests
//! that it has run. A slow request that is in flight during the stop and answered last therefore tells how many ran.

use crate::case::Fault;
use crate::probe::Wire;
use crate::stage::Stage;

/// So many answers in a row have to count up by one: several processes with a counter each do not.
const ASKED: usize = 6;

/// A number that is no count of requests: sums with it would overflow.
const COUNTED: u64 = 1 << 53;

/// The number of requests run so far, if the target's fast path tells it.
pub(super) fn counted(stage: &Stage<'_>) -> Result<Option<u64>, Fault> {
    let mut last = None;
    for _ in 0..ASKED {
        let told = stage.ask(&stage.fast())?.field("num").and_then(|num| num.parse::<u64>().ok());
        let told = told.filter(|told| *told < COUNTED);
        let Some(told) = told else { return Ok(None) };
        if last.is_some_and(|last| told != last + 1) {
            return Ok(None);
        }
        last = Some(told);
    }
    Ok(last)
}

/// The number that the last answer on this wire tells.
pub(super) fn told(wire: &Wire) -> Option<u64> {
    number(&String::from_utf8_lossy(wire.received()))
}

/// The last number after `"num":` in a text.
pub(super) fn number(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once("\"num\":")?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok().filter(|number| *number < COUNTED)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn the_last_number_of_an_answer_counts() {
        assert_eq!(number("HTTP/1.1 200\r\n\r\n{\"num\": 41}{\"num\":42,\"pid\":7}"), Some(42));
        assert_eq!(number("{\"count\": 1}"), None);
        assert_eq!(number("{\"num\": \"x\"}"), None);
        assert_eq!(number("{\"num\": 18446744073709551615}"), None);
    }
}
