//! The bytes of one client's HTTP/1.1 requests, one after the other.

use super::Mode;
use crate::address::Place;
use std::io::Write as _;

/// What stands before and after the id in the body of a POST: an order, as the reference service takes it.
const ORDER_BEFORE: &str = r#"{"id":""#;
const ORDER_AFTER: &str = r#"","item":"duck","quantity":1}"#;

/// The bytes of a client's requests.
pub(super) struct Requests {
    head: String,
    body: Option<Bodies>,
    bytes: Vec<u8>,
    id: String,
}

struct Bodies {
    prefix: String,
    count: u64,
}

impl Requests {
    pub(super) fn new(place: &Place, mode: Mode, client: usize) -> Requests {
        let (method, fields) = match mode {
            Mode::NewConnection => ("GET", "connection: close\r\n\r\n"),
            Mode::Post => ("POST", "content-type: application/json\r\ncontent-length: "),
            Mode::KeepAlive | Mode::Http2 { .. } => ("GET", "\r\n"),
        };
        let head = format!("{method} {} HTTP/1.1\r\nhost: {}\r\n{fields}", place.path, place.host);
        // Ids differ between runs as well: acknowledged ones are looked for in a database that lives on.
        let body = (mode == Mode::Post).then(|| Bodies {
            prefix: format!("{}-{:x}-{}", run_id(), std::process::id(), client),
            count: 0,
        });
        let bytes = head.clone().into_bytes();
        Requests { head, body, bytes, id: String::new() }
    }

    pub(super) fn next(&mut self) -> &[u8] {
        if let Some(bodies) = &mut self.body {
            bodies.count += 1;
            self.id = format!("{}-{}", bodies.prefix, bodies.count);
            self.bytes.clear();
            let length = ORDER_BEFORE.len() + self.id.len() + ORDER_AFTER.len();
            let written = write!(
                self.bytes,
                "{}{length}\r\n\r\n{ORDER_BEFORE}{}{ORDER_AFTER}",
                self.head, self.id
            );
            written.expect("writing to memory does not fail");
        }
        &self.bytes
    }

    /// The id in the last request's body.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

/// The time in microseconds since 1970, in hexadecimal.
fn run_id() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!("{:x}", now.map_or(0, |since| since.as_micros()))
}
