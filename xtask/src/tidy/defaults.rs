//! The library's table of defaults is true: every row has the value of its constant, and a module with one row has a
//! row for each wait it names.

use std::collections::HashSet;
use std::time::Duration;

use super::Fault;
use super::tree::Tree;

const LIBRARY: &str = "crates/lameduck/src/";
const FRONT_DOOR: &str = "crates/lameduck/src/lib.rs";

/// One `pub const NAME: TYPE = VALUE;` of a number or a duration.
struct Constant {
    /// As the table names it: `http::HEAD`.
    name: String,
    path: String,
    line: usize,
    /// As the table writes it: `800 ms`, `256`.
    value: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Bounds a wait: it must be in the table.
    Duration,
    Number,
}

impl Constant {
    /// Whether a row means this one: by its full name, or as its module's parents show it (`lifecycle::LINGER` for
    /// `lifecycle::builder::LINGER`).
    fn is_called(&self, name: &str) -> bool {
        let (shown_by, own) = name.rsplit_once("::").unwrap_or_default();
        let (module, last) = self.name.rsplit_once("::").unwrap_or_default();
        let below = module.strip_prefix(shown_by);
        last == own && below.is_some_and(|below| below.is_empty() || below.starts_with("::"))
    }
}

/// One row of the table: the name in backticks and the cell behind it.
struct Row<'text> {
    line: usize,
    name: &'text str,
    value: &'text str,
}

pub fn check(tree: &Tree) -> Vec<Fault> {
    let Some(front) = tree.file(FRONT_DOOR) else { return Vec::new() };
    let rows = rows(&front.text);
    let constants = constants(tree);
    let mut faults = Vec::new();
    for row in &rows {
        match constants.iter().find(|constant| constant.is_called(row.name)) {
            None => {
                let text = format!("the table names `{}`, which is no constant", row.name);
                faults.push(Fault::fails(FRONT_DOOR, row.line, text));
            }
            Some(constant) if constant.value != row.value => {
                let text = format!("`{}` is {}, not {}", row.name, constant.value, row.value);
                faults.push(Fault::fails(FRONT_DOOR, row.line, text));
            }
            Some(_) => {}
        }
    }
    let told: HashSet<&str> = rows.iter().map(|row| top(row.name)).collect();
    for constant in constants.iter().filter(|constant| constant.kind == Kind::Duration) {
        let Constant { name, value, .. } = constant;
        if told.contains(top(name)) && !rows.iter().any(|row| constant.is_called(row.name)) {
            let text = format!("not in the table of defaults: add `| [`{name}`] | {value} | … |`");
            faults.push(Fault::fails(&constant.path, constant.line, text));
        }
    }
    faults
}

/// `http` of `http::wire::SIZE`.
fn top(name: &str) -> &str {
    name.split("::").next().unwrap_or(name)
}

/// The rows of the table whose heading begins with `name | value`.
fn rows(text: &str) -> Vec<Row<'_>> {
    let mut found = Vec::new();
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        let Some(line) = line.strip_prefix("//! |") else {
            inside = false;
            continue;
        };
        let mut cells = line.split('|').map(str::trim);
        let (name, value) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        if (name, value) == ("name", "value") {
            inside = true;
        } else if inside && let Some(name) = name.split('`').nth(1) {
            found.push(Row { line: at + 1, name, value });
        }
    }
    found
}

fn constants(tree: &Tree) -> Vec<Constant> {
    let mut found = Vec::new();
    for (file, code) in tree.rust() {
        let Some(module) = file.path.strip_prefix(LIBRARY) else { continue };
        let module = module.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        for (at, line) in code.without_tests().lines().enumerate() {
            let Some((name, kind, value)) = constant(line) else { continue };
            let name = format!("{module}::{name}");
            found.push(Constant { name, path: file.path.clone(), line: at + 1, value, kind });
        }
    }
    found
}

fn constant(line: &str) -> Option<(&str, Kind, String)> {
    let (name, rest) = line.strip_prefix("pub const ")?.split_once(": ")?;
    let (kind, value) = rest.strip_suffix(';')?.split_once(" = ")?;
    let (kind, value) = match kind {
        "Duration" => (Kind::Duration, words(duration(value)?)),
        "usize" | "u32" | "u64" => (Kind::Number, product(value)?.to_string()),
        _ => return None,
    };
    Some((name, kind, value))
}

fn duration(value: &str) -> Option<Duration> {
    let call = value.strip_prefix("Duration::from_")?.strip_suffix(')')?;
    match call.split_once('(')? {
        ("secs", number) => product(number).map(Duration::from_secs),
        ("millis", number) => product(number).map(Duration::from_millis),
        _ => None,
    }
}

/// `30 * 1_000`
fn product(text: &str) -> Option<u64> {
    text.split('*').map(|number| number.trim().replace('_', "").parse::<u64>().ok()).product()
}

fn words(duration: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match duration.as_secs() {
        days if days >= DAY && days % DAY == 0 => format!("{} days", days / DAY),
        seconds if duration.subsec_millis() == 0 => format!("{seconds} s"),
        _ => format!("{} ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(table: &str, source: &str) -> Vec<String> {
        let front = format!("//! | name | value | what |\n//! |---|---|---|\n{table}\n");
        let tree = Tree::of(&[(FRONT_DOOR, &front), ("crates/lameduck/src/a/b.rs", source)]);
        check(&tree).into_iter().map(|fault| fault.text).collect()
    }

    #[test]
    fn a_row_that_tells_the_truth_passes() {
        let table = "//! | [`a::b::WAIT`](a/constant.WAIT.html) | 800 ms | a wait |\n\
                     //! | `a::b::LONG` | 10950 days | a wait |\n\
                     //! | `a::b::SECOND` | 1 s | a wait |\n//! | `a::b::MOST` | 1000 | a count |\n\
                     //! | `a::b::BYTES` | 65536 | a count |";
        let source = "pub const WAIT: Duration = Duration::from_millis(800);\n\
                      pub const LONG: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);\n\
                      pub const SECOND: Duration = Duration::from_secs(1);\n\
                      pub const MOST: usize = 1_000;\npub const BYTES: u64 = 64 * 1024;\n\
                      pub const OTHER: &str = \"x\";\nconst OWN: Duration = Duration::ZERO;\n";
        assert_eq!(faults(table, source), [""; 0]);
    }

    #[test]
    fn a_wrong_a_missing_and_an_invented_row_fail() {
        let source = "pub const WAIT: Duration = Duration::from_millis(800);\n";
        let wrong = faults("//! | `a::b::WAIT` | 900 ms | a wait |", source);
        assert_eq!(wrong, ["`a::b::WAIT` is 800 ms, not 900 ms"]);
        let two = format!("{source}pub const MORE: Duration = Duration::from_secs(2);\n");
        let missing = faults("//! | `a::b::MORE` | 2 s | a wait |", &two);
        assert!(missing[0].ends_with("add `| [`a::b::WAIT`] | 800 ms | … |`"), "{missing:?}");
        let invented = faults("//! | `a::b::NONE` | 1 s | a wait |", "");
        assert_eq!(invented, ["the table names `a::b::NONE`, which is no constant"]);
    }

    #[test]
    fn a_row_may_name_the_module_that_shows_a_constant() {
        let source = "pub const WAIT: Duration = Duration::from_secs(1);\n";
        assert_eq!(faults("//! | `a::WAIT` | 1 s | a wait |", source), [""; 0]);
        assert_eq!(faults("//! | `b::WAIT` | 1 s | a wait |", source).len(), 1);
    }

    #[test]
    fn a_module_that_no_row_names_is_not_asked_for_rows() {
        assert_eq!(faults("", "pub const WAIT: Duration = Duration::from_secs(1);\n"), [""; 0]);
    }

    #[test]
    fn other_tables_are_none_of_its_business() {
        let front = "//! | module | what |\n//! |---|---|\n//! | `a` | b |\n";
        assert!(check(&Tree::of(&[(FRONT_DOOR, front)])).is_empty());
    }
}
