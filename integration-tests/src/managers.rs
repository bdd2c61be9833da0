//! Managers that watch what a tree does to them, or fail when they are told to.
#![expect(
    unsafe_code,
    reason = "managers hand out raw blocks; these pass on those of the manager they wrap"
)]

use std::alloc::Layout;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use arrow_memory_core::{AllocationManager, ManagerError};

use crate::sync::lock;

/// Counts the bytes that are live in a manager, and knows every block.
///
/// A block counts from before it exists until after it is gone. That is the longest that it may
/// count without a charge: `most` is never above what the tree had charged at some moment.
#[derive(Debug)]
pub struct TrackingManager {
    inner: Arc<dyn AllocationManager>,
    live: AtomicUsize,
    most: AtomicUsize,
    blocks: Mutex<HashMap<usize, Layout>>,
    calls: AtomicUsize,
    fail: Fail,
    yields: bool,
}

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fail {
    Never,
    /// The calls with these numbers, from 1.
    Only(usize),
    /// Every n-th call.
    Every(usize),
}

impl TrackingManager {
    /// Watches `inner`.
    pub fn new(inner: &Arc<dyn AllocationManager>) -> Arc<Self> {
        Arc::new(Self::make(inner, Fail::Never, false))
    }

    /// Watches `inner`, and lets other threads go first in every fourth call.
    pub fn yielding(inner: &Arc<dyn AllocationManager>) -> Arc<Self> {
        Arc::new(Self::make(inner, Fail::Never, true))
    }

    /// Watches `inner` and fails the call number `n`, from 1.
    pub fn failing_once(inner: &Arc<dyn AllocationManager>, n: usize) -> Arc<Self> {
        Arc::new(Self::make(inner, Fail::Only(n), false))
    }

    /// Watches `inner` and fails every `n`-th call.
    pub fn failing_every(inner: &Arc<dyn AllocationManager>, n: usize) -> Arc<Self> {
        Arc::new(Self::make(inner, Fail::Every(n), false))
    }

    fn make(inner: &Arc<dyn AllocationManager>, fail: Fail, yields: bool) -> Self {
        Self {
            inner: Arc::clone(inner),
            live: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            blocks: Mutex::default(),
            calls: AtomicUsize::new(0),
            fail,
            yields,
        }
    }

    /// Bytes in live blocks.
    pub fn live(&self) -> usize {
        // Relaxed: the count guards no other memory.
        self.live.load(Ordering::Relaxed)
    }

    /// The largest `live` that there ever was.
    pub fn most(&self) -> usize {
        // Relaxed: as above.
        self.most.load(Ordering::Relaxed)
    }

    /// How many blocks were asked for, growth included, whether or not the call failed.
    pub fn calls(&self) -> usize {
        // Relaxed: as above.
        self.calls.load(Ordering::Relaxed)
    }

    /// Counts a call; whether it is to fail.
    fn fails(&self) -> bool {
        // Relaxed: as above.
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if self.yields && call.is_multiple_of(4) {
            thread::yield_now();
        }
        match self.fail {
            Fail::Never => false,
            Fail::Only(n) => call == n,
            Fail::Every(n) => call.is_multiple_of(n),
        }
    }

    fn grow(&self, bytes: usize) {
        // Relaxed, both: counts, which guard no other memory; the maximum is of what this very
        // addition produced.
        let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most.fetch_max(live, Ordering::Relaxed);
    }

    fn shrink(&self, bytes: usize) {
        // Relaxed: as above.
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Runs `make` with the bytes of a block counted, and enters the block if there is one.
    fn enter(
        &self,
        layout: Layout,
        make: impl FnOnce() -> Result<NonNull<u8>, ManagerError>,
    ) -> Result<NonNull<u8>, ManagerError> {
        if self.fails() {
            return Err(ManagerError::new("told to fail"));
        }
        assert!(layout.size() > 0, "no block of zero bytes is asked for");
        self.grow(layout.size());
        match make() {
            Ok(ptr) => {
                self.record(ptr, layout);
                Ok(ptr)
            }
            Err(error) => {
                self.shrink(layout.size());
                Err(error)
            }
        }
    }

    fn record(&self, ptr: NonNull<u8>, layout: Layout) {
        let blocks = &mut *lock(&self.blocks);
        let before = blocks.insert(ptr.as_ptr().addr(), layout);
        assert_eq!(before, None, "a block was handed out twice");
    }

    /// Crosses a block off; whether it was there with this layout.
    fn strike(&self, ptr: NonNull<u8>, layout: Layout) -> bool {
        let blocks = &mut *lock(&self.blocks);
        blocks.remove(&ptr.as_ptr().addr()) == Some(layout)
    }
}

// SAFETY: every block is one of `inner`, handed on unchanged, so `inner` keeps 1 and 2; calls that
// are told to fail do nothing at all, and a failed `reallocate` leaves the block entered (3);
// `deallocate` aborts rather than unwinding (4).
unsafe impl AllocationManager for TrackingManager {
    fn name(&self) -> &str {
        "tracking"
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        self.enter(layout, || self.inner.allocate(layout))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        self.enter(layout, || self.inner.allocate_zeroed(layout))
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if !self.strike(ptr, layout) {
            eprintln!("{ptr:?} of {layout:?} was given back, but is not lent");
            std::process::abort();
        }
        // SAFETY: by the caller's promise, which the entry just struck confirms, the block is live
        // and of this layout; it is one of `inner`.
        unsafe { self.inner.deallocate(ptr, layout) };
        self.shrink(layout.size());
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        if self.fails() {
            return Err(ManagerError::new("told to fail"));
        }
        let new = Layout::from_size_align(new_size, old.align())
            .map_err(|_| ManagerError::new("no layout"))?;
        // Struck first: as soon as `inner` has moved the block, another thread may get its address.
        if !self.strike(ptr, old) {
            eprintln!("{ptr:?} of {old:?} is to grow, but is not lent");
            std::process::abort();
        }
        self.grow(new_size.saturating_sub(old.size()));
        // SAFETY: by the caller's promise, which the entry just struck confirms, the block is live
        // and of this layout; it is one of `inner`. The new size makes a layout, as just seen.
        let moved = unsafe { self.inner.reallocate(ptr, old, new_size) };
        match &moved {
            Ok(moved) => {
                self.record(*moved, new);
                self.shrink(old.size().saturating_sub(new_size));
            }
            Err(_) => {
                self.record(ptr, old);
                self.shrink(new_size.saturating_sub(old.size()));
            }
        }
        moved
    }

    fn release_unused(&self) {
        self.inner.release_unused();
    }
}
