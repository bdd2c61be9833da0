//! A cache of large blocks for each thread: [`BlockCache`], and [`CachingManager`] around any manager.
#![expect(
    unsafe_code,
    reason = "implements and forwards the manager's unsafe trait"
)]

mod blocks;
mod cache;
mod classes;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

pub use self::cache::{BlockCache, CacheLimits};
use crate::__forward_to_inner as forward_to_inner;
use crate::manager::{AllocationManager, ManagerError, ManagerStats};
use crate::size::ALIGNMENT;
use crate::tally::Tally;

/// A [`BlockCache`] in front of another manager, whose name it keeps.
///
/// Blocks of more than 32 KiB, up to [`CacheLimits::largest_block`], with an alignment of 64 or
/// less, are allocated below with the size of their class, which is up to an eighth more than was asked
/// for. All other calls pass through. (The backends of this workspace that gain by it have a cache
/// already.)
///
/// Statistics are its own, and count sizes as they were asked for; kept blocks count as
/// [`cached_bytes`](ManagerStats::cached_bytes). Active, resident and retained bytes are those of
/// the manager below, which may serve others.
///
/// # Examples
///
/// ```
/// use std::alloc::Layout;
/// use std::sync::Arc;
///
/// use arrow_memory_manager::testing::{Block, StdManager};
/// use arrow_memory_manager::{AllocationManager, CachingManager};
///
/// let manager = CachingManager::new(Arc::new(StdManager));
/// drop(Block::zeroed(&manager, Layout::from_size_align(100_000, 64)?)?);
/// assert_eq!(manager.stats().cached_bytes, Some(104 * 1024));
///
/// manager.release_unused();
/// assert_eq!(manager.stats().cached_bytes, Some(0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// Invariants:
//
// 1. A lent block has, in the manager below, the layout that `below` computes from the one with which it is
//    lent. A kept block has there the size of its class and an alignment of 64. So the layout with which a
//    block must be returned below is always known.
#[derive(Debug)]
pub struct CachingManager {
    cache: BlockCache,
    inner: Arc<dyn AllocationManager>,
    tally: Tally,
}

impl CachingManager {
    /// Keeps blocks of `inner` within the default limits.
    pub fn new(inner: Arc<dyn AllocationManager>) -> Self {
        Self::with_limits(inner, CacheLimits::default())
    }

    /// Keeps blocks of `inner` within these limits.
    pub fn with_limits(inner: Arc<dyn AllocationManager>, limits: CacheLimits) -> Self {
        let below = Arc::clone(&inner);
        let release = move |block, size| {
            // A class has a layout.
            if let Ok(layout) = Layout::from_size_align(size, ALIGNMENT) {
                // SAFETY: a block that was kept, and that has no user, with its layout below by
                // invariant 1.
                unsafe { below.deallocate(block, layout) };
            }
        };
        Self {
            cache: BlockCache::new(limits, release),
            inner,
            tally: Tally::new(),
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> CacheLimits {
        self.cache.limits()
    }

    /// The size of the class of blocks with this layout, if they are kept.
    #[inline]
    fn class(&self, layout: Layout) -> Option<usize> {
        if layout.align() > ALIGNMENT {
            return None;
        }
        self.cache.size_of_class(layout.size())
    }

    /// The layout that a block with `layout` has in the manager below.
    #[inline]
    fn below(&self, layout: Layout) -> Result<Layout, ManagerError> {
        let size = self.class(layout).unwrap_or(layout.size());
        // At least 64, so that a block keeps its alignment when it grows into a class.
        Layout::from_size_align(size, layout.align().max(ALIGNMENT))
            .map_err(|_| ManagerError::out_of_memory(layout))
    }

    /// A kept block for this layout.
    #[inline]
    fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.cache.take(self.class(layout)?)
    }
}

// SAFETY: 1. a block is one of the manager below, with a size and an alignment that are at least
// those asked for, and is either kept or lent. 2. Any thread may keep it. 3. Nothing is done after
// a failure below. 4. Nothing here unwinds.
unsafe impl AllocationManager for CachingManager {
    forward_to_inner!(name);

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let block = match self.take(layout) {
            Some(kept) => kept,
            None => self.inner.allocate(self.below(layout)?)?,
        };
        self.tally.lent(layout.size());
        Ok(block)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        self.tally.returned(layout.size());
        if let Some(class) = self.class(layout) {
            // SAFETY: by the caller's promise the block has no user any more; by invariant 1 it has the
            // size of its class, with which `release` gives it back.
            let kept = unsafe { self.cache.keep(ptr, class) };
            if kept {
                return;
            }
        }
        // It had one when it was lent.
        if let Ok(below) = self.below(layout) {
            // SAFETY: by the caller's promise and invariant 1.
            unsafe { self.inner.deallocate(ptr, below) };
        }
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let block = match self.take(layout) {
            Some(kept) => {
                // SAFETY: the block is ours, and its class is at least as large as the layout.
                unsafe { kept.write_bytes(0, layout.size()) };
                kept
            }
            None => self.inner.allocate_zeroed(self.below(layout)?)?,
        };
        self.tally.lent(layout.size());
        Ok(block)
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        let new = Layout::from_size_align(new_size, old.align())
            .map_err(|_| ManagerError::new("the new size does not make a valid layout"))?;
        let (old_below, new_below) = (self.below(old)?, self.below(new)?);
        let moved = if old_below == new_below {
            ptr
        } else {
            // SAFETY: by the caller's promise and invariant 1; the alignments are the same.
            unsafe { self.inner.reallocate(ptr, old_below, new_below.size()) }?
        };
        self.tally.resized(old.size(), new_size);
        Ok(moved)
    }

    /// Empties the caches of all threads, then calls `release_unused` of the manager below.
    fn release_unused(&self) {
        self.cache.release();
        self.inner.release_unused();
    }

    fn stats(&self) -> ManagerStats {
        let (inner, own) = (self.inner.stats(), self.tally.stats());
        ManagerStats {
            live_bytes: own.live_bytes,
            peak_bytes: own.peak_bytes,
            total_bytes: own.total_bytes,
            allocations: own.allocations,
            cached_bytes: Some(self.cache.bytes() + inner.cached_bytes.unwrap_or(0)),
            ..inner
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
