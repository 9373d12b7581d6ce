//! The scoreboard as one picture: above, how many cases each server passes; below, a square for each case and server,
//! the groups one after the other in bands as wide as the page.

use std::fmt::Write;

use super::board::{Board, Cell, Row, symbol};

const WIDTH: usize = 980;
const MARGIN: usize = 20;
/// The column of the servers' names.
const NAMES: usize = 92;
const SQUARE: usize = 14;
const GAP: usize = 3;
const BETWEEN_GROUPS: usize = 16;
/// Room for a group's name over a group of one case.
const NARROWEST: usize = 30;
const TOP: usize = 92;
const ROW: usize = 19;
/// A bar of the summary, and what stands beside it.
const BAR: usize = 560;
/// Over the squares of a band: the group's name and the numbers of its cases.
const HEADS: usize = 36;

/// What counts, the best first.
const JUDGED: [&str; 4] = ["PASS", "WARN", "FAIL", "INCONCLUSIVE"];

/// Follows the reader's light or dark; the symbols tell the verdicts apart without either.
const STYLE: &str = "
.paper{fill:#fff}.ink{fill:#1c2024}.soft{fill:#5b636b}.on{fill:#fff}.PASS{fill:#1f7a4d}.WARN{fill:#b57400}
.FAIL{fill:#c8321e}.INCONCLUSIVE{fill:#7346a8}.SKIP{fill:#e9e7e1}.off{fill:#8a9096}
@media(prefers-color-scheme:dark){.paper{fill:#15191d}.ink{fill:#e7e9ea}.soft{fill:#9aa4ad}.on{fill:#101316}
.PASS{fill:#4fb583}.WARN{fill:#e9b44c}.FAIL{fill:#ff7a62}.INCONCLUSIVE{fill:#c39df5}.SKIP{fill:#272d33}.off{fill:#6d767e}}
text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;dominant-baseline:central}
.title{font-size:17px;font-weight:700}.mark{font-size:9px;font-weight:700;text-anchor:middle}
.name{font-size:12px;font-weight:600}.group{font-size:11px;font-weight:700}.count{font-size:11px}.about{font-weight:400}
.number{font-size:8px;text-anchor:middle}.inside{font-size:10px;font-weight:700;text-anchor:middle}";

/// A group of cases and how wide it is drawn.
struct Group<'a> {
    name: &'a str,
    cases: Vec<&'a Cell>,
}

impl Group<'_> {
    fn width(&self) -> usize {
        (self.cases.len() * (SQUARE + GAP) - GAP).max(NARROWEST)
    }
}

// Writing to a string does not fail, here and below.
pub fn svg(board: &Board) -> String {
    let bands = bands(board);
    let rows = board.rows.len() * ROW;
    let first = TOP + rows + 30;
    let band = HEADS + rows + 18;
    let height = first + bands.len() * band + 8;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Who passes which case of the conformance suite\"><style>{STYLE}</style>\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\" rx=\"10\"/>\n"
    );
    text(&mut out, "title ink", MARGIN, 26, "Who stops and upgrades without losing anything");
    let told = format!("{} cases of lameduck verify, each server as it comes", board.cases().len());
    text(&mut out, "count soft", MARGIN, 46, &told);
    legend(&mut out, 66);
    for (place, row) in board.rows.iter().enumerate() {
        summary(&mut out, row, TOP + place * ROW);
    }
    for (place, groups) in bands.iter().enumerate() {
        draw_band(&mut out, board, groups, first + place * band);
    }
    out.push_str("</svg>\n");
    out
}

/// The groups in their order, as many in a band as fit.
fn bands(board: &Board) -> Vec<Vec<Group<'_>>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for case in board.cases() {
        match groups.last_mut().filter(|group| group.name == case.group) {
            Some(group) => group.cases.push(case),
            None => groups.push(Group { name: &case.group, cases: vec![case] }),
        }
    }
    let room = WIDTH - 2 * MARGIN - NAMES;
    let mut bands: Vec<Vec<Group<'_>>> = Vec::new();
    let mut used = room;
    for group in groups {
        let needed = group.width() + BETWEEN_GROUPS;
        if used + needed > room + BETWEEN_GROUPS || bands.is_empty() {
            bands.push(Vec::new());
            used = 0;
        }
        used += needed;
        bands.last_mut().expect("one was pushed").push(group);
    }
    bands
}

/// A bar: what it passes of what could be judged.
fn summary(out: &mut String, row: &Row, y: usize) {
    let judged: usize = JUDGED.iter().map(|verdict| row.count(verdict)).sum();
    text(out, "name ink", MARGIN, y + SQUARE / 2, &row.name);
    let mut x = MARGIN + NAMES;
    for verdict in JUDGED {
        let count = row.count(verdict);
        let width = BAR * count / judged.max(1);
        if count > 0 {
            let _ = writeln!(
                out,
                "<rect class=\"{verdict}\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{SQUARE}\" rx=\"2\"/>",
                width.saturating_sub(2).max(1)
            );
        }
        // A number needs as much room as two digits take.
        if width >= 18 {
            let middle = x + width / 2 - 1;
            text(out, "inside on", middle, y + SQUARE / 2 + 1, &count.to_string());
        }
        x += width;
    }
    let share = 100 * row.count("PASS") / judged.max(1);
    let version = short(&row.version);
    let told =
        format!("{share} % of {judged}{}{version}", if version.is_empty() { "" } else { " · " });
    text(out, "count soft", MARGIN + NAMES + BAR + 10, y + SQUARE / 2, &told);
}

/// As much of a version as there is room for.
fn short(version: &str) -> String {
    const ROOM: usize = 34;
    match version.char_indices().nth(ROOM) {
        None => version.to_owned(),
        Some((end, _)) => {
            let cut = &version[..end];
            format!("{} …", cut.rsplit_once(' ').map_or(cut, |(words, _)| words))
        }
    }
}

fn draw_band(out: &mut String, board: &Board, groups: &[Group<'_>], y: usize) {
    for (place, row) in board.rows.iter().enumerate() {
        text(out, "name ink", MARGIN, y + HEADS + place * ROW + SQUARE / 2, &row.name);
    }
    let mut x = MARGIN + NAMES;
    for group in groups {
        let _ = writeln!(
            out,
            "<text class=\"group ink\" x=\"{x}\" y=\"{}\">{}<tspan class=\"soft about\" dx=\"6\">{}</tspan></text>",
            y + 10,
            escaped(group.name),
            about(group.name)
        );
        for (column, case) in group.cases.iter().enumerate() {
            let x = x + column * (SQUARE + GAP);
            let number = case.id.rsplit('/').next().unwrap_or_default();
            text(out, "number soft", x + SQUARE / 2, y + 26, number);
            for (place, row) in board.rows.iter().enumerate() {
                if let Some(cell) = row.cell(&case.id) {
                    square(out, x, y + HEADS + place * ROW, cell);
                }
            }
        }
        x += group.width() + BETWEEN_GROUPS;
    }
}

/// What a group is about, for those that are wide enough to say it.
fn about(group: &str) -> &'static str {
    match group {
        "SIG" => "signals, exit, deadline",
        "ACC" => "the accept queue",
        "H1" => "HTTP/1.1",
        "H2" => "HTTP/2 and gRPC",
        "RDY" => "readiness",
        "DRN" => "what remains",
        "UPG" => "upgrades",
        _ => "",
    }
}

fn square(out: &mut String, x: usize, y: usize, cell: &Cell) {
    let verdict = cell.verdict();
    let told = escaped(&format!("{} {}: {verdict}: {}", cell.id, cell.title, cell.reason));
    let _ = writeln!(out, "<g><title>{told}</title>{}</g>", marked(x, y, verdict));
}

/// A square with its symbol.
fn marked(x: usize, y: usize, verdict: &str) -> String {
    let tone = if verdict == "SKIP" { "off" } else { "on" };
    format!(
        "<rect class=\"{verdict}\" x=\"{x}\" y=\"{y}\" width=\"{SQUARE}\" height=\"{SQUARE}\" rx=\"3\"/>\
         <text class=\"mark {tone}\" x=\"{}\" y=\"{}\">{}</text>",
        x + SQUARE / 2,
        y + SQUARE / 2 + 1,
        symbol(verdict)
    )
}

fn legend(out: &mut String, y: usize) {
    let mut x = MARGIN;
    for (verdict, told) in [
        ("PASS", "passes"),
        ("WARN", "a SHOULD not met"),
        ("FAIL", "a MUST not met"),
        ("INCONCLUSIVE", "not judged"),
        ("SKIP", "it has no such thing"),
    ] {
        let _ = writeln!(out, "{}", marked(x, y, verdict));
        text(out, "count soft", x + SQUARE + 6, y + SQUARE / 2, told);
        x += SQUARE + 28 + told.len() * 6;
    }
}

fn text(out: &mut String, class: &str, x: usize, y: usize, words: &str) {
    let words = escaped(words);
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>");
}

fn escaped(text: &str) -> String {
    let plain: String = text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
