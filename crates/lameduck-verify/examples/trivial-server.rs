//! The least work that can be called an HTTP/1.1 server, to measure clients with: it looks for the ends of
//! heads and writes one constant answer for each. Usage: `trivial-server ADDRESS`.

use std::env;
use std::error::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"num\": 1}";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: trivial-server ADDRESS")?;
    let listener = TcpListener::bind(address).await?;
    eprintln!("listening");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}

/// Ends with the connection, however that ends: nobody wants to know.
async fn serve(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let mut matched = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        for byte in &buffer[..count] {
            matched = match (matched, byte) {
                (0 | 2, b'\r') | (1 | 3, b'\n') => matched + 1,
                (_, b'\r') => 1,
                _ => 0,
            };
            if matched == 4 {
                matched = 0;
                if stream.write_all(ANSWER).await.is_err() {
                    return;
                }
            }
        }
    }
}
