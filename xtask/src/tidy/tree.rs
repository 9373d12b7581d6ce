//! The files the laws look at.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::shell;
use crate::tidy::code::Code;

/// A larger file is no text anyone wrote; its content is not read.
const MOST_BYTES: u64 = 2 * 1024 * 1024;

/// All files git knows or would add, with the text of those that are text.
pub struct Tree {
    pub files: Vec<File>,
    paths: BTreeSet<String>,
}

/// One text file.
pub struct File {
    /// From the top of the workspace, with `/`.
    pub path: String,
    pub text: String,
    /// For Rust files: the text without comments, strings and characters.
    pub code: Option<Code>,
}

impl Tree {
    /// What is tracked, and what is new and not ignored: a fault is found before it is committed.
    pub fn of_tracked_files() -> Result<Self> {
        let listed = shell::read(&mut shell::command(
            "git",
            &["ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        ))?;
        let root = shell::root();
        let mut files = Vec::new();
        let mut paths = BTreeSet::new();
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            let place = root.join(path);
            // A file deleted but not yet staged as such is still listed.
            let Ok(metadata) = std::fs::metadata(&place) else { continue };
            paths.insert(path.to_owned());
            if !metadata.is_file() || metadata.len() > MOST_BYTES {
                continue;
            }
            let bytes = std::fs::read(&place).with_context(|| format!("read {path}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(File::new(path, text));
            }
        }
        Ok(Self { files, paths })
    }

    /// A tree made up for a test.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        Self {
            files: files.iter().map(|(path, text)| File::new(path, (*text).to_owned())).collect(),
            paths: files.iter().map(|(path, _)| (*path).to_owned()).collect(),
        }
    }

    /// Rust files with their code.
    pub fn rust(&self) -> impl Iterator<Item = (&File, &Code)> {
        self.files.iter().filter_map(|file| Some((file, file.code.as_ref()?)))
    }

    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether a file, or a directory with a file in it, is there.
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let below = format!("{path}/");
        path.is_empty()
            || self.paths.contains(path)
            || self.paths.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
    }
}

impl File {
    fn new(path: &str, text: String) -> Self {
        let code = path.ends_with(".rs").then(|| match is_test_module(path) {
            true => Code::of_tests(&text),
            false => Code::of(&text),
        });
        Self { path: path.to_owned(), text, code }
    }
}

/// `src/phase/tests.rs` and what is below `src/phase/tests/`: what `#[cfg(test)] mod tests;` names.
fn is_test_module(path: &str) -> bool {
    let inside = path.split_once("/src/").map_or("", |(_, inside)| inside);
    inside.split('/').any(|segment| segment == "tests" || segment == "tests.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_tests_throughout() {
        let code = "fn f() {}";
        let tree = Tree::of(&[
            ("crates/x/src/phase/tests.rs", code),
            ("crates/x/src/phase/tests/orders.rs", code),
            ("crates/x/src/phase.rs", code),
            ("crates/x/tests/it.rs", code),
        ]);
        let lengths: Vec<usize> = tree.rust().map(|(_, code)| code.without_tests().len()).collect();
        assert_eq!(lengths, [0, 0, code.len(), code.len()]);
    }
}
