//! Which servers were started for which piece of work, so that those of one case can be ended and no others.

use super::guardian;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    static CURRENT: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// The servers that the threads of one piece of work start.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    is_over: Arc<AtomicBool>,
}

impl Scope {
    /// Without a thread or server.
    pub(crate) fn new() -> Scope {
        Scope { is_over: Arc::default() }
    }

    /// What this thread starts from now on belongs to it.
    pub(crate) fn enter(&self) {
        CURRENT.with_borrow_mut(|current| *current = Some(self.clone()));
    }

    /// The one that this thread is in.
    pub(super) fn current() -> Option<Scope> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Kills its servers, and lets it start none any more.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        guardian::kill_scope(self);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

impl PartialEq for Scope {
    fn eq(&self, other: &Scope) -> bool {
        Arc::ptr_eq(&self.is_over, &other.is_over)
    }
}
