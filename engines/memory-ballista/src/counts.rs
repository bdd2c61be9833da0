//! What is counted over all jobs of an executor.

use std::sync::atomic::{AtomicU64, AtomicUsize};

use tokio::sync::Notify;

/// What is counted over all jobs. The numbers are for reports, so that no ordering matters.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) running: AtomicUsize,
    pub(crate) waiting: AtomicUsize,
    pub(crate) waited: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) handed_back: AtomicU64,
    /// Told when a task has ended.
    pub(crate) ended: Notify,
}
