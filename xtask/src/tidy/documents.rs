//! Documents that must stay true of the tree.

use std::collections::HashSet;

use super::Fault;
use super::tree::{File, Tree};

const MANIFEST: &str = "Cargo.toml";
const CHANGELOG: &str = "CHANGELOG.md";
const LOSSES: &str = "docs/losses.md";

pub fn changelog_has_the_version(tree: &Tree) -> Vec<Fault> {
    let Some(version) = tree.file(MANIFEST).and_then(|file| workspace_version(&file.text)) else {
        return vec![Fault::fails(MANIFEST, 0, "[workspace.package] has no version")];
    };
    let Some(changelog) = tree.file(CHANGELOG) else {
        return vec![Fault::fails(CHANGELOG, 0, "is not there")];
    };
    let has = changelog.text.lines().filter(|line| line.starts_with("## ")).any(|line| {
        line.split(|c: char| c.is_whitespace() || "[]()".contains(c)).any(|word| word == version)
    });
    if has {
        return Vec::new();
    }
    vec![Fault::fails(CHANGELOG, 0, format!("no heading `## {version}`, the workspace's version"))]
}

fn workspace_version(manifest: &str) -> Option<String> {
    let section = manifest.split_once("[workspace.package]")?.1;
    let section = section.split("\n[").next()?;
    let line = section.lines().find(|line| line.trim_start().starts_with("version"))?;
    Some(line.split('"').nth(1)?.to_owned())
}

/// In a table of the catalogue every `name` in a column whose heading says "test" is a function
/// of the tree.
pub fn losses_name_real_tests(tree: &Tree) -> Vec<Fault> {
    let Some(losses) = tree.file(LOSSES) else {
        return vec![Fault::warns(LOSSES, 0, "is not there: no row could be checked")];
    };
    let functions: HashSet<String> =
        tree.rust().flat_map(|(_, code)| code.functions()).map(|function| function.name).collect();
    let mut faults = Vec::new();
    let mut column = None;
    for (at, line) in losses.text.lines().enumerate() {
        let Some(cells) = cells(line) else {
            column = None;
            continue;
        };
        let Some(test) = column else {
            // The first row of a table is its heading.
            column = Some(cells.iter().position(|cell| cell.to_lowercase().contains("test")));
            continue;
        };
        let Some(cell) = test.and_then(|test| cells.get(test)) else { continue };
        for name in backticked(cell) {
            let function = name.rsplit("::").next().unwrap_or(name);
            if !functions.contains(function) {
                let text = format!("row {}: no test `{name}` in the tree", cells[0]);
                faults.push(Fault::fails(LOSSES, at + 1, text));
            }
        }
    }
    faults
}

fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

fn backticked(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

pub fn links_lead_somewhere(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, target) in links(&file.text) {
            let path = target.split('#').next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if is_elsewhere || path.is_empty() {
                continue;
            }
            match resolve(file, path) {
                Some(place) if tree.has(&place) => {}
                _ => faults.push(Fault::fails(&file.path, line, format!("no file `{path}`"))),
            }
        }
    }
    faults
}

/// Targets of `[text](target)` outside code, with their lines.
fn links(markdown: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_fence = false;
    for (at, line) in markdown.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        if in_fence {
            continue;
        }
        // Every second piece between backticks is code.
        for piece in line.split('`').step_by(2) {
            for (start, _) in piece.match_indices("](") {
                let rest = &piece[start + 2..];
                if let Some(end) = rest.find(')') {
                    let target = rest[..end].split_whitespace().next().unwrap_or_default();
                    found.push((at + 1, target));
                }
            }
        }
    }
    found
}

/// A link's path from the top of the workspace; nothing if it leaves the workspace.
fn resolve(file: &File, path: &str) -> Option<String> {
    let mut segments: Vec<&str> = file.path.split('/').collect();
    segments.pop();
    if path.starts_with('/') {
        segments.clear();
    }
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop()?;
            }
            name => segments.push(name),
        }
    }
    Some(segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str =
        "[workspace]\nresolver = \"3\"\n[workspace.package]\nversion = \"1.2.3\"\n";

    #[test]
    fn a_changelog_without_the_version_fails() {
        let tree = |changelog| Tree::of(&[(MANIFEST, WORKSPACE), (CHANGELOG, changelog)]);
        assert!(changelog_has_the_version(&tree("# Changes\n## 1.2.3 (unreleased)\n")).is_empty());
        assert!(changelog_has_the_version(&tree("## [1.2.3] - today\n")).is_empty());
        assert_eq!(changelog_has_the_version(&tree("## 1.2.30\n1.2.3\n")).len(), 1);
        assert_eq!(changelog_has_the_version(&Tree::of(&[(MANIFEST, WORKSPACE)])).len(), 1);
    }

    #[test]
    fn a_row_that_names_a_test_nobody_wrote_fails() {
        let losses = "| # | the loss | the test |\n|---|---|---|\n\
                      | 1 | `SO_X` | `a_queue_is_answered` |\n| 2 | b | `file::gone` |\n| 3 | c | – |\n";
        let tree = Tree::of(&[(LOSSES, losses), ("t.rs", "fn a_queue_is_answered() {}")]);
        let faults = losses_name_real_tests(&tree);
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].line, 4);
        assert!(faults[0].text.contains("row 2"), "{}", faults[0].text);
    }

    #[test]
    fn a_dead_link_fails() {
        let text = "[a](docs/a.md#part) [b](../b.md) [c](https://x.y/z) [d](#here)\n\
                    `[e](none)`\n```\n[f](none)\n```\n[g](docs) ![h](none.png \"title\")\n";
        let tree = Tree::of(&[("README.md", text), ("docs/a.md", "")]);
        let faults = links_lead_somewhere(&tree);
        let places: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(places, [1, 6]);
        assert!(faults[0].text.contains("../b.md"));
        assert!(faults[1].text.contains("none.png"));
    }
}
