//! Where PostgreSQL's programs are: Debian keeps the server's outside PATH, one directory a version.

use std::path::{Path, PathBuf};

/// Debian and its family.
const VERSIONS: &str = "/usr/lib/postgresql";

/// One installation's directory of programs.
#[derive(Debug)]
pub(crate) struct Programs {
    bin: PathBuf,
}

impl Programs {
    /// The newest installation below `/usr/lib/postgresql`, else the one in PATH.
    pub(crate) fn find() -> Self {
        let bin = newest(Path::new(VERSIONS)).or_else(in_path).unwrap_or_else(|| {
            panic!(
                "PostgreSQL's server programs are neither below {VERSIONS} nor in PATH: \
                 `cargo xtask setup` installs them"
            )
        });
        Self { bin }
    }

    pub(crate) fn initdb(&self) -> PathBuf {
        self.bin.join("initdb")
    }

    pub(crate) fn postgres(&self) -> PathBuf {
        self.bin.join("postgres")
    }

    pub(crate) fn psql(&self) -> PathBuf {
        self.bin.join("psql")
    }
}

fn newest(versions: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(versions).ok()?;
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, bin)| complete(bin))
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

fn in_path() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).find(|bin| complete(bin))
}

fn complete(bin: &Path) -> bool {
    ["initdb", "postgres", "psql"].iter().all(|program| bin.join(program).is_file())
}
