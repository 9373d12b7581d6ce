//! How long files and functions may be. Tests at the end of a file are not counted: a thorough
//! test is no reason to split what it tests.

use super::tree::Tree;
use super::{Fault, Grade};

/// From here on a file probably has two subjects.
const FILE_WARNS: usize = 500;
/// Beyond this it certainly has.
const FILE_FAILS: usize = 800;
/// Two screens: nobody sees such a function at once.
const FUNCTION_FAILS: usize = 100;

pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (file, code) in tree.rust() {
        let lines = code.without_tests().lines().count();
        if lines > FILE_WARNS {
            let grade = if lines > FILE_FAILS { Grade::Fails } else { Grade::Warns };
            let text = format!(
                "{lines} lines before its tests (looked at from {FILE_WARNS}, refused above {FILE_FAILS})"
            );
            faults.push(Fault { grade, ..Fault::fails(&file.path, 0, text) });
        }
        for function in code.functions() {
            if function.lines > FUNCTION_FAILS {
                let text = format!(
                    "`fn {}` has {} lines, {FUNCTION_FAILS} are the most",
                    function.name, function.lines
                );
                faults.push(Fault::fails(&file.path, function.first_line, text));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_warns_then_fails_and_its_tests_do_not_count() {
        let fine =
            format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(400), "\n".repeat(900));
        assert!(check(&Tree::of(&[("a.rs", &fine)])).is_empty());
        let long = "\n".repeat(FILE_WARNS + 1);
        let faults = check(&Tree::of(&[("a.rs", &long)]));
        assert_eq!(faults[0].grade, Grade::Warns);
        let longer = "\n".repeat(FILE_FAILS + 1);
        let faults = check(&Tree::of(&[("a.rs", &longer)]));
        assert_eq!(faults[0].grade, Grade::Fails);
    }

    #[test]
    fn a_function_of_more_than_two_screens_fails() {
        let text =
            format!("fn short() {{}}\nfn long() {{\n{}}}\n", "    x();\n".repeat(FUNCTION_FAILS));
        let faults = check(&Tree::of(&[("a.rs", &text)]));
        assert_eq!(faults.len(), 1);
        assert_eq!((faults[0].line, faults[0].grade), (2, Grade::Fails));
    }
}
