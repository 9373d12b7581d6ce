//! State that moves with an upgrade: what this program offers a successor, and what a predecessor left for it.
//!
//! Two kinds. [`Cells`] are counters that both versions go on writing, in memory that both map. A blob is written once, when
//! a successor asks, and read by it while it starts. Each has a name and a version; a version that a program cannot
//! read is an error at its start, before anything has changed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::shared::Cells;
use crate::takeover::wire::{self, MAX_NAME, MAX_STATE_SIZE, MAX_STATES};

/// Writes a blob when a successor asks.
type Save = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

#[derive(Clone)]
enum Content {
    Cells(Cells),
    Blob(Save),
}

#[derive(Clone)]
struct Kept {
    key: String,
    version: u32,
    content: Content,
}

/// What a predecessor left.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) version: u32,
    pub(crate) size: u64,
    pub(crate) file: OwnedFd,
}

/// Whether state was begun here or taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// There was nothing: it begins here.
    Fresh,
    /// A predecessor left it.
    TakenOver,
}

#[derive(Default)]
pub(crate) struct States {
    kept: Mutex<Vec<Kept>>,
    left: Mutex<HashMap<String, Left>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl States {
    pub(crate) fn took_over(left: HashMap<String, Left>) -> States {
        States { kept: Mutex::default(), left: Mutex::new(left) }
    }

    fn keep(&self, key: &str, version: u32, content: Content) -> Result<(), Error> {
        let mut kept = lock(&self.kept);
        let problem = if key.is_empty() || key.len() > MAX_NAME {
            Some(format!("a key has 1 to {MAX_NAME} bytes"))
        } else if kept.iter().any(|kept| kept.key == key) {
            Some("the key is taken".to_owned())
        } else if kept.len() >= MAX_STATES {
            Some(format!("{MAX_STATES} states are kept already"))
        } else {
            None
        };
        match problem {
            Some(problem) => Err(Error::name(format!("keep state '{key}': {problem}"))),
            None => {
                kept.push(Kept { key: key.to_owned(), version, content });
                Ok(())
            }
        }
    }

    /// Takes what a predecessor left under `key`, if this program can read its version.
    fn take_left(&self, key: &str, readable: &RangeInclusive<u32>) -> Result<Option<Left>, Error> {
        match lock(&self.left).remove(key) {
            Some(left) if readable.contains(&left.version) => Ok(Some(left)),
            Some(left) => Err(Error::name(format!(
                "read state '{key}' of the predecessor: it is version {}, this program reads {} to {}",
                left.version,
                readable.start(),
                readable.end()
            ))),
            None => Ok(None),
        }
    }

    pub(crate) fn cells(
        &self,
        key: &str,
        version: u32,
        count: usize,
    ) -> Result<(Cells, Origin), Error> {
        let fail = |error| Error::io("share state", format!("'{key}'"), error);
        let (cells, origin) = match self.take_left(key, &(version..=version))? {
            Some(left) => (Cells::open(left.file, count).map_err(fail)?, Origin::TakenOver),
            None => (Cells::new(key, count).map_err(fail)?, Origin::Fresh),
        };
        self.keep(key, version, Content::Cells(cells.clone()))?;
        Ok((cells, origin))
    }

    pub(crate) fn blob(&self, key: &str, version: u32, save: Save) -> Result<(), Error> {
        self.keep(key, version, Content::Blob(save))
    }

    pub(crate) fn read_blob(
        &self,
        key: &str,
        readable: &RangeInclusive<u32>,
    ) -> Result<Option<(u32, Vec<u8>)>, Error> {
        let fail = |error| Error::io("read state", format!("'{key}'"), error);
        let Some(left) = self.take_left(key, readable)? else { return Ok(None) };
        let mut file = File::from(left.file);
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        let mut bytes = Vec::new();
        file.take(left.size).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 != left.size {
            let words = format!("it has {} bytes, not {}", bytes.len(), left.size);
            return Err(fail(io::Error::new(io::ErrorKind::InvalidData, words)));
        }
        Ok(Some((left.version, bytes)))
    }

    /// Everything kept, as it is now, in files that can be sent.
    pub(crate) fn offer(&self) -> io::Result<(Vec<wire::State>, Vec<OwnedFd>)> {
        let kept: Vec<Kept> = lock(&self.kept).clone();
        let (mut states, mut files) = (Vec::new(), Vec::new());
        for kept in kept {
            let (size, file) = match &kept.content {
                Content::Cells(cells) => match cells.descriptor() {
                    Some(file) => (cells.size(), file.try_clone_to_owned()?),
                    None => continue,
                },
                Content::Blob(save) => {
                    let bytes = save();
                    let size = bytes.len() as u64;
                    if size > MAX_STATE_SIZE {
                        return Err(io::Error::other(format!(
                            "state '{}' has {size} bytes; {MAX_STATE_SIZE} can move",
                            kept.key
                        )));
                    }
                    (size, write_file(&kept.key, &bytes)?)
                }
            };
            states.push(wire::State { key: kept.key, version: kept.version, size });
            files.push(file);
        }
        Ok((states, files))
    }
}

fn write_file(key: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file =
        crate::sys::memory_file(key, bytes.len() as u64)?.ok_or(io::ErrorKind::Unsupported)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    Ok(file.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn moved(states: &States) -> States {
        let (offered, files) = states.offer().unwrap();
        let left = offered
            .into_iter()
            .zip(files)
            .map(|(state, file)| {
                (state.key, Left { version: state.version, size: state.size, file })
            })
            .collect();
        States::took_over(left)
    }

    #[test]
    fn cells_count_on_and_blobs_are_read() {
        let old = States::default();
        let (cells, origin) = old.cells("counter", 1, 1).unwrap();
        assert_eq!(origin, Origin::Fresh);
        cells.get(0).store(41, std::sync::atomic::Ordering::SeqCst);
        old.blob("keys", 3, Arc::new(|| b"secret".to_vec())).unwrap();
        let new = moved(&old);
        cells.get(0).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (taken, origin) = new.cells("counter", 1, 1).unwrap();
        assert_eq!(origin, Origin::TakenOver);
        assert_eq!(taken.get(0).load(std::sync::atomic::Ordering::SeqCst), 42);
        assert_eq!(new.read_blob("keys", &(1..=3)).unwrap(), Some((3, b"secret".to_vec())));
        assert_eq!(new.read_blob("other", &(1..=3)).unwrap(), None);
    }

    #[test]
    fn a_version_that_cannot_be_read_is_a_clear_error() {
        let old = States::default();
        old.blob("keys", 3, Arc::new(Vec::new)).unwrap();
        let error = moved(&old).read_blob("keys", &(1..=2)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "read state 'keys' of the predecessor: it is version 3, this program reads 1 to 2"
        );
    }
}
