//! Saved frames, good and hostile. The fuzz target begins from the same files.

use std::fmt::Write as _;
use std::path::PathBuf;

use lameduck::takeover::wire::{self, Received};

use crate::holds::holds_for;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/wire")
}

/// Every file with the frame in it, sorted by name.
fn frames() -> Vec<(String, Vec<u8>)> {
    let mut frames: Vec<_> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "frame"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect();
    frames.sort();
    frames
}

/// Descriptors that come with a saved frame: as many as it announces, but for those whose name ends in `-with-N`.
fn descriptors(name: &str, frame: &[u8]) -> usize {
    match name.rsplit_once("-with-") {
        Some((_, count)) => count.parse().unwrap(),
        None => frame.get(10..12).map_or(0, |two| u16::from_le_bytes([two[0], two[1]]).into()),
    }
}

fn outcome(name: &str, frame: &[u8]) -> String {
    match wire::decode(frame, descriptors(name, frame)) {
        Ok(Received::Message(message)) => format!("reads as {}", message.kind().name()),
        Ok(Received::Skipped { kind }) => format!("is skipped, kind {kind}"),
        Err(error) => format!("is refused: {error}"),
    }
}

/// `outcomes.txt` says what becomes of each file. A file that fuzzing found is added there with what should be.
#[test]
fn each_saved_frame_has_the_outcome_that_was_written_down() {
    let expected = std::fs::read_to_string(directory().join("outcomes.txt")).unwrap();
    let mut actual = String::new();
    for (name, frame) in frames() {
        let _ = writeln!(actual, "{name} {}", outcome(&name, &frame));
    }
    assert!(actual == expected, "expected\n{expected}\nactual\n{actual}");
}

#[test]
fn no_saved_frame_does_harm() {
    for (_, frame) in frames() {
        holds_for(&frame);
    }
}

#[test]
fn no_saved_frame_cut_anywhere_is_taken() {
    for (name, frame) in frames() {
        for length in 0..frame.len() {
            let cut = &frame[..length];
            holds_for(cut);
            let taken = wire::decode(cut, descriptors(&name, frame.as_slice()));
            assert!(taken.is_err(), "{name} cut to {length} bytes became {taken:?}");
        }
    }
}

#[test]
fn no_saved_frame_with_one_byte_changed_does_harm() {
    for (_, mut frame) in frames() {
        // Long frames repeat themselves: their beginning has one of everything.
        for at in 0..frame.len().min(256) {
            let kept = frame[at];
            for value in [0, 1, 0x7f, 0x80, 0xff, kept ^ 1] {
                frame[at] = value;
                holds_for(&frame);
            }
            frame[at] = kept;
        }
    }
}
