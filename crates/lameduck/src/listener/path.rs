//! The path of a Unix socket, which is removed only while it still leads to our own.

use std::io;
use std::path::{Path, PathBuf};

/// The path of a Unix socket, with what tells whether it still is ours.
#[derive(Debug)]
pub(super) struct OwnPath {
    path: PathBuf,
    inode: (u64, u64),
    keeper: Keeper,
}

/// Who removes the path in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper {
    Us,
    /// Another generation serves from the socket: a successor, or a predecessor that has not let it go.
    Other,
}

impl OwnPath {
    pub(super) fn of(path: &Path) -> io::Result<OwnPath> {
        Ok(OwnPath { path: path.to_owned(), inode: inode(path)?, keeper: Keeper::Us })
    }

    /// Says who removes the path from now on.
    pub(super) fn belongs_to(&mut self, keeper: Keeper) {
        self.keeper = keeper;
    }

    /// Removes the path if it still leads to our socket.
    pub(super) fn remove(&self) {
        if self.keeper == Keeper::Us && inode(&self.path).is_ok_and(|now| now == self.inode) {
            // Lost to a race or to permissions: the next start replaces a stale path anyway.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        self.remove();
    }
}

pub(super) fn inode(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

pub(super) fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}
