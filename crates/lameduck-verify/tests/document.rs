//! The document that lists the cases says what the suite has: each case, and each that is not built, with its reason.

use lameduck_verify::cases;
use std::fmt::Write;
use std::path::Path;

const FROM: &str = "<!-- the cases, as the suite has them -->\n";
const TO: &str = "<!-- end of the cases -->\n";

fn listed() -> String {
    let mut out = String::new();
    for (group, about) in cases::groups() {
        writeln!(out, "### {group}: {about}\n").unwrap();
        writeln!(out, "| case | level | what | passes when | why |\n|---|---|---|---|---|")
            .unwrap();
        for case in cases::all().filter(|case| case.group() == group) {
            let text = |text: &str| text.replace('|', "\\|");
            let [title, criterion, why] = [case.title, case.criterion, case.why].map(text);
            let level = case.level.word();
            writeln!(out, "| {} | {level} | {title} | {criterion} | {why} |", case.id).unwrap();
        }
        out.push('\n');
    }
    out
}

/// With `UPDATE_EXPECT` set, as other tests of documents have it, the list is written anew.
#[test]
fn the_document_lists_every_case() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/verify.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let from = text.find(FROM).expect("the list begins with its mark") + FROM.len();
    let to = text.find(TO).expect("the list ends with its mark");
    let list = format!("\n{}", listed());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let text = format!("{}{list}{}", &text[..from], &text[to..]);
        std::fs::write(&path, text).unwrap();
    } else {
        let hint = "write it anew: UPDATE_EXPECT=1 cargo test -p lameduck-verify --test document";
        assert!(
            text[from..to] == list,
            "docs/verify.md lists other cases than the suite has; {hint}"
        );
    }
}

#[test]
fn what_is_named_as_not_built_is_not_built() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/verify.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("## What is not built\n").unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let named: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .filter(|id| id.contains('/'))
        .collect();
    assert!(named.contains(&"H3/1"), "{named:?}");
    assert_eq!(named.iter().find(|id| cases::find(id).is_some()), None);
}
