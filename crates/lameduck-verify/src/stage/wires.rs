//! Connections of a case: watched, judged, and recorded when the case lets go of them.

use super::Recorder;
use crate::fate::Tally;
use crate::probe::{self, End, Until, Wire};
use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// Wires with a name, as a slice of them. Dropping them records and closes them.
#[derive(Debug)]
pub struct Wires {
    label: String,
    wires: Vec<Wire>,
    recorder: Recorder,
}

impl Wires {
    pub(super) fn new(label: &str, wires: Vec<Wire>, recorder: &Recorder) -> Wires {
        Wires { label: label.to_owned(), wires, recorder: recorder.clone() }
    }

    /// Reads all of them until each is answered or closed, or `limit` has passed; says whether all are.
    pub fn watch(&mut self, until: Until, limit: Duration) -> io::Result<bool> {
        probe::watch(&mut self.wires, until, limit)
    }

    /// The fates of their requests.
    pub fn fates(&self) -> Tally {
        probe::fates(&self.wires)
    }

    /// How many ended this way.
    pub fn ended(&self, end: End) -> usize {
        probe::ended(&self.wires, end)
    }

    /// Records and closes them.
    pub fn close(self) {}
}

impl Deref for Wires {
    type Target = [Wire];

    fn deref(&self) -> &[Wire] {
        &self.wires
    }
}

impl DerefMut for Wires {
    fn deref_mut(&mut self) -> &mut [Wire] {
        &mut self.wires
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for wire in &self.wires {
            self.recorder.wire(&self.label, wire);
        }
    }
}
