//! Asks a successor that says it is ready for one answer, before it gets the service.
//!
//! The request goes over a socket of its own, and not to the port that clients use: there the generation in service would
//! answer as well. What is a good answer is decided by [`judge`]; how long it may take, by
//! [`predecessor`](crate::takeover::predecessor).

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Bytes of an answer's first line at most.
const FIRST_LINE: usize = 1024;

/// Bytes of an answer that are read; one that is longer is good if it began well.
const ENOUGH: usize = 64 * 1024;

/// What of something that is no answer is quoted, in characters.
const QUOTED: usize = 40;

/// Our end, in the runtime that is entered, and the successor's.
pub(super) fn sockets() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, OwnedFd::from(theirs)))
}

/// Whether `path` is answered with 2xx, or what happened instead: words that fit behind "the successor". Whoever asks
/// bounds the time.
pub(super) async fn ask(mut socket: UnixStream, path: &str) -> Result<(), String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nuser-agent: lameduck-probe\r\nconnection: close\r\n\r\n"
    );
    let failed = |error: io::Error| format!("could not be asked ({error}) when it came");
    let mut answer = Vec::new();
    if let Err(error) = socket.write_all(request.as_bytes()).await {
        // It closed its end unread: whatever it said before that tells more.
        if error.kind() != io::ErrorKind::BrokenPipe {
            return Err(failed(error));
        }
    }
    loop {
        let mut bytes = [0; 4096];
        let read = match socket.read(&mut bytes).await {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(failed(error)),
        };
        answer.extend_from_slice(&bytes[..read]);
        let whole = read == 0 || answer.len() >= ENOUGH;
        if let Some(verdict) = judge(&answer, whole) {
            return verdict;
        }
    }
}

/// What these bytes are as an answer; nothing as long as more may change it. `whole` says that no more come.
fn judge(answer: &[u8], whole: bool) -> Option<Result<(), String>> {
    const BEGINS: &[u8] = b"HTTP/1.";
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let has_ended = line.len() < answer.len();
    let common = line.len().min(BEGINS.len());
    if line[..common] != BEGINS[..common] || line.len() > FIRST_LINE {
        return Some(Err(format!("answered with what is no HTTP ({})", quoted(answer))));
    }
    match (has_ended, whole) {
        (true, _) => {}
        (false, true) if answer.is_empty() => {
            return Some(Err("closed the connection without an answer".to_owned()));
        }
        (false, true) => return Some(Err(format!("answered {} and no more", quoted(answer)))),
        (false, false) => return None,
    }
    let text = String::from_utf8_lossy(line);
    let status = text.trim_end().split_once(' ').map_or("", |(_, status)| status);
    let code = status.split(' ').next().filter(|code| code.len() == 3);
    match code.and_then(|code| code.parse::<u16>().ok()) {
        Some(200..=299) if whole && !has_head(answer) => {
            Some(Err(format!("answered {} and ended within the head", quoted(status.as_bytes()))))
        }
        // Said before the answer: look behind it.
        Some(100..=199) => match end_of_head(answer) {
            Some(end) => judge(&answer[end..], whole),
            None => whole.then(|| Err("ended before its answer".to_owned())),
        },
        Some(200..=299) => whole.then_some(Ok(())),
        Some(_) => Some(Err(format!("answered {}", quoted(status.as_bytes())))),
        None => Some(Err(format!("answered with what is no HTTP ({})", quoted(answer)))),
    }
}

fn has_head(answer: &[u8]) -> bool {
    end_of_head(answer).is_some()
}

fn end_of_head(answer: &[u8]) -> Option<usize> {
    let end = b"\r\n\r\n";
    answer.windows(end.len()).position(|window| window == end).map(|at| at + end.len())
}

fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * QUOTED)]).into_owned();
    let cut: String = text.chars().take(QUOTED).collect();
    cut.trim_end().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, good: Result<(), &str>) {
        let told = judge(answer.as_bytes(), true);
        assert_eq!(told, Some(good.map_err(str::to_owned)), "for {answer:?}");
        // In any two pieces it comes to the same: nothing is decided too early.
        for at in 0..answer.len() {
            let early = judge(&answer.as_bytes()[..at], false);
            let early_is_right = early.is_none()
                || early.as_ref().is_some_and(|early| early.is_err() && good.is_err());
            assert!(early_is_right, "{answer:?} cut at {at} is {early:?}");
        }
    }

    #[test]
    fn an_answer_is_good_when_it_is_2xx_and_has_ended() {
        check("HTTP/1.1 200 OK\r\n\r\nhello", Ok(()));
        check("HTTP/1.1 204 No Content\r\na: b\r\n\r\n", Ok(()));
        check("HTTP/1.0 299\r\n\r\n", Ok(()));
        check("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(()));
        assert_eq!(judge(b"HTTP/1.1 200 OK\r\n\r\nhel", false), None, "the rest may never come");
    }

    #[test]
    fn anything_else_is_told_as_what_it_is() {
        check(
            "HTTP/1.1 500 Internal Server Error\r\n\r\n",
            Err("answered 500 Internal Server Error"),
        );
        check("HTTP/1.1 301 Moved Permanently\r\n\r\n", Err("answered 301 Moved Permanently"));
        check("HTTP/1.1 404\r\n\r\n", Err("answered 404"));
        check("", Err("closed the connection without an answer"));
        check("HTTP/1.1 2", Err("answered HTTP/1.1 2 and no more"));
        check("HTTP/1.1 200 OK\r\na: b", Err("answered 200 OK and ended within the head"));
        check("HTTP/1.1 100 Continue\r\n\r\n", Err("closed the connection without an answer"));
        check("HTTP/1.1 100 Continue\r\n", Err("ended before its answer"));
        check("HTTP/1.1 2000 OK\r\n\r\n", Err("answered with what is no HTTP (HTTP/1.1 2000 OK)"));
    }

    #[test]
    fn nonsense_is_quoted_without_what_moves_a_cursor() {
        check("\u{1b}[2Jhello\n", Err("answered with what is no HTTP (\\u{1b}[2Jhello)"));
        check("HTTP/2 200\r\n\r\n", Err("answered with what is no HTTP (HTTP/2 200)"));
        let long = format!("HTTP/1.1 {}", "x".repeat(FIRST_LINE));
        assert!(judge(long.as_bytes(), false).is_some_and(|verdict| verdict.is_err()));
    }
}
