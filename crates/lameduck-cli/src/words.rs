//! `@PATH` among the words of `lameduck serve`: the words in that file, one a line.
//!
//! An upgrade starts the program with the words that this process was started with, so a file of them is how a running
//! service gets another address or deadline: it is read at each start. Empty lines and lines that begin with `#` are
//! left out; nothing else is special, and a file names no further file.

use std::ffi::{OsStr, OsString};
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
    let size = std::fs::metadata(path).map_err(|error| unusable(&system(&error)))?.len();
    if size > WORDS_BYTES {
        return Err(unusable(&format!("it has {size} bytes, more than {WORDS_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unusable(&system(&error)))?;
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

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let complaint = expanded(words(&["lameduck", "serve", "@/no/such/file"])).unwrap_err();
        assert!(format!("{complaint:?}").contains("/no/such/file"), "{complaint:?}");
    }
}
