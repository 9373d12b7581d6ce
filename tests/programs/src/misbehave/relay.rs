//! Carries HTTP/2 between the socket and the engine, frame by frame towards the client, so that a fault can be in
//! the frames and the connection ends as this server wants it to.

use super::connection::Io;
use super::server::{Phase, Server};
use super::{Fault, routes};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const FRAME_HEAD: usize = 9;
const PREFACE_BYTES: usize = 24;
const HEADERS: u8 = 1;
const GO_AWAY: u8 = 7;
const NO_LAST_STREAM: u32 = 0x7fff_ffff;

/// Until the engine or the client ends; the socket is closed in order then.
pub(super) async fn run(server: &Server, mut io: Io, begun: Vec<u8>, mut engine: DuplexStream) {
    let mut frames =
        Frames { server, skipped: 0, to_client: Vec::new(), to_engine: Vec::new(), last: None };
    let ended = carry(&mut frames, &mut io, &mut engine, begun).await;
    drop(engine);
    if server.has(Fault::ResetHttp2) && server.phase() == Phase::Forced {
        return io.reset();
    }
    if server.has(Fault::LingerHttp2) && ended.is_ok() {
        server.reached(Phase::Forced).await;
    }
    io.close(server).await;
}

async fn carry(
    frames: &mut Frames<'_>,
    io: &mut Io,
    engine: &mut DuplexStream,
    begun: Vec<u8>,
) -> io::Result<()> {
    frames.note_inbound(&begun);
    engine.write_all(&begun).await?;
    let (mut inbound, mut outbound) =
        (Vec::with_capacity(16 * 1024), Vec::with_capacity(16 * 1024));
    loop {
        tokio::select! {
            read = io.stream.read_buf(&mut inbound) => {
                if read? == 0 {
                    return Ok(());
                }
                frames.note_inbound(&inbound);
                engine.write_all(&inbound).await?;
                inbound.clear();
            }
            read = engine.read_buf(&mut outbound) => {
                if read? == 0 {
                    return Ok(());
                }
                let changed = frames.change_outbound(&outbound);
                outbound.clear();
                io.stream.write_all(&changed).await?;
            }
            () = frames.server.reached(Phase::Forced), if frames.server.has(Fault::ResetHttp2) => return Ok(()),
        }
    }
}

struct Frames<'a> {
    server: &'a Server,
    skipped: usize,
    to_client: Vec<u8>,
    to_engine: Vec<u8>,
    /// Of the last GOAWAY that excludes something.
    last: Option<u32>,
}

impl Frames<'_> {
    /// A stream above the last id is run by the fault that does so; the engine itself ignores it.
    fn note_inbound(&mut self, bytes: &[u8]) {
        if !self.server.has(Fault::RunExcluded) {
            return;
        }
        self.to_engine.extend_from_slice(bytes);
        if self.skipped < PREFACE_BYTES {
            let preface = (PREFACE_BYTES - self.skipped).min(self.to_engine.len());
            self.to_engine.drain(..preface);
            self.skipped += preface;
        }
        while let Some(frame) = take(&mut self.to_engine) {
            let is_excluded = self.last.is_some_and(|last| stream(&frame) > last);
            if frame[3] == HEADERS && is_excluded {
                routes::count(self.server);
            }
        }
    }

    fn change_outbound(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.to_client.extend_from_slice(bytes);
        let mut changed = Vec::with_capacity(bytes.len());
        while let Some(mut frame) = take(&mut self.to_client) {
            if frame[3] == GO_AWAY && !self.change_go_away(&mut frame) {
                continue;
            }
            changed.extend(frame);
        }
        changed
    }

    /// Says whether the frame is sent.
    fn change_go_away(&mut self, frame: &mut [u8]) -> bool {
        let last = u32::from_be_bytes([frame[9], frame[10], frame[11], frame[12]]);
        if last != NO_LAST_STREAM {
            self.last = Some(last);
        }
        match self.server.options.fault {
            Some(Fault::NoGoAway) => false,
            Some(Fault::OneGoAway) => last != NO_LAST_STREAM,
            Some(Fault::GrowingGoAway) => {
                let wrong = if last == NO_LAST_STREAM { 1_u32 } else { last + 2 };
                frame[9..13].copy_from_slice(&wrong.to_be_bytes());
                true
            }
            _ => true,
        }
    }
}

fn stream(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]) & NO_LAST_STREAM
}

/// One whole frame from the front.
fn take(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let head: [u8; FRAME_HEAD] = buffer.get(..FRAME_HEAD)?.try_into().ok()?;
    let length = FRAME_HEAD + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    (buffer.len() >= length).then(|| buffer.drain(..length).collect())
}
