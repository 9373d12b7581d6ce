//! The scoreboard as one picture: a row for each server, a square for each case.

use std::fmt::Write;

use super::board::{Board, symbol};

const SQUARE: usize = 15;
const GAP: usize = 3;
const BETWEEN_GROUPS: usize = 12;
const NAMES: usize = 104;
const COUNTS: usize = 92;
const TOP: usize = 62;
const ROW: usize = 23;

/// Follows the reader's light or dark; the symbols tell the verdicts apart without either.
const STYLE: &str = "
.paper{fill:#fff}.ink{fill:#1c2024}.soft{fill:#5b636b}.on{fill:#fff}.PASS{fill:#1f7a4d}.WARN{fill:#9a6200}
.FAIL{fill:#c8321e}.INCONCLUSIVE{fill:#7346a8}.SKIP{fill:#e6e4de}.off{fill:#6b7279}
@media(prefers-color-scheme:dark){.paper{fill:#1b1f23}.ink{fill:#e7e9ea}.soft{fill:#9aa4ad}.on{fill:#14171a}
.PASS{fill:#56c08d}.WARN{fill:#e9b44c}.FAIL{fill:#ff7a62}.INCONCLUSIVE{fill:#c39df5}.SKIP{fill:#2b3137}.off{fill:#8b949c}}
text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;dominant-baseline:central}
.mark{font-size:10px;font-weight:700;text-anchor:middle}.name{font-size:13px;font-weight:600}
.group{font-size:11px;font-weight:600}.count{font-size:11px}";

// Writing to a string does not fail, here and below.
pub fn svg(board: &Board) -> String {
    let cases = board.cases();
    let mut places = Vec::new();
    let mut groups: Vec<(&str, usize)> = Vec::new();
    let mut x = NAMES;
    for case in &cases {
        if groups.last().is_none_or(|(group, _)| *group != case.group) {
            x += if groups.is_empty() { 0 } else { BETWEEN_GROUPS };
            groups.push((&case.group, x));
        }
        places.push(x);
        x += SQUARE + GAP;
    }
    let (width, height) = (x + COUNTS, TOP + board.rows.len() * ROW + 40);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Who passes which case of the conformance suite\"><style>{STYLE}</style>\
         <rect class=\"paper\" width=\"{width}\" height=\"{height}\" rx=\"10\"/>\n"
    );
    text(&mut out, "name ink", 16, 20, "Who passes which case");
    for (group, x) in &groups {
        text(&mut out, "group soft", *x, TOP - 16, group);
    }
    for (place, row) in board.rows.iter().enumerate() {
        let y = TOP + place * ROW;
        text(&mut out, "name ink", 16, y + SQUARE / 2, &row.name);
        for (case, x) in cases.iter().zip(&places) {
            let Some(cell) = row.cell(&case.id) else { continue };
            let verdict = cell.verdict();
            let told = escaped(&format!("{} {}: {verdict}: {}", cell.id, cell.title, cell.reason));
            let tone = if verdict == "SKIP" { "off" } else { "on" };
            let _ = writeln!(
                out,
                "<g><title>{told}</title><rect class=\"{verdict}\" x=\"{x}\" y=\"{y}\" width=\"{SQUARE}\" \
                 height=\"{SQUARE}\" rx=\"3\"/><text class=\"mark {tone}\" x=\"{}\" y=\"{}\">{}</text></g>",
                x + SQUARE / 2,
                y + SQUARE / 2 + 1,
                symbol(verdict)
            );
        }
        let judged = row.cells.len() - row.count("SKIP");
        let passed = format!("{} of {judged} pass", row.count("PASS"));
        text(&mut out, "count soft", x + 8, y + SQUARE / 2, &passed);
    }
    legend(&mut out, TOP + board.rows.len() * ROW + 14);
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String, y: usize) {
    let mut x = NAMES;
    for (verdict, told) in [
        ("PASS", "passes"),
        ("WARN", "a SHOULD not met"),
        ("FAIL", "a MUST not met"),
        ("INCONCLUSIVE", "not judged"),
        ("SKIP", "not applicable"),
    ] {
        let tone = if verdict == "SKIP" { "off" } else { "on" };
        let _ = writeln!(
            out,
            "<rect class=\"{verdict}\" x=\"{x}\" y=\"{y}\" width=\"{SQUARE}\" height=\"{SQUARE}\" rx=\"3\"/>\
             <text class=\"mark {tone}\" x=\"{}\" y=\"{}\">{}</text>",
            x + SQUARE / 2,
            y + SQUARE / 2 + 1,
            symbol(verdict)
        );
        text(out, "count soft", x + SQUARE + 6, y + SQUARE / 2, told);
        x += SQUARE + 30 + told.len() * 6;
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
