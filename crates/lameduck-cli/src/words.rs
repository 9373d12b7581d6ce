//! `@PATH` among the words of `lameduck serve`: the words in that file, one a line.
//!
//! An upgrade starts the program with the words that this process was started with, so a file of them is how a running
//! service gets another address or deadline: it is read at each start. Empty lines and lines that begin with `#` are
//! left out; nothing else is special, and a file names no further file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use arena::system;

use crate::complaint::Complaint;

/// A file of words larger than this is another file by mistake.
const WORDS_BYTES: u64 = 1 << 20;

/// The command line with the words of its files put in. Only `serve` takes them: what is tested by `verify` has words
/// of its own.
///
/// # Errors
///
/// Names a file that cannot be read.
pub fn expanded(given: Vec<OsString>) -> Result<Vec<OsString>, Complaint> {
    if given.get(1).is_none_or(|command| command != "serve") {
        return Ok(given);
    }
    let mut words = Vec::with_capacity(given.len());
    for word in given {
        match word.as_bytes().strip_prefix(b"@") {
            Some(path) => words.extend(read(Path::new(OsStr::from_bytes(path)))?),
            None => words.push(word),
        }
    }
    Ok(words)
}

fn read(path: &Path) -> Result<Vec<OsString>, Complaint> {
    let unusable = |why: &str| {
        Complaint::usage(
            format!("cannot read the flags in {}: {why}", path.display()),
            "write @PATH for a file with one word of the command line a line",
        )
    };
    // Counted while it is read: what is no plain file has no size.
    let read = File::open(path).and_then(|file| {
        let mut text = String::new();
        file.take(WORDS_BYTES + 1).read_to_string(&mut text).map(|_| text)
    });
    let text = read.map_err(|error| unusable(&system(&error)))?;
    if text.len() as u64 > WORDS_BYTES {
        return Err(unusable(&format!("it has more than {WORDS_BYTES} bytes")));
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.filter(|line| !line.starts_with('#')).map(OsString::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<OsString> {
        text.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_file_stands_for_the_words_in_it() {
        let path = std::env::temp_dir().join(format!("lameduck-words-{}", std::process::id()));
        std::fs::write(&path, "# where\n--listen\n\n  127.0.0.1:1 \n").unwrap();
        let file = format!("@{}", path.display());
        let given = words(&["lameduck", "serve", &file, "--grace", "1s"]);
        let expected = words(&["lameduck", "serve", "--listen", "127.0.0.1:1", "--grace", "1s"]);
        assert_eq!(expanded(given).unwrap(), expected);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn other_commands_keep_their_words() {
        let given = words(&["lameduck", "verify", "--", "server", "@file"]);
        assert_eq!(expanded(given.clone()).unwrap(), given);
    }

    /// It has no size, and no end.
    #[test]
    fn a_file_that_never_ends_is_given_up() {
        let complaint = expanded(words(&["lameduck", "serve", "@/dev/zero"])).unwrap_err();
        assert!(format!("{complaint:?}").contains("/dev/zero"), "{complaint:?}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let complaint = expanded(words(&["lameduck", "serve", "@/no/such/file"])).unwrap_err();
        assert!(format!("{complaint:?}").contains("/no/such/file"), "{complaint:?}");
    }
}
