//! HTTP/1.1 connections in delicate states.

use super::{End, Until, Wire, watch};
use crate::address::Place;
use crate::target::Target;
use std::io::{self, Write};
use std::thread::JoinHandle;
use std::time::Duration;

/// So many idle connections are opened at a time, so that they do not overflow the accept queue.
const IDLE_BATCH: usize = 200;
/// How long a batch of idle connections may take to be answered.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// `count` connections in the accept queue, each with a whole request: the server's processes are stopped
/// (SIGSTOP) first, so none can be accepted. Send the stop signal, then call [`Target::thaw`].
///
/// # Errors
/// When the processes do not stop or a connection is not made (the backlog may be shorter than `count`).
pub fn backlog(target: &mut Target, place: &Place, count: usize) -> io::Result<Vec<Wire>> {
    target.freeze().map_err(io::Error::other)?;
    let request = place.get("");
    let mut wires = silent(place, count)?;
    for wire in &mut wires {
        wire.put_off_handshake();
        wire.request(&request);
    }
    Ok(wires)
}

/// As [`backlog`], with no byte sent.
pub fn silent_backlog(target: &mut Target, place: &Place, count: usize) -> io::Result<Vec<Wire>> {
    target.freeze().map_err(io::Error::other)?;
    silent(place, count)
}

/// Connections on which nothing is sent.
///
/// # Errors
/// When one is not made.
pub fn silent(place: &Place, count: usize) -> io::Result<Vec<Wire>> {
    (0..count).map(|_| Wire::open(place)).collect()
}

/// Connections with half a request head, to be finished later.
#[derive(Debug)]
pub struct HalfHeads {
    /// The connections.
    pub wires: Vec<Wire>,
    /// The bytes that follow on each.
    pub rest: Vec<u8>,
}

impl HalfHeads {
    /// Sends the first half of a `GET` on `count` connections.
    pub fn open(place: &Place, count: usize) -> io::Result<HalfHeads> {
        let mut first = place.get("");
        let rest = first.split_off(first.len() / 2);
        let mut wires = silent(place, count)?;
        for wire in &mut wires {
            wire.send(&first)?;
        }
        Ok(HalfHeads { wires, rest })
    }

    /// Sends the other half on each.
    pub fn finish(&mut self) {
        self.wires.iter_mut().for_each(|wire| wire.request(&self.rest));
    }
}

/// One connection with `count` requests in one segment.
pub fn pipelined(place: &Place, count: usize) -> io::Result<Wire> {
    let mut wire = Wire::open(place)?;
    wire.requests_in_one_write(&place.get("").repeat(count), count);
    Ok(wire)
}

/// Kept-alive connections, each answered once and idle since. They are opened in batches.
///
/// # Errors
/// When a connection is not made or its first request is not answered. Raise the limit of open files first
/// ([`raise_open_files`](super::raise_open_files)).
pub fn idle(place: &Place, count: usize) -> io::Result<Vec<Wire>> {
    let request = place.get("");
    let mut wires = Vec::with_capacity(count);
    while wires.len() < count {
        let mut batch = silent(place, IDLE_BATCH.min(count - wires.len()))?;
        batch.iter_mut().for_each(|wire| wire.request(&request));
        let all = watch(&mut batch, Until::Answered, IDLE_LIMIT)?;
        let unusable = batch.iter().filter(|wire| wire.end() != End::Open || !wire.is_answered());
        let unusable = unusable.count();
        if !all || unusable > 0 {
            let (opened, address) = (wires.len(), &place.address);
            return Err(io::Error::other(format!(
                "{unusable} of {} new connections to {address} were not answered and kept, after {opened}",
                batch.len()
            )));
        }
        wires.append(&mut batch);
    }
    Ok(wires)
}

/// One connection that asks for an answer and does not read it. Its receive buffer is small, so the server's
/// writes stop soon. Read it later with [`watch`].
pub fn never_reads(place: &Place) -> io::Result<Wire> {
    /// The kernel rounds it up to its smallest.
    const RECEIVE_BUFFER: usize = 4096;
    let mut wire = Wire::open_with_receive_buffer(place, RECEIVE_BUFFER)?;
    wire.request(&place.get(""));
    Ok(wire)
}

/// A `POST` whose body is written by a thread while the answer is read, so that an early answer and a reset
/// that erases it can be told apart.
#[derive(Debug)]
pub struct Upload {
    /// The connection, to be watched.
    pub wire: Wire,
    writer: JoinHandle<Uploaded>,
}

/// How far the writing of an upload came.
#[derive(Debug)]
pub struct Uploaded {
    /// Bytes of the body that the kernel took.
    pub bytes: u64,
    /// Why the writing ended early, if it did.
    pub error: Option<io::Error>,
}

impl Upload {
    /// Begins an upload of `bytes` zeros.
    pub fn begin(place: &Place, bytes: u64) -> io::Result<Upload> {
        let mut wire = Wire::open(place)?;
        let (path, host) = (&place.path, &place.host);
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {bytes}\r\n\r\n");
        wire.request(head.as_bytes());
        let socket = wire.writer()?;
        // It ends with the body, with the connection, or with the write's time limit.
        let writer = std::thread::spawn(move || write_zeros(&socket, bytes));
        Ok(Upload { wire, writer })
    }

    /// Watches until the connection ended or `limit` has passed, then waits for the writer.
    pub fn finish(mut self, until: Until, limit: Duration) -> io::Result<(Wire, Uploaded)> {
        watch(std::slice::from_mut(&mut self.wire), until, limit)?;
        if !self.wire.is_answered() || until == Until::Closed {
            // Nothing more is awaited: a writer whose peer does not read is let go.
            let _ = self.wire.half_close();
        }
        let uploaded = self.writer.join().map_err(|_| io::Error::other("the writer panicked"))?;
        if let Some(error) = &uploaded.error {
            self.wire.note_late_write_error(error);
        }
        Ok((self.wire, uploaded))
    }
}

fn write_zeros(mut socket: &socket2::Socket, bytes: u64) -> Uploaded {
    let piece = [0; 16 * 1024];
    let mut written = 0;
    while written < bytes {
        let length =
            usize::try_from(bytes - written).map_or(piece.len(), |left| left.min(piece.len()));
        match socket.write(&piece[..length]) {
            Ok(count) => written += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Uploaded { bytes: written, error: Some(error) },
        }
    }
    Uploaded { bytes: written, error: None }
}
