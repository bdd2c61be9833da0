//! [`SystemManager`]: small blocks from the heap, large ones from pages.
#![expect(
    unsafe_code,
    reason = "implements the manager's unsafe trait, and registers it in a link section"
)]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_memory_manager::backend::BackendRegistration;
use arrow_memory_manager::{AllocationManager, ManagerError, ManagerStats, Tally};

use crate::{heap, pages};

/// The manager on the platform's allocator, and on pages for large blocks.
///
/// The heap belongs to the process, and so do the statistics: all values of this type share both.
/// Put an `arrow_memory_manager::ProxyManager` around one to count a part.
///
/// Live bytes, totals and counts are exact whenever no call is under way. The peak is exact while
/// one thread allocates; with several it is within 256 KiB per thread of the truth, and never below
/// a live value that [`stats`](AllocationManager::stats) has answered. `cached_bytes` are the
/// pages kept for reuse, up to 64 MiB; the platform's heap does not tell what it keeps.
///
/// ```
/// use std::sync::Arc;
///
/// use arrow_memory_manager::AllocationManager;
/// use arrow_memory_system::SystemManager;
///
/// let manager: Arc<dyn AllocationManager> = Arc::new(SystemManager::new());
/// assert_eq!(manager.name(), "system");
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SystemManager;

impl SystemManager {
    /// Creates the manager, which costs nothing: its state belongs to the process.
    pub const fn new() -> Self {
        Self
    }
}

// SAFETY: 1. heap and pages hand out blocks of the size and alignment asked for, which stay valid
// until they come back here. 2. Both take blocks from any thread. 3. They fail without changing
// anything, and counters move after success only. 4. Nothing here unwinds.
unsafe impl AllocationManager for SystemManager {
    fn name(&self) -> &str {
        NAME
    }

    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let block = if pages::serve(layout) {
            pages::allocate(layout)
        } else {
            heap::allocate(layout)
        };
        counted(block, layout)
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // Before the block is freed: otherwise its next owner would be counted besides it.
        TALLY.returned(layout.size());
        if pages::serve(layout) {
            // SAFETY: by the caller's promise the block is live and came from `allocate` with
            // this layout, so from pages.
            unsafe { pages::deallocate(ptr, layout) };
        } else {
            // SAFETY: by the caller's promise the block is live and came with this layout, so from the heap.
            unsafe { heap::deallocate(ptr, layout) };
        }
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let block = if pages::serve(layout) {
            pages::allocate_zeroed(layout)
        } else {
            heap::allocate_zeroed(layout)
        };
        counted(block, layout)
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        let new = Layout::from_size_align(new_size, old.align())
            .map_err(|_| ManagerError::new("the new size does not make a valid layout"))?;
        let moved = match (pages::serve(old), pages::serve(new)) {
            // SAFETY: by the caller's promise the block is live and came with `old`, so from the
            // heap; `new` has the same alignment and a size that is not 0.
            (false, false) => unsafe { heap::reallocate(ptr, old, new) },
            // SAFETY: by the caller's promise the block is live and came with `old`, so from pages;
            // `new` has the same alignment and a size that is not 0.
            (true, true) => unsafe { pages::reallocate(ptr, old, new) },
            (false, true) => pages::allocate(new).inspect(|&moved| {
                // SAFETY: both blocks are live, so they do not overlap; sizes as in their layouts.
                unsafe { copy(ptr, old, moved, new) };
                // SAFETY: by the caller's promise the block is live, came with `old`, so from the
                // heap, and is forgotten; its contents were copied.
                unsafe { heap::deallocate(ptr, old) };
            }),
            (true, false) => heap::allocate(new).inspect(|&moved| {
                // SAFETY: both blocks are live, so they do not overlap; sizes as in their layouts.
                unsafe { copy(ptr, old, moved, new) };
                // SAFETY: by the caller's promise the block is live, came with `old`, so from pages, and
                // is forgotten; its contents were copied.
                unsafe { pages::deallocate(ptr, old) };
            }),
        };
        let moved = moved.ok_or_else(|| ManagerError::out_of_memory(new))?;
        TALLY.resized(old.size(), new_size);
        Ok(moved)
    }

    /// Unmaps the pages that are kept for reuse and asks the platform's heap to shrink
    /// (`malloc_trim` on glibc). It reaches what any thread has freed, but for the few small blocks (up
    /// to about 1 KiB) that glibc keeps per thread, and the free end of the heaps of threads other
    /// than the main one, which glibc keeps below its trim threshold (128 KiB, unless large blocks
    /// were freed through `malloc`).
    fn release_unused(&self) {
        pages::release_unused();
        heap::release_unused();
    }

    fn stats(&self) -> ManagerStats {
        let mut stats = TALLY.stats();
        stats.cached_bytes = Some(pages::cached_bytes());
        stats
    }
}

/// Counts a block that was handed out, or says that there was none.
#[inline]
fn counted(block: Option<NonNull<u8>>, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
    match block {
        Some(block) => {
            TALLY.lent(layout.size());
            Ok(block)
        }
        None => Err(out_of_memory(layout)),
    }
}

#[cold]
fn out_of_memory(layout: Layout) -> ManagerError {
    ManagerError::out_of_memory(layout)
}

/// Copies the bytes that both blocks have room for.
///
/// # Safety
///
/// The blocks are live with these layouts and do not overlap.
unsafe fn copy(from: NonNull<u8>, old: Layout, to: NonNull<u8>, new: Layout) {
    let common = old.size().min(new.size());
    // SAFETY: by the caller's promise both are valid for the smaller of their sizes, and apart.
    unsafe { to.copy_from_nonoverlapping(from, common) };
}

fn start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    Ok(Arc::new(SystemManager))
}

/// The registration of this backend, which is made at link time.
///
/// In a static library the linker may drop it, since nothing refers to it. There the program registers it by hand:
///
/// ```
/// arrow_memory_manager::backend::register(&arrow_memory_system::REGISTRATION);
/// ```
pub static REGISTRATION: BackendRegistration = BackendRegistration {
    name: NAME,
    preference: 10,
    manager: start,
};

arrow_memory_manager::register_backend!(REGISTRATION);

/// Counts the blocks of all managers of this type together.
static TALLY: Tally = Tally::new();

/// The backend's name in `ARROW_DEFAULT_MEMORY_POOL` and in reports.
const NAME: &str = "system";
