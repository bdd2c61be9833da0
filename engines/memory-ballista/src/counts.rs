//! What is counted over all jobs of an executor.

use std::sync::atomic::{AtomicU64, AtomicUsize};

use tokio::sync::{Notify, watch};

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
    /// Whether no more tasks are admitted.
    pub(crate) closed: watch::Sender<bool>,
}

impl Counts {
    /// Ends once no more tasks are admitted.
    pub(crate) async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        // The sender is in this struct, and so not gone.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}
