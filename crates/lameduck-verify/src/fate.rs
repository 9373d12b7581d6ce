//! What became of a request, and the count of each fate.
//!
//! **Invariants**
//!
//! 1. A request has exactly one fate, and fates are never merged.
//! 2. A request is *lost* when bytes of it may have reached the server and it was not answered in full with
//!    2xx. What was certainly not sent is not lost: its client may safely try again.

use serde_json::{Map, Value, json};

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// Answered in full with 2xx.
    Answered,

    /// Not sent: the connection was refused (or the path of the Unix socket is gone).
    Refused,
    /// Not sent: the connection was not established in time.
    ConnectTimedOut,
    /// Not sent: the connection could not be made for another reason, often this machine's own (ports, files).
    ConnectFailed,
    /// Not sent: a kept connection turned out to be closed before a byte of the request was written.
    ClosedBeforeSend,
    /// Not sent: a GOAWAY or `REFUSED_STREAM` says that the stream was not processed.
    GoAwayExcluded,

    /// Lost: the connection was reset and no byte of an answer had come.
    ResetBeforeResponse,
    /// Lost: the connection was reset within the answer.
    ResetMidResponse,
    /// Lost: clean end of file and no byte of an answer had come.
    EofBeforeResponse,
    /// Lost: clean end of file within the answer.
    Truncated,
    /// Lost: no whole answer in time.
    TimedOut,
    /// Lost: the server answered 5xx.
    Http5xx,
    /// Lost: the server answered neither 2xx nor 5xx.
    HttpOther,
    /// Lost: what came is not an answer.
    Malformed,
    /// Lost: `RST_STREAM` with a reason that does not promise that the stream was not processed.
    StreamReset,
    /// Lost: a reused connection was closed or reset while a new request was on its way, before any byte of
    /// its answer.
    IdleCloseRace,
    /// Lost: the server executed it twice.
    Duplicated,
    /// Lost: an old generation answered it after the time that old generations have.
    Stale,
}

/// Which of the three outcomes a [`Fate`] belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The server did its work.
    Answered,
    /// The server never had the request.
    NotSent,
    /// The server may have had the request, and its client has no answer.
    Lost,
}

impl Fate {
    /// Every fate, in the order of declaration (a test checks that none is missing).
    pub const ALL: [Fate; 18] = [
        Fate::Answered,
        Fate::Refused,
        Fate::ConnectTimedOut,
        Fate::ConnectFailed,
        Fate::ClosedBeforeSend,
        Fate::GoAwayExcluded,
        Fate::ResetBeforeResponse,
        Fate::ResetMidResponse,
        Fate::EofBeforeResponse,
        Fate::Truncated,
        Fate::TimedOut,
        Fate::Http5xx,
        Fate::HttpOther,
        Fate::Malformed,
        Fate::StreamReset,
        Fate::IdleCloseRace,
        Fate::Duplicated,
        Fate::Stale,
    ];

    /// The name in reports, as in `RESET_BEFORE_RESPONSE`.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Answered => "ANSWERED",
            Fate::Refused => "REFUSED",
            Fate::ConnectTimedOut => "CONNECT_TIMEOUT",
            Fate::ConnectFailed => "CONNECT_FAILED",
            Fate::ClosedBeforeSend => "CLOSED_BEFORE_SEND",
            Fate::GoAwayExcluded => "GOAWAY_EXCLUDED",
            Fate::ResetBeforeResponse => "RESET_BEFORE_RESPONSE",
            Fate::ResetMidResponse => "RESET_MID_RESPONSE",
            Fate::EofBeforeResponse => "EOF_BEFORE_RESPONSE",
            Fate::Truncated => "TRUNCATED",
            Fate::TimedOut => "TIMEOUT",
            Fate::Http5xx => "HTTP_5XX",
            Fate::HttpOther => "HTTP_OTHER",
            Fate::Malformed => "MALFORMED",
            Fate::StreamReset => "STREAM_RESET",
            Fate::IdleCloseRace => "IDLE_CLOSE_RACE",
            Fate::Duplicated => "DUPLICATED",
            Fate::Stale => "STALE",
        }
    }

    /// In words for people, as in `reset before the answer`.
    pub fn words(self) -> &'static str {
        match self {
            Fate::Answered => "answered",
            Fate::Refused => "connection refused",
            Fate::ConnectTimedOut => "not connected in time",
            Fate::ConnectFailed => "could not connect",
            Fate::ClosedBeforeSend => "closed before it was sent",
            Fate::GoAwayExcluded => "excluded by GOAWAY",
            Fate::ResetBeforeResponse => "reset before the answer",
            Fate::ResetMidResponse => "reset within the answer",
            Fate::EofBeforeResponse => "closed before the answer",
            Fate::Truncated => "answer cut short",
            Fate::TimedOut => "no answer in time",
            Fate::Http5xx => "answered 5xx",
            Fate::HttpOther => "answered neither 2xx nor 5xx",
            Fate::Malformed => "answer not understood",
            Fate::StreamReset => "stream reset",
            Fate::IdleCloseRace => "closed while a new request was on its way",
            Fate::Duplicated => "executed twice",
            Fate::Stale => "answered by an old generation",
        }
    }

    /// Whether a client notices it as a failure: it is lost, or no connection could be made.
    pub(crate) fn is_failure(self) -> bool {
        let is_unreached =
            matches!(self, Fate::Refused | Fate::ConnectTimedOut | Fate::ConnectFailed);
        is_unreached || self.kind() == Kind::Lost
    }

    /// Answered, not sent or lost.
    pub fn kind(self) -> Kind {
        match self {
            Fate::Answered => Kind::Answered,
            Fate::Refused
            | Fate::ConnectTimedOut
            | Fate::ConnectFailed
            | Fate::ClosedBeforeSend
            | Fate::GoAwayExcluded => Kind::NotSent,
            Fate::ResetBeforeResponse
            | Fate::ResetMidResponse
            | Fate::EofBeforeResponse
            | Fate::Truncated
            | Fate::TimedOut
            | Fate::Http5xx
            | Fate::HttpOther
            | Fate::Malformed
            | Fate::StreamReset
            | Fate::IdleCloseRace
            | Fate::Duplicated
            | Fate::Stale => Kind::Lost,
        }
    }

    /// The fate of a request whose answer came in full with `status`.
    pub fn of_status(status: u16) -> Fate {
        match status {
            200..=299 => Fate::Answered,
            500..=599 => Fate::Http5xx,
            _ => Fate::HttpOther,
        }
    }
}

/// How many requests met each fate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: [u64; Fate::ALL.len()],
}

impl Tally {
    /// Counts one more request.
    pub fn record(&mut self, fate: Fate) {
        self.counts[fate as usize] += 1;
    }

    /// Adds what another client counted.
    pub fn merge(&mut self, other: &Tally) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
    }

    /// How many met this fate.
    pub fn count(&self, fate: Fate) -> u64 {
        self.counts[fate as usize]
    }

    /// Requests of which a byte may have reached the server.
    pub fn sent(&self) -> u64 {
        self.answered() + self.lost()
    }

    /// Answered in full with 2xx.
    pub fn answered(&self) -> u64 {
        self.count(Fate::Answered)
    }

    /// Attempts of which certainly nothing was processed. A client that waits for a server counts one for
    /// each attempt, so the size of this number says little.
    pub fn not_sent(&self) -> u64 {
        self.total(Kind::NotSent)
    }

    /// Everything that was sent and not answered in full with 2xx.
    pub fn lost(&self) -> u64 {
        self.total(Kind::Lost)
    }

    /// What a client notices as a failure: everything lost, and every connection that could not be made.
    pub fn failures(&self) -> u64 {
        let failures = Fate::ALL.into_iter().filter(|fate| fate.is_failure());
        failures.map(|fate| self.count(fate)).sum()
    }

    /// The failures by name, as in `12 RESET_BEFORE_RESPONSE, 3 REFUSED`.
    pub fn failures_text(&self) -> String {
        let each = Fate::ALL.into_iter().filter(|fate| self.count(*fate) > 0 && fate.is_failure());
        let each: Vec<String> =
            each.map(|fate| format!("{} {}", self.count(fate), fate.name())).collect();
        if each.is_empty() { "nothing lost".to_owned() } else { each.join(", ") }
    }

    /// The fates of one kind that were met, with their counts.
    pub fn met(&self, kind: Kind) -> impl Iterator<Item = (Fate, u64)> + '_ {
        Fate::ALL
            .into_iter()
            .filter(move |fate| fate.kind() == kind)
            .map(|fate| (fate, self.count(fate)))
            .filter(|(_, count)| *count > 0)
    }

    /// `{"sent", "answered", "not_sent", "not_sent_why": {…}, "lost": {…}, "lost_total"}`.
    pub fn to_json(&self) -> Value {
        json!({
            "sent": self.sent(),
            "answered": self.answered(),
            "not_sent": self.not_sent(),
            "not_sent_why": self.by_name(Kind::NotSent),
            "lost": self.by_name(Kind::Lost),
            "lost_total": self.lost(),
        })
    }

    fn total(&self, kind: Kind) -> u64 {
        self.met(kind).map(|(_, count)| count).sum()
    }

    fn by_name(&self, kind: Kind) -> Map<String, Value> {
        self.met(kind).map(|(fate, count)| (fate.name().to_owned(), count.into())).collect()
    }
}

impl FromIterator<Fate> for Tally {
    fn from_iter<I: IntoIterator<Item = Fate>>(fates: I) -> Tally {
        let mut tally = Tally::default();
        fates.into_iter().for_each(|fate| tally.record(fate));
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_fates_is_in_order_and_their_names_differ() {
        for (place, fate) in Fate::ALL.into_iter().enumerate() {
            assert_eq!(fate as usize, place, "{fate:?}");
            assert!(Fate::ALL[..place].iter().all(|earlier| earlier.name() != fate.name()));
        }
        // The last variant is the last of the list, so none is missing from it.
        assert_eq!(Fate::Stale as usize + 1, Fate::ALL.len());
    }

    #[test]
    fn each_request_is_counted_once_and_in_one_kind() {
        let tally: Tally = Fate::ALL.into_iter().collect();
        assert_eq!((tally.answered(), tally.not_sent(), tally.lost()), (1, 5, 12));
        assert_eq!(tally.sent(), 13);
    }

    #[test]
    fn tallies_merge_by_class() {
        let mut sum: Tally = [Fate::Answered, Fate::Truncated].into_iter().collect();
        sum.merge(&[Fate::Truncated, Fate::Refused].into_iter().collect());
        let json = sum.to_json();
        assert_eq!(json["lost"], json!({"TRUNCATED": 2}));
        assert_eq!(json["not_sent_why"], json!({"REFUSED": 1}));
        assert_eq!(json["lost_total"], 2);
        assert_eq!(json["sent"], 3);
    }
}
