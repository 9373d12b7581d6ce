//! State that both versions of a service write at once: counters in memory that passes to the successor by descriptor.
//!
//! An old version still answers requests it had in hand when a new one has taken over. A counter that is copied at
//! the hand-over would then be counted on in two places. [`Cells`] has one home instead, which both versions map; an
//! addition by either is seen by both. On Linux that home is a sealed memory file; elsewhere, where nothing can take it
//! over, plain memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::sys::Mapping;

/// The most cells one home holds: a page.
pub const CELLS_AT_MOST: usize = 512;

/// A fixed number of 64-bit counters, shared by all clones and, through an upgrade, by all generations.
///
/// Made by [`Lifecycle::cells`](crate::Lifecycle::cells). Addition and exchange are atomic across both processes; what
/// belongs together must fit one cell.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), lameduck::Error> {
/// use std::sync::atomic::Ordering;
/// use lameduck::states::Origin;
///
/// # let life = lameduck::Lifecycle::builder().without_signals().start()?;
/// let (hits, origin) = life.cells("hits", 1, 1)?;
/// if origin == Origin::Fresh {
///     hits.get(0).store(1_000, Ordering::Relaxed); // What the database knows.
/// }
/// assert_eq!(hits.get(0).fetch_add(1, Ordering::Relaxed), 1_000);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Cells {
    mapping: Arc<Mapping>,
    file: Option<Arc<OwnedFd>>,
}

impl Cells {
    /// New cells, all zero.
    ///
    /// # Errors
    ///
    /// When the system has no memory or descriptor left, or more than [`CELLS_AT_MOST`] are asked for.
    pub(crate) fn new(name: &str, count: usize) -> std::io::Result<Cells> {
        check(count)?;
        let file = crate::sys::memory_file(name, (count * 8) as u64)?;
        let mapping = Arc::new(Mapping::new(file.as_ref(), count)?);
        Ok(Cells { mapping, file: file.map(Arc::new) })
    }

    /// Cells of a predecessor.
    pub(crate) fn open(file: OwnedFd, count: usize) -> std::io::Result<Cells> {
        check(count)?;
        let mapping = Arc::new(Mapping::new(Some(&file), count)?);
        Ok(Cells { mapping, file: Some(Arc::new(file)) })
    }

    /// One cell.
    ///
    /// # Panics
    ///
    /// When there are not that many.
    pub fn get(&self, index: usize) -> &AtomicU64 {
        &self.mapping.cells()[index]
    }

    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(|file| file.as_fd())
    }

    pub(crate) fn size(&self) -> u64 {
        (self.mapping.cells().len() * 8) as u64
    }
}

fn check(count: usize) -> std::io::Result<()> {
    if (1..=CELLS_AT_MOST).contains(&count) {
        Ok(())
    } else {
        Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            format!("{count} cells were asked for; 1 to {CELLS_AT_MOST} can be had"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[cfg(target_os = "linux")]
    #[test]
    fn two_mappings_of_one_home_count_on_together() {
        let first = Cells::new("counter", 2).unwrap();
        let file = first.descriptor().unwrap().try_clone_to_owned().unwrap();
        let second = Cells::open(file, 2).unwrap();
        first.get(1).fetch_add(40, Ordering::SeqCst);
        second.get(1).fetch_add(2, Ordering::SeqCst);
        assert_eq!(first.get(1).load(Ordering::SeqCst), 42);
        assert_eq!(second.get(0).load(Ordering::SeqCst), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_home_of_another_size_is_refused() {
        let cells = Cells::new("counter", 2).unwrap();
        let file = cells.descriptor().unwrap().try_clone_to_owned().unwrap();
        assert!(Cells::open(file, 3).unwrap_err().to_string().contains("16 bytes"));
    }
}
