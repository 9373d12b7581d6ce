//! What a run found, for people and for programs: every report is made from one [`SuiteReport`](crate::verdict::SuiteReport).
//!
//! | module | what it makes |
//! |---|---|
//! | [`summary`] | the counts, and the one sentence that stands first everywhere |
//! | [`terminal`] | progress while it runs, and the text at its end |
//! | [`json`] | everything, for programs |
//! | [`junit`] | what build servers show |
//! | [`html`] | one file with timelines, for a browser |

pub mod html;
pub mod json;
pub mod junit;
pub mod summary;
pub mod terminal;
