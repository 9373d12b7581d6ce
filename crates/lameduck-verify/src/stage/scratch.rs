//! Private directories of a run, removed at its end.

use crate::target::{directories, keep_directories};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Held while directories are made or removed: none is made after all were removed.
static CHANGING: Mutex<()> = Mutex::new(());

/// So often a directory is removed in which somebody still writes.
const REMOVALS: usize = 10;

/// A directory that is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new directory of this process. Its path is short: the path of a Unix socket has 107 bytes.
    pub(crate) fn new() -> io::Result<Scratch> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let root = directories();
        let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        if crate::target::is_leaving() {
            return Err(io::Error::other("the tester is leaving"));
        }
        keep_directories()?;
        std::fs::create_dir_all(&root).map_err(|error| named(&root, &error))?;
        // A target that runs as another user (a server's workers) has to reach its files.
        let path = root.join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&path).map_err(|error| named(&path, &error))?;
        Ok(Scratch { path })
    }

    /// Writes a file, and the directories on the way to it; a script can be executed.
    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.path.join(name);
        let mut on_the_way: Vec<&Path> = Path::new(name).ancestors().skip(1).collect();
        on_the_way.reverse();
        for directory in on_the_way.into_iter().filter(|it| !it.as_os_str().is_empty()) {
            // Not with its parents: this directory itself may have been removed.
            match std::fs::create_dir(self.path.join(directory)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(named(&path, &error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        std::fs::write(&path, text).map_err(|error| named(&path, &error))?;
        if text.starts_with("#!") {
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, executable).map_err(|error| named(&path, &error))?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        // The last one takes the root along; it fails while there are others.
        let _ = std::fs::remove_dir(directories());
    }
}

/// Removes every directory of this process, for a program that is about to leave because it was told to.
pub fn remove_scratch() {
    let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    // A server that is just dying may write once more.
    for _ in 0..REMOVALS {
        if std::fs::remove_dir_all(directories()).is_ok() || !directories().exists() {
            return;
        }
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
