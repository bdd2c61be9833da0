//! Statistics of one user of a shared manager: [`ProxyManager`].
#![expect(
    unsafe_code,
    reason = "implements and forwards the manager's unsafe trait"
)]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::__forward_to_inner as forward_to_inner;
use crate::manager::{AllocationManager, ManagerError, ManagerStats};
use crate::tally::Tally;

/// Forwards to another manager, whose name it keeps, and counts what passes through it.
///
/// [`stats`](AllocationManager::stats) has live, peak and total bytes and allocations, as exact as
/// a [`Tally`]; what the manager below caches or keeps resident is not known for a part.
///
/// # Examples
///
/// ```
/// use std::alloc::Layout;
/// use std::sync::Arc;
///
/// use arrow_memory_manager::testing::{Block, StdManager};
/// use arrow_memory_manager::{AllocationManager, ProxyManager};
///
/// let shared: Arc<dyn AllocationManager> = Arc::new(StdManager);
/// let (mine, yours) = (ProxyManager::new(shared.clone()), ProxyManager::new(shared));
/// let _block = Block::zeroed(&mine, Layout::from_size_align(100, 64)?)?;
/// assert_eq!(mine.stats().live_bytes, Some(100));
/// assert_eq!(yours.stats().live_bytes, Some(0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[doc(alias = "ProxyMemoryPool")]
pub struct ProxyManager {
    inner: Arc<dyn AllocationManager>,
    tally: Tally,
}

impl ProxyManager {
    /// Creates a manager that counts the blocks of `inner` that are lent through it.
    pub fn new(inner: Arc<dyn AllocationManager>) -> Self {
        Self {
            inner,
            tally: Tally::new(),
        }
    }

    /// Resets the peak to the bytes that are live now.
    pub fn reset_peak(&self) {
        self.tally.reset_peak();
    }
}

// SAFETY: every method forwards to a manager that keeps the promises; counting does not unwind.
unsafe impl AllocationManager for ProxyManager {
    forward_to_inner!(name, release_unused);

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let block = self.inner.allocate(layout)?;
        self.tally.lent(layout.size());
        Ok(block)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        self.tally.returned(layout.size());
        // SAFETY: the caller's promise is about a block of ours, which is one of `inner`.
        unsafe { self.inner.deallocate(ptr, layout) };
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let block = self.inner.allocate_zeroed(layout)?;
        self.tally.lent(layout.size());
        Ok(block)
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        // SAFETY: the caller's promise is about a block of ours, which is one of `inner`.
        let moved = unsafe { self.inner.reallocate(ptr, old, new_size)? };
        self.tally.resized(old.size(), new_size);
        Ok(moved)
    }

    fn stats(&self) -> ManagerStats {
        self.tally.stats()
    }
}
