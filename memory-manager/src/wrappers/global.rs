//! A manager on any `GlobalAlloc`.
#![expect(unsafe_code, reason = "implements the manager's unsafe trait")]

use std::alloc::{GlobalAlloc, Layout};
use std::fmt;
use std::ptr::NonNull;

use crate::manager::{AllocationManager, ManagerError};
use crate::sync::current::unscoped;

/// A backend on any [`GlobalAlloc`]: the program's own, for instance.
///
/// If that allocator charges blocks of the program's heap to an allocator of the tree, it does not charge those of
/// this backend: the tree has charged them already.
///
/// ```
/// use std::alloc::System;
/// use std::sync::Arc;
///
/// use arrow_memory_core::{GlobalAllocManager, RootAllocator};
///
/// let manager = Arc::new(GlobalAllocManager::new("std", System));
/// let root = RootAllocator::builder().allocation_manager(manager).build()?;
/// assert_eq!(root.buffer(1000).unwrap().capacity(), 1024);
/// # Ok::<(), arrow_memory_manager::BackendError>(())
/// ```
pub struct GlobalAllocManager<A> {
    name: &'static str,
    inner: A,
}

impl<A: GlobalAlloc + Send + Sync> GlobalAllocManager<A> {
    /// A backend with this name.
    pub const fn new(name: &'static str, inner: A) -> Self {
        Self { name, inner }
    }
}

impl<A> fmt::Debug for GlobalAllocManager<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GlobalAllocManager({})", self.name)
    }
}

fn given(block: *mut u8, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
    NonNull::new(block).ok_or_else(|| ManagerError::out_of_memory(layout))
}

// SAFETY: `GlobalAlloc` promises the same: blocks of the layout asked for, valid until they are given
// back, from any thread since the allocator is Sync; null, with nothing changed, on failure; no
// unwinding.
unsafe impl<A: GlobalAlloc + Send + Sync> AllocationManager for GlobalAllocManager<A> {
    fn name(&self) -> &str {
        self.name
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        debug_assert!(layout.size() > 0);
        // SAFETY: the size is not zero, by this trait's contract.
        given(unscoped(|| unsafe { self.inner.alloc(layout) }), layout)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        debug_assert!(layout.size() > 0);
        // SAFETY: the size is not zero, by this trait's contract.
        given(
            unscoped(|| unsafe { self.inner.alloc_zeroed(layout) }),
            layout,
        )
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: by the caller's promise a live block of this allocator with this layout.
        unsafe { self.inner.dealloc(ptr.as_ptr(), layout) };
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        // SAFETY: by the caller's promise a live block of this allocator with layout `old`; the new size is not
        // zero and makes a valid layout.
        given(
            unscoped(|| unsafe { self.inner.realloc(ptr.as_ptr(), old, new_size) }),
            old,
        )
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::TrackingManager;
    use crate::{CappedManager, conformance_suite};

    conformance_suite!(
        global,
        Arc::new(GlobalAllocManager::new("std", std::alloc::System)),
        keeps_unused_memory
    );

    #[test]
    fn it_can_stand_below_other_managers() {
        let manager = GlobalAllocManager::new("std", std::alloc::System);
        assert_eq!(manager.name(), "std");
        let _ = (
            TrackingManager::new(),
            CappedManager::new(Arc::new(manager), 100),
        );
    }
}
