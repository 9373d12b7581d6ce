//! The ids that the server acknowledged.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A file with an id a line, shared by the clients.
pub(super) struct Acked {
    path: PathBuf,
    file: Mutex<Writing>,
}

struct Writing {
    out: BufWriter<File>,
    /// The first failure. A client goes on without its file; the report tells.
    failed: Option<io::Error>,
}

impl Acked {
    pub(super) fn open(path: &Path) -> io::Result<Acked> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|error| named(path, &error))?;
        let writing = Writing { out: BufWriter::new(file), failed: None };
        Ok(Acked { path: path.to_owned(), file: Mutex::new(writing) })
    }

    pub(super) fn record(&self, id: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.failed.is_none()
            && let Err(error) = writeln!(file.out, "{id}")
        {
            file.failed = Some(error);
        }
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match file.failed.take() {
            Some(error) => Err(error),
            None => file.out.flush(),
        };
        result.map_err(|error| named(&self.path, &error))
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("file of acknowledged ids {}: {error}", path.display()))
}
