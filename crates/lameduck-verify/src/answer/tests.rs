use super::*;

/// Feeds `text` whole, then byte by byte: both must agree. Returns status, body bytes, completeness, the
/// announced end, and how many bytes were left over.
fn check(text: &str, expected: Result<(u16, u64, bool, Persistence, usize), Malformed>) {
    for piece in [text.len(), 1, 3] {
        let mut answer = Answer::default();
        let mut used = 0;
        let mut result = Ok(());
        for part in text.as_bytes().chunks(piece.max(1)) {
            match answer.feed(part) {
                Ok(taken) => used += taken,
                Err(malformed) => {
                    result = Err(malformed);
                    break;
                }
            }
            if answer.is_complete() {
                break;
            }
        }
        let seen = result.map(|()| {
            let head = answer.head().expect("a head was read");
            let left = text.len() - used;
            (head.status, answer.body_bytes(), answer.is_complete(), head.persistence, left)
        });
        assert_eq!(seen, expected, "in pieces of {piece}: {text:?}");
    }
}

use Persistence::{Close, Keep};

#[test]
fn an_answer_ends_where_its_framing_says() {
    check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Ok((200, 2, true, Keep, 0)));
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP", Ok((200, 2, true, Keep, 4)));
    check("HTTP/1.1 204 No Content\r\n\r\n", Ok((204, 0, true, Keep, 0)));
    check("HTTP/1.1 200 OK\nContent-Length: 1\n\nx", Ok((200, 1, true, Keep, 0)));
    check(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nt: 1\r\n\r\n!",
        Ok((200, 13, true, Keep, 1)),
    );
}

#[test]
fn an_answer_is_incomplete_until_its_last_byte() {
    check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", Ok((200, 2, false, Keep, 0)));
    check(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        Ok((200, 2, false, Keep, 0)),
    );
    check("HTTP/1.1 200 OK\r\n\r\nuntil the end", Ok((200, 13, false, Close, 0)));
}

#[test]
fn an_answer_without_length_ends_with_the_file_and_no_other_does() {
    let mut open = Answer::default();
    open.feed(b"HTTP/1.1 200 OK\r\n\r\nhello").unwrap();
    assert!(open.end_of_file());
    let mut short = Answer::default();
    short.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello").unwrap();
    assert!(!short.end_of_file());
    assert!(!Answer::default().end_of_file());
}

#[test]
fn an_answer_in_another_coding_than_chunks_ends_with_the_file_whatever_its_length_says() {
    check(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\ncontent-length: 1\r\n\r\nabc",
        Ok((200, 3, false, Close, 0)),
    );
}

#[test]
fn the_announced_end_of_the_connection_is_seen() {
    check("HTTP/1.1 204 x\r\nConnection: Close\r\n\r\n", Ok((204, 0, true, Close, 0)));
    check("HTTP/1.1 204 x\r\nconnection: upgrade, close\r\n\r\n", Ok((204, 0, true, Close, 0)));
    check("HTTP/1.0 204 x\r\n\r\n", Ok((204, 0, true, Close, 0)));
    check("HTTP/1.0 204 x\r\nconnection: keep-alive\r\n\r\n", Ok((204, 0, true, Keep, 0)));
}

#[test]
fn interim_answers_are_passed_over() {
    check(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
        Ok((500, 0, true, Keep, 0)),
    );
}

#[test]
fn what_is_not_an_answer_is_named() {
    check("SSH-2.0-x", Err(Malformed("it does not begin with HTTP/1.")));
    check("HTTP/1.1 OK\r\n\r\n", Err(Malformed("the status line has no status")));
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        Err(Malformed("content-length is not a number")),
    );
    check("HTTP/1.1 2000 OK\r\n\r\n", Err(Malformed("the status line has no status")));
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n";
    check(twice, Err(Malformed("two content-lengths differ")));
    let signed = "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n";
    check(signed, Err(Malformed("content-length is not a number")));
    check("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Err(Malformed("a header field has no colon")));
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    check(&format!("{chunked}\r\n"), Err(Malformed("a chunk has no size")));
    check(&format!("{chunked}1\r\nab"), Err(Malformed("a chunk is longer than its size")));
    check(&format!("{chunked}fffffffffffffffff\r\n"), Err(Malformed("a chunk size is too large")));
}

#[test]
fn a_head_without_end_is_given_up_at_its_limit() {
    let mut answer = Answer::default();
    let mut fed = answer.feed(b"HTTP/1.1 200 OK\r\n").map(|_| ());
    let kilobyte = "x-0123456: 789\r\n".repeat(64);
    for _ in 0..HEAD_LIMIT / kilobyte.len() {
        fed = fed.and_then(|()| answer.feed(kilobyte.as_bytes()).map(|_| ()));
    }
    assert_eq!(fed, Err(Malformed("the head is longer than 64 KiB")));
}
