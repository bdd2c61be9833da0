//! [`MimallocManager`]: which entry point of mimalloc serves which block.
//!
//! mimalloc is asked for *padded* sizes: multiples of 64, at least 64. Its block sizes for those are
//! multiples of 64, and its pages start on multiples of 64 KiB, so that a block is aligned to 64
//! bytes without being asked for an alignment, which takes the fast path. That is how mimalloc is
//! laid out and not what it promises; so each block's address is looked at, and one that will not
//! do is exchanged for one from the aligned functions, which over-allocate where they must.
//!
//! # Invariants
//!
//! 1. A live block whose size and alignment are such that it is kept when it comes back has room for
//!    the size of its class: it was asked for with that, and stays in place only as long as that
//!    is so.

#![expect(unsafe_code, reason = "implements AllocationManager")]

use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;

use arrow_memory_manager::{
    ALIGNMENT, AllocationManager, BlockCache, CacheLimits, ManagerError, ManagerStats, Tally,
};

use crate::heap::{self, Heap};
use crate::options::MimallocOption;

/// A backend on mimalloc.
///
/// The [crate's documentation](crate) says what it does and what can be expected of it.
///
/// # Examples
///
/// ```
/// use std::alloc::Layout;
///
/// use arrow_memory_manager::AllocationManager;
/// use arrow_memory_mimalloc::MimallocManager;
///
/// let manager = MimallocManager::new();
/// let layout = Layout::from_size_align(4096, 64)?;
/// let block = manager.allocate(layout)?;
///
/// assert_eq!(manager.stats().live_bytes, Some(4096));
/// // SAFETY: the block is live, of this manager and this layout.
/// unsafe { manager.deallocate(block, layout) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MimallocManager {
    heap: Heap,
    /// Keeps blocks of more than `DEAR` bytes.
    kept: BlockCache,
    tally: Tally,
}

impl MimallocManager {
    /// Creates a manager with a heap of its own, if the linked mimalloc has heaps that serve all threads.
    pub fn new() -> Self {
        Self::with_cache(CacheLimits::default())
    }

    /// Creates a manager whose threads keep blocks of more than 64 KiB within `limits`.
    ///
    /// mimalloc often sets up pages for each such block. [`CacheLimits::NONE`] keeps none; [`new`](Self::new)
    /// uses the default limits.
    pub fn with_cache(limits: CacheLimits) -> Self {
        let release = |block: NonNull<u8>, _size| {
            // SAFETY: a block that was kept, of some heap, and that is not in use.
            unsafe { heap::free(block.as_ptr()) };
        };
        Self {
            heap: Heap::new(),
            kept: BlockCache::new(limits, release),
            tally: Tally::new(),
        }
    }

    /// The version of mimalloc that is linked: major, minor, patch.
    pub fn version() -> (u32, u32, u32) {
        heap::version()
    }

    /// Whether blocks come from a heap of their own: with version 3 yes, with version 2 no.
    pub fn has_own_heap(&self) -> bool {
        self.heap.is_own()
    }

    /// The value of an option of mimalloc.
    pub fn option(option: MimallocOption) -> i64 {
        heap::option(option.number()) as i64
    }

    /// Sets an option of mimalloc, for all its users in the process.
    pub fn set_option(option: MimallocOption, value: i32) {
        heap::set_option(option.number(), value);
    }

    /// mimalloc's own statistics of the process, as JSON; empty if it has no memory for them.
    ///
    /// mimalloc is built without counters of blocks, which would cost time: `malloc_normal` and
    /// similar fields are 0. The reserved address space is there, and `committed`, which on Linux does not
    /// fall when memory is given back (`purged` rises).
    pub fn statistics_json(&self) -> String {
        heap::statistics_json()
    }

    /// Resets [`peak_bytes`](ManagerStats::peak_bytes) to the bytes that are live now.
    pub fn reset_peak(&self) {
        self.tally.reset_peak();
    }

    /// Allocates a block that is large or has an alignment above 64.
    #[inline(never)]
    fn allocate_otherwise(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        self.lend(self.obtain(layout.size(), layout.align()), layout)
    }

    /// Deallocates a block that may be kept, or whose return the tally cannot count without a call.
    ///
    /// # Safety
    ///
    /// The block is live, of this layout, and it is not used any more.
    #[inline(never)]
    unsafe fn deallocate_otherwise(&self, ptr: NonNull<u8>, layout: Layout) {
        self.tally.returned(layout.size());
        // SAFETY: by the caller's promise.
        unsafe { self.give_back(ptr, layout) };
    }

    /// A block, or null.
    fn obtain(&self, size: usize, align: usize) -> *mut u8 {
        if let Some(kept) = self.take(size, align) {
            return kept.as_ptr();
        }
        let room = self.room(size, align);
        if align <= ALIGNMENT {
            let ptr = self.heap.malloc(room);
            if ptr.addr().is_multiple_of(ALIGNMENT) {
                return ptr;
            }
            // SAFETY: it was allocated just now, and no other code has seen it.
            unsafe { heap::free(ptr) };
        }
        self.heap.malloc_aligned(room, align.max(ALIGNMENT))
    }

    /// A block of zeros, or null.
    fn obtain_zeroed(&self, size: usize, align: usize) -> *mut u8 {
        if let Some(kept) = self.take(size, align) {
            // SAFETY: the block is ours, and has room for its class, which is at least this size.
            unsafe { kept.write_bytes(0, size) };
            return kept.as_ptr();
        }
        let room = self.room(size, align);
        if align <= ALIGNMENT {
            let ptr = self.heap.zalloc(room);
            if ptr.addr().is_multiple_of(ALIGNMENT) {
                return ptr;
            }
            // SAFETY: it was allocated just now, and no other code has seen it.
            unsafe { heap::free(ptr) };
        }
        self.heap.zalloc_aligned(room, align.max(ALIGNMENT))
    }

    /// The size that a block is asked for with, or must have room for to stay where it is.
    fn room(&self, size: usize, align: usize) -> usize {
        let class = is_kept(size, align).then(|| self.kept.size_of_class(size));
        class.flatten().unwrap_or(padded(size))
    }

    /// A block that this thread kept.
    fn take(&self, size: usize, align: usize) -> Option<NonNull<u8>> {
        is_kept(size, align).then(|| self.kept.take(size)).flatten()
    }

    /// Keeps a block or gives it to mimalloc.
    ///
    /// # Safety
    ///
    /// The block is live, of this layout, and it is not used any more.
    unsafe fn give_back(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: by the caller's promise; by invariant 1 it has room for its class.
        if is_kept(layout.size(), layout.align()) && unsafe { self.kept.keep(ptr, layout.size()) } {
            return;
        }
        // SAFETY: by the caller's promise the block is live, and it is not used any more.
        unsafe { heap::free(ptr.as_ptr()) };
    }

    /// Lends a block of `size` bytes, or what it is exchanged for if it is not aligned to 64; or says
    /// that there is none.
    ///
    /// # Safety
    ///
    /// The block, if it is not null, is live, and no other code has it; `size` is at most `DEAR`.
    #[cold]
    unsafe fn lend_otherwise(
        &self,
        mut ptr: *mut u8,
        size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        if !ptr.addr().is_multiple_of(ALIGNMENT) {
            // SAFETY: it was allocated just now, and no other code has seen it.
            unsafe { heap::free(ptr) };
            ptr = self.heap.malloc_aligned(padded(size), ALIGNMENT);
        }
        // SAFETY: a power of two, and a size of at most DEAR.
        let layout = unsafe { Layout::from_size_align_unchecked(size, ALIGNMENT) };
        self.lend(ptr, layout)
    }

    /// Counts a block, or says that there is none.
    fn lend(&self, ptr: *mut u8, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        match NonNull::new(ptr) {
            Some(block) => {
                debug_assert!(
                    block
                        .addr()
                        .get()
                        .is_multiple_of(layout.align().max(ALIGNMENT))
                );
                self.tally.lent(layout.size());
                Ok(block)
            }
            None => Err(ManagerError::out_of_memory(layout)),
        }
    }
}

// SAFETY:
// 1. A block is what mimalloc returned for a padded size, which is not less than the layout's; its
//    address was looked at or asked for with its alignment. mimalloc does not hand out the same
//    bytes twice. A heap is never deleted, so its blocks outlive the manager.
// 2. mimalloc takes blocks back on any thread.
// 3. A failed request changes nothing; `reallocate` gives the old block back only once it has a
//    new one.
// 4. C does not unwind.
unsafe impl AllocationManager for MimallocManager {
    fn name(&self) -> &str {
        NAME
    }

    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        if layout.size() > DEAR || layout.align() > ALIGNMENT {
            return self.allocate_otherwise(layout);
        }
        let ptr = self.heap.malloc(padded(layout.size()));
        match NonNull::new(ptr) {
            Some(block)
                if ptr.addr().is_multiple_of(ALIGNMENT) && self.tally.try_lent(layout.size()) =>
            {
                Ok(block)
            }
            // SAFETY: the block, if there is one, was allocated just now, and the size looked at.
            _ => unsafe { self.lend_otherwise(ptr, layout.size()) },
        }
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() > DEAR || !self.tally.try_returned(layout.size()) {
            // SAFETY: the caller's promise.
            return unsafe { self.deallocate_otherwise(ptr, layout) };
        }
        // SAFETY: by the caller's promise the block is live, and it is not used any more.
        unsafe { heap::free(ptr.as_ptr()) };
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        self.lend(self.obtain_zeroed(layout.size(), layout.align()), layout)
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        // SAFETY: by the caller's promise the block is live.
        let fits = unsafe { heap::expand(ptr.as_ptr(), new_size) };
        // SAFETY: by the caller's promise the block is live.
        let usable = unsafe { heap::usable_size(ptr.as_ptr()) };
        // A block that would be more than half empty moves to a smaller one.
        if fits && new_size >= usable / 2 && self.room(new_size, old.align()) <= usable {
            self.tally.resized(old.size(), new_size);
            return Ok(ptr);
        }
        let new = Layout::from_size_align(new_size, old.align())
            .map_err(|_| ManagerError::new("the new size does not make a valid layout"))?;
        let moved = NonNull::new(self.obtain(new_size, new.align()))
            .ok_or_else(|| ManagerError::out_of_memory(new))?;
        let common = old.size().min(new_size);
        // SAFETY: the caller's block is valid for reads of `old.size()` bytes and the new one for
        // writes of `new_size`; two live blocks of mimalloc do not overlap.
        unsafe {
            moved
                .as_ptr()
                .copy_from_nonoverlapping(ptr.as_ptr(), common)
        };
        // SAFETY: by the caller's promise the block is live, and is not used any more.
        unsafe { self.give_back(ptr, old) };
        self.tally.resized(old.size(), new_size);
        Ok(moved)
    }

    /// Releases the large blocks that all threads keep, collects what mimalloc keeps for the calling
    /// one, and purges the memory that no thread uses.
    ///
    /// Other free blocks in pages that *other* threads own are not reached: mimalloc keeps memory per
    /// thread and has no call that collects another's. Such a thread gives empty pages back while
    /// it allocates, and everything when it ends.
    fn release_unused(&self) {
        self.kept.release();
        self.heap.collect();
    }

    /// Live, peak and total bytes and allocations of this manager's blocks, at their layouts' sizes, and
    /// as cached the large ones that threads keep.
    ///
    /// The rest is unknown: mimalloc is built without counters of its blocks, and what it calls
    /// committed is what it ever touched, given back or not.
    fn stats(&self) -> ManagerStats {
        let mut stats = self.tally.stats();
        stats.cached_bytes = Some(self.kept.bytes());
        stats
    }
}

impl Default for MimallocManager {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MimallocManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MimallocManager")
            .field("own_heap", &self.heap.is_own())
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

/// The name in `ARROW_DEFAULT_MEMORY_POOL` and in reports.
pub(crate) const NAME: &str = "mimalloc";

/// Whether blocks of this size and alignment are kept when they come back.
#[inline]
fn is_kept(size: usize, align: usize) -> bool {
    size > DEAR && align <= ALIGNMENT
}

/// The largest size that is not kept, in bytes. A page of mimalloc holds many blocks up to this size, and stays
/// when one is freed. Few larger blocks share a page, which is set up anew for a block that is alone in it (100
/// to 200 ns); above 512 KiB each block has its own.
const DEAR: usize = 64 * 1024;

/// `size` as mimalloc is asked for it; a layout's size cannot overflow here.
#[inline]
fn padded(size: usize) -> usize {
    (size + (ALIGNMENT - 1)) & !(ALIGNMENT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_without_an_alignment_are_never_exchanged() {
        // The fast path stands on it; were it to end, allocating would only be slower.
        let manager = MimallocManager::new();
        let mut held = Vec::new();
        let mut exchanged = 0;
        for size in (64..70_000)
            .step_by(64)
            .chain([1 << 20, 5 << 20, 100 << 20])
        {
            for _ in 0..20 {
                let ptr = manager.heap.malloc(size);
                assert!(!ptr.is_null());
                exchanged += usize::from(!ptr.addr().is_multiple_of(ALIGNMENT));
                held.push(ptr);
            }
        }

        assert_eq!(exchanged, 0, "of {}", held.len());
        for ptr in held {
            // SAFETY: it was allocated above, and is not in use.
            unsafe { heap::free(ptr) };
        }
    }
}
