//! Managers that behave: [`StdManager`] and [`CountingManager`].
#![expect(
    unsafe_code,
    reason = "implements and forwards the manager's unsafe trait"
)]

use std::alloc::{self, Layout};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::__forward_to_inner as forward_to_inner;
use crate::manager::{AllocationManager, ManagerError};

/// A manager on the program's global allocator, `std` by name. It keeps no statistics.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdManager;

// SAFETY: blocks come from the global allocator, which keeps promises 1 to 3 by the contract of
// `GlobalAlloc`; nothing here unwinds.
unsafe impl AllocationManager for StdManager {
    fn name(&self) -> &str {
        "std"
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        assert_ne!(layout.size(), 0, "managers are never asked for zero bytes");
        // SAFETY: the size is not 0.
        let ptr = unsafe { alloc::alloc(layout) };
        NonNull::new(ptr).ok_or_else(|| ManagerError::out_of_memory(layout))
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: by the caller's promise the block is live and came from here with `layout`.
        unsafe { alloc::dealloc(ptr.as_ptr(), layout) };
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        assert_ne!(layout.size(), 0, "managers are never asked for zero bytes");
        // SAFETY: the size is not 0.
        let ptr = unsafe { alloc::alloc_zeroed(layout) };
        NonNull::new(ptr).ok_or_else(|| ManagerError::out_of_memory(layout))
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        // SAFETY: by the caller's promise the block is live and came from here with `old`, and
        // `new_size` is not 0 and makes a valid layout with the alignment of `old`.
        let moved = unsafe { alloc::realloc(ptr.as_ptr(), old, new_size) };
        NonNull::new(moved).ok_or_else(|| {
            ManagerError::new(format!("no memory to grow {} to {new_size}", old.size()))
        })
    }
}

/// Writes the constructors of a manager around another one: `new`, `over` and `Default`. Its fields are `inner` and
/// one whose default is a manager that was never called; `$state` documents what such a manager does.
macro_rules! constructors {
    ($type:ident { $field:ident } $($state:literal)?) => {
        impl $type {
            #[doc = concat!("Over a [`StdManager`](crate::testing::StdManager).", $(" ", $state)?)]
            pub fn new() -> Self {
                Self::over(::std::sync::Arc::new($crate::testing::StdManager))
            }

            #[doc = concat!("Over another manager, whose name it keeps.", $(" ", $state)?)]
            pub fn over(inner: ::std::sync::Arc<dyn AllocationManager>) -> Self {
                let $field = Default::default();
                Self { inner, $field }
            }
        }

        impl Default for $type {
            fn default() -> Self {
                Self::new()
            }
        }
    };
}
pub(super) use constructors;

/// Counts the calls that reach another manager.
///
/// ```
/// use std::alloc::Layout;
///
/// use arrow_memory_manager::testing::{Block, CountingManager};
///
/// let manager = CountingManager::new();
/// Block::zeroed(&manager, Layout::new::<u64>())?.reallocate(100, 0)?;
/// let calls = manager.calls();
/// assert_eq!((calls.allocate_zeroed, calls.reallocate, calls.deallocate), (1, 1, 1));
/// # Ok::<(), arrow_memory_manager::ManagerError>(())
/// ```
#[derive(Debug)]
pub struct CountingManager {
    inner: Arc<dyn AllocationManager>,
    calls: Counters,
}

/// How often each method was called so far.
#[derive(Debug, Default)]
struct Counters {
    allocate: AtomicU64,
    allocate_zeroed: AtomicU64,
    reallocate: AtomicU64,
    deallocate: AtomicU64,
    release_unused: AtomicU64,
}

/// How often each method of a manager was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManagerCalls {
    /// Calls of [`AllocationManager::allocate`].
    pub allocate: u64,
    /// Calls of [`AllocationManager::allocate_zeroed`].
    pub allocate_zeroed: u64,
    /// Calls of [`AllocationManager::reallocate`].
    pub reallocate: u64,
    /// Calls of [`AllocationManager::deallocate`].
    pub deallocate: u64,
    /// Calls of [`AllocationManager::release_unused`].
    pub release_unused: u64,
}

constructors!(CountingManager { calls });

impl CountingManager {
    /// The calls so far.
    pub fn calls(&self) -> ManagerCalls {
        // Relaxed: the counts guard no other memory.
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ManagerCalls {
            allocate: count(&self.calls.allocate),
            allocate_zeroed: count(&self.calls.allocate_zeroed),
            reallocate: count(&self.calls.reallocate),
            deallocate: count(&self.calls.deallocate),
            release_unused: count(&self.calls.release_unused),
        }
    }
}

fn count(counter: &AtomicU64) {
    // Relaxed: the counts guard no other memory.
    counter.fetch_add(1, Ordering::Relaxed);
}

// SAFETY: every method forwards to a manager that keeps the promises, and adds a count.
unsafe impl AllocationManager for CountingManager {
    forward_to_inner!(name, stats);
    forward_to_inner!(before |this| count(&this.calls.allocate); allocate);
    forward_to_inner!(before |this| count(&this.calls.allocate_zeroed); allocate_zeroed);
    forward_to_inner!(before |this| count(&this.calls.reallocate); reallocate);
    forward_to_inner!(before |this| count(&this.calls.deallocate); deallocate);
    forward_to_inner!(before |this| count(&this.calls.release_unused); release_unused);
}
