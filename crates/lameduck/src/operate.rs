//! Asks a running service over its control socket: what `lameduck status`, `stop`, `upgrade` and `rollback` do.
//!
//! Synchronous on purpose: the answer is the result, not a receipt. A service that stops answering is noticed by the
//! end of the conversation, not by a time limit; each part of an answer is passed on as it comes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::exit;
use crate::generations::Place;
use crate::takeover::channel::{Came, Channel};
use crate::takeover::wire::{Command, Message};

pub use crate::takeover::wire::Reason;

/// How long a service may take to take in a command.
pub const ASK: Duration = Duration::from_secs(5);

/// How long an answer may take, all in all: longer than any takeover or grace period is meant to be.
pub const ANSWER: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a service that has told its end may take until its process is gone.
pub const GONE: Duration = Duration::from_secs(5);

/// How often a question follows the name when whoever was asked is gone.
pub const FOLLOW: u32 = 5;

/// What stands between the reason of a failure and the successor's last words.
pub(crate) const LAST_WORDS_FOLLOW: &str = "; its last words: ";

/// What a service can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// What each generation is doing, as JSON.
    Status,
    /// Stop gracefully; the answer is the report, and comes when the process is gone.
    Stop,
    /// Start the program anew and hand over to it; the answer is its process and generation, or why not.
    Upgrade,
    /// Take the service back from a successor that is still in probation.
    Rollback,
}

impl Verb {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Status => "status",
            Verb::Stop => "stop",
            Verb::Upgrade => "upgrade",
            Verb::Rollback => "rollback",
        }
    }

    pub(crate) fn of(word: &str) -> Option<Verb> {
        [Verb::Status, Verb::Stop, Verb::Upgrade, Verb::Rollback]
            .into_iter()
            .find(|verb| verb.word() == word)
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The exit code that a command line should end with.
    pub code: u8,
    /// All parts of the answer.
    pub text: String,
    /// Why an upgrade was refused or failed, for programs. A service of a version that says it in words alone is understood
    /// by these.
    pub reason: Option<Reason>,
}

/// No generation has this number.
const NOBODY: u32 = 0;

/// What one generation asks another for: to go on with its connections. They follow on the same conversation.
pub(crate) const ADOPT: &str = "adopt";

/// What one generation tells another: that a signal to upgrade came which is for it.
pub(crate) const RELOAD: &str = "reload";

/// An argument of an upgrade: it waits for one that is under way, and follows it, instead of being refused.
pub const QUEUE: &str = "queue";

/// An argument of an upgrade: it is answered with what comes of one that is under way.
pub(crate) const JOIN: &str = "join";

/// The answer to one that waited and is to be asked of the successor: a program that was put in place meanwhile may not be
/// the one that the upgrade under way had started.
pub(crate) const AGAIN: &str = "again";

impl Answer {
    /// A refusal's words, and the last lines that a failed successor wrote; these are empty where there are none.
    ///
    /// ```
    /// let text = "it exited with code 1; its last words: error: no such database\nhint: create it".to_owned();
    /// let answer = lameduck::operate::Answer { code: lameduck::exit::FAILED, text, reason: None };
    /// let (reason, last_words) = answer.words();
    /// assert_eq!(reason, "it exited with code 1");
    /// assert_eq!(last_words.lines().count(), 2);
    /// ```
    pub fn words(&self) -> (&str, &str) {
        words_of(&self.text)
    }
}

fn words_of(text: &str) -> (&str, &str) {
    text.split_once(LAST_WORDS_FOLLOW).unwrap_or((text, ""))
}

/// The reason that a service of before reasons were sent says in words.
fn reason_of(verb: Verb, code: u8, text: &str) -> Option<Reason> {
    const SAID: [(&str, Reason); 5] = [
        ("an upgrade is under way", Reason::AnotherStarting),
        ("as many older generations drain as may", Reason::TooManyGenerations),
        ("this generation is stopping", Reason::Stopping),
        ("has taken over: ask it", Reason::HandedOn),
        ("this generation has handed the service on", Reason::HandedOn),
    ];
    if verb != Verb::Upgrade || code == exit::OK {
        return None;
    }
    // What a successor wrote at its end says nothing about the refusal.
    let (words, _) = words_of(text);
    let said = SAID.iter().find(|(said, _)| words.contains(said));
    Some(said.map_or(Reason::Failed, |(_, reason)| *reason))
}

/// Whether the other end has left, or is on its way.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotFound
    )
}

/// The generations of the service whose control name is `control`, oldest first, each with a control socket of its own;
/// those that are gone are left out.
///
/// # Errors
///
/// When the path cannot be made absolute.
pub fn generations(control: &Path) -> Result<Vec<(u32, PathBuf)>, Error> {
    let place = Place::at(control);
    let place = place
        .map_err(|error| Error::io("ask the service at", control.display().to_string(), error))?;
    Ok(place.others(NOBODY))
}

/// Asks the service whose control socket is `control`.
///
/// An upgrade with the argument [`QUEUE`] waits for one that is under way, and is answered with what comes of the one that
/// begins after it: what lay at the program's path when this was called serves then, or something newer.
///
/// # Errors
///
/// When nothing answers there, or the service goes away in the middle of its answer.
pub fn ask(control: &Path, verb: Verb, arguments: &[String]) -> Result<Answer, Error> {
    let fail = |error| Error::io("ask the service at", control.display().to_string(), error);
    let answer = ask_who_serves(control, verb, arguments).map_err(fail)?;
    if verb == Verb::Upgrade && answer.code == exit::OK && answer.text == AGAIN {
        // Whatever the successor has begun by now began after we asked.
        return ask_who_serves(control, verb, &[JOIN.to_owned()]).map_err(fail);
    }
    Ok(answer)
}

/// A generation that leaves at this moment may have been asked and not have looked. When another has the name by then, it
/// is asked instead.
fn ask_who_serves(control: &Path, verb: Verb, arguments: &[String]) -> io::Result<Answer> {
    let mut left = FOLLOW;
    loop {
        let named = std::fs::read_link(control).ok();
        match ask_once(control, verb, arguments) {
            Err(error) if is_gone(&error) && left > 0 => {
                left -= 1;
                if std::fs::read_link(control).ok() == named {
                    return Err(error);
                }
            }
            answer => return answer,
        }
    }
}

fn ask_once(control: &Path, verb: Verb, arguments: &[String]) -> io::Result<Answer> {
    let channel = Channel::connect_within(control, ASK)?;
    let command =
        Message::Command(Command { verb: verb.word().to_owned(), arguments: arguments.to_vec() });
    channel.send_by(Instant::now() + ASK, &command, &[])?;
    let until = Instant::now() + ANSWER;
    let mut text = String::new();
    loop {
        match channel.receive_by(until)? {
            Came::Message(Message::Reply(reply), _) => {
                text.push_str(&reply.text);
                if reply.last {
                    if verb == Verb::Stop {
                        // The process closes its end by ending. One that does not is somebody else's to look after:
                        // the answer is known.
                        let _ = channel.receive_by(Instant::now() + GONE);
                    }
                    let reason = reply.reason.or_else(|| reason_of(verb, reply.code, &text));
                    return Ok(Answer { code: reply.code, text, reason });
                }
            }
            Came::Message(Message::Refuse(why), _) => {
                return Err(io::Error::other(why.to_string()));
            }
            Came::Message(message, _) => {
                let words = format!("it answered with {}", message.kind().name());
                return Err(io::Error::new(io::ErrorKind::InvalidData, words));
            }
            Came::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_service_that_sends_no_reason_are_understood() {
        for (text, reason) in [
            ("an upgrade is under way for 0.4 s (pid 9651)", Reason::AnotherStarting),
            ("as many older generations drain as may", Reason::TooManyGenerations),
            ("this generation is stopping", Reason::Stopping),
            ("generation 4 (pid 12) has taken over: ask it", Reason::HandedOn),
            ("it exited with code 1; its last words: this generation is stopping", Reason::Failed),
        ] {
            assert_eq!(reason_of(Verb::Upgrade, exit::FAILED, text), Some(reason), "{text}");
        }
        assert_eq!(reason_of(Verb::Upgrade, exit::OK, "{}"), None);
    }
}
