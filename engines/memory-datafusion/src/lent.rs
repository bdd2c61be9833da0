//! Memory of others that passes through a query: the batches of a table that somebody else keeps in memory.
//!
//! Such a table is not the query's, and no operator is charged for it, however far its buffers go through the plan.
//! Their addresses are remembered from the scan on that they come out of, together with the scan itself: it keeps the
//! table, so that no other memory comes to be there.

use std::any::Any;
use std::collections::HashSet;
use std::mem;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The allocations that are lent, and who keeps them.
#[derive(Default)]
pub(crate) struct Lent {
    any: AtomicBool,
    loans: RwLock<Loans>,
}

#[derive(Default)]
pub(crate) struct Loans {
    starts: HashSet<usize>,
    keepers: Vec<Arc<dyn Any + Send + Sync>>,
}

impl Lent {
    /// Notes who keeps the allocations that are added next.
    pub(crate) fn keep(&self, keeper: Arc<dyn Any + Send + Sync>) {
        let mut loans = self.loans.write().unwrap_or_else(PoisonError::into_inner);
        loans.keepers.push(keeper);
    }

    /// Notes allocations.
    pub(crate) fn add(&self, starts: impl IntoIterator<Item = NonNull<u8>>) {
        let starts = starts.into_iter().map(|start| start.addr().get());
        let mut loans = self.loans.write().unwrap_or_else(PoisonError::into_inner);
        loans.starts.extend(starts);
        // Relaxed: a batch comes to the thread that asks from the thread that has added its allocations, which orders
        // the two.
        self.any.store(true, Ordering::Relaxed);
    }

    /// Whether there is any. Usually there is none.
    pub(crate) fn any(&self) -> bool {
        // Relaxed: as in `add`.
        self.any.load(Ordering::Relaxed)
    }

    pub(crate) fn has(&self, start: NonNull<u8>) -> bool {
        let loans = self.loans.read().unwrap_or_else(PoisonError::into_inner);
        loans.starts.contains(&start.addr().get())
    }

    /// Forgets all. The caller drops it without a lock.
    pub(crate) fn take(&self) -> Loans {
        let mut loans = self.loans.write().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: as in `add`.
        self.any.store(false, Ordering::Relaxed);
        mem::take(&mut *loans)
    }
}
