//! A run as one HTML file that needs nothing else: no network, no other file, and a script of its own.
//!
//! Each case that recorded what its connections did has a timeline: a bar for every connection, a mark for every
//! request in a colour and a shape of its fate, lines for signals and phases, the accept queue, and latency over time.

mod data;
mod glyph;
mod latency;

use super::summary::{Summary, amount, short};
use crate::fate::{Fate, Kind};
use crate::trace::{Mark, Trace};
use crate::verdict::{CaseResult, SuiteReport, Verdict};
use glyph::Glyph;
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// Nothing outside the file may be asked for, whatever a target's words contain.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      img-src data:; base-uri 'none'; form-action 'none'";

/// So many losses of a case are listed one by one; the timeline shows the others.
const LOSSES_LISTED: usize = 100;

/// The whole file.
pub fn text(report: &SuiteReport) -> String {
    let summary = Summary::from(report);
    let sentence = summary.sentence();
    let budget = data::Budget::of(report);
    // One that is open shows what a timeline is: the first that went wrong, else the first that has one.
    let open = report
        .results
        .iter()
        .position(|it| it.trace.is_some() && is_trouble(it.verdict))
        .or_else(|| report.results.iter().position(|it| it.trace.is_some()));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="generator" content=(format!("lameduck verify {}", report.environment.tester));
                link rel="icon" href="data:,";
                title { (report.subject.name) ": " (sentence) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (header(report, &summary, &sentence))
                main {
                    (board(report))
                    (controls(&summary))
                    section id="cases" aria-label="Cases" {
                        @for (place, result) in report.results.iter().enumerate() {
                            (case(place, result, open == Some(place), &budget))
                        }
                        @if report.results.is_empty() {
                            p.nothing { "No case was run, so there is nothing to show." }
                        }
                        p.nothing id="none" hidden { "No case fits the filter." }
                    }
                }
                footer { (footer(report)) }
                script type="application/json" id="glyphs" { (PreEscaped(glyph::as_json())) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

fn is_trouble(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Fail | Verdict::Warn | Verdict::Inconclusive)
}

fn header(report: &SuiteReport, summary: &Summary, sentence: &str) -> Markup {
    let subject = &report.subject;
    html! {
        header {
            p.product { "lameduck verify" }
            h1 { (sentence) }
            p.subject {
                b { (subject.name) }
                @if let Some(version) = &subject.version { " " (version) }
                @if !subject.command.is_empty() { " " code { (subject.command) } }
            }
            ul.counts aria-label="Cases by verdict" {
                @for verdict in Verdict::ALL {
                    @if summary.count(verdict) > 0 {
                        li class=(class(verdict)) {
                            span.badge aria-hidden="true" { (symbol(verdict)) }
                            b { (summary.count(verdict)) } " " (told(verdict))
                        }
                    }
                }
                @if summary.sent() > 0 {
                    li { b { (amount(summary.sent())) } " requests" }
                }
            }
        }
    }
}

/// Every case as one square, by group: the whole run at a glance.
fn board(report: &SuiteReport) -> Markup {
    let mut groups: Vec<(&str, Vec<(usize, &CaseResult)>)> = Vec::new();
    for (place, result) in report.results.iter().enumerate() {
        match groups.iter_mut().find(|(group, _)| *group == result.group) {
            Some((_, results)) => results.push((place, result)),
            None => groups.push((&result.group, vec![(place, result)])),
        }
    }
    html! {
        @if !groups.is_empty() {
            nav.board aria-label="All cases by group" {
                @for (group, results) in groups {
                    div.group {
                        span.name { (group) }
                        @for (place, result) in results {
                            a class=(format!("square {}", class(result.verdict)))
                                href=(format!("#case-{place}"))
                                title=(format!("{} {}: {}", result.id, result.title, result.verdict.word()))
                                aria-label=(format!("{} {}", result.id, result.verdict.word())) {
                                (symbol(result.verdict))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn controls(summary: &Summary) -> Markup {
    html! {
        div.controls role="search" {
            input id="filter" type="search" placeholder="Filter cases" aria-label="Filter cases by words"
                autocomplete="off" spellcheck="false";
            @for verdict in Verdict::ALL {
                @if summary.count(verdict) > 0 {
                    button type="button" class=(format!("only {}", class(verdict)))
                        data-verdict=(verdict.word()) aria-pressed="true" {
                        span.badge aria-hidden="true" { (symbol(verdict)) }
                        (verdict.word().to_lowercase())
                    }
                }
            }
            button type="button" id="open-all" { "Open all" }
            span.keys { kbd { "/" } " filter  " kbd { "j" } kbd { "k" } " next, previous case  " kbd { "Enter" } " open" }
        }
    }
}

fn case(place: usize, result: &CaseResult, open: bool, budget: &data::Budget) -> Markup {
    let words = format!(
        "{} {} {} {} {}",
        result.id,
        result.title,
        result.verdict.word(),
        result.level.word(),
        result.reason
    );
    html! {
        details id=(format!("case-{place}")) class=(format!("case {}", class(result.verdict))) open[open]
            data-verdict=(result.verdict.word()) data-words=(words.to_lowercase()) {
            summary {
                span.badge aria-hidden="true" { (symbol(result.verdict)) }
                span.id { (result.id) }
                span.title { (result.title) }
                span.level { (result.level.word()) }
                span.verdict { (result.verdict.word()) }
                span.took { @if result.verdict != Verdict::Skip { (short(result.took)) } }
            }
            div.body {
                p.reason { (result.reason) }
                @if let Some(hint) = &result.hint { p.hint { b { "Hint: " } (hint) } }
                (facts(result))
                @if let Some(trace) = &result.trace { (timeline(result, trace, budget)) }
                @if let Some(said) = result.said.as_deref().filter(|said| !said.trim().is_empty()) {
                    details.said { summary { "The target's last words" } pre { (said) } }
                }
            }
        }
    }
}

fn facts(result: &CaseResult) -> Markup {
    let tally = &result.tally;
    let kinds = [Kind::Answered, Kind::NotSent, Kind::Lost];
    html! {
        @if tally.sent() + tally.not_sent() > 0 {
            ul.fates aria-label="Fates of the requests" {
                @for (fate, count) in kinds.into_iter().flat_map(|kind| tally.met(kind)) {
                    li title=(fate.name()) { (Glyph::of(fate).svg()) b { (amount(count)) } " " (fate.words()) }
                }
            }
        }
        @if !result.figures.is_empty() {
            dl.figures {
                @for figure in &result.figures {
                    div { dt { (figure.name) } dd { (number(figure.value)) " " (figure.unit) } }
                }
            }
        }
    }
}

fn timeline(result: &CaseResult, trace: &Trace, budget: &data::Budget) -> Markup {
    let losses = losses(trace);
    html! {
        figure.timeline {
            div.tools {
                button type="button" data-do="in" title="Zoom in (+)" aria-label="Zoom in" { "+" }
                button type="button" data-do="out" title="Zoom out (-)" aria-label="Zoom out" { "−" }
                button type="button" data-do="all" title="Show everything (0)" { "All" }
                button type="button" data-do="next" title="Next request that was not answered, else next mark (n)" {
                    @if losses.is_empty() { "Next mark" } @else { "Next loss" }
                }
                span.told role="status" {}
            }
            canvas tabindex="0" role="img" aria-label=(described(trace)) {}
            figcaption {
                (legend(trace))
                @if trace.connections_left_out + trace.requests_left_out > 0 {
                    p.left { (left_out(trace)) }
                }
            }
            script.trace type="application/json" { (PreEscaped(data::json(trace, budget.of_case(result)))) }
        }
        (latency::table(trace))
        @if !losses.is_empty() { (list_of_losses(&losses)) }
    }
}

/// What the picture shows, for whoever does not see it.
fn described(trace: &Trace) -> String {
    let requests: usize = trace.connections.iter().map(|it| it.requests.len()).sum();
    let mut text = format!(
        "Timeline of {}: {} connections, {} requests, {} lost.",
        seconds(trace.length),
        amount(trace.connections.len() as u64),
        amount(requests as u64),
        amount(losses(trace).len() as u64)
    );
    const MARKS_TOLD: usize = 12;
    let told = |mark: &Mark| format!(" {} at {}.", mark.text, seconds(mark.at));
    trace.marks.iter().take(MARKS_TOLD).for_each(|mark| text.push_str(&told(mark)));
    text
}

fn legend(trace: &Trace) -> Markup {
    let requests = || trace.connections.iter().flat_map(|connection| &connection.requests);
    let is_met = |fate: &Fate| requests().any(|request| request.fate == *fate);
    html! {
        ul.legend aria-label="What the marks mean" {
            @for fate in Fate::ALL.into_iter().filter(is_met) {
                li { (Glyph::of(fate).svg()) (fate.words()) }
            }
        }
    }
}

fn left_out(trace: &Trace) -> String {
    let (connections, requests) = (trace.connections_left_out, trace.requests_left_out);
    format!(
        "Not drawn: {} connections and {} requests, left out evenly; none that was lost is missing.",
        amount(connections),
        amount(requests)
    )
}

/// A request that was lost, and the connection it was on.
type Loss<'a> = (&'a str, &'a crate::trace::RequestTrace);

fn losses(trace: &Trace) -> Vec<Loss<'_>> {
    let mut losses: Vec<Loss<'_>> = Vec::new();
    for connection in &trace.connections {
        let lost = connection.requests.iter().filter(|it| it.fate.kind() == Kind::Lost);
        losses.extend(lost.map(|request| (connection.label.as_str(), request)));
    }
    losses.sort_by_key(|(_, request)| request.ended);
    losses
}

fn list_of_losses(losses: &[Loss<'_>]) -> Markup {
    html! {
        details.losses {
            summary { (amount(losses.len() as u64)) " lost, one by one" }
            table {
                thead { tr { th { "lost at" } th { "sent at" } th { "connection" } th { "fate" } } }
                tbody {
                    @for (label, request) in losses.iter().take(LOSSES_LISTED) {
                        tr {
                            td.number { (seconds(request.ended)) }
                            td.number { (seconds(request.sent)) }
                            td { (label) }
                            td { (Glyph::of(request.fate).svg()) (request.fate.words()) }
                        }
                    }
                }
            }
            @if losses.len() > LOSSES_LISTED {
                p.left { "… and " (amount((losses.len() - LOSSES_LISTED) as u64)) " more." }
            }
        }
    }
}

fn footer(report: &SuiteReport) -> Markup {
    let it = &report.environment;
    html! {
        p {
            "lameduck verify " (it.tester) " · " (it.kernel) " · " (it.processors) " processors · tcp_migrate_req "
            @match it.tcp_migrate_req { Some(value) => { (value) }, None => { "unknown" } }
            " · seed " (it.seed) " · began "
            time data-began=(it.began) { (it.began) " s after 1970 UTC" }
            " · took " (short(report.took))
        }
    }
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
        Verdict::Skip => "skip",
        Verdict::Inconclusive => "inconclusive",
    }
}

/// Tells verdicts apart without colour.
fn symbol(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "✓",
        Verdict::Warn => "!",
        Verdict::Fail => "✕",
        Verdict::Skip => "–",
        Verdict::Inconclusive => "?",
    }
}

fn told(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
        Verdict::Skip => "skipped",
        Verdict::Inconclusive => "inconclusive",
    }
}

fn seconds(micros: u64) -> String {
    format!("{:.3} s", micros as f64 / 1e6)
}

/// As many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 || large.fract() == 0.0 => amount_of(value),
        _ => format!("{value:.2}"),
    }
}

fn amount_of(value: f64) -> String {
    if value < 0.0 { format!("{value:.0}") } else { amount(value.round() as u64) }
}
