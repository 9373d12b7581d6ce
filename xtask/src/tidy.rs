//! `cargo xtask tidy`: the laws of the house, checked on the text of the tracked files.
//!
//! A law is a function from the tree of files to faults, so its tests hand it small trees that
//! break it. The laws work on text with comments and strings blanked out, not on a syntax tree:
//! that is enough for what they ask, and it keeps this program quick to build.

mod code;
mod defaults;
mod documents;
mod forbidden;
mod imports;
mod length;
mod tree;
mod words;

use anyhow::{Result, bail};

use tree::Tree;

/// What a law finds at one place.
#[derive(Debug)]
pub struct Fault {
    grade: Grade,
    path: String,
    /// 1 for the first line; 0 where the fault is the file itself.
    line: usize,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Fails,
    Warns,
}

struct Law {
    name: &'static str,
    why: &'static str,
    check: fn(&Tree) -> Vec<Fault>,
}

const LAWS: &[Law] = &[
    Law {
        name: "imports",
        why: "the pure parts stay pure and no arrow between the library's modules points upwards",
        check: imports::check,
    },
    Law {
        name: "unsafe",
        why: "one file can be read in full; unsafe all over the tree can not",
        check: forbidden::unsafe_in_one_file,
    },
    Law {
        name: "time-of-day",
        why: "a clock that somebody sets ends no wait early and makes none longer",
        check: forbidden::time_of_day_in_few_files,
    },
    Law {
        name: "unfinished",
        why: "what is in the tree works and is tested",
        check: forbidden::unfinished,
    },
    Law {
        name: "machine-paths",
        why: "the project builds on any machine",
        check: forbidden::machine_paths,
    },
    Law {
        name: "lengths",
        why: "a function fits a screen and a file has one subject",
        check: length::check,
    },
    Law { name: "words", why: "a name that fits everything says nothing", check: words::check },
    Law {
        name: "changelog",
        why: "a user finds the version in use in the list of changes",
        check: documents::changelog_has_the_version,
    },
    Law {
        name: "defaults",
        why: "the table on the library's front page is what users plan their time by",
        check: defaults::check,
    },
    Law {
        name: "losses",
        why: "a row of the catalogue of losses that names a test is proved by that test",
        check: documents::losses_name_real_tests,
    },
    Law {
        name: "links",
        why: "a link in a document leads somewhere",
        check: documents::links_lead_somewhere,
    },
];

/// Checks every law and prints each fault with its file and line.
pub fn run() -> Result<()> {
    let tree = Tree::of_tracked_files()?;
    let mut broken = 0;
    for law in LAWS {
        let faults = (law.check)(&tree);
        for fault in &faults {
            println!("{}", fault.line_to_print(law.name));
        }
        let failures = faults.iter().filter(|fault| fault.grade == Grade::Fails).count();
        if failures > 0 {
            println!("    the law `{}`: {}", law.name, law.why);
            broken += failures;
        }
    }
    if broken > 0 {
        bail!("tidy: {broken} breaches of the laws of the house");
    }
    println!("tidy: {} laws hold in {} files", LAWS.len(), tree.files.len());
    Ok(())
}

impl Fault {
    fn fails(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { grade: Grade::Fails, path: path.to_owned(), line, text: text.into() }
    }

    fn warns(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { grade: Grade::Warns, ..Self::fails(path, line, text) }
    }

    fn line_to_print(&self, law: &str) -> String {
        let grade = match self.grade {
            Grade::Fails => "error",
            Grade::Warns => "warning",
        };
        let place = match self.line {
            0 => self.path.clone(),
            line => format!("{}:{line}", self.path),
        };
        format!("{grade}[{law}] {place}: {}", self.text)
    }
}
