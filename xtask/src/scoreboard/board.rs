//! What the runs found, as the table and the picture need it.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The form of the reports that is understood here.
const SCHEMA: &str = "lameduck-verify/1";

/// The servers that were tested, and those that could not be, with the reason.
pub struct Board {
    pub rows: Vec<Row>,
    pub missing: Vec<(String, String)>,
}

/// One server.
pub struct Row {
    pub name: String,
    pub version: String,
    pub sentence: String,
    pub kernel: String,
    pub processors: u64,
    pub tester: String,
    /// Seconds since 1970.
    pub began: u64,
    pub took: f64,
    /// One for each case, in the order of the list.
    pub cells: Vec<Cell>,
}

/// One case of one server.
pub struct Cell {
    pub id: String,
    pub group: String,
    pub must: bool,
    pub title: String,
    /// Of each run.
    pub verdicts: Vec<String>,
    /// Of the worst run.
    pub reason: String,
}

/// The worst first.
const RANKS: [&str; 5] = ["FAIL", "INCONCLUSIVE", "WARN", "PASS", "SKIP"];

fn rank(verdict: &str) -> usize {
    RANKS.iter().position(|known| *known == verdict).unwrap_or(0)
}

impl Cell {
    /// The worst of the runs.
    pub fn verdict(&self) -> &str {
        self.verdicts.iter().map(String::as_str).min_by_key(|it| rank(it)).unwrap_or("SKIP")
    }
}

impl Row {
    pub fn read(name: &str, text: &str) -> Result<Row> {
        let value: Value = serde_json::from_str(text).context("the report is no JSON")?;
        if value["schema"] != SCHEMA {
            bail!("the report has the form {}, expected {SCHEMA}", value["schema"]);
        }
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut cells: Vec<Cell> = Vec::new();
        for result in value["results"].as_array().context("a report has results")? {
            let (id, verdict) = (word(&result["id"]), word(&result["verdict"]));
            let reason = word(&result["reason"]);
            match cells.iter_mut().find(|cell| cell.id == id) {
                Some(cell) => {
                    if rank(&verdict) < rank(cell.verdict()) {
                        cell.reason = reason;
                    }
                    cell.verdicts.push(verdict);
                }
                None => cells.push(Cell {
                    id,
                    group: word(&result["group"]),
                    must: result["level"] == "MUST",
                    title: word(&result["title"]),
                    verdicts: vec![verdict],
                    reason,
                }),
            }
        }
        let environment = &value["environment"];
        Ok(Row {
            name: name.to_owned(),
            version: word(&value["subject"]["version"]),
            sentence: word(&value["sentence"]),
            kernel: word(&environment["kernel"]),
            processors: environment["processors"].as_u64().unwrap_or_default(),
            tester: word(&environment["tester"]),
            began: environment["began"].as_u64().unwrap_or_default(),
            took: value["took"].as_f64().unwrap_or_default(),
            cells,
        })
    }

    /// How often each case was run.
    pub fn runs(&self) -> usize {
        self.cells.iter().map(|cell| cell.verdicts.len()).max().unwrap_or(1).max(1)
    }

    pub fn count(&self, verdict: &str) -> usize {
        self.cells.iter().filter(|cell| cell.verdict() == verdict).count()
    }

    pub fn cell(&self, id: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.id == id)
    }

    /// Cases that did not end the same way each time.
    pub fn unstable(&self) -> Vec<String> {
        let differs = |cell: &&Cell| cell.verdicts.iter().any(|it| *it != cell.verdicts[0]);
        let told = |cell: &Cell| {
            let counts = RANKS.iter().filter_map(|verdict| {
                let count = cell.verdicts.iter().filter(|it| it == verdict).count();
                (count > 0).then(|| format!("{count} {verdict}"))
            });
            format!("{} {} ({})", cell.id, counts.collect::<Vec<_>>().join(", "), cell.reason)
        };
        self.cells.iter().filter(differs).map(told).collect()
    }
}

impl Board {
    /// Every case that some server met, in the order of the list.
    pub fn cases(&self) -> Vec<&Cell> {
        let mut cases: Vec<&Cell> = Vec::new();
        for cell in self.rows.iter().flat_map(|row| &row.cells) {
            if !cases.iter().any(|known| known.id == cell.id) {
                cases.push(cell);
            }
        }
        cases
    }
}

/// Readable without colour.
pub fn symbol(verdict: &str) -> &'static str {
    match verdict {
        "PASS" => "✓",
        "WARN" => "!",
        "FAIL" => "✕",
        "SKIP" => "·",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_counts_with_its_worst_run_and_an_unstable_one_is_named() {
        let result = |verdict| {
            serde_json::json!({"id": "SIG/1", "group": "SIG", "level": "MUST", "title": "t",
                "verdict": verdict, "reason": format!("was {verdict}")})
        };
        let report = serde_json::json!({"schema": SCHEMA, "sentence": "s", "took": 1.5,
            "subject": {"version": "1"}, "environment": {"began": 7},
            "results": [result("PASS"), result("FAIL"), result("PASS")]});
        let row = Row::read("x", &report.to_string()).unwrap();
        assert_eq!((row.count("FAIL"), row.cells.len(), row.runs()), (1, 1, 3));
        assert_eq!(row.unstable(), ["SIG/1 1 FAIL, 2 PASS (was FAIL)"]);
        assert!(Row::read("x", r#"{"schema": "other/1"}"#).is_err());
    }
}
