//! The smallest client that measures: one blocking connection, one request after the other.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Nothing a bench asks for takes longer than this, valgrind included.
const ANSWER_BOUND: Duration = Duration::from_secs(30);
/// A head or a body beyond this is none of ours.
const MOST_BYTES: usize = 64 * 1024;

/// A kept-alive connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where the body of the last answer begins in the buffer.
    body: usize,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_BOUND)
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_BOUND))?;
        Ok(Self { stream, buffer: Vec::new(), body: 0 })
    }

    /// Sends a request and waits for the whole answer, which must be a success.
    pub fn ask(&mut self, path: &str) -> Result<()> {
        self.send(path)?;
        self.receive()
    }

    pub fn send(&mut self, path: &str) -> Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        self.stream.write_all(request.as_bytes()).with_context(|| format!("send GET {path}"))
    }

    /// Reads one answer to its end.
    pub fn receive(&mut self) -> Result<()> {
        self.buffer.clear();
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more()?;
        };
        let text = std::str::from_utf8(&self.buffer[..head]).context("the head is not text")?;
        let length = body_length(text)?;
        while self.buffer.len() < head + length {
            self.read_more()?;
        }
        self.body = head;
        Ok(())
    }

    /// The body of the last answer.
    pub fn body(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.buffer[self.body..])
    }

    fn read_more(&mut self) -> Result<()> {
        if self.buffer.len() > MOST_BYTES {
            bail!("an answer of more than {MOST_BYTES} bytes");
        }
        let mut piece = [0; 4096];
        let length = self.stream.read(&mut piece).context("read the answer")?;
        if length == 0 {
            bail!("the connection ended before the answer did");
        }
        self.buffer.extend_from_slice(&piece[..length]);
        Ok(())
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Says goodbye as a client does that was told `Connection: close`.
    pub fn close(self) {
        self.stream.shutdown(Shutdown::Both).ok();
    }
}

fn body_length(head: &str) -> Result<usize> {
    if !head.starts_with("HTTP/1.1 200") {
        bail!("the answer is `{}`", head.lines().next().unwrap_or_default());
    }
    head.lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        })
        .context("the answer does not say its length")
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_found_whatever_the_case() {
        let head = "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-LENGTH: 12\r\n\r\n";
        assert_eq!(body_length(head).unwrap(), 12);
    }

    #[test]
    fn an_answer_that_is_no_success_or_has_no_length_is_an_error() {
        let refused = body_length("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").unwrap_err();
        assert!(refused.to_string().contains("503"), "{refused}");
        assert!(body_length("HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
