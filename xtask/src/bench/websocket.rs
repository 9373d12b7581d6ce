//! The smallest WebSocket client that measures, beside [`super::client`].

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Nothing a bench waits for takes longer.
const BOUND: Duration = Duration::from_secs(30);
/// The room's lines are shorter.
const LONGEST_SAID: usize = 125;

const OPCODE: u8 = 0x0f;
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;

/// An open WebSocket.
pub struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came.
pub enum Came {
    Text(String),
    /// A close frame with this code.
    Close(u16),
}

impl Socket {
    pub fn open(address: SocketAddr, path: &str) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, BOUND)
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(BOUND))?;
        let mut socket = Self { stream, buffer: Vec::new() };
        // The key of RFC 6455's example: nothing depends on it here.
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.stream.write_all(request.as_bytes())?;
        let end = loop {
            let ends = socket.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            match ends {
                Some(at) => break at + 4,
                None => socket.read_more()?,
            }
        };
        let head = String::from_utf8_lossy(&socket.buffer[..end]);
        ensure!(head.starts_with("HTTP/1.1 101"), "{path} answered `{head}`");
        socket.buffer.drain(..end);
        Ok(socket)
    }

    /// Says something short.
    pub fn say(&mut self, text: &str) -> Result<()> {
        ensure!(text.len() <= LONGEST_SAID, "{} bytes are too many", text.len());
        // A mask of zeros leaves the text as it is.
        let mut frame = vec![0x80 | TEXT, 0x80 | text.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        self.stream.write_all(&frame).context("say something")
    }

    /// The next text, or the end.
    pub fn next(&mut self) -> Result<Came> {
        loop {
            if let Some((opcode, payload)) = self.take_frame() {
                match opcode {
                    TEXT => return Ok(Came::Text(String::from_utf8(payload)?)),
                    CLOSE => {
                        let code = payload.first_chunk().context("a close frame has a code")?;
                        return Ok(Came::Close(u16::from_be_bytes(*code)));
                    }
                    _ => {}
                }
            } else {
                self.read_more()?;
            }
        }
    }

    /// Answers a close frame and goes.
    pub fn close(mut self) -> Result<()> {
        self.stream.write_all(&[0x80 | CLOSE, 0x80, 0, 0, 0, 0]).context("answer a close frame")
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, second) = (*self.buffer.first()?, *self.buffer.get(1)?);
        let (head, length) = match second {
            126 => (4, u16::from_be_bytes(*self.buffer.get(2..)?.first_chunk()?).into()),
            short => (2, usize::from(short)),
        };
        let payload = self.buffer.get(head..head + length)?.to_vec();
        self.buffer.drain(..head + length);
        Some((first & OPCODE, payload))
    }

    fn read_more(&mut self) -> Result<()> {
        let mut piece = [0; 4096];
        let length = self.stream.read(&mut piece).context("read a WebSocket")?;
        if length == 0 {
            bail!("the connection ended without a close frame");
        }
        self.buffer.extend_from_slice(&piece[..length]);
        Ok(())
    }
}
