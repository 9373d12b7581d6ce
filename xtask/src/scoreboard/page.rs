//! The section on conformance, and its place among the other results.

use std::fmt::Write;

use super::board::{Board, Row, symbol};

const HEADING: &str = "## Conformance";

/// The whole document with the section in the place of the one before, or at its end.
pub fn put_in(document: &str, section: &str) -> String {
    if document.trim().is_empty() {
        return format!(
            "# Results\n\nWhat was measured, each with the command that measures it.\n\n{section}"
        );
    }
    let Some(from) = heading(document, HEADING) else {
        return format!("{}\n\n{section}", document.trim_end());
    };
    let rest = &document[from + HEADING.len()..];
    let after = rest.find("\n## ").map_or("", |at| &rest[at..]);
    let (before, section, after) = (&document[..from], section.trim_end(), after.trim_end());
    let gap = if after.is_empty() { "" } else { "\n" };
    format!("{before}{section}\n{gap}{}", after.trim_start_matches('\n')).trim_end().to_owned()
        + "\n"
}

fn heading(document: &str, heading: &str) -> Option<usize> {
    let mut at = 0;
    document.split_inclusive('\n').find_map(|line| {
        let here = at;
        at += line.len();
        (line.trim_end() == heading).then_some(here)
    })
}

// Writing to a string does not fail, here and below.
pub fn section(board: &Board) -> String {
    let mut out = format!("{HEADING}\n\n");
    let first = &board.rows[0];
    let _ = writeln!(
        out,
        "`cargo xtask scoreboard` runs the suite of `lameduck verify` against every server it has an adapter for, at \
         the adapters' settings, and writes this section. Run on {} with {} on {}, {} processors, loopback. A MUST \
         that is not met is ✕, a SHOULD that is not met !, a case that could not be judged ?, and one whose needs the \
         server does not have ·. Where a case was run several times the worst counts, and one that did not end the same \
         way each time is named below.\n",
        date(first.began),
        first.tester,
        first.kernel,
        first.processors
    );
    let mut groups: Vec<String> = board.cases().iter().map(|case| case.group.clone()).collect();
    groups.dedup();
    let _ = writeln!(out, "Groups in this run: {}.\n", groups.join(", "));
    let _ = writeln!(out, "![Who passes which case](scoreboard.svg)\n");
    servers(&mut out, board);
    cases(&mut out, board);
    for row in &board.rows {
        seen(&mut out, row);
    }
    out
}

fn servers(out: &mut String, board: &Board) {
    let _ = writeln!(
        out,
        "| server | version | pass | warn | fail | inconclusive | skipped | runs | one took |"
    );
    let _ = writeln!(out, "|---|---|---:|---:|---:|---:|---:|---:|---:|");
    for row in &board.rows {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.0} s |",
            row.name,
            cell(&row.version),
            row.count("PASS"),
            row.count("WARN"),
            row.count("FAIL"),
            row.count("INCONCLUSIVE"),
            row.count("SKIP"),
            row.runs(),
            row.took / row.runs() as f64
        );
    }
    for (name, why) in &board.missing {
        let _ = writeln!(out, "| {name} | not run: {} | | | | | | | |", cell(why));
    }
    out.push('\n');
}

fn cases(out: &mut String, board: &Board) {
    let names: Vec<&str> = board.rows.iter().map(|row| row.name.as_str()).collect();
    let _ = writeln!(out, "| case | | {} |", names.join(" | "));
    let _ = writeln!(out, "|---|---|{}", ":-:|".repeat(names.len()));
    for case in board.cases() {
        let level = if case.must { "" } else { " (should)" };
        let marks: Vec<&str> = board
            .rows
            .iter()
            .map(|row| row.cell(&case.id).map_or("", |cell| symbol(cell.verdict())))
            .collect();
        let title = cell(&case.title);
        let _ = writeln!(out, "| {} | {title}{level} | {} |", case.id, marks.join(" | "));
    }
    out.push('\n');
}

/// What was seen of one server in the cases it did not pass.
fn seen(out: &mut String, row: &Row) {
    let troubles: Vec<_> =
        row.cells.iter().filter(|it| !matches!(it.verdict(), "PASS" | "SKIP")).collect();
    let _ = writeln!(out, "### {}\n", row.name);
    let _ = writeln!(out, "{}.\n", row.sentence);
    for it in &troubles {
        let _ = writeln!(out, "- {} {}: {}", it.id, it.verdict(), cell(&it.reason));
    }
    for line in row.unstable() {
        let _ = writeln!(out, "- not the same each time: {}", cell(&line));
    }
    if !troubles.is_empty() {
        out.push('\n');
    }
}

/// Text that breaks no table.
fn cell(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "\\|").replace('<', "&lt;")
}

/// `2026-11-25`, by the rules of the Gregorian calendar (UTC).
fn date(seconds: u64) -> String {
    let mut days = seconds / 86_400;
    let mut year = 1970;
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let length = |year| if is_leap(year) { 366 } else { 365 };
    while days >= length(year) {
        days -= length(year);
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_section_is_replaced() {
        let new = "## Conformance\n\nnew\n";
        let document = "# Results\n\n## Upgrades\n\nkept\n\n## Conformance\n\nold\n\n### x\n\n## Stops\n\nkept too\n";
        let once = put_in(document, new);
        assert_eq!(
            once,
            "# Results\n\n## Upgrades\n\nkept\n\n## Conformance\n\nnew\n\n## Stops\n\nkept too\n"
        );
        assert_eq!(put_in(&once, new), once);
        assert!(put_in("", new).ends_with(new));
        assert!(put_in("# Results\n", new).starts_with("# Results\n\n## Conformance"));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_795_564_800), "2026-11-25");
    }
}
