//! A manager that panics wherever the governor calls it.
#![expect(unsafe_code, reason = "implements the manager's unsafe trait")]

use std::alloc::Layout;
use std::ptr::NonNull;

use arrow_memory_core::{AllocationManager, ManagerError, ManagerStats};

/// Lends nothing: trees over it hold external bytes only.
#[derive(Debug)]
pub(super) struct Panics;

// SAFETY: no block is ever lent.
unsafe impl AllocationManager for Panics {
    fn name(&self) -> &str {
        "panics"
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        Err(ManagerError::out_of_memory(layout))
    }

    unsafe fn deallocate(&self, _: NonNull<u8>, _: Layout) {}

    fn release_unused(&self) {
        panic!("release_unused")
    }

    fn stats(&self) -> ManagerStats {
        panic!("stats")
    }
}
