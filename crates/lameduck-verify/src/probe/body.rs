//! The body of the one answer on a wire, as far as it has come.

use super::Wire;

impl Wire {
    /// The body after the first head, without chunk framing, within the bytes that are kept.
    pub fn body_text(&self) -> String {
        let received = self.received();
        let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
            return String::new();
        };
        let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
        let body = &received[end + 4..];
        let is_chunked = head
            .lines()
            .any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked"));
        let body = if is_chunked { without_chunks(body) } else { body.to_vec() };
        String::from_utf8_lossy(&body).into_owned()
    }
}

/// What the chunks hold, the last of them perhaps in part.
fn without_chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(line) = bytes.windows(2).position(|two| two == b"\r\n") {
        let digits = bytes[..line].split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(digits).ok();
        let Some(size) = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok()) else {
            break;
        };
        let rest = &bytes[line + 2..];
        whole.extend_from_slice(&rest[..size.min(rest.len())]);
        // A size is what a server says, however large.
        match size.checked_add(2).and_then(|end| rest.get(end..)) {
            Some(next) if size > 0 => bytes = next,
            _ => break,
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::without_chunks;

    #[test]
    fn chunks_are_put_together_and_the_last_may_be_cut() {
        assert_eq!(without_chunks(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"), b"abcde");
        assert_eq!(without_chunks(b"3\r\nabc\r\n5\r\nde"), b"abcde");
        assert_eq!(without_chunks(b"3\r\nabc\r\n"), b"abc");
    }

    #[test]
    fn a_chunk_that_is_larger_than_memory_is_one_that_was_cut() {
        assert_eq!(without_chunks(b"ffffffffffffffff\r\nabc"), b"abc");
        assert_eq!(without_chunks(b"fffffffffffffffff\r\nabc"), b"");
    }
}
