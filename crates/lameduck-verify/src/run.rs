//! Runs the cases against a target and makes the report.

mod attempt;

pub use attempt::{CASE_MARGIN, CASE_ROUNDS};

use crate::adapter::Adapter;
use crate::case::{Case, Fault, Finding};
use crate::cases;
use crate::stage::scratch::Scratch;
use crate::stage::{ASK_LIMIT, COMMAND_LIMIT, Launch, Service, ask, find_program, run_command};
use crate::verdict::{CaseResult, Environment, Level, Subject, SuiteReport, Verdict};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the adapter's `build` may take.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// What one run of the suite is: the target, the cases, how often.
///
/// ```no_run
/// use lameduck_verify::adapter::Adapter;
/// use lameduck_verify::run::{Silent, Suite};
///
/// let adapter = Adapter::of_command(vec!["my-server".into(), "{port}".into()]);
/// let report = Suite::new(adapter).group("SIG").run(&mut Silent)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Suite {
    adapter: Arc<Adapter>,
    cases: Vec<String>,
    groups: Vec<String>,
    repeat: usize,
    seed: u64,
    strict: bool,
    limit: Option<Duration>,
}

/// Is told how a run goes on. Reports that are shown while it runs are made from these.
pub trait Progress {
    /// The run begins: what is tested, with what, and how many cases will be tried.
    fn began(&mut self, subject: &Subject, environment: &Environment, cases: usize) {
        let _ = (subject, environment, cases);
    }

    /// A case begins.
    fn case_began(&mut self, case: &Case) {
        let _ = case;
    }

    /// A case has ended, or was skipped.
    fn case_ended(&mut self, result: &CaseResult) {
        let _ = result;
    }

    /// The run is over.
    fn ended(&mut self, report: &SuiteReport) {
        let _ = report;
    }
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {}

impl Suite {
    /// Every case once, against this target.
    pub fn new(adapter: Adapter) -> Suite {
        Suite {
            adapter: Arc::new(adapter),
            cases: Vec::new(),
            groups: Vec::new(),
            repeat: 1,
            seed: 0,
            strict: false,
            limit: None,
        }
    }

    /// This case, and others that are named.
    pub fn case(mut self, id: impl Into<String>) -> Suite {
        self.cases.push(id.into());
        self
    }

    /// The cases of this group, and others that are named.
    pub fn group(mut self, name: impl Into<String>) -> Suite {
        self.groups.push(name.into());
        self
    }

    /// Each case so often.
    pub fn repeat(mut self, times: usize) -> Suite {
        self.repeat = times.max(1);
        self
    }

    /// What random choices are made from.
    pub fn seed(mut self, seed: u64) -> Suite {
        self.seed = seed;
        self
    }

    /// A SHOULD that is not met is a failure.
    pub fn strict(mut self, strict: bool) -> Suite {
        self.strict = strict;
        self
    }

    /// Each case has ended by then or is [inconclusive](Verdict::Inconclusive): its target is killed, and the run goes on
    /// with the next. When nothing is said, the limit is what the case [takes](Case::takes), [`CASE_ROUNDS`] times what the
    /// target declares of its own times, and [`CASE_MARGIN`].
    pub fn case_limit(mut self, limit: Duration) -> Suite {
        self.limit = Some(limit);
        self
    }

    /// The cases that were chosen, in the order of the list.
    ///
    /// # Errors
    /// Names a case or group that there is not.
    pub fn chosen(&self) -> Result<Vec<&'static Case>, SuiteError> {
        for id in &self.cases {
            cases::find(id).ok_or_else(|| SuiteError::no_case(id))?;
        }
        let groups: Vec<&str> = cases::groups().map(|(name, _)| name).collect();
        let known = |name: &&String| groups.iter().any(|group| group.eq_ignore_ascii_case(name));
        if let Some(name) = self.groups.iter().find(|name| !known(name)) {
            return Err(SuiteError(format!(
                "no group is called {name}; there are {}",
                groups.join(" ")
            )));
        }
        let is_chosen = |case: &&Case| {
            (self.cases.is_empty() && self.groups.is_empty())
                || self.cases.iter().any(|id| id.eq_ignore_ascii_case(case.id))
                || self.groups.iter().any(|name| name.eq_ignore_ascii_case(case.group()))
        };
        Ok(cases::all().filter(is_chosen).collect())
    }

    /// Tries the target once, then runs the chosen cases.
    ///
    /// # Errors
    /// When a case does not exist, or the target cannot be built, started, made ready or asked: nothing was tested
    /// then, and nothing is left running.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<SuiteReport, SuiteError> {
        let chosen = self.chosen()?;
        let began = Instant::now();
        self.look_for_programs()?;
        let build = Build::of(&self.adapter)?;
        self.try_target(build.path())?;
        let subject = subject(&self.adapter, build.path());
        let environment = environment(self.seed);
        progress.began(&subject, &environment, chosen.len() * self.repeat);
        let mut results = Vec::new();
        for _ in 0..self.repeat {
            for case in &chosen {
                progress.case_began(case);
                let result = self.one(case, build.path());
                progress.case_ended(&result);
                results.push(result);
            }
        }
        let report = SuiteReport { subject, environment, results, took: began.elapsed() };
        progress.ended(&report);
        Ok(report)
    }

    /// Each missing program is named with what installs it.
    fn look_for_programs(&self) -> Result<(), SuiteError> {
        let missing: Vec<String> = self
            .adapter
            .programs
            .iter()
            .filter(|(program, _)| find_program(program).is_none())
            .map(|(program, remedy)| format!("{program} is not in PATH ({remedy})"))
            .collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(SuiteError(missing.join("; "))),
        }
    }

    /// The target can be started and answers on its fast path: otherwise every case would fail for that reason alone.
    fn try_target(&self, build: &Path) -> Result<(), SuiteError> {
        let asked = match &self.adapter.running {
            Some(running) => {
                let place = running.url.parse().map_err(|error| SuiteError(format!("{error}")))?;
                (ask(&place, ASK_LIMIT), place)
            }
            None => {
                let service = Service::start(&self.adapter, build, Launch::default())?;
                let path = &self.adapter.paths.fast;
                let scheme = self.adapter.scheme().word();
                let text = format!("{scheme}://{}{path}", service.address);
                let place = text.parse().map_err(|error| SuiteError(format!("{error}")))?;
                (ask(&place, ASK_LIMIT), place)
            }
        };
        match asked {
            (Ok(answer), _) if (200..300).contains(&answer.status) => Ok(()),
            (Ok(answer), place) => Err(SuiteError(format!(
                "GET {place} answers {}: name a path that answers 2xx (--path, or paths.fast in the adapter)",
                answer.status
            ))),
            (Err(error), _) => Err(SuiteError(format!("the target does not answer: {error}"))),
        }
    }

    fn one(&self, case: &'static Case, build: &Path) -> CaseResult {
        let began = Instant::now();
        let mut result = CaseResult {
            id: case.id.to_owned(),
            group: case.group().to_owned(),
            level: case.level,
            title: case.title.to_owned(),
            verdict: Verdict::Skip,
            reason: String::new(),
            hint: None,
            took: Duration::ZERO,
            tally: Default::default(),
            figures: Vec::new(),
            said: None,
            trace: None,
        };
        if let Some(reason) = case.skipped(&self.adapter) {
            result.reason = reason;
            return result;
        }
        let limit = self.limit.unwrap_or_else(|| attempt::outer_limit(case, &self.adapter));
        let (found, left) = attempt::attempt(&self.adapter, case, build, self.seed, limit);
        let Finding { verdict, reason } = found
            .unwrap_or_else(|Fault(reason)| Finding { verdict: Verdict::Inconclusive, reason });
        result.verdict = self.judged(case.level, verdict);
        result.reason = reason;
        let is_missed = matches!(result.verdict, Verdict::Fail | Verdict::Warn);
        result.hint = case.hint().filter(|_| is_missed).map(str::to_owned);
        result.took = began.elapsed();
        result.tally = left.tally;
        result.figures = left.figures;
        result.said = left.said.filter(|_| result.verdict != Verdict::Pass);
        let is_empty = left.trace.connections.is_empty() && left.trace.marks.is_empty();
        result.trace = (!is_empty).then_some(left.trace);
        result
    }

    /// What a verdict is worth at this level, in this run.
    fn judged(&self, level: Level, verdict: Verdict) -> Verdict {
        match (verdict, level) {
            (Verdict::Fail, Level::Should) if !self.strict => Verdict::Warn,
            (Verdict::Warn, _) if self.strict => Verdict::Fail,
            _ => verdict,
        }
    }
}

/// Nothing was tested: the target or the choice of cases cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuiteError(String);

impl SuiteError {
    /// The case that was asked for does not exist.
    pub fn no_case(id: &str) -> SuiteError {
        SuiteError(format!("no case is called {id}"))
    }
}

impl From<Fault> for SuiteError {
    fn from(Fault(reason): Fault) -> SuiteError {
        SuiteError(reason)
    }
}

impl fmt::Display for SuiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SuiteError {}

/// The directory that the adapter's `build` works in. It is kept, so that what was built is there the next time.
enum Build {
    Kept(PathBuf),
    Scratch(Scratch),
}

impl Build {
    fn of(adapter: &Adapter) -> Result<Build, SuiteError> {
        let Some(command) = &adapter.build else {
            return Ok(Build::Scratch(Scratch::new().map_err(Fault::from)?));
        };
        let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = home
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
        let path =
            home.unwrap_or_else(std::env::temp_dir).join("lameduck-verify").join(&adapter.name);
        std::fs::create_dir_all(&path)
            .map_err(|error| SuiteError(format!("directory {}: {error}", path.display())))?;
        let values = crate::adapter::Values::default().with("build", path.display().to_string());
        for (name, text) in &adapter.files {
            let written = std::fs::write(path.join(name), values.put_in(text));
            written.map_err(|error| {
                SuiteError(format!("write {name} in {}: {error}", path.display()))
            })?;
        }
        let words: Vec<String> = command.0.iter().map(|word| values.put_in(word)).collect();
        let ran = run_command(&words, &path, BUILD_LIMIT)?;
        match ran.is_success() {
            true => Ok(Build::Kept(path)),
            false => {
                Err(SuiteError(format!("build: {command}: {}: {}", ran.exit, ran.stderr.trim())))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Build::Kept(path) => path,
            Build::Scratch(scratch) => scratch.path(),
        }
    }
}

fn subject(adapter: &Adapter, build: &Path) -> Subject {
    let command = match (&adapter.command, &adapter.running) {
        (_, Some(running)) => running.url.clone(),
        (Some(command), None) => command.to_string(),
        (None, None) => String::new(),
    };
    let version = adapter.version.as_ref().and_then(|command| {
        let values = Service::values_without_start(build);
        let words: Vec<String> = command.0.iter().map(|word| values.put_in(word)).collect();
        let ran = run_command(&words, build, COMMAND_LIMIT).ok()?;
        // Some tell it on standard error.
        let text = if ran.stdout.trim().is_empty() { ran.stderr } else { ran.stdout };
        text.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
    });
    Subject { name: adapter.name.clone(), command, version }
}

fn environment(seed: u64) -> Environment {
    let text = |name: &str| {
        let read = std::fs::read_to_string(format!("/proc/sys/kernel/{name}"));
        read.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    };
    let migrate = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req");
    Environment {
        kernel: format!("{} {}", text("ostype"), text("osrelease")),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        tcp_migrate_req: migrate.ok().and_then(|text| text.trim().parse().ok()),
        tester: format!("lameduck {}", env!("CARGO_PKG_VERSION")),
        seed,
        began: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    }
}
