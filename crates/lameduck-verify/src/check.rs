//! The suite in a `#[test]`: a few lines, and a failure that can be read.

use crate::adapter::Adapter;
use crate::report::{html, terminal};
use crate::run::{Silent, Suite, SuiteError};
use crate::verdict::{SuiteReport, Verdict};
use std::path::{Path, PathBuf};

/// Tests the server that this command starts: words with spaces between them, and `{port}` (or `{address}`) where
/// the server takes its port. Nothing runs before [`assert`](Check::assert) or [`run`](Check::run).
///
/// ```no_run
/// lameduck_verify::check("my-server --port {port}").group("SIG").assert();
/// ```
///
/// The server is started for every case anew, in the foreground, in a process group of its own, and is gone
/// afterwards, however the test ends.
pub fn check(command: &str) -> Check {
    let words = command.split_whitespace().map(str::to_owned).collect();
    Check::of(Adapter::of_command(words))
}

/// What is to be tested, with which cases. Without a choice all cases run; those whose needs the server does not
/// declare are skipped.
#[derive(Clone, Debug)]
#[must_use = "nothing is tested before `assert` or `run`"]
pub struct Check {
    adapter: Adapter,
    cases: Vec<String>,
    groups: Vec<String>,
    strict: bool,
    page: Option<PathBuf>,
}

impl Check {
    /// Tests a server that an adapter describes: its paths, how it is upgraded, where it tells its generation.
    ///
    /// ```no_run
    /// use lameduck_verify::{Check, adapter::Adapter};
    ///
    /// let adapter = Adapter::find("tests/my-server.toml".as_ref())?;
    /// Check::of(adapter).assert();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(adapter: Adapter) -> Check {
        Check { adapter, cases: Vec::new(), groups: Vec::new(), strict: false, page: None }
    }

    /// With the cases of this group, as in `SIG`.
    pub fn group(mut self, name: impl Into<String>) -> Check {
        self.groups.push(name.into());
        self
    }

    /// With this case, as in `ACC/1`.
    pub fn case(mut self, id: impl Into<String>) -> Check {
        self.cases.push(id.into());
        self
    }

    /// Asks for this path, which has to answer 2xx; `/` when nothing is said.
    pub fn path(mut self, path: impl Into<String>) -> Check {
        self.adapter.paths.fast = path.into();
        self
    }

    /// A SHOULD that is not met fails as well.
    pub fn strict(mut self) -> Check {
        self.strict = true;
        self
    }

    /// Writes the page with the timelines to this file, also when a case fails.
    pub fn page(mut self, path: impl AsRef<Path>) -> Check {
        self.page = Some(path.as_ref().to_owned());
        self
    }

    /// Runs the cases.
    ///
    /// # Errors
    /// When a case or group does not exist, or the server cannot be started, does not become ready or does not
    /// answer: nothing was tested then.
    pub fn run(&self) -> Result<SuiteReport, SuiteError> {
        let suite = Suite::new(self.adapter.clone()).strict(self.strict);
        let suite = self.cases.iter().fold(suite, |suite, id| suite.case(id));
        let suite = self.groups.iter().fold(suite, |suite, name| suite.group(name));
        suite.run(&mut Silent)
    }

    /// Runs the cases, and gives the report where each was judged and no MUST failed.
    ///
    /// # Panics
    /// When a case failed or was inconclusive, when nothing could be tested, or when the page cannot be written. The
    /// message says what was seen, case by case.
    #[track_caller]
    pub fn assert(self) -> SuiteReport {
        let report = match self.run() {
            Ok(report) => report,
            Err(error) => panic!("{} was not tested: {error}", self.adapter.name),
        };
        if let Some(path) = &self.page
            && let Err(error) = std::fs::write(path, html::text(&report))
        {
            panic!("page {}: {error}", path.display());
        }
        let is_bad = |verdict| matches!(verdict, Verdict::Fail | Verdict::Inconclusive);
        if report.results.iter().any(|result| is_bad(result.verdict)) {
            let text = terminal::text(&report, terminal::Colour::None);
            panic!("{}: {text}", report.subject.name);
        }
        report
    }
}
