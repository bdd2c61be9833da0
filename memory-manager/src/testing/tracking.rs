//! A manager that knows every live block: [`TrackingManager`].
#![expect(
    unsafe_code,
    reason = "implements and forwards the manager's unsafe trait, and marks blocks"
)]

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::mem;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use super::manager::constructors;
use crate::__forward_to_inner as forward_to_inner;
use crate::manager::{AllocationManager, ManagerError, ManagerStats};
use crate::size::KIB;
use crate::sync::plain::lock_uncounted as lock;

/// Knows every live block of another manager: it finds leaks, double frees and wrong layouts.
///
/// Giving back a block that is not lent, or with another layout than it was lent with, panics. Since
/// a `catch_unwind` may hide such a panic, its text is also kept for
/// [`assert_clean`](Self::assert_clean). The first and last 64 KiB of a block are filled with
/// `0xA5` when it is handed out, and with `0x5A` when it comes back, so that reading memory that
/// was never written shows.
///
/// Bytes count as live from before the manager below is asked for them until after it has them
/// back. So [`max_live_bytes`](Self::max_live_bytes) is above a limit if there was any moment at
/// which more than the limit may have been in use.
///
/// ```
/// use std::alloc::Layout;
///
/// use arrow_memory_manager::testing::{Block, TrackingManager};
///
/// let manager = TrackingManager::new();
/// let block = Block::zeroed(&manager, Layout::new::<u64>())?;
/// assert_eq!(manager.live_bytes(), 8);
/// drop(block);
/// manager.assert_clean();
/// # Ok::<(), arrow_memory_manager::ManagerError>(())
/// ```
#[derive(Debug)]
pub struct TrackingManager {
    inner: Arc<dyn AllocationManager>,
    books: Mutex<Books>,
}

/// What a [`TrackingManager`] knows.
#[derive(Debug, Default)]
struct Books {
    /// The live blocks by address.
    blocks: BTreeMap<usize, Layout>,
    /// The sum of their sizes, of those that are being made and of those that are being freed.
    live_bytes: usize,
    /// The maximum of `live_bytes` when a block was made or grew.
    max_live_bytes: usize,
    /// Bytes handed out in total; growth counts with its difference.
    total_bytes: u64,
    /// How many blocks were handed out.
    allocations: u64,
    /// What callers did wrong.
    misuses: Vec<String>,
}

constructors!(TrackingManager { books });

impl TrackingManager {
    /// Bytes of blocks that are lent now, or that a call in progress makes or frees.
    pub fn live_bytes(&self) -> usize {
        self.books().live_bytes
    }

    /// The maximum of [`live_bytes`](Self::live_bytes) when a block was made or grew.
    pub fn max_live_bytes(&self) -> usize {
        self.books().max_live_bytes
    }

    /// How many blocks were handed out so far.
    pub fn allocations(&self) -> u64 {
        self.books().allocations
    }

    /// The layouts of the blocks that are lent now, by address.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use arrow_memory_core::RootAllocator;
    /// use arrow_memory_manager::testing::{StdManager, TrackingManager};
    ///
    /// let manager = Arc::new(TrackingManager::over(Arc::new(StdManager)));
    /// let root = RootAllocator::builder().allocation_manager(manager.clone()).build()?;
    /// let buffer = root.buffer(100)?;
    /// assert_eq!(manager.live_blocks()[0].size(), 128);
    /// drop(buffer);
    /// assert_eq!((manager.live_bytes(), manager.max_live_bytes(), manager.allocations()), (0, 128, 1));
    /// assert!(manager.misuses().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn live_blocks(&self) -> Vec<Layout> {
        self.books().blocks.values().copied().collect()
    }

    /// What callers did wrong so far.
    pub fn misuses(&self) -> Vec<String> {
        self.books().misuses.clone()
    }

    /// Checks that nothing is lent and that nothing was done wrong.
    ///
    /// # Panics
    ///
    /// If a block is still lent, or if a caller misused one before.
    #[track_caller]
    pub fn assert_clean(&self) {
        let (leaks, misuses) = (self.live_blocks(), self.misuses());
        assert!(leaks.is_empty(), "blocks were not given back: {leaks:?}");
        assert!(misuses.is_empty(), "blocks were misused: {misuses:?}");
    }

    /// Counts `bytes` as live while `make` runs, and afterwards if it succeeds.
    fn counted(
        &self,
        bytes: usize,
        blocks: u64,
        make: impl FnOnce() -> Result<NonNull<u8>, ManagerError>,
    ) -> Result<NonNull<u8>, ManagerError> {
        let live = {
            let mut books = self.books();
            books.live_bytes += bytes;
            books.live_bytes
        };
        let pending = Pending {
            manager: self,
            bytes,
        };
        let ptr = make()?;
        mem::forget(pending);
        let mut books = self.books();
        books.max_live_bytes = books.max_live_bytes.max(live);
        books.total_bytes += bytes as u64;
        books.allocations += blocks;
        Ok(ptr)
    }

    fn lend(&self, ptr: NonNull<u8>, layout: Layout) {
        let problem = self.books().lend(ptr, layout);
        if let Some(problem) = problem {
            panic!("{problem}");
        }
    }

    fn take_back(&self, ptr: NonNull<u8>, layout: Layout) {
        let problem = self.books().take_back(ptr, layout);
        if let Some(problem) = problem {
            panic!("{problem}");
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }
}

/// Bytes that count as live until this is dropped: the manager below may fail or panic.
struct Pending<'a> {
    manager: &'a TrackingManager,
    bytes: usize,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.manager.books().live_bytes -= self.bytes;
    }
}

impl Books {
    /// Enters a block. Returns a misuse, which it also keeps.
    fn lend(&mut self, ptr: NonNull<u8>, layout: Layout) -> Option<String> {
        let start = ptr.as_ptr() as usize;
        let end = start + layout.size();
        if !start.is_multiple_of(layout.align()) {
            return self.misuse(format!("{start:#x} was handed out for {layout:?}"));
        }
        if let Some((&other, &lent)) = self.blocks.range(..end).next_back()
            && other + lent.size() > start
        {
            let problem = format!("{start:#x} with {layout:?} overlaps {other:#x}, {lent:?}");
            return self.misuse(problem);
        }
        self.blocks.insert(start, layout);
        None
    }

    /// Strikes a block out. Returns a misuse, which it also keeps.
    fn take_back(&mut self, ptr: NonNull<u8>, layout: Layout) -> Option<String> {
        let start = ptr.as_ptr() as usize;
        match self.blocks.get(&start) {
            None => self.misuse(format!("{start:#x} with {layout:?} is not lent")),
            Some(&lent) if lent != layout => self.misuse(format!(
                "{start:#x} was lent with {lent:?} and comes back with {layout:?}"
            )),
            Some(_) => {
                self.blocks.remove(&start);
                None
            }
        }
    }

    fn misuse(&mut self, problem: String) -> Option<String> {
        self.misuses.push(problem.clone());
        Some(problem)
    }
}

// SAFETY: every method forwards to a manager that keeps the promises. `deallocate` unwinds only
// where its caller broke its own promise.
unsafe impl AllocationManager for TrackingManager {
    forward_to_inner!(name, release_unused);

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let ptr = self.counted(layout.size(), 1, || self.inner.allocate(layout))?;
        // SAFETY: the block was just handed out with this layout, and no other code has it yet.
        unsafe { mark(ptr, layout.size(), FRESH) };
        self.lend(ptr, layout);
        Ok(ptr)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // Before the block is gone, so that its address is free when it is lent again.
        self.take_back(ptr, layout);
        // SAFETY: the block was lent with this layout, as was just checked, and by the caller's
        // promise it is not used any more.
        unsafe { mark(ptr, layout.size(), STALE) };
        // SAFETY: the caller's promise is about a block of ours, which is one of `inner`.
        unsafe { self.inner.deallocate(ptr, layout) };
        self.books().live_bytes -= layout.size();
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let ptr = self.counted(layout.size(), 1, || self.inner.allocate_zeroed(layout))?;
        self.lend(ptr, layout);
        Ok(ptr)
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        let new = Layout::from_size_align(new_size, old.align())
            .map_err(|_| ManagerError::new("the new size does not make a valid layout"))?;
        assert_ne!(new_size, 0, "managers are never asked for zero bytes");
        // Before the block moves: another thread may be lent its address at once.
        self.take_back(ptr, old);
        let moved = self.counted(new_size.saturating_sub(old.size()), 0, || {
            // SAFETY: the caller's promise is about a block of ours, which is one of `inner` with the
            // same layout; the new size was just checked.
            unsafe { self.inner.reallocate(ptr, old, new_size) }
        });
        match moved {
            Ok(moved) => {
                self.lend(moved, new);
                self.books().live_bytes -= old.size().saturating_sub(new_size);
                Ok(moved)
            }
            Err(error) => {
                self.lend(ptr, old);
                Err(error)
            }
        }
    }

    /// The statistics of this manager's blocks; cached, active, resident and retained bytes are those of the
    /// manager below.
    fn stats(&self) -> ManagerStats {
        let inner = self.inner.stats();
        let books = self.books();
        ManagerStats {
            live_bytes: Some(books.live_bytes),
            peak_bytes: Some(books.max_live_bytes),
            total_bytes: Some(books.total_bytes),
            allocations: Some(books.allocations),
            ..inner
        }
    }
}

/// Fills the first and the last [`MARKED`] bytes of a block.
///
/// # Safety
///
/// `ptr` is valid for writes of `size` bytes, which no other code uses.
unsafe fn mark(ptr: NonNull<u8>, size: usize, value: u8) {
    let head = size.min(MARKED);
    let tail = (size - head).min(MARKED);
    // SAFETY: by the caller's promise, since `head` is at most `size`.
    unsafe { ptr.as_ptr().write_bytes(value, head) };
    // SAFETY: `tail` is at most `size`, so this stays within the caller's bytes.
    let end = unsafe { ptr.as_ptr().add(size - tail) };
    // SAFETY: the last `tail` of the caller's bytes.
    unsafe { end.write_bytes(value, tail) };
}

/// How much of a block is marked at either end, in bytes.
const MARKED: usize = 64 * KIB;

/// What a block is filled with when it is handed out.
const FRESH: u8 = 0xA5;

/// What a block is filled with when it comes back.
const STALE: u8 = 0x5A;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::testing::Block;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).expect("a valid layout")
    }

    #[test]
    fn a_block_that_is_not_given_back_is_a_leak() {
        let manager = TrackingManager::new();
        let held = Block::filled(&manager, layout(100), 1).unwrap();

        let caught = catch_unwind(AssertUnwindSafe(|| manager.assert_clean()));

        assert!(caught.is_err());
        assert_eq!(manager.live_blocks(), [layout(100)]);
        drop(held);
        manager.assert_clean();
        assert_eq!((manager.live_bytes(), manager.max_live_bytes()), (0, 100));
    }

    #[test]
    fn a_double_free_and_a_wrong_layout_panic_and_are_kept() {
        let manager = TrackingManager::new();
        let ptr = manager.allocate(layout(64)).unwrap();

        let wrong = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: not kept, which is what this test is about: the layout is another one. The
            // manager finds it out before it touches the block.
            unsafe { manager.deallocate(ptr, layout(128)) }
        }));
        // SAFETY: the block is live and has this layout.
        unsafe { manager.deallocate(ptr, layout(64)) };
        let twice = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: not kept either: the block is gone.
            unsafe { manager.deallocate(ptr, layout(64)) }
        }));

        assert!(wrong.is_err() && twice.is_err());
        assert_eq!(manager.misuses().len(), 2, "{:?}", manager.misuses());
        assert_eq!(manager.live_bytes(), 0);
    }
}
