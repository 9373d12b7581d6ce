//! Names that fit everything and so say nothing.

use super::Fault;
use super::code;
use super::tree::Tree;

const BANNED: &[(&str, &str)] = &[
    ("manager", "say what it does to what: it owns, starts, closes, counts"),
    ("util", "the thing belongs to the module whose subject it is"),
    ("utils", "the thing belongs to the module whose subject it is"),
    ("common", "name what the users have in common"),
    ("helper", "name what it does"),
    ("helpers", "name what they do"),
    ("misc", "each thing has a subject"),
];

/// After these words a name is given.
const NAMING: &[&str] = &["struct", "enum", "trait", "type", "mod", "union"];

pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in &tree.files {
        for segment in file.path.split('/') {
            let stem = segment.split('.').next().unwrap_or(segment);
            report(&mut faults, &file.path, 0, stem);
        }
    }
    for (file, code) in tree.rust() {
        for (line, name) in names(code.all()) {
            report(&mut faults, &file.path, line, name);
        }
    }
    faults
}

fn report(faults: &mut Vec<Fault>, path: &str, line: usize, name: &str) {
    for part in parts(name) {
        if let Some((word, instead)) = BANNED.iter().find(|(word, _)| *word == part) {
            faults.push(Fault::fails(path, line, format!("`{name}` says `{word}`: {instead}")));
        }
    }
}

/// Names of types and modules with their lines.
fn names(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, line) in code.lines().enumerate() {
        let mut words = code::words(line).peekable();
        while let Some(word) = words.next() {
            if NAMING.contains(&word)
                && let Some(name) = words.peek()
            {
                found.push((at + 1, *name));
            }
        }
    }
    found
}

/// `WorkManager`, `work_manager` and `work-manager` are all `work` and `manager`.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut previous_is_lower = false;
    for c in name.chars() {
        let begins = !c.is_alphanumeric() || (c.is_uppercase() && previous_is_lower);
        if begins {
            parts.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(part) = parts.last_mut()
        {
            part.extend(c.to_lowercase());
        }
        previous_is_lower = c.is_lowercase();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_word_in_a_file_a_type_or_a_module_fails() {
        for (path, text) in [
            ("src/utils.rs", ""),
            ("tests/common/mod.rs", ""),
            ("src/a.rs", "pub struct ConnectionManager;"),
            ("src/a.rs", "enum Misc {}"),
            ("src/a.rs", "mod test_helper;"),
        ] {
            assert_eq!(check(&Tree::of(&[(path, text)])).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn other_names_and_other_uses_of_the_words_pass() {
        let text = "struct Community; fn f() { let common = 1; } // a manager";
        assert!(check(&Tree::of(&[("src/utility_belt.rs", text)])).is_empty());
    }
}
