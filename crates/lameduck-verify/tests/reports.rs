//! The reports, made from real runs: a stop of plain axum under load, a restart by a kill, and nothing at all.

mod support;

use lameduck_verify::load::{Load, Mode, Until};
use lameduck_verify::report::{html, json, junit, summary::Summary, terminal};
use lameduck_verify::target::{Signal, Target};
use lameduck_verify::trace::{Mark, MarkKind, Span, Trace};
use lameduck_verify::verdict::{
    CaseResult, Environment, Figure, Level, Subject, SuiteReport, Verdict,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{SOON, axum_graceful};

/// Starts plain axum, loads it, ends it, and tells what came of it as a case does.
fn ended_under_load(id: &str, mode: Mode, connections: usize, end: End) -> CaseResult {
    let (action, end) = end;
    let begun = Instant::now();
    let at = |moment: Instant| moment.duration_since(begun).as_micros() as u64;
    let (mut target, place) = axum_graceful();
    let load = Load::new(place, mode)
        .connections(connections)
        .recorded(begun)
        .until(Until::Gone { at_most: SOON })
        .start()
        .unwrap();
    load.wait_flowing(SOON).unwrap();
    // A baseline to look at: what is asserted depends on none of its times.
    load.wait_ended(Duration::from_millis(250));
    let ending = Instant::now();
    end(&mut target);
    target.wait(SOON).unwrap();
    let ended = Instant::now();
    let report = load.finish();
    let mut trace = Trace { length: at(Instant::now()), ..Trace::default() };
    let mark = |moment, kind, text: &str| Mark { at: at(moment), kind, text: text.to_owned() };
    trace.marks = vec![
        mark(ending, MarkKind::Action, action),
        mark(ended, MarkKind::Process, "the process ended"),
    ];
    let span = |from, to, label: &str| Span { from: at(from), to: at(to), label: label.to_owned() };
    trace.spans = vec![
        span(begun, ending, "baseline"),
        span(ending, ended, "stop"),
        span(ended, Instant::now(), "after"),
    ];
    report.pour_into(&mut trace);
    let lost = report.lost();
    CaseResult {
        id: id.to_owned(),
        group: id.split('/').next().unwrap().to_owned(),
        level: Level::Must,
        title: format!("{} under load loses nothing at its end", mode.name()),
        verdict: if lost == 0 { Verdict::Pass } else { Verdict::Fail },
        reason: format!("{lost} of {} requests lost", report.tally().sent()),
        hint: (lost > 0).then(|| "close the listener after its queue is empty".to_owned()),
        took: begun.elapsed(),
        tally: report.tally().clone(),
        figures: vec![Figure {
            name: "exit after the signal".to_owned(),
            value: ended.duration_since(ending).as_secs_f64() * 1000.0,
            unit: "ms",
        }],
        said: Some(target.stderr()),
        trace: Some(trace),
    }
}

/// What is done to the target, and its name.
type End = (&'static str, fn(&mut Target));

const KILL: End = ("SIGKILL", |target| {
    target.kill().unwrap();
});

const STOP: End = ("SIGTERM", |target| target.signal(Signal::TERM).unwrap());

fn skipped() -> CaseResult {
    CaseResult {
        id: "WS/1".to_owned(),
        group: "WS".to_owned(),
        level: Level::Should,
        title: "an open WebSocket is told <why> it ends & \"when\"".to_owned(),
        verdict: Verdict::Skip,
        reason: "the adapter declares no path for WebSockets".to_owned(),
        hint: None,
        took: Duration::ZERO,
        tally: Default::default(),
        figures: Vec::new(),
        said: None,
        trace: None,
    }
}

fn report(results: Vec<CaseResult>) -> SuiteReport {
    SuiteReport {
        subject: Subject {
            name: "plain axum".to_owned(),
            command: "axum-graceful 127.0.0.1:{port}".to_owned(),
            version: Some("0.8".to_owned()),
        },
        environment: Environment {
            kernel: "Linux".to_owned(),
            processors: 2,
            tcp_migrate_req: Some(0),
            tester: env!("CARGO_PKG_VERSION").to_owned(),
            seed: 7,
            began: 1_764_000_000,
        },
        took: results.iter().map(|result| result.took).sum(),
        results,
    }
}

fn small() -> SuiteReport {
    report(vec![
        ended_under_load("ACC/7", Mode::NewConnection, 6, KILL),
        ended_under_load("H1/4", Mode::KeepAlive, 8, STOP),
        skipped(),
    ])
}

/// As many connections as a trace keeps.
fn big() -> SuiteReport {
    report(vec![
        ended_under_load("H1/4", Mode::KeepAlive, 400, KILL),
        ended_under_load("H2/4", Mode::Http2 { streams: 8 }, 8, KILL),
    ])
}

fn write(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_page_is_drawn_in_a_browser_and_asks_for_nothing() {
    for (name, mut report) in [("small", small()), ("big", big()), ("empty", report(Vec::new()))] {
        // The page opens the first case that went wrong, else the first that has a timeline: that is the one looked at here.
        for result in &mut report.results {
            result.verdict = Verdict::Pass;
        }
        let page = write(&format!("report-{name}.html"), &html::text(&report));
        for scheme in [Scheme::Light, Scheme::Dark] {
            let seen = browse(&page, scheme);
            let what = format!("{name}, {scheme:?}");
            assert_eq!(seen.asked, Vec::<String>::new(), "{what}");
            assert!(!seen.dom.contains("data-error"), "{what}: {}", first_tag(&seen.dom));
            let Some(open) = report.results.iter().find(|result| result.trace.is_some()) else {
                assert!(seen.dom.contains("No case was run"), "{what}");
                assert!(seen.dom.contains(r#"data-drawn="0""#), "{what}: {}", first_tag(&seen.dom));
                continue;
            };
            let trace = open.trace.as_ref().unwrap();
            let requests: usize = trace.connections.iter().map(|it| it.requests.len()).sum();
            assert!(requests > 0 && !trace.connections.is_empty(), "{what}");
            for (drawn, count) in [
                ("requests", requests),
                ("connections", trace.connections.len()),
                ("marks", trace.marks.len()),
                ("spans", trace.spans.len()),
                ("latency", trace.latency.len()),
            ] {
                let told = format!(r#"data-{drawn}="{count}""#);
                assert!(seen.dom.contains(&told), "{what}: {told} in {}", figure(&seen.dom));
            }
        }
    }
}

/// The check above would see a request if there were one.
#[test]
fn a_page_that_asks_for_something_is_seen() {
    let page = write("asks.html", "<img src='http://example.invalid/picture'><p>text</p>");
    let seen = browse(&page, Scheme::Light);
    assert!(seen.asked.iter().any(|line| line.contains("example.invalid")), "{:?}", seen.asked);
}

/// Whom the browser asks of its own accord, whatever its flags say; which of their hosts differs from one release and one
/// run to the next. It gets no further than the proxy, and no page here names them.
const OF_THE_BROWSER: [&str; 4] = ["google.com", "googleapis.com", "gstatic.com", "gvt1.com"];

/// Whether the first line of a request to a proxy (`CONNECT host:port …`, `GET http://host/… …`) is for one of these.
fn of_the_browser(line: &str) -> bool {
    let target = line.split(' ').nth(1).unwrap_or("");
    let host = target.rsplit("//").next().unwrap_or("").split(['/', ':']).next().unwrap_or("");
    let mut owners = OF_THE_BROWSER.iter();
    owners.any(|own| host.strip_suffix(own).is_some_and(|sub| sub.is_empty() || sub.ends_with('.')))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Light,
    Dark,
}

struct Seen {
    dom: String,
    /// The first line of each request that came to the proxy.
    asked: Vec<String>,
}

/// Loads the page in Chromium, behind a proxy that answers nothing and keeps what it is asked.
fn browse(page: &Path, scheme: Scheme) -> Seen {
    let text = std::fs::read_to_string(page).unwrap();
    assert!(!OF_THE_BROWSER.iter().any(|own| text.contains(own)), "{page:?} names one of them");
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let asking = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for stream in proxy.incoming() {
            let mut line = Vec::new();
            // A browser that ends resets what it has open: such a connection has asked for what came before that.
            let _ = BufReader::new(stream.unwrap()).read_until(b'\n', &mut line);
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.starts_with("OVER") {
                return asked;
            }
            if !line.is_empty() && !of_the_browser(&line) {
                asked.push(line);
            }
        }
        asked
    });
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium");
    browser
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-extensions", "--disable-default-apps", "--no-default-browser-check"])
        .args(["--window-size=1280,1000", "--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("--proxy-server=http://{address}"))
        .arg(format!("--user-data-dir={}", profile.path().display()));
    if scheme == Scheme::Dark {
        browser.arg("--blink-settings=preferredColorScheme=0");
    }
    let output = browser
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .expect("chromium is installed: run cargo xtask setup");
    let dom = String::from_utf8(output.stdout).unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(dom.contains("</html>"), "{page:?}: chromium says {words}");
    let mut stop = std::net::TcpStream::connect(address).unwrap();
    stop.write_all(b"OVER\n").unwrap();
    Seen { dom, asked: asking.join().unwrap() }
}

fn first_tag(dom: &str) -> &str {
    let from = dom.find("<html").unwrap_or(0);
    &dom[from..dom[from..].find('>').map_or(dom.len(), |end| from + end + 1)]
}

fn figure(dom: &str) -> &str {
    let from = dom.find("<figure").unwrap_or(0);
    &dom[from..dom[from..].find('>').map_or(dom.len(), |end| from + end + 1)]
}

#[test]
fn the_json_has_its_version_and_every_case() {
    let report = small();
    let text = json::text(&report, json::Traces::Left);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["schema"], json::SCHEMA);
    assert_eq!(value["results"].as_array().unwrap().len(), 3);
    assert_eq!(value["counts"]["SKIP"], 1);
    assert_eq!(value["sentence"], Summary::from(&report).sentence());
    assert!(value["results"][0].get("trace").is_none());
    let sent = value["results"][0]["tally"]["sent"].as_u64().unwrap();
    assert_eq!(sent, report.results[0].tally.sent());
    let whole: serde_json::Value =
        serde_json::from_str(&json::text(&report, json::Traces::Kept)).unwrap();
    let connections = whole["results"][0]["trace"]["connections"].as_array().unwrap();
    assert_eq!(connections.len(), report.results[0].trace.as_ref().unwrap().connections.len());
}

/// Python's parser reads it and counts.
const COUNT: &str = "
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.stdin).getroot()
assert root.tag == 'testsuites', root.tag
cases = root.findall('testsuite/testcase')
print(len(cases), len(root.findall('.//failure')), len(root.findall('.//skipped')), root.get('tests'), root.get('failures'))
print(cases[-1].get('name'))
print(root.find('.//failure').text.strip().splitlines()[0])
";

#[test]
fn the_junit_file_is_xml_that_another_parser_reads() {
    let mut report = small();
    for result in &mut report.results[..2] {
        result.verdict = Verdict::Fail;
        result.hint = Some("look at <it> & \"that\"".to_owned());
        result.said = Some("\u{1b}[31mred\u{1b}[0m ]]> & <end>\u{0}".to_owned());
    }
    let mut python = Command::new("python3")
        .args(["-c", COUNT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(junit::text(&report).as_bytes()).unwrap();
    let mut said = String::new();
    python.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(python.wait().unwrap().success());
    let title = format!("WS/1 {}", report.results[2].title);
    assert_eq!(said.lines().collect::<Vec<_>>(), ["3 2 1 3 2", &title, "look at <it> & \"that\""]);
}

#[test]
fn the_terminal_text_begins_with_the_sentence_and_fits_eighty_columns() {
    let mut report = small();
    report.results[0].reason = "x".repeat(20) + " and " + &"many words ".repeat(30);
    report.results[0].verdict = Verdict::Fail;
    report.results[0].said = Some(format!("\u{1b}[31m{}\n", "long ".repeat(40)));
    let text = terminal::text(&report, terminal::Colour::None);
    let sentence = Summary::from(&report).sentence();
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(joined.starts_with(&sentence), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(
        text.contains("SKIP 1:\n  the adapter declares no path for WebSockets: WS/1"),
        "{text}"
    );
    let coloured = terminal::text(&report, terminal::Colour::Ansi);
    assert!(coloured.contains('\u{1b}'), "{coloured}");
    assert_eq!(coloured.lines().count(), text.lines().count());
}
