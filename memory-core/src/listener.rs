//! [`AllocationListener`]: the callbacks that a program can add to an allocator.

use crate::error::Veto;
use crate::outcome::{AllocationOutcome, AllocatorInfo};

/// Callbacks about the operations of an allocator, one of which can veto an allocation.
///
/// Every method has an empty default. All are called with no lock held, on the thread of the operation: a
/// listener may allocate, release, set limits or close allocators from inside any of them. Sizes are
/// charged bytes; growth and shrinking report the difference. The listener is not told of external bytes,
/// nor of reservations until they become a buffer.
///
/// A panic propagates to the caller, for whom nothing stays charged; a panic during a `Drop` is caught
/// and reported as a `tracing` event.
///
/// A listener gets plain data, no handles. If it needs an allocator, it stores a
/// [`WeakBufferAllocator`](crate::WeakBufferAllocator): a strong handle would keep the allocator, and so
/// the listener, alive until the process ends.
///
/// ```
/// # use arrow_memory_system as _;
/// use std::sync::{Arc, Mutex};
///
/// use arrow_memory_core::{
///     AllocationListener, AllocationOutcome, AllocatorInfo, ArrowBuf, RootAllocator,
/// };
///
/// /// Gives a cached buffer up when memory is short.
/// #[derive(Default)]
/// struct Cache(Mutex<Vec<ArrowBuf>>);
///
/// impl AllocationListener for Cache {
///     fn hears_allocations(&self) -> bool {
///         false // so that allocations cost what they cost without it
///     }
///
///     fn on_failed_allocation(
///         &self,
///         _at: &AllocatorInfo,
///         _size: usize,
///         _outcome: &AllocationOutcome,
///     ) -> bool {
///         self.0.lock().unwrap().pop().is_some()
///     }
/// }
///
/// let cache = Arc::new(Cache::default());
/// let root = RootAllocator::builder().limit(1024).listener(cache.clone()).build()?;
/// let cached = root.buffer_from_slice(&[1; 1000])?;
/// cache.0.lock().unwrap().push(cached);
/// assert!(root.buffer(500).is_ok()); // the listener dropped the cached buffer
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AllocationListener: Send + Sync {
    /// Whether this listener is told of each allocation, by `on_pre_allocation`, `on_allocation` and
    /// `on_release`. The method is called once for each allocator that the listener is set for.
    ///
    /// Together these three calls take about 2 ns for an allocation and its release. A listener that
    /// needs only refusals, transfers or children returns `false`, and costs allocations nothing.
    fn hears_allocations(&self) -> bool {
        true
    }

    /// Called before `size` bytes are charged to `at`, also for growth.
    ///
    /// # Errors
    ///
    /// A [`Veto`] refuses the request, which then returns [`AllocError::Vetoed`](crate::AllocError).
    #[doc(alias = "onPreAllocation")]
    fn on_pre_allocation(&self, at: &AllocatorInfo, size: usize) -> Result<(), Veto> {
        let _ = (at, size);
        Ok(())
    }

    /// Called after `size` bytes were charged to `at` and their block was allocated.
    #[doc(alias = "onAllocation")]
    fn on_allocation(&self, at: &AllocatorInfo, size: usize) {
        let _ = (at, size);
    }

    /// Called after a block was freed and its `size` bytes are no longer charged to `at`.
    #[doc(alias = "onRelease")]
    fn on_release(&self, at: &AllocatorInfo, size: usize) {
        let _ = (at, size);
    }

    /// Called after a limit refused `size` bytes at `at`. A listener that released memory returns `true`,
    /// and the request is tried once more.
    ///
    /// It is called for buffers, their growth, foreign memory and collections. Reservations, external
    /// bytes, children and transfers are refused without it: their caller gets the error and decides, and
    /// a spilling operator makes room there.
    #[doc(alias("onFailedAllocation", "with_can_spill"))]
    fn on_failed_allocation(
        &self,
        at: &AllocatorInfo,
        size: usize,
        outcome: &AllocationOutcome,
    ) -> bool {
        let _ = (at, size, outcome);
        false
    }

    /// Called after the charge of an allocation moved from `from` to `to`, by a transfer or because the
    /// owner dropped its last buffer. It is called once for the listener of each side, and only once if
    /// both have the same listener.
    fn on_transfer(&self, from: &AllocatorInfo, to: &AllocatorInfo, size: usize) {
        let _ = (from, to, size);
    }

    /// Called after `child` was created below `parent`, whose listener this is.
    #[doc(alias = "onChildAdded")]
    fn on_child_added(&self, parent: &AllocatorInfo, child: &AllocatorInfo) {
        let _ = (parent, child);
    }

    /// Called after `child` left the tree below `parent`, whose listener this is.
    #[doc(alias = "onChildRemoved")]
    fn on_child_removed(&self, parent: &AllocatorInfo, child: &AllocatorInfo) {
        let _ = (parent, child);
    }
}
