//! An allocator below the wrapper that counts, and fails when it is asked to.
#![expect(unsafe_code, reason = "implements the global allocator's unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The system's allocator, which counts the bytes that are live, and may fail some calls.
pub(crate) struct Hostile {
    live: AtomicUsize,
    /// How many of 1,000 calls fail.
    failing: AtomicU64,
    state: AtomicU64,
}

impl Hostile {
    /// One that never fails.
    pub(crate) const fn new() -> Self {
        Self {
            live: AtomicUsize::new(0),
            failing: AtomicU64::new(0),
            state: AtomicU64::new(88_172_645_463_325_252),
        }
    }

    #[allow(dead_code, reason = "not every program fails calls")]
    /// Fails `calls` of 1,000 calls that allocate.
    pub(crate) fn fail(&self, calls: u64) {
        self.failing.store(calls, Ordering::Relaxed);
    }

    /// Bytes of blocks that are allocated now.
    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    fn fails(&self) -> bool {
        let failing = self.failing.load(Ordering::Relaxed);
        if failing == 0 {
            return false;
        }
        let mut state = self.state.load(Ordering::Relaxed);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state.store(state, Ordering::Relaxed);
        (state >> 20) % 1000 < failing
    }

    fn counted(&self, block: *mut u8, bytes: usize) -> *mut u8 {
        if !block.is_null() {
            self.live.fetch_add(bytes, Ordering::Relaxed);
        }
        block
    }
}

// SAFETY: it forwards calls to the system's allocator, which keeps the contract, or returns null.
unsafe impl GlobalAlloc for Hostile {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are the same.
        self.counted(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if self.fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are the same.
        self.counted(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if self.fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are the same.
        let moved = self.counted(unsafe { System.realloc(block, layout, new_size) }, new_size);
        if !moved.is_null() {
            self.live.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        moved
    }
}
