//! [`Ground`]: what all participants of a run share.

use std::sync::Mutex;

use arrow_memory_core::{AllocError, Ask, GiveWay, Retry, TransferError, WaitError};

use super::lock;
use super::totals::{Count, Totals};

/// What the threads of a run share with their caches, wakers and operators.
#[derive(Default)]
pub struct Ground {
    /// How often what happened.
    pub totals: Totals,
    /// Whether the manager of the tree fails on purpose.
    pub manager_fails: bool,
    /// An ask that a cache kept, to be answered when one keeps the next.
    kept: Mutex<Option<Ask>>,
}

impl Ground {
    /// The ground of a tree whose manager fails on purpose.
    pub fn with_failing_manager() -> Self {
        Self {
            manager_fails: true,
            ..Self::default()
        }
    }

    /// Keeps an ask, and answers the one that was kept before; unless another thread is doing the same.
    pub fn keep(&self, ask: Ask) {
        if let Ok(mut kept) = self.kept.try_lock() {
            let before = kept.replace(ask);
            drop(kept);
            drop(before);
        }
    }

    /// Answers the ask that is kept.
    pub fn answer_kept(&self) {
        let kept = lock(&self.kept).take();
        drop(kept);
    }

    /// Counts an error of an allocation, and notes one that should not be.
    pub fn refused(&self, error: &AllocError) {
        match error {
            AllocError::Closed { .. } => self.totals.add(Count::Closed),
            AllocError::OutOfMemory { .. } if error.retry() == Retry::Never => {
                self.totals.add(Count::Never);
            }
            AllocError::OutOfMemory { .. } => self.totals.add(Count::Refused),
            AllocError::Manager { .. } if self.manager_fails => self.totals.add(Count::Injected),
            other => self.undocumented(other),
        }
    }

    /// Counts an error of a transfer, and notes one that should not be.
    pub fn not_moved(&self, error: &TransferError) {
        match error {
            TransferError::Closed { .. } => self.totals.add(Count::Closed),
            TransferError::DoesNotFit { .. } => self.totals.add(Count::Refused),
            other => self.undocumented(other),
        }
    }

    /// Counts the end of a wait that was not granted, and notes one that should not be. Of a request that is to give
    /// way it returns the age.
    pub fn ended(&self, error: WaitError, has_deadline: bool) -> Option<GiveWay> {
        match error {
            WaitError::Refused(error) => self.refused(&error),
            WaitError::TimedOut(_) if has_deadline => self.totals.add(Count::TimedOut),
            WaitError::GiveWay(give_way) => {
                self.totals.add(Count::GaveWay);
                return Some(give_way);
            }
            other => self.undocumented(&other),
        }
        None
    }

    /// Notes that memory of the spill reserve was refused, unless it was the manager that failed on purpose.
    pub(super) fn no_memory_to_spill(&self, error: &AllocError) {
        match error {
            AllocError::Manager { .. } if self.manager_fails => self.totals.add(Count::Injected),
            error => self.totals.fail(format!("no memory to spill: {error:#}")),
        }
    }

    fn undocumented(&self, error: &dyn std::error::Error) {
        self.totals.fail(format!("not documented: {error:#}"));
    }
}
