//! What one thread of clients did, in bounded memory: what failed is kept before what was answered, and what was
//! answered is thinned evenly, so that a long run is shown from its beginning to its end.

use super::latency::LatencyOverTime;
use super::{
    CONNECTIONS_KEPT, ConnectionEnd, ConnectionTrace, Micros, REQUESTS_KEPT, RequestTrace, Trace,
};
use crate::fate::{Fate, Kind};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A connection of a recording. Numbers of two recordings differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Number(u64);

/// The recording of one thread.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    begun: Instant,
    next: u64,
    connections: Vec<Connection>,
    connections_seen: u64,
    /// Of connections on which nothing was lost, one of so many is kept.
    connections_one_of: u64,
    /// Answered requests, thinned: one of so many is kept.
    answered: Vec<(Number, RequestTrace)>,
    one_of: u64,
    failed: Vec<(Number, RequestTrace)>,
    requests_seen: u64,
    latency: LatencyOverTime,
}

#[derive(Clone, Debug)]
struct Connection {
    number: Number,
    trace: ConnectionTrace,
    has_loss: bool,
}

impl Recording {
    /// The recording of thread `thread`, with times counted from `begun`.
    pub(crate) fn new(begun: Instant, thread: usize) -> Recording {
        Recording {
            begun,
            next: (thread as u64) << 40,
            connections: Vec::new(),
            connections_seen: 0,
            connections_one_of: 1,
            answered: Vec::new(),
            one_of: 1,
            failed: Vec::new(),
            requests_seen: 0,
            latency: LatencyOverTime::default(),
        }
    }

    pub(crate) fn at(&self, time: Instant) -> Micros {
        micros(time.saturating_duration_since(self.begun))
    }

    pub(crate) fn open(&mut self, label: String, opened: Instant) -> Number {
        let number = Number(self.next);
        self.next += 1;
        self.connections_seen += 1;
        if self.connections.len() >= 4 * CONNECTIONS_KEPT {
            self.make_room();
        }
        let trace = ConnectionTrace {
            label,
            opened: self.at(opened),
            closed: None,
            end: ConnectionEnd::Open,
            requests: Vec::new(),
        };
        self.connections.push(Connection { number, trace, has_loss: false });
        number
    }

    /// The connection has ended. One that was not kept is passed over.
    pub(crate) fn close(&mut self, number: Number, end: ConnectionEnd) {
        let closed = self.at(Instant::now());
        if let Some(connection) = self.find(number) {
            connection.trace.closed.get_or_insert(closed);
            connection.trace.end = end;
        }
    }

    pub(crate) fn request(&mut self, number: Number, request: RequestTrace) {
        self.requests_seen += 1;
        match request.fate.kind() {
            Kind::Answered => {
                let begun = request.intended.unwrap_or(request.sent);
                self.latency.record(request.ended, request.ended.saturating_sub(begun));
                if self.requests_seen.is_multiple_of(self.one_of) {
                    self.answered.push((number, request));
                }
                if self.answered.len() >= 2 * REQUESTS_KEPT {
                    self.one_of *= 2;
                    thin(&mut self.answered, REQUESTS_KEPT);
                }
            }
            Kind::Lost | Kind::NotSent => {
                if request.fate.kind() == Kind::Lost
                    && let Some(connection) = self.find(number)
                {
                    connection.has_loss = true;
                }
                // A client that waits for a server is refused thousands of times: a loss is kept before those.
                if self.failed.len() >= REQUESTS_KEPT {
                    self.failed.retain(|(_, kept)| kept.fate.kind() == Kind::Lost);
                }
                if self.failed.len() < REQUESTS_KEPT {
                    self.failed.push((number, request));
                }
            }
        }
    }

    pub(crate) fn merge(&mut self, other: &Recording) {
        self.connections.extend_from_slice(&other.connections);
        self.connections_seen += other.connections_seen;
        self.connections_one_of = self.connections_one_of.max(other.connections_one_of);
        self.answered.extend_from_slice(&other.answered);
        self.failed.extend_from_slice(&other.failed);
        self.requests_seen += other.requests_seen;
        self.latency.merge(&other.latency);
    }

    /// Adds everything to a trace, within the trace's bounds.
    pub(crate) fn pour_into(mut self, trace: &mut Trace) {
        self.sift_connections();
        self.thin_connections(CONNECTIONS_KEPT.saturating_sub(trace.connections.len()));
        let taken: usize = trace.connections.iter().map(|it| it.requests.len()).sum();
        let room = REQUESTS_KEPT.saturating_sub(taken);
        // Losses are the last to be left out.
        self.failed.sort_by_key(|(_, request)| (request.fate.kind() != Kind::Lost, request.sent));
        self.failed.truncate(room);
        let is_kept: HashMap<Number, usize> = places(&self.connections);
        self.answered.retain(|(number, _)| is_kept.contains_key(number));
        thin(&mut self.answered, room - self.failed.len());
        let mut kept = 0;
        for (number, request) in self.failed.into_iter().chain(self.answered) {
            if let Some(place) = is_kept.get(&number) {
                self.connections[*place].trace.requests.push(request);
                kept += 1;
            }
        }
        trace.requests_left_out += self.requests_seen - kept;
        trace.connections_left_out += self.connections_seen - self.connections.len() as u64;
        for mut connection in self.connections {
            connection.trace.requests.sort_by_key(|request| request.sent);
            trace.connections.push(connection.trace);
        }
        trace.latency.extend(self.latency.slots());
        trace.latency.sort_by_key(|slot| slot.from);
    }

    fn find(&mut self, number: Number) -> Option<&mut Connection> {
        let place = self.connections.binary_search_by_key(&number, |it| it.number).ok()?;
        self.connections.get_mut(place)
    }

    /// Leaves twice as many as a trace keeps at most, so that there is enough to choose from at the end.
    fn make_room(&mut self) {
        self.sift_connections();
        while self.connections.len() > 2 * CONNECTIONS_KEPT {
            self.connections_one_of *= 2;
            if self.sift_connections() == Sifted::Nothing {
                // Losses and open connections are left, and more of them than are shown.
                self.thin_connections(2 * CONNECTIONS_KEPT);
            }
        }
    }

    /// Keeps one of so many by their numbers, so that those of the beginning are as dense as those of the end.
    fn sift_connections(&mut self) -> Sifted {
        let (before, one_of) = (self.connections.len(), self.connections_one_of);
        self.connections.retain(|it| {
            let is_quiet = !it.has_loss && it.trace.end != ConnectionEnd::Open;
            !is_quiet || it.number.0.is_multiple_of(one_of)
        });
        self.forget_requests();
        if self.connections.len() < before { Sifted::Some } else { Sifted::Nothing }
    }

    /// Answered requests of connections that are not kept.
    fn forget_requests(&mut self) {
        let is_kept = places(&self.connections);
        self.answered.retain(|(number, _)| is_kept.contains_key(number));
    }

    /// Thins what nothing was lost on, and among it first what has ended: an open one has more to tell.
    fn thin_connections(&mut self, most: usize) {
        if self.connections.len() <= most {
            return;
        }
        let rank = |it: &Connection| match (it.has_loss, it.trace.end) {
            (true, _) => 0,
            (false, ConnectionEnd::Open) => 1,
            (false, ConnectionEnd::Refused) => 3,
            (false, _) => 2,
        };
        let mut kept = Vec::with_capacity(most);
        for wanted in 0..=3 {
            let mut of_rank: Vec<Connection> =
                self.connections.iter().filter(|it| rank(it) == wanted).cloned().collect();
            thin(&mut of_rank, most - kept.len());
            kept.append(&mut of_rank);
        }
        kept.sort_by_key(|it| it.number);
        self.connections = kept;
        self.forget_requests();
    }
}

#[derive(PartialEq, Eq)]
enum Sifted {
    Some,
    Nothing,
}

fn places(connections: &[Connection]) -> HashMap<Number, usize> {
    connections.iter().enumerate().map(|(place, it)| (it.number, place)).collect()
}

/// Keeps `most` of these, evenly spread.
fn thin<T>(all: &mut Vec<T>, most: usize) {
    let count = all.len();
    if count <= most {
        return;
    }
    let mut place = 0;
    all.retain(|_| {
        // The place of the next kept one moves on by count/most each time, without rounding errors.
        let keep = (place * most) / count != ((place + 1) * most) / count;
        place += 1;
        keep
    });
}

fn micros(time: Duration) -> Micros {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// How a connection ended on which a request met this fate.
pub(crate) fn end_after(fate: Fate) -> ConnectionEnd {
    match fate {
        Fate::ResetBeforeResponse | Fate::ResetMidResponse | Fate::StreamReset => {
            ConnectionEnd::Reset
        }
        Fate::EofBeforeResponse
        | Fate::Truncated
        | Fate::IdleCloseRace
        | Fate::ClosedBeforeSend
        | Fate::GoAwayExcluded => ConnectionEnd::ClosedByServer,
        Fate::Refused => ConnectionEnd::Refused,
        Fate::Answered
        | Fate::ConnectTimedOut
        | Fate::ConnectFailed
        | Fate::TimedOut
        | Fate::Http5xx
        | Fate::HttpOther
        | Fate::Malformed
        | Fate::Duplicated
        | Fate::Stale => ConnectionEnd::ClosedByTester,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(at: Micros, fate: Fate) -> RequestTrace {
        RequestTrace {
            intended: None,
            sent: at,
            first_byte: None,
            ended: at + 100,
            fate,
            status: None,
            generation: None,
        }
    }

    #[test]
    fn thinning_keeps_so_many_evenly() {
        for (count, most) in [(10, 3), (1_000, 999), (40_000, 20_000), (5, 5), (5, 9), (7, 0)] {
            let mut all: Vec<usize> = (0..count).collect();
            thin(&mut all, most);
            assert_eq!(all.len(), count.min(most));
            let widest = all.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            assert!(widest <= count.div_ceil(most.max(1)), "{count} to {most}: gap of {widest}");
        }
    }

    #[test]
    fn a_recording_is_bounded_and_keeps_every_loss() {
        let begun = Instant::now();
        let mut recording = Recording::new(begun, 1);
        let (mut sent, mut lost) = (0, 0);
        for connection in 0..3_000u64 {
            let number = recording.open(format!("client {connection}"), begun);
            for place in 0..100 {
                let is_lost = connection % 60 == 0 && place == 7;
                let fate = if is_lost { Fate::ResetBeforeResponse } else { Fate::Answered };
                recording.request(number, request(connection * 1_000 + place * 10, fate));
                (sent, lost) = (sent + 1, lost + u64::from(is_lost));
            }
            recording.close(number, ConnectionEnd::ClosedByServer);
        }
        let mut trace = Trace::default();
        recording.pour_into(&mut trace);
        let requests = || trace.connections.iter().flat_map(|it| &it.requests);
        assert_eq!(trace.connections.len(), CONNECTIONS_KEPT);
        assert!(requests().count() <= REQUESTS_KEPT);
        assert_eq!(requests().count() as u64 + trace.requests_left_out, sent);
        assert_eq!(trace.connections_left_out, 3_000 - CONNECTIONS_KEPT as u64);
        let kept_losses = requests().filter(|it| it.fate.kind() == Kind::Lost).count();
        assert_eq!(kept_losses as u64, lost);
        assert_eq!(trace.latency.iter().map(|slot| slot.answered).sum::<u64>(), sent - lost);
        // It is shown from the beginning to the end, and as densely here as there.
        let quiet = trace.connections.iter().filter(|it| !it.requests.is_empty());
        let early = quiet.filter(|it| it.requests[0].sent < 1_500_000).count();
        assert!((CONNECTIONS_KEPT / 3..2 * CONNECTIONS_KEPT / 3).contains(&early), "{early}");
        let opened = requests().filter(|it| it.fate == Fate::Answered).map(|it| it.sent);
        let (first, last) = (opened.clone().min().unwrap(), opened.max().unwrap());
        assert!(first < 300_000 && last > 2_900_000, "{first} to {last}");
    }

    #[test]
    fn a_flood_of_refusals_leaves_room_for_a_loss() {
        let mut recording = Recording::new(Instant::now(), 0);
        let number = recording.open("client 0".to_owned(), Instant::now());
        for _ in 0..3 * REQUESTS_KEPT {
            recording.request(number, request(0, Fate::Refused));
        }
        recording.request(number, request(1, Fate::TimedOut));
        let mut trace = Trace::default();
        recording.pour_into(&mut trace);
        let requests = &trace.connections[0].requests;
        assert!(requests.iter().any(|request| request.fate == Fate::TimedOut));
        assert!(requests.len() <= REQUESTS_KEPT);
    }
}
