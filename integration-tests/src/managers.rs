//! A manager that lets other threads run in the middle of an operation.
#![expect(
    unsafe_code,
    reason = "managers hand out raw blocks; this one passes on those of the manager that it wraps"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use arrow_memory_core::__private::forward_to_inner;
use arrow_memory_core::AllocationManager;

/// Forwards to another manager, whose name it keeps, and yields in every fourth call that requests a block.
///
/// An operation of a tree then pauses between its charge and its block, where other threads can interleave.
#[derive(Debug)]
pub struct YieldingManager {
    inner: Arc<dyn AllocationManager>,
    calls: AtomicUsize,
}

impl YieldingManager {
    /// Forwards to `inner`.
    pub fn over(inner: Arc<dyn AllocationManager>) -> Self {
        let calls = AtomicUsize::new(0);
        Self { inner, calls }
    }

    fn yield_sometimes(&self) {
        // Relaxed: the count guards no other memory.
        if self.calls.fetch_add(1, Ordering::Relaxed) % 4 == 3 {
            thread::yield_now();
        }
    }
}

// SAFETY: every method forwards to a manager that keeps the promises.
unsafe impl AllocationManager for YieldingManager {
    forward_to_inner!(name, deallocate, release_unused, stats);
    forward_to_inner!(before |this| this.yield_sometimes(); allocate, allocate_zeroed, reallocate);
}
