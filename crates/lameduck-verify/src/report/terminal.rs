//! What a run says on a terminal: progress while it runs, and the text at its end.
//!
//! Lines are at most 80 columns wide. Nothing depends on colour, and there is none where `NO_COLOR` is set, where
//! the stream is not a terminal or where the terminal knows none.

use super::summary::{Summary, amount, short};
use crate::case::Case;
use crate::run::Progress;
use crate::verdict::{CaseResult, Environment, Level, Subject, SuiteReport, Verdict};
use console::{Style, Term, measure_text_width, truncate_str};
use std::fmt::Write;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No line is wider, however wide the terminal is.
const WIDEST: usize = 80;

/// How often the elapsed time of the current case is shown anew.
const TICK: Duration = Duration::from_millis(100);

/// So many lines of a target's last words are repeated.
const WORDS_SHOWN: usize = 5;

/// Whether text may be coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// As the terminal knows it.
    Ansi,
    /// Text alone.
    None,
}

impl Colour {
    /// What fits this stream: colour on a terminal that knows it, unless `NO_COLOR` is set to anything.
    pub fn of(term: &Term) -> Colour {
        let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_known = term.features().is_attended() && term.features().colors_supported();
        if is_known && !is_refused { Colour::Ansi } else { Colour::None }
    }

    fn paint(self, verdict: Verdict, text: &str) -> String {
        let style = match verdict {
            Verdict::Pass => Style::new().green(),
            Verdict::Warn => Style::new().yellow().bold(),
            Verdict::Fail => Style::new().red().bold(),
            Verdict::Skip => Style::new().dim(),
            Verdict::Inconclusive => Style::new().magenta().bold(),
        };
        self.styled(style, text)
    }

    fn bold(self, text: &str) -> String {
        self.styled(Style::new().bold(), text)
    }

    fn styled(self, style: Style, text: &str) -> String {
        match self {
            Colour::Ansi => style.force_styling(true).apply_to(text).to_string(),
            Colour::None => text.to_owned(),
        }
    }
}

/// Tells which case runs, to [`Suite::run`](crate::run::Suite::run). On a terminal the last line is the current case
/// with its elapsed time; elsewhere there is one plain line for each case, when it has ended.
pub struct Live {
    shared: Arc<Shared>,
    ticking: Option<JoinHandle<()>>,
}

struct Shared {
    term: Term,
    colour: Colour,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    total: usize,
    done: usize,
    current: Option<Current>,
    is_over: bool,
}

struct Current {
    id: String,
    title: String,
    begun: Instant,
}

impl Live {
    /// On standard error.
    pub fn new() -> Live {
        Live::on(Term::stderr())
    }

    /// On a terminal or file of the caller's.
    pub fn on(term: Term) -> Live {
        let shared = Arc::new(Shared {
            colour: Colour::of(&term),
            state: Mutex::new(State { total: 0, done: 0, current: None, is_over: false }),
            changed: Condvar::new(),
            term,
        });
        let ticking = shared.term.features().is_attended().then(|| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.tick())
        });
        Live { shared, ticking }
    }
}

impl Default for Live {
    fn default() -> Live {
        Live::new()
    }
}

impl Progress for Live {
    fn began(&mut self, _: &Subject, _: &Environment, cases: usize) {
        self.shared.lock().total = cases;
    }

    fn case_began(&mut self, case: &Case) {
        let (id, title) = (case.id.to_owned(), case.title.to_owned());
        self.shared.lock().current = Some(Current { id, title, begun: Instant::now() });
        self.shared.changed.notify_all();
    }

    fn case_ended(&mut self, result: &CaseResult) {
        let mut state = self.shared.lock();
        state.done += 1;
        state.current = None;
        self.shared.clear();
        // Whoever closed standard error does not want to know; the reports are written all the same.
        let _ = self.shared.term.write_line(&line(result, self.shared.colour));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
        if let Some(ticking) = self.ticking.take() {
            // It only paints: whatever became of it changes no result.
            let _ = ticking.join();
        }
    }
}

impl Shared {
    fn tick(&self) {
        let mut state = self.lock();
        while !state.is_over {
            if let Some(current) = &state.current {
                self.clear();
                let _ = self.term.write_str(&status(&state, current));
            }
            let waited = self.changed.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.clear();
    }

    /// Only ever on a terminal: a file would keep the control codes.
    fn clear(&self) {
        if self.term.features().is_attended() {
            let _ = self.term.clear_line();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(state: &State, current: &Current) -> String {
    let elapsed = current.begun.elapsed().as_secs_f64();
    let place = format!("{}/{}", state.done + 1, state.total);
    let text = format!("[{place}] {:<7} {elapsed:.1} s  {}", current.id, current.title);
    // One column less than there may be: a full line would make some terminals begin another.
    truncate_str(&text, WIDEST - 1, "…").into_owned()
}

/// One finished case: `SIG/1   exits by itself when idle      PASS      12 ms`.
fn line(result: &CaseResult, colour: Colour) -> String {
    const TITLE: usize = 48;
    let title = truncate_str(&result.title, TITLE, "…");
    let gap = " ".repeat(TITLE - measure_text_width(&title));
    let verdict = colour.paint(result.verdict, &format!("{:<12}", result.verdict.word()));
    let took = if result.verdict == Verdict::Skip { String::new() } else { short(result.took) };
    format!("{:<7} {title}{gap} {verdict} {took:>9}", result.id).trim_end().to_owned()
}

/// The whole run: the sentence, a table by group, then each case that did not pass, and the skipped by reason.
pub fn text(report: &SuiteReport, colour: Colour) -> String {
    let mut out = String::new();
    let sentence = Summary::from(report).sentence();
    wrapped(&mut out, "", "", &sentence, |line| colour.bold(line));
    out.push('\n');
    table(&mut out, report);
    for verdict in [Verdict::Fail, Verdict::Warn, Verdict::Inconclusive] {
        for result in report.results.iter().filter(|result| result.verdict == verdict) {
            out.push('\n');
            trouble(&mut out, result, colour);
        }
    }
    skipped(&mut out, report, colour);
    out
}

// Writing to a string does not fail, here and below.
fn table(out: &mut String, report: &SuiteReport) {
    let mut groups: Vec<&str> = Vec::new();
    for result in &report.results {
        if !groups.contains(&result.group.as_str()) {
            groups.push(&result.group);
        }
    }
    let _ = writeln!(
        out,
        "{:<6} {:>5} {:>5} {:>5} {:>13} {:>5} {:>13} {:>9}",
        "group", "pass", "warn", "fail", "inconclusive", "skip", "requests", "lost"
    );
    let mut row = |name: &str, summary: &Summary| {
        let count = |verdict| match summary.count(verdict) {
            0 => "·".to_owned(),
            count => count.to_string(),
        };
        let _ = writeln!(
            out,
            "{name:<6} {:>5} {:>5} {:>5} {:>13} {:>5} {:>13} {:>9}",
            count(Verdict::Pass),
            count(Verdict::Warn),
            count(Verdict::Fail),
            count(Verdict::Inconclusive),
            count(Verdict::Skip),
            amount(summary.sent()),
            amount(summary.lost().lost()),
        );
    };
    for group in &groups {
        let of_group = report.results.iter().filter(|result| result.group == *group);
        row(group, &Summary::of(of_group));
    }
    if groups.len() > 1 {
        row("all", &Summary::from(report));
    }
}

fn trouble(out: &mut String, result: &CaseResult, colour: Colour) {
    let level = match result.level {
        Level::Must => "must",
        Level::Should => "should",
    };
    let word = result.verdict.word();
    let head = format!("{} {}", result.id, result.title);
    let painted = colour.paint(result.verdict, word);
    let indent = " ".repeat(word.len() + 1);
    let mut first = String::new();
    wrapped(&mut first, &indent, &indent, &format!("{head} ({level})"), |line| colour.bold(line));
    let _ = write!(out, "{painted} {}", first.trim_start());
    wrapped(out, "  ", "  ", &result.reason, str::to_owned);
    if let Some(hint) = &result.hint {
        wrapped(out, "  hint: ", "        ", hint, str::to_owned);
    }
    if let Some(said) = &result.said {
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in &lines[lines.len().saturating_sub(WORDS_SHOWN)..] {
            // A server's own words may hold control codes; they must not reach the terminal.
            let plain: String = line.chars().filter(|it| !it.is_control()).collect();
            let _ = writeln!(out, "  | {}", truncate_str(&plain, WIDEST - 4, "…"));
        }
    }
}

fn skipped(out: &mut String, report: &SuiteReport, colour: Colour) {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for result in report.results.iter().filter(|result| result.verdict == Verdict::Skip) {
        match reasons.iter_mut().find(|(reason, _)| *reason == result.reason) {
            Some((_, ids)) if ids.contains(&result.id.as_str()) => {}
            Some((_, ids)) => ids.push(&result.id),
            None => reasons.push((&result.reason, vec![&result.id])),
        }
    }
    let count: usize = reasons.iter().map(|(_, ids)| ids.len()).sum();
    if count == 0 {
        return;
    }
    let _ = writeln!(out, "\n{} {count}:", colour.paint(Verdict::Skip, "SKIP"));
    for (reason, ids) in reasons {
        wrapped(out, "  ", "    ", &format!("{reason}: {}", ids.join(" ")), str::to_owned);
    }
}

/// Text in lines of at most [`WIDEST`] columns, the first indented by one string, the others by another.
fn wrapped(out: &mut String, first: &str, other: &str, text: &str, style: impl Fn(&str) -> String) {
    let mut indent = first;
    let mut line = String::new();
    for word in text.split_whitespace() {
        let room = WIDEST - indent.len();
        let wide = measure_text_width(&line) + 1 + measure_text_width(word);
        if !line.is_empty() && wide > room {
            let _ = writeln!(out, "{indent}{}", style(&line));
            line.clear();
            indent = other;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(out, "{indent}{}", style(&line));
    }
}

/// Prints [`text`] on standard output, with colour where it fits.
///
/// # Errors
/// As writing has them; a reader that has gone is none.
pub fn print(report: &SuiteReport) -> io::Result<()> {
    let term = Term::stdout();
    match term.write_str(&text(report, Colour::of(&term))) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
