//! In models: a datum that stands for a node's memory, so that loom sees a use that is not ordered
//! before the node is freed. Whoever reaches the node uses it; dropping the node frees it.

use loom::cell::UnsafeCell;

#[derive(Default)]
pub(super) struct Memory(UnsafeCell<()>);

impl Memory {
    /// Loom reports this if it races with `freed`.
    pub(super) fn used(&self) {
        self.0.with(|_memory| ());
    }

    pub(super) fn freed(&self) {
        self.0.with_mut(|_memory| ());
    }
}
