//! WebSocket frames by hand: echo, and an end that is said.

use super::Fault;
use super::connection::Io;
use super::http1::Request;
use super::server::{Phase, Server};
use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// How long the peer may take to answer a close frame.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Closes are spread over this many steps of the time for it.
const STEPS: usize = 100;
/// `1001`: going away.
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();
const FINAL: u8 = 0x80;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

pub(super) async fn serve(server: &Server, io: &mut Io, request: &Request) -> io::Result<()> {
    let key = request.field("sec-websocket-key").unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    );
    io.stream.write_all(head.as_bytes()).await?;
    let _held = server.has(Fault::WebSocketHolds).then(|| server.hold());
    let place = server.sockets.fetch_add(1, SeqCst) % STEPS;
    let mut buffer = Vec::new();
    let echoed = tokio::select! {
        echoed = echo(io, &mut buffer) => echoed,
        () = turn(server, place), if !server.has(Fault::WebSocketHolds) => Ok(()),
    };
    echoed?;
    if server.is_draining() && !server.has(Fault::NoCloseFrame) && !is_cut(server) {
        io.stream.write_all(&frame(CLOSE, &GOING_AWAY)).await?;
        let answered = tokio::time::timeout(CLOSE_LIMIT, echo(io, &mut buffer)).await;
        answered.unwrap_or(Ok(()))?;
    }
    Ok(())
}

fn is_cut(server: &Server) -> bool {
    server.has(Fault::CutAtUpgrade) && server.upgrades.load(SeqCst) > 0
}

/// When this WebSocket is to close. After an upgrade it is not asked to: it lives to the deadline.
async fn turn(server: &Server, place: usize) {
    server.reached(Phase::Draining).await;
    if server.has(Fault::NoSpread) || is_cut(server) {
        return;
    }
    if server.upgrades.load(SeqCst) > 0 {
        let almost = server.options.grace.mul_f64(0.8);
        return tokio::time::sleep(almost).await;
    }
    let step = server.options.spread / u32::try_from(STEPS).unwrap_or(1);
    tokio::time::sleep(step * u32::try_from(place).unwrap_or(0)).await;
}

/// Sends back what comes, until the peer closes.
async fn echo(io: &mut Io, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        while let Some((code, payload)) = take(buffer) {
            match code {
                CLOSE => return io.stream.write_all(&frame(CLOSE, &payload)).await,
                PING => io.stream.write_all(&frame(PONG, &payload)).await?,
                PONG => {}
                _ => io.stream.write_all(&frame(code, &payload)).await?,
            }
        }
        if io.stream.read_buf(buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// One whole masked frame from the front; longer than 125 bytes they are not sent to this server.
fn take(buffer: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    const HEAD: usize = 6;
    let head: [u8; HEAD] = buffer.get(..HEAD)?.try_into().ok()?;
    let length = usize::from(head[1] & 0x7f);
    let masked = buffer.get(HEAD..HEAD + length)?;
    let payload = masked.iter().zip(head[2..].iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let payload = payload.collect();
    buffer.drain(..HEAD + length);
    Some((head[0] & 0x0f, payload))
}

fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(0);
    [&[FINAL | code, length], payload].concat()
}
