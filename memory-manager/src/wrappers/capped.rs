//! A cap on what another manager lends: [`CappedManager`].
#![expect(
    unsafe_code,
    reason = "implements and forwards the manager's unsafe trait"
)]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::__forward_to_inner as forward_to_inner;
use crate::manager::{AllocationManager, ManagerError, ManagerStats};
use crate::text::{Bytes, Size};

/// Limits the bytes that are lent from another manager, whose name it keeps.
///
/// The cap is exact under any concurrency: live bytes never pass it, and a request that fits is
/// not refused. Bytes count from before the manager below is asked for the block until after it has the
/// block back; so a request also competes with calls in progress, even with one that then fails.
/// Statistics are its own; the manager below may serve others.
///
/// Trees have limits of their own, which report the allocators that used the memory. A cap is for memory that
/// belongs to no single tree: the chunks of an arena, or all trees on a manager together.
///
/// # Examples
///
/// ```
/// use std::alloc::Layout;
/// use std::sync::Arc;
///
/// use arrow_memory_manager::testing::{Block, StdManager};
/// use arrow_memory_manager::{AllocationManager, CappedManager};
///
/// let manager = CappedManager::new(Arc::new(StdManager), 100);
/// let layout = Layout::from_size_align(64, 64)?;
/// let held = Block::zeroed(&manager, layout)?;
///
/// let refused = Block::zeroed(&manager, layout).unwrap_err();
/// assert_eq!(
///     refused.to_string(),
///     "64 bytes do not fit under the cap of 100 bytes, of which 64 are in use",
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[doc(alias = "CappedMemoryPool")]
pub struct CappedManager {
    inner: Arc<dyn AllocationManager>,
    cap: usize,
    /// Bytes that are lent or about to be; never above `cap`.
    used: AtomicUsize,
    /// The largest `used` whose bytes were lent in the end.
    peak: AtomicUsize,
    /// Bytes lent in total, growth with its difference.
    total: AtomicU64,
    /// Blocks lent in total.
    allocations: AtomicU64,
}

impl CappedManager {
    /// Limits what is lent from `inner` to `cap` bytes at once.
    pub fn new(inner: Arc<dyn AllocationManager>, cap: usize) -> Self {
        Self {
            inner,
            cap,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            total: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
        }
    }

    /// The maximum number of bytes that are lent at once.
    pub fn cap(&self) -> usize {
        self.cap
    }

    // Relaxed, all of them: the numbers guard no other memory. A peak is taken from what an update
    // of our own produced.

    /// Takes `bytes` until they are [kept](Taken::keep) or the result is dropped.
    fn take(&self, bytes: usize) -> Result<Taken<'_>, ManagerError> {
        let taking = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.cap);
        let before = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taking)
            .map_err(|used| self.refusal(bytes, used))?;
        Ok(Taken {
            manager: self,
            bytes,
            used: before + bytes,
        })
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[cold]
    fn refusal(&self, bytes: usize, used: usize) -> ManagerError {
        let (bytes, cap, used) = (Bytes(bytes), Bytes(self.cap), Size(used));
        ManagerError::new(format!(
            "{bytes} do not fit under the cap of {cap}, of which {used} are in use"
        ))
    }
}

/// Bytes under the cap, which go back when this is dropped: a manager may fail, or panic.
struct Taken<'a> {
    manager: &'a CappedManager,
    bytes: usize,
    /// What was in use with these bytes.
    used: usize,
}

impl Taken<'_> {
    /// Keeps the bytes: they were lent, as so many new blocks.
    fn keep(self, blocks: u64) {
        // Relaxed, all of them: see above.
        self.manager.peak.fetch_max(self.used, Ordering::Relaxed);
        let bytes = self.bytes as u64;
        self.manager.total.fetch_add(bytes, Ordering::Relaxed);
        self.manager
            .allocations
            .fetch_add(blocks, Ordering::Relaxed);
        std::mem::forget(self);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.manager.give(self.bytes);
    }
}

// SAFETY: every method forwards to a manager that keeps the promises, or fails before it does.
unsafe impl AllocationManager for CappedManager {
    forward_to_inner!(name, release_unused);

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let taken = self.take(layout.size())?;
        let block = self.inner.allocate(layout)?;
        taken.keep(1);
        Ok(block)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise is about a block of ours, which is one of `inner`.
        unsafe { self.inner.deallocate(ptr, layout) };
        self.give(layout.size());
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let taken = self.take(layout.size())?;
        let block = self.inner.allocate_zeroed(layout)?;
        taken.keep(1);
        Ok(block)
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        let taken = self.take(new_size.saturating_sub(old.size()))?;
        // SAFETY: the caller's promise is about a block of ours, which is one of `inner`.
        let moved = unsafe { self.inner.reallocate(ptr, old, new_size)? };
        taken.keep(0);
        self.give(old.size().saturating_sub(new_size));
        Ok(moved)
    }

    /// Its own numbers. What the manager below caches or keeps resident is not known for a part.
    fn stats(&self) -> ManagerStats {
        // Relaxed, all of them: see above. `used` is read before `peak`, which is not below it
        // unless a block is under way.
        let live = self.used.load(Ordering::Relaxed);
        let peak = self.peak.load(Ordering::Relaxed).max(live);
        ManagerStats {
            live_bytes: Some(live),
            peak_bytes: Some(peak),
            total_bytes: Some(self.total.load(Ordering::Relaxed)),
            allocations: Some(self.allocations.load(Ordering::Relaxed)),
            ..ManagerStats::default()
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;

    use super::*;
    use crate::testing::{Block, FailingManager, PanickingManager, TrackingManager};

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).expect("a valid layout")
    }

    fn used(manager: &CappedManager) -> usize {
        manager.stats().live_bytes.expect("known")
    }

    #[test]
    fn the_last_byte_under_the_cap_can_be_had_and_the_next_one_cannot() {
        for cap in [1, 63, 64, 1_000] {
            let tracking = Arc::new(TrackingManager::new());
            let manager = CappedManager::new(tracking.clone(), cap);

            assert!(Block::untouched(&manager, layout(cap + 1)).is_err());
            let all = Block::untouched(&manager, layout(cap)).unwrap();
            assert!(Block::untouched(&manager, layout(1)).is_err());

            assert_eq!((used(&manager), tracking.live_bytes()), (cap, cap));
            drop(all);
            assert_eq!(used(&manager), 0);
        }
    }

    #[test]
    fn a_cap_of_zero_lends_nothing_and_the_largest_cap_refuses_no_sum() {
        let none = CappedManager::new(Arc::new(TrackingManager::new()), 0);
        assert!(Block::untouched(&none, layout(1)).is_err());

        let all = CappedManager::new(Arc::new(TrackingManager::new()), usize::MAX);
        let _held = Block::untouched(&all, layout(1)).unwrap();
        assert!(Block::untouched(&all, layout(isize::MAX as usize - 63)).is_err());
        assert_eq!(used(&all), 1);
    }

    #[test]
    fn growth_takes_its_difference_and_a_refused_one_changes_nothing() {
        let manager = CappedManager::new(Arc::new(TrackingManager::new()), 100);
        let mut block = Block::filled(&manager, layout(60), 7).unwrap();

        assert!(block.resize(101).is_err());
        assert_eq!(used(&manager), 60);
        block.resize(100).unwrap();
        assert_eq!(used(&manager), 100);
        block.resize(10).unwrap();
        assert_eq!(used(&manager), 10);

        assert_eq!(block.bytes(), [7; 10]);
        assert_eq!(manager.stats().peak_bytes, Some(100));
        assert_eq!(manager.stats().total_bytes, Some(100));
    }

    #[test]
    fn what_the_manager_below_fails_or_panics_at_goes_back() {
        let failing = Arc::new(FailingManager::new());
        let manager = CappedManager::new(failing.clone(), 100);
        let mut block = Block::untouched(&manager, layout(10)).unwrap();
        failing.fail_always();

        assert!(Block::untouched(&manager, layout(10)).is_err());
        assert!(Block::zeroed(&manager, layout(10)).is_err());
        assert!(block.resize(20).is_err());
        assert_eq!(used(&manager), 10);

        let panicking = Arc::new(PanickingManager::new());
        let manager = CappedManager::new(panicking.clone(), 100);
        panicking.panic_always();
        let call = || Block::untouched(&manager, layout(10)).is_ok();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
        assert_eq!(used(&manager), 0);
    }

    #[test]
    fn threads_at_the_cap_neither_pass_it_nor_are_refused_what_fits() {
        let tracking = Arc::new(TrackingManager::new());
        // Four threads hold at most three blocks each; twelve fit.
        let manager = CappedManager::new(tracking.clone(), 12 * 64);

        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..3_000 {
                        let count = 1 + round % 3;
                        let held = (0..count).map(|_| Block::untouched(&manager, layout(64)));
                        let held: Result<Vec<_>, _> = held.collect();
                        held.expect("there is room for all");
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..3_000 {
                        // Never fits beside the smallest block, and takes nothing meanwhile.
                        assert!(Block::untouched(&manager, layout(12 * 64 + 1)).is_err());
                    }
                });
            }
        });

        assert!(tracking.max_live_bytes() <= 12 * 64);
        assert_eq!(used(&manager), 0);
    }
}
