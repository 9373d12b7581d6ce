//! The HTTP/2 clients tell streams that a GOAWAY excluded from streams that were lost. The servers here are
//! made of bare frames.

mod support;

use lameduck_verify::fate::{Fate, Kind};
use lameduck_verify::load::{Load, Mode, Report, Until};
use lameduck_verify::probe::http2::{
    Frame, NO_LAST_STREAM, PREFACE, acknowledgement, flag, frames, go_away, kind, settings,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{SOON, Server, close_in_order, reset};

/// Of the HPACK static table: 8 is `:status: 200`, 14 is `:status: 500`.
const STATUS_200: u8 = 0x80 | 8;
const STATUS_500: u8 = 0x80 | 14;

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;

/// One connection of a server.
struct Peer {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Peer {
    /// Reads the preface, says SETTINGS, and waits for their acknowledgement: from then on the client has
    /// nothing to write by itself that could meet a reset before it has read what it was sent.
    fn greet(mut stream: TcpStream) -> Option<(Peer, Vec<u32>)> {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).ok()?;
        assert_eq!(preface, PREFACE);
        let mut peer = Peer { stream, bytes: Vec::new() };
        peer.send(&settings())?;
        let mut opened = Vec::new();
        loop {
            let batch = peer.frames()?;
            opened.extend(streams(&batch));
            if batch.iter().any(|frame| frame.kind == kind::SETTINGS && is_acknowledgement(frame)) {
                return Some((peer, opened));
            }
        }
    }

    fn send(&mut self, frame: &Frame) -> Option<()> {
        self.stream.write_all(&frame.to_bytes()).ok()
    }

    fn answer(&mut self, stream: u32) -> Option<()> {
        self.send(&head(stream, STATUS_200, flag::END_STREAM))
    }

    /// What comes next, at least one frame; SETTINGS are acknowledged.
    fn frames(&mut self) -> Option<Vec<Frame>> {
        loop {
            let (found, used) = frames(&self.bytes);
            self.bytes.drain(..used);
            for frame in &found {
                if frame.kind == kind::SETTINGS && !is_acknowledgement(frame) {
                    self.send(&acknowledgement(kind::SETTINGS, &[]))?;
                }
            }
            if !found.is_empty() {
                return Some(found);
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
            self.bytes.extend(&buffer[..count]);
        }
    }
}

fn is_acknowledgement(frame: &Frame) -> bool {
    frame.flags & flag::ACK != 0
}

/// The streams that these frames open.
fn streams(frames: &[Frame]) -> impl Iterator<Item = u32> + '_ {
    frames.iter().filter(|frame| frame.kind == kind::HEADERS).map(|frame| frame.stream)
}

fn head(stream: u32, status: u8, flags: u8) -> Frame {
    Frame { kind: kind::HEADERS, flags: flag::END_HEADERS | flags, stream, payload: vec![status] }
}

fn reset_stream(stream: u32, code: u32) -> Frame {
    let payload = code.to_be_bytes().to_vec();
    Frame { kind: kind::RST_STREAM, flags: flag::NONE, stream, payload }
}

fn run(server: &Server, streams: usize) -> Report {
    let until = Until::Elapsed(Duration::from_millis(200));
    let load = Load::new(server.place("/"), Mode::Http2 { streams }).connections(2).until(until);
    load.request_limit(SOON).start().unwrap().finish()
}

/// What becomes of streams whose server does `misbehave` with the first of them.
fn check(misbehave: fn(Peer, u32), expected: Fate) {
    let server = Server::start(move |stream| {
        let serve = |stream| -> Option<()> {
            let (mut peer, mut opened) = Peer::greet(stream)?;
            while opened.is_empty() {
                opened.extend(streams(&peer.frames()?));
            }
            misbehave(peer, opened[0]);
            Some(())
        };
        serve(stream);
    });
    let report = run(&server, 1);
    let met = |kind| report.tally().met(kind).map(|(fate, _)| fate).collect::<Vec<_>>();
    match expected.kind() {
        // A stream that the client opens before it has read a GOAWAY is rightly excluded by it.
        Kind::Lost => {
            assert_eq!(met(Kind::Lost), [expected], "{report}");
            assert!(
                met(Kind::NotSent).iter().all(|fate| *fate == Fate::GoAwayExcluded),
                "{report}"
            );
        }
        kind => {
            assert_eq!(met(kind), [expected], "{report}");
            assert_eq!(report.lost(), 0, "{report}");
        }
    }
}

#[test]
fn a_stream_above_the_last_id_of_a_go_away_was_not_sent() {
    check(
        |mut peer, _| {
            peer.send(&go_away(0, NO_ERROR));
            close_in_order(peer.stream);
        },
        Fate::GoAwayExcluded,
    );
}

#[test]
fn a_stream_that_a_go_away_includes_and_nobody_answers_is_lost() {
    check(
        |mut peer, stream| {
            peer.send(&go_away(stream, NO_ERROR));
            close_in_order(peer.stream);
        },
        Fate::EofBeforeResponse,
    );
    check(
        |mut peer, _| {
            peer.send(&go_away(NO_LAST_STREAM, NO_ERROR));
            close_in_order(peer.stream);
        },
        Fate::EofBeforeResponse,
    );
}

#[test]
fn a_refused_stream_was_not_sent_and_a_reset_one_is_lost() {
    check(
        |mut peer, stream| {
            peer.send(&reset_stream(stream, REFUSED_STREAM));
            peer.send(&go_away(stream, NO_ERROR));
            close_in_order(peer.stream);
        },
        Fate::GoAwayExcluded,
    );
    check(
        |mut peer, stream| {
            peer.send(&reset_stream(stream, INTERNAL_ERROR));
            peer.send(&go_away(stream, NO_ERROR));
            close_in_order(peer.stream);
        },
        Fate::StreamReset,
    );
}

#[test]
fn a_close_without_a_go_away_loses_the_stream() {
    check(|peer, _| close_in_order(peer.stream), Fate::EofBeforeResponse);
    check(|peer, _| reset(peer.stream), Fate::ResetBeforeResponse);
}

#[test]
fn a_close_within_the_answer_is_told_from_a_reset() {
    check(
        |mut peer, stream| {
            peer.send(&head(stream, STATUS_200, flag::NONE));
            close_in_order(peer.stream);
        },
        Fate::Truncated,
    );
    check(
        |mut peer, stream| {
            peer.send(&head(stream, STATUS_200, flag::NONE));
            reset(peer.stream);
        },
        Fate::ResetMidResponse,
    );
}

#[test]
fn an_answer_that_says_error_is_lost() {
    check(
        |mut peer, stream| {
            peer.send(&head(stream, STATUS_500, flag::END_STREAM));
            peer.send(&go_away(stream, NO_ERROR));
            close_in_order(peer.stream);
        },
        Fate::Http5xx,
    );
}

/// After some answers: GOAWAY that excludes nothing, what comes meanwhile is answered, then GOAWAY with the
/// last stream, then a close in order. Nothing is lost, on however many streams.
#[test]
fn a_go_away_in_two_steps_loses_nothing() {
    /// So many streams are answered before the stop.
    const BEFORE: usize = 10;
    let server = Server::start(|stream| {
        let serve = |stream| -> Option<()> {
            let (mut peer, mut answered) = Peer::greet(stream)?;
            for stream in &answered {
                peer.answer(*stream)?;
            }
            while answered.len() < BEFORE {
                for stream in streams(&peer.frames()?).collect::<Vec<_>>() {
                    peer.answer(stream)?;
                    answered.push(stream);
                }
            }
            peer.send(&go_away(NO_LAST_STREAM, NO_ERROR))?;
            let payload = b"lameduck".to_vec();
            peer.send(&Frame { kind: kind::PING, flags: flag::NONE, stream: 0, payload })?;
            // Whatever was opened before the client read the GOAWAY comes before its answer to the PING.
            let mut is_acknowledged = false;
            while !is_acknowledged {
                let batch = peer.frames()?;
                for stream in streams(&batch) {
                    peer.answer(stream)?;
                    answered.push(stream);
                }
                is_acknowledged =
                    batch.iter().any(|frame| frame.kind == kind::PING && is_acknowledgement(frame));
            }
            peer.send(&go_away(*answered.iter().max()?, NO_ERROR))?;
            close_in_order(peer.stream);
            Some(())
        };
        serve(stream);
    });
    let report = run(&server, 4);
    assert_eq!(report.lost(), 0, "{report}");
    assert_eq!(report.count(Fate::GoAwayExcluded), 0, "{report}");
    assert!(report.tally().answered() > 20 && report.told_to_close() > 2, "{report}");
}
