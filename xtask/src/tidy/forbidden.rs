//! What may stand nowhere, or in one file only.

use super::Fault;
use super::code;
use super::tree::Tree;

/// The one file in which the lint is allowed.
const UNSAFE_FILE: &str = "crates/lameduck/src/sys.rs";

/// Who may ask for the time of day, and why it does no harm there when that jumps.
const TIME_OF_DAY: &[(&str, &str)] = &[
    ("crates/lameduck/src/log.rs", "a line of the log says when; nothing is decided by it"),
    (
        "crates/lameduck/src/tickets.rs",
        "the keys of session tickets move between processes, which share no other clock; a jump costs whole handshakes",
    ),
];

/// Macros that say "not finished" or "look here".
const UNFINISHED_MACROS: &[&str] = &["todo", "unimplemented", "dbg"];

/// First directories of paths that exist on one machine and not on the next.
const MACHINE_DIRECTORIES: &[&str] = &["work", "root", "home", "Users"];

pub fn unsafe_in_one_file(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (file, code) in tree.rust().filter(|(file, _)| file.path != UNSAFE_FILE) {
        for (line, word) in code.words() {
            if word == "unsafe" || word == "unsafe_code" {
                let text = format!("`{word}` may stand in {UNSAFE_FILE} only");
                faults.push(Fault::fails(&file.path, line, text));
            }
        }
    }
    faults
}

/// What waits or expires goes by the clock that never jumps.
pub fn time_of_day_in_few_files(tree: &Tree) -> Vec<Fault> {
    let may = |path: &str| TIME_OF_DAY.iter().any(|(file, _)| *file == path);
    let mut faults = Vec::new();
    let ours = |path: &str| path.starts_with("crates/lameduck/src/") && !may(path);
    for (file, code) in tree.rust().filter(|(file, _)| ours(&file.path)) {
        for (line, word) in code.words() {
            if ["SystemTime", "UNIX_EPOCH", "CLOCK_REALTIME", "Realtime"].contains(&word) {
                let text = format!("`{word}` jumps when somebody sets the clock: use `Instant`");
                faults.push(Fault::fails(&file.path, line, text));
            }
        }
    }
    faults
}

pub fn unfinished(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (file, code) in tree.rust() {
        for (at, line) in code.all().lines().enumerate() {
            for name in UNFINISHED_MACROS {
                if calls_macro(line, name) {
                    let text = format!("`{name}!` is not for the tree");
                    faults.push(Fault::fails(&file.path, at + 1, text));
                }
            }
            if line.contains("#[ignore") {
                let text = "a test that does not run proves nothing: mend it or delete it";
                faults.push(Fault::fails(&file.path, at + 1, text));
            }
        }
    }
    faults
}

fn calls_macro(line: &str, name: &str) -> bool {
    let call = format!("{name}!");
    line.match_indices(&call)
        .any(|(at, _)| !line[..at].chars().next_back().is_some_and(code::is_word))
}

pub fn machine_paths(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in &tree.files {
        for (at, line) in file.text.lines().enumerate() {
            if let Some(path) = MACHINE_DIRECTORIES.iter().find_map(|name| machine_path(line, name))
            {
                let text = format!("`{path}` is a path of one machine");
                faults.push(Fault::fails(&file.path, at + 1, text));
            }
        }
    }
    faults
}

/// The path that begins at the root of the file system with this directory, up to its end.
fn machine_path<'line>(line: &'line str, directory: &str) -> Option<&'line str> {
    let start = format!("/{directory}/");
    let (at, _) = line.match_indices(&start).find(|(at, _)| {
        let before = line[..*at].chars().next_back();
        // `crates/x/src/work/` and `https://host/home/` go on from something.
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '}' | '~'))
    })?;
    let rest = &line[at..];
    let end = rest.find(|c: char| c.is_whitespace() || "\"'`)>,".contains(c));
    Some(&rest[..end.unwrap_or(rest.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_outside_its_file_fails_and_talk_of_it_does_not() {
        let bad = Tree::of(&[("crates/lameduck/src/listener.rs", "fn f() { unsafe { g() } }")]);
        assert_eq!(unsafe_in_one_file(&bad).len(), 1);
        let allowed = Tree::of(&[("src/a.rs", "#![allow(unsafe_code)]")]);
        assert_eq!(unsafe_in_one_file(&allowed).len(), 1);
        let good = Tree::of(&[
            (UNSAFE_FILE, "fn f() { unsafe { g() } }"),
            ("src/b.rs", "// unsafe\nconst WORD: &str = \"unsafe\";"),
        ]);
        assert!(unsafe_in_one_file(&good).is_empty());
    }

    #[test]
    fn a_wait_by_the_time_of_day_fails_in_the_library() {
        for word in ["SystemTime::now()", "UNIX_EPOCH", "ClockId::Realtime"] {
            let text = format!("fn f() {{ g({word}) }}");
            let bad = Tree::of(&[("crates/lameduck/src/phase.rs", &text)]);
            assert_eq!(time_of_day_in_few_files(&bad).len(), 1, "{word}");
            let mut files = vec![("crates/arena/src/a.rs", text.as_str())];
            files.extend(TIME_OF_DAY.iter().map(|(path, _)| (*path, text.as_str())));
            assert!(time_of_day_in_few_files(&Tree::of(&files)).is_empty(), "{word}");
        }
        let talk = "// SystemTime jumps\nuse std::time::Instant;";
        let good = Tree::of(&[("crates/lameduck/src/phase.rs", talk)]);
        assert!(time_of_day_in_few_files(&good).is_empty());
    }

    #[test]
    fn unfinished_code_and_ignored_tests_fail() {
        for text in [
            "fn f() { todo!() }",
            "fn f() { unimplemented!(\"x\") }",
            "#[test]\n#[ignore]\nfn t() {}",
        ] {
            assert_eq!(unfinished(&Tree::of(&[("src/a.rs", text)])).len(), 1, "{text}");
        }
        assert_eq!(unfinished(&Tree::of(&[("a.rs", "#[ignore = \"slow\"] fn t() {}")])).len(), 1);
        let good = "// todo!\nconst A: &str = \"#[ignore]\"; my_todo!();";
        assert!(unfinished(&Tree::of(&[("src/a.rs", good)])).is_empty());
    }

    #[test]
    fn a_path_of_one_machine_fails_in_any_file() {
        for directory in MACHINE_DIRECTORIES {
            let line = format!("see `/{directory}/someone/project`");
            let faults = machine_paths(&Tree::of(&[("README.md", &line)]));
            assert_eq!(faults.len(), 1, "{line}");
        }
        let good = "crates/x/src/work/mod.rs https://example.org/home/page /usr/share/doc";
        assert!(machine_paths(&Tree::of(&[("README.md", good)])).is_empty());
    }
}
