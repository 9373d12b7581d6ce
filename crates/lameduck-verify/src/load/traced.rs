//! What one client keeps for the timeline.

use super::Part;
use super::http1::End;
use crate::fate::{Fate, Kind};
use crate::stage::Recorder;
use crate::trace::{ConnectionEnd, ConnectionTrace, REQUESTS_KEPT, RequestTrace};
use std::time::Instant;

/// A connection that is kept while it lasts, if somebody wants to see it.
pub(super) struct Traced {
    recorder: Option<Recorder>,
    label: String,
    /// So many requests are kept; more are thinned out.
    most: usize,
    current: Option<ConnectionTrace>,
}

impl Traced {
    pub(super) fn of(part: &Part) -> Traced {
        Traced {
            recorder: part.load.recorder.clone(),
            label: format!("{} {}", part.load.mode.name(), part.client),
            most: (REQUESTS_KEPT / part.load.connections).max(2),
            current: None,
        }
    }

    pub(super) fn opened(&mut self, at: Instant) {
        let Some(recorder) = &self.recorder else { return };
        self.current = Some(ConnectionTrace {
            label: self.label.clone(),
            opened: recorder.at(at),
            closed: None,
            end: ConnectionEnd::Open,
            requests: Vec::new(),
        });
    }

    pub(super) fn request(&mut self, begun: Instant, end: &End) {
        let (Some(recorder), Some(connection)) = (&self.recorder, &mut self.current) else {
            return;
        };
        let fate = match end {
            End::Answered => Fate::Answered,
            End::Failed(fate, _) => *fate,
        };
        connection.requests.push(RequestTrace {
            intended: None,
            sent: recorder.at(begun),
            first_byte: None,
            ended: recorder.at(Instant::now()),
            fate,
            status: None,
            generation: None,
        });
        if connection.requests.len() > self.most {
            // Every second one that was answered goes: the whole time stays covered.
            let mut odd = false;
            let before = connection.requests.len();
            connection.requests.retain(|request| {
                odd = !odd;
                odd || request.fate.kind() == Kind::Lost
            });
            recorder.left_out((before - connection.requests.len()) as u64);
        }
    }

    pub(super) fn closed(&mut self, end: ConnectionEnd) {
        let (Some(recorder), Some(mut connection)) = (&self.recorder, self.current.take()) else {
            return;
        };
        connection.closed = Some(recorder.at(Instant::now()));
        connection.end = end;
        recorder.connection(connection);
    }
}
