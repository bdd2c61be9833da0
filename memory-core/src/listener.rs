//! What a program can plug into an allocator: [`AllocationListener`].

use crate::error::Veto;
use crate::outcome::{AllocationOutcome, AllocatorInfo};

/// Is told what happens at an allocator, and may veto it.
///
/// Every method has an empty default. All are called with no lock held, on the thread that does
/// the work: a listener may allocate, release, set limits or close allocators from inside any of
/// them. Sizes are charged bytes; growth and shrinking report the difference. Reservations are
/// silent until they become a buffer, and external bytes are silent.
///
/// A panic propagates to the caller, who is left with nothing charged; a panic during a `Drop` is
/// caught and reported as a `tracing` event.
///
/// A listener gets plain data, no handles. One that needs an allocator keeps a
/// [`WeakBufferAllocator`](crate::WeakBufferAllocator): a handle of its own would keep the
/// allocator, and so the listener, alive for ever.
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
/// assert!(root.buffer(500).is_ok()); // after the cached one went
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AllocationListener: Send + Sync {
    /// Whether this listener wants to hear of each allocation: of `on_pre_allocation`,
    /// `on_allocation` and `on_release`. It is asked once for each allocator that it is set for.
    ///
    /// Hearing takes three calls, some 2 ns, for an allocation and its release. A listener that
    /// only waits for refusals, transfers or children answers `false`, and costs them nothing.
    fn hears_allocations(&self) -> bool {
        true
    }

    /// Before `size` bytes are charged to `at`; growth included.
    ///
    /// # Errors
    ///
    /// A [`Veto`] refuses the request, which ends with [`AllocError::Vetoed`](crate::AllocError).
    #[doc(alias = "onPreAllocation")]
    fn on_pre_allocation(&self, at: &AllocatorInfo, size: usize) -> Result<(), Veto> {
        let _ = (at, size);
        Ok(())
    }

    /// After `size` bytes were charged to `at` and their block exists.
    #[doc(alias = "onAllocation")]
    fn on_allocation(&self, at: &AllocatorInfo, size: usize) {
        let _ = (at, size);
    }

    /// After a block was given back and its `size` bytes are no longer charged to `at`.
    #[doc(alias = "onRelease")]
    fn on_release(&self, at: &AllocatorInfo, size: usize) {
        let _ = (at, size);
    }

    /// After a limit refused `size` bytes at `at`. Answer `true`, having released memory, to have
    /// the request tried once more.
    ///
    /// It is asked for buffers, their growth, foreign memory and collections. Reservations, external
    /// bytes, children and transfers are refused without it: whoever asks for those gets the error
    /// and decides, and a spilling operator makes room there.
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

    /// After the charge of an allocation moved from `from` to `to`, by a transfer or because the
    /// owner let go. Goes once to the listener of each side, once if it is the same listener.
    fn on_transfer(&self, from: &AllocatorInfo, to: &AllocatorInfo, size: usize) {
        let _ = (from, to, size);
    }

    /// After `child` was created below `parent`, whose listener this is.
    #[doc(alias = "onChildAdded")]
    fn on_child_added(&self, parent: &AllocatorInfo, child: &AllocatorInfo) {
        let _ = (parent, child);
    }

    /// After `child` left the tree below `parent`, whose listener this is.
    #[doc(alias = "onChildRemoved")]
    fn on_child_removed(&self, parent: &AllocatorInfo, child: &AllocatorInfo) {
        let _ = (parent, child);
    }
}
