//! One plain question with its whole answer, for readiness and identities; never part of what is judged.

use crate::address::Place;
use crate::probe::{self, Until, Wire};
use std::io;
use std::time::Duration;

/// How long a question may take.
pub const ASK_LIMIT: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its status.
    pub status: u16,
    /// Its head, as it came.
    pub head: String,
    /// Its body, without chunk framing.
    pub body: String,
}

impl Asked {
    /// The value of a field of the head.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The value of a field of the JSON object in the body, as text.
    pub fn field(&self, name: &str) -> Option<String> {
        let object: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        match object.get(name)? {
            serde_json::Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

/// Asks with a `GET` on a connection of its own.
///
/// # Errors
/// When there is no connection or no whole answer in time.
pub fn ask(place: &Place, limit: Duration) -> io::Result<Asked> {
    let mut wire = Wire::open(place)?;
    wire.request(&place.get("connection: close\r\n"));
    probe::watch(std::slice::from_mut(&mut wire), Until::Answered, limit)?;
    let Some(status) = wire.answers().last().map(|head| head.status) else {
        let fate = wire.fates()[0].name();
        let why = wire.malformed().map(|why| format!(" ({why})")).unwrap_or_default();
        return Err(io::Error::other(format!("GET {place} was not answered: {fate}{why}")));
    };
    let text = String::from_utf8_lossy(wire.received());
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut asked = Asked { status, head: head.to_owned(), body: body.to_owned() };
    if asked.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        asked.body = without_chunks(body);
    }
    Ok(asked)
}

fn without_chunks(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let digits = size.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(digits, 16).unwrap_or(0);
        let Some(piece) = rest.get(..length).filter(|piece| !piece.is_empty()) else { break };
        whole.push_str(piece);
        body = rest[length..].trim_start_matches("\r\n");
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_the_head_and_in_the_body() {
        assert_eq!(without_chunks("3\r\n{\"a\r\n5;x=y\r\n\": 1}\r\n0\r\n\r\n"), "{\"a\": 1}");
        let asked = Asked {
            status: 200,
            head: "HTTP/1.1 200 OK\r\nX-Pid: 42".to_owned(),
            body: "{\"pid\": 7, \"version\": \"1\"}".to_owned(),
        };
        assert_eq!(asked.header("x-pid"), Some("42"));
        assert_eq!(asked.field("pid").as_deref(), Some("7"));
        assert_eq!(asked.field("version").as_deref(), Some("1"));
        assert_eq!(asked.field("none"), None);
    }
}
