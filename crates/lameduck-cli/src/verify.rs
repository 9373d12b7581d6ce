//! `lameduck verify`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use lameduck_verify::adapter::Adapter;
use lameduck_verify::case::Case;
use lameduck_verify::cases;
use lameduck_verify::report::{html, json, junit, terminal};
use lameduck_verify::run::Suite;
use lameduck_verify::verdict::{Level, SuiteReport, Verdict};

use crate::complaint::Complaint;
use crate::flags::Verify;

/// Every case that was tried passed, or missed good conduct only.
pub const OK: u8 = 0;
/// A MUST was not met (with `--strict`, a SHOULD).
pub const FAILED: u8 = 1;
/// Nothing failed, and a case could not be judged.
pub const INCONCLUSIVE: u8 = 3;

const HINT: &str = "`lameduck verify --help` lists the flags";

fn find(id: &str) -> Result<&'static Case, Complaint> {
    let hint = "`lameduck verify --list` lists them";
    cases::find(id).ok_or_else(|| Complaint::usage(format!("no case is called {id}"), hint))
}

/// Tests a server, lists the cases or explains one.
pub fn run(flags: Verify) -> Result<ExitCode, Complaint> {
    if flags.list {
        return print(&list());
    }
    if let Some(id) = &flags.explain {
        return print(&explain(find(id)?));
    }
    for id in &flags.case {
        find(id)?;
    }
    let adapter = adapter(&flags)?;
    let mut suite = Suite::new(adapter).repeat(flags.repeat).seed(flags.seed).strict(flags.strict);
    suite = flags.case.iter().fold(suite, |suite, id| suite.case(id));
    suite = flags.group.iter().fold(suite, |suite, name| suite.group(name));
    suite = flags.case_limit.into_iter().fold(suite, Suite::case_limit);
    let outputs = Outputs::open(&flags)?;
    lameduck_verify::interrupt::on_interrupt(interrupted)
        .map_err(|error| Complaint::failed(format!("cannot wait for signals: {error}"), HINT))?;
    let mut live = terminal::Live::new();
    let report = suite.run(&mut live).map_err(|error| {
        Complaint::usage(error.to_string(), "nothing was tested; mend the command or the adapter")
    })?;
    drop(live);
    let told = terminal::print(&report);
    outputs.write(&report)?;
    told.map_err(|error| Complaint::failed(format!("standard output: {error}"), HINT))?;
    Ok(ExitCode::from(code(&report)))
}

/// The target is gone by now, and so are its directories.
#[expect(
    clippy::disallowed_methods,
    reason = "a case may be waiting for a target that is gone; nothing is left to be dropped"
)]
fn interrupted(signal: i32) {
    let _ = std::io::stderr().write_all(b"interrupted: the target was killed\n");
    std::process::exit(128 + signal);
}

/// What the verdicts come to.
fn code(report: &SuiteReport) -> u8 {
    let any = |verdict| report.results.iter().any(|result| result.verdict == verdict);
    match (any(Verdict::Fail), any(Verdict::Inconclusive)) {
        (true, _) => FAILED,
        (false, true) => INCONCLUSIVE,
        (false, false) => OK,
    }
}

fn adapter(flags: &Verify) -> Result<Adapter, Complaint> {
    let bad = |error: &dyn std::fmt::Display| {
        Complaint::usage(error.to_string(), "docs/verify.md shows how to write an adapter")
    };
    let mut adapter = match (&flags.adapter, &flags.url) {
        (Some(path), _) => Adapter::find(Path::new(path)).map_err(|error| bad(&error))?,
        (None, Some(url)) => {
            let action = flags.action.clone().ok_or_else(|| {
                Complaint::usage(
                    "--url needs --action",
                    "write --action 'COMMAND that restarts it'",
                )
            })?;
            Adapter::of_running(url, vec!["sh".into(), "-c".into(), action])
        }
        (None, None) if flags.command.is_empty() => {
            return Err(Complaint::usage(
                "nothing to test: no command, no --adapter, no --url",
                "write `lameduck verify -- CMD…` with {port} where the port belongs",
            ));
        }
        (None, None) => Adapter::of_command(flags.command.clone()),
    };
    if flags.adapter.is_some() && !flags.command.is_empty() {
        adapter.command = Some(lameduck_verify::adapter::Command(flags.command.clone()));
    }
    if let Some(path) = &flags.path {
        adapter.paths.fast.clone_from(path);
    }
    let is_placed = |word: &String| word.contains("{port}") || word.contains("{address}");
    let is_bare = flags.adapter.is_none() && adapter.running.is_none();
    if is_bare && !flags.command.iter().any(is_placed) {
        return Err(Complaint::usage(
            format!("the command `{}` does not say where it listens", flags.command.join(" ")),
            "write {port} or {address} where the server takes its port",
        ));
    }
    Ok(adapter)
}

/// The files that reports are written to, opened before anything is tested: a path that cannot be written is known at
/// once and not after minutes.
struct Outputs {
    files: Vec<(String, File, Form)>,
}

/// What a file holds.
type Form = fn(&SuiteReport) -> String;

impl Outputs {
    fn open(flags: &Verify) -> Result<Outputs, Complaint> {
        let as_json: Form = match flags.traces {
            true => |report| json::text(report, json::Traces::Kept) + "\n",
            false => |report| json::text(report, json::Traces::Left) + "\n",
        };
        let wanted: [(&Option<String>, Form); 3] =
            [(&flags.html, html::text), (&flags.json, as_json), (&flags.junit, junit::text)];
        let mut files = Vec::new();
        for (path, form) in wanted {
            if let Some(path) = path {
                files.push((path.clone(), open(path)?, form));
            }
        }
        Ok(Outputs { files })
    }

    fn write(self, report: &SuiteReport) -> Result<(), Complaint> {
        for (path, mut file, form) in self.files {
            let written = file.write_all(form(report).as_bytes());
            written.map_err(|error| unwritable(&path, &error))?;
        }
        Ok(())
    }
}

fn open(path: &str) -> Result<File, Complaint> {
    File::create(path).map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &str, error: &std::io::Error) -> Complaint {
    Complaint::usage(
        format!("report {path}: {}", arena::system(error)),
        "name a file in a directory you may write to",
    )
}

fn print(text: &str) -> Result<ExitCode, Complaint> {
    // A closed pipe (`| head`) has read what it wanted.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn level(case: &Case) -> &'static str {
    match case.level {
        Level::Must => "MUST",
        Level::Should => "SHOULD",
    }
}

fn list() -> String {
    let line = |case: &Case| format!("  {:<7} {:<6} {}\n", case.id, level(case), case.title);
    let group = |(name, about): (&str, &str)| {
        let cases = cases::all().filter(|case| case.group() == name).map(line);
        format!("{name}: {about}\n{}", cases.collect::<String>())
    };
    cases::groups().map(group).collect()
}

fn explain(case: &Case) -> String {
    let needs: Vec<String> = case.needs.iter().map(|need| need.words()).collect();
    format!(
        "{} ({}): {}\n\n  setup      {}\n  action     {}\n  criterion  {}\n  why        {}\n  hint       {}\n  source     {}\n  needs      {}\n  takes      up to {} s, and the times that the target declares\n",
        case.id,
        level(case),
        case.title,
        case.setup,
        case.action,
        case.criterion,
        case.why,
        case.hint().unwrap_or_default(),
        case.source,
        needs.join("; "),
        case.takes().as_secs()
    )
}
