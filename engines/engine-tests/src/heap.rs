//! A global allocator that counts what a program's heap holds.
#![expect(
    unsafe_code,
    reason = "a global allocator is an unsafe trait; it hands every call on to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// The system's allocator, which counts once [`Counting::begin`] was called. The peak is exact but for two things: while
/// a block grows, its old and its new place are counted as one, and what C libraries allocate is not counted.
pub struct Counting {
    on: AtomicBool,
    live: AtomicIsize,
    peak: AtomicIsize,
}

impl Default for Counting {
    fn default() -> Self {
        Self::new()
    }
}

impl Counting {
    /// An allocator that does not count yet.
    pub const fn new() -> Self {
        Self {
            on: AtomicBool::new(false),
            live: AtomicIsize::new(0),
            peak: AtomicIsize::new(0),
        }
    }

    /// Begins to count, and ignores what is allocated already.
    pub fn begin(&self) {
        // Relaxed: the flag guards no other memory.
        self.on.store(true, Ordering::Relaxed);
    }

    /// Returns the bytes that are allocated now.
    pub fn live(&self) -> usize {
        // Relaxed: a number for reports. It is below zero if blocks from before the beginning were freed.
        usize::try_from(self.live.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Returns the peak since the last call of [`reset_peak`](Self::reset_peak).
    pub fn peak(&self) -> usize {
        // Relaxed: a number for reports.
        usize::try_from(self.peak.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Sets the peak to what is allocated now.
    pub fn reset_peak(&self) {
        // Relaxed, both: numbers for reports. A peak that another thread reaches meanwhile may be lost.
        self.peak
            .store(self.live.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn add(&self, bytes: usize) {
        // Relaxed, all: the numbers guard no other memory. The peak comes from this thread's own addition.
        if self.on.load(Ordering::Relaxed) {
            let bytes = bytes.cast_signed();
            let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.peak.fetch_max(live, Ordering::Relaxed);
        }
    }

    fn subtract(&self, bytes: usize) {
        // Relaxed, both: the numbers guard no other memory.
        if self.on.load(Ordering::Relaxed) {
            self.live.fetch_sub(bytes.cast_signed(), Ordering::Relaxed);
        }
    }
}

// SAFETY: every method passes its arguments to `System`, which implements the trait, and returns its result.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which `System.alloc` has, too.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            self.add(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which `System.alloc_zeroed` has, too.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            self.add(layout.size());
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `realloc`; `block` came from `System`.
        let moved = unsafe { System.realloc(block, layout, size) };
        if !moved.is_null() {
            if size >= layout.size() {
                self.add(size - layout.size());
            } else {
                self.subtract(layout.size() - size);
            }
        }
        moved
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.subtract(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`; `block` came from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}
