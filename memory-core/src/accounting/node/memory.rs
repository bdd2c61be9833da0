//! In models: a datum that stands for a node's memory, so that loom sees a use that is not ordered
//! before the node is freed. Whoever reaches the node uses it; dropping the node frees it.

use loom::cell::UnsafeCell;

use crate::sync::{AtomicUsize, Ordering};

#[derive(Default)]
pub(super) struct Memory {
    datum: UnsafeCell<()>,
    /// How many threads dropped an `Arc` that kept the memory. `Arc` is std's, whose count loom does not
    /// see.
    left: AtomicUsize,
}

impl Memory {
    /// Loom reports this if it races with `freed`.
    pub(super) fn used(&self) {
        self.datum.with(|_memory| ());
    }

    /// Before an `Arc` that kept the memory is dropped.
    pub(super) fn left(&self) {
        // Release: partner of the Acquire in `freed`; what `Arc`'s own count orders.
        self.left.fetch_add(1, Ordering::Release);
    }

    pub(super) fn freed(&self) {
        // Acquire: partner of the Release in `left`. An addition, since a load may see an old value.
        self.left.fetch_add(0, Ordering::Acquire);
        self.datum.with_mut(|_memory| ());
    }
}
