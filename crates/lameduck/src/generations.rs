//! Where the generations of a service are found: one control socket each, and a name that leads to the active one.
//!
//! ```text
//! /run/app/            0700, ours
//! /run/app/control     a symlink to the active generation's socket, put in place by rename
//! /run/app/control.g7  generation 7's socket, 0600
//! /run/app/control.pid the active generation's process id and a newline, put in place by rename
//! ```
//!
//! # Invariants
//!
//! 1. The name is never absent while a generation serves: it is replaced by rename, never removed first.
//! 2. A generation removes the name only while it leads to its own socket, and no socket but its own or a dead one.
//! 3. While a generation serves, the file with the process id holds one whole number: its own, or for the moment of a
//!    hand-over its predecessor's, which still lives.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::takeover::channel::Channel;

/// How long a first start waits for another one in the same directory to have found its place.
pub const CLAIM: Duration = Duration::from_secs(5);

/// Between two looks whether it has.
const CLAIM_PAUSE: Duration = Duration::from_millis(1);

/// The control name of a service, and the sockets beside it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    name: PathBuf,
}

impl Place {
    /// Where a service is to be found, whether or not it is.
    pub(crate) fn at(name: &Path) -> io::Result<Place> {
        Ok(Place { name: std::path::absolute(name)? })
    }

    /// Makes sure that the directory is ours alone, creating it if it is missing.
    ///
    /// # Errors
    ///
    /// When the directory is somebody else's or open to others: anybody who can write there could put a socket of
    /// their own in our place.
    pub(crate) fn prepare(name: &Path) -> io::Result<Place> {
        let Place { name } = Place::at(name)?;
        let parent = match name.parent() {
            Some(parent) if name.file_name().is_some() => parent,
            Some(_) | None => return Err(io::ErrorKind::InvalidInput.into()),
        };
        match fs::DirBuilder::new().mode(0o700).create(parent) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Place::is_ours(parent)?;
        Ok(Place { name })
    }

    /// Keeps other first starts out of the directory until what this returns is dropped: two that look for a service there
    /// at the same moment would both find none, and each take the name and the socket of the other for its own to replace.
    ///
    /// # Errors
    ///
    /// When another one is at it for [`CLAIM`].
    pub(crate) fn claim(&self) -> io::Result<Option<OwnedFd>> {
        let Some(parent) = self.name.parent() else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())?;
        let until = Instant::now() + CLAIM;
        loop {
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(directory)),
                Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                    std::thread::sleep(CLAIM_PAUSE);
                }
                Err(Errno::WOULDBLOCK) => {
                    let words = "another service is starting there, and does not come to an end";
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, words));
                }
                // A file system without locks: as good as it was without this.
                Err(_) => return Ok(None),
            }
        }
    }

    /// Looks at the directory as [`prepare`](Place::prepare) does; one that is missing will be made.
    pub(crate) fn look(name: &Path) -> io::Result<()> {
        let Place { name } = Place::at(name)?;
        match name.parent() {
            Some(parent) if name.file_name().is_some() && parent.exists() => Place::is_ours(parent),
            Some(_) if name.file_name().is_some() => Ok(()),
            Some(_) | None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn is_ours(parent: &Path) -> io::Result<()> {
        let directory = fs::metadata(parent)?;
        let own = rustix::process::geteuid().as_raw();
        if directory.uid() != own || directory.mode() & 0o077 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "the directory {} must belong to uid {own} with mode 0700; it belongs to uid {} with \
                     mode {:04o}",
                    parent.display(),
                    directory.uid(),
                    directory.mode() & 0o7777
                ),
            ));
        }
        Ok(())
    }

    /// The name operators use.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// One generation's own socket.
    pub(crate) fn socket(&self, generation: u32) -> PathBuf {
        let mut path = self.name.as_os_str().to_owned();
        path.push(format!(".g{generation}"));
        PathBuf::from(path)
    }

    /// Where this process makes something of its generation's, before it is renamed into place. The name tells whose it was,
    /// should it be killed in between.
    pub(crate) fn beside(&self, generation: u32) -> PathBuf {
        let mut path = self.socket(generation).into_os_string();
        path.push(format!(".{}", std::process::id()));
        PathBuf::from(path)
    }

    /// Where the active generation's process id is read.
    fn pid_file(&self) -> PathBuf {
        let mut path = self.name.as_os_str().to_owned();
        path.push(".pid");
        PathBuf::from(path)
    }

    /// Puts this process's id in place, in one step: a reader finds a whole number at any moment.
    fn tell_pid(&self, generation: u32) -> io::Result<()> {
        let beside = self.beside(generation);
        let _ = fs::remove_file(&beside);
        fs::write(&beside, format!("{}\n", std::process::id()))?;
        fs::rename(&beside, self.pid_file())
    }

    /// Makes the name lead to this generation, which is this process's.
    pub(crate) fn point_to(&self, generation: u32) -> io::Result<()> {
        self.tell_pid(generation)?;
        let socket = self.socket(generation);
        let beside = self.beside(generation);
        let target = socket.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let _ = fs::remove_file(&beside);
        symlink(target, &beside)?;
        fs::rename(&beside, &self.name)
    }

    /// Whether the name leads to this generation's socket.
    pub(crate) fn leads_to(&self, generation: u32) -> bool {
        let socket = self.socket(generation);
        fs::read_link(&self.name).is_ok_and(|target| Some(target.as_os_str()) == socket.file_name())
    }

    /// Removes what is this generation's own: its socket, and the name while it leads there.
    pub(crate) fn release(&self, generation: u32) {
        let socket = self.socket(generation);
        if self.leads_to(generation) {
            let _ = fs::remove_file(&self.name);
            let _ = fs::remove_file(self.pid_file());
        }
        let _ = fs::remove_file(&socket);
        self.sweep(generation);
    }

    /// Removes what dead generations left.
    pub(crate) fn sweep(&self, own: u32) {
        self.others(own);
        for (which, path) in self.of_generations() {
            if which.split_once('.').is_some_and(|(_, pid)| is_gone(pid)) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// What lies there of any generation: its path, and what stands behind `control.g`.
    fn of_generations(&self) -> Vec<(String, PathBuf)> {
        let (Some(parent), Some(file)) = (self.name.parent(), self.name.file_name()) else {
            return Vec::new();
        };
        let prefix = format!("{}.g", file.to_string_lossy());
        let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
        let named = entries.flatten().filter_map(|entry| {
            let which = entry.file_name().to_str()?.strip_prefix(&prefix)?.to_owned();
            Some((which, entry.path()))
        });
        named.collect()
    }

    /// The generations that answer, `own` left out, oldest first. Sockets of dead ones are removed.
    pub(crate) fn others(&self, own: u32) -> Vec<(u32, PathBuf)> {
        let mut found = Vec::new();
        for (which, path) in self.of_generations() {
            let Some(generation) = which.parse().ok().filter(|generation| *generation != own)
            else {
                continue;
            };
            match Channel::connect(&path) {
                Ok(_) => found.push((generation, path)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    let _ = fs::remove_file(path);
                }
                // Busy, or gone meanwhile: it counts when it can be asked.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    found.push((generation, path));
                }
                Err(_) => {}
            }
        }
        found.sort();
        found
    }

    /// Whether a service answers under the name.
    pub(crate) fn is_answered(&self) -> bool {
        match Channel::connect(&self.name) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// Whether this is the number of a process that there is not.
fn is_gone(pid: &str) -> bool {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn directory() -> PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("lameduck-place-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        let directory = directory();
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let error = Place::prepare(&directory.join("control")).unwrap_err();
        assert!(error.to_string().contains("with mode 0755"), "{error}");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_missing_directory_is_made_for_us_alone() {
        let directory = directory();
        Place::prepare(&directory.join("control")).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_file_with_the_process_id_holds_a_whole_number_at_any_moment() {
        let directory = directory();
        let place = Place::prepare(&directory.join("control")).unwrap();
        place.point_to(1).unwrap();
        let path = directory.join("control.pid");
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = String::new();
                // Until the last generation has left.
                while let Ok(text) = fs::read_to_string(&path) {
                    assert_eq!(text, format!("{}\n", std::process::id()));
                    last = text;
                }
                last
            });
            (2..100).for_each(|generation| place.point_to(generation).unwrap());
            place.release(50);
            assert!(path.exists(), "only the active generation removes it");
            place.release(99);
            drop(reader.join().unwrap());
        });
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_a_killed_process_was_making_is_swept_and_what_a_living_one_makes_is_not() {
        let directory = directory();
        let place = Place::prepare(&directory.join("control")).unwrap();
        let mut other = std::process::Command::new("true").spawn().unwrap();
        let left = directory.join(format!("control.g2.{}", other.id()));
        let own = place.beside(3);
        fs::write(&left, "").unwrap();
        fs::write(&own, "").unwrap();
        other.wait().unwrap();
        place.sweep(1);
        assert!(!left.exists(), "{}", left.display());
        assert!(own.exists(), "{}", own.display());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_generation_releases_only_what_is_its_own() {
        let directory = directory();
        let place = Place::prepare(&directory.join("control")).unwrap();
        place.point_to(1).unwrap();
        place.point_to(2).unwrap();
        place.release(1);
        assert_eq!(fs::read_link(place.name()).unwrap(), PathBuf::from("control.g2"));
        place.release(2);
        assert!(fs::read_link(place.name()).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
