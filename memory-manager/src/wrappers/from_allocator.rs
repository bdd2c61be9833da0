//! An `Allocator` of `allocator-api2` as a backend: [`AllocatorManager`].
#![expect(
    unsafe_code,
    reason = "implements the manager's unsafe trait over another allocator interface"
)]

use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};

use crate::manager::{AllocationManager, ManagerError};

/// A backend on any `Allocator` of `allocator-api2` 0.2.
///
/// ```
/// use std::sync::Arc;
///
/// use allocator_api2::alloc::Global;
/// use arrow_memory_core::{AllocatorManager, RootAllocator};
///
/// let manager = Arc::new(AllocatorManager::new("global", Global));
/// let root = RootAllocator::builder().allocation_manager(manager).build()?;
/// assert_eq!(root.buffer(1000).unwrap().capacity(), 1024);
/// # Ok::<(), arrow_memory_manager::BackendError>(())
/// ```
#[doc(alias = "STLMemoryPool")]
pub struct AllocatorManager<A> {
    name: &'static str,
    inner: A,
}

impl<A: Allocator + Send + Sync> AllocatorManager<A> {
    /// A backend with this name.
    pub const fn new(name: &'static str, inner: A) -> Self {
        Self { name, inner }
    }
}

impl<A> fmt::Debug for AllocatorManager<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AllocatorManager({})", self.name)
    }
}

fn given(
    block: Result<NonNull<[u8]>, AllocError>,
    layout: Layout,
) -> Result<NonNull<u8>, ManagerError> {
    block
        .map(NonNull::cast)
        .map_err(|_| ManagerError::out_of_memory(layout))
}

// SAFETY: `Allocator` promises the same: blocks that fit the layout, valid until they are given back,
// from any thread since the allocator is Send and Sync; an error changes nothing.
unsafe impl<A: Allocator + Send + Sync> AllocationManager for AllocatorManager<A> {
    fn name(&self) -> &str {
        self.name
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        given(self.inner.allocate(layout), layout)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        given(self.inner.allocate_zeroed(layout), layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: by the caller's promise a live block of this allocator, and this layout fits it.
        unsafe { self.inner.deallocate(ptr, layout) };
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        let new = Layout::from_size_align(new_size, old.align())
            .map_err(|_| ManagerError::new("the new size does not make a valid layout"))?;
        let moved = if new_size >= old.size() {
            // SAFETY: by the caller's promise a live block of this allocator that `old` fits; the new layout is
            // not smaller.
            unsafe { self.inner.grow(ptr, old, new) }
        } else {
            // SAFETY: by the caller's promise a live block of this allocator that `old` fits; the new layout is
            // smaller.
            unsafe { self.inner.shrink(ptr, old, new) }
        };
        given(moved, new)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use allocator_api2::alloc::Global;

    use super::*;
    use crate::conformance_suite;

    conformance_suite!(
        allocator,
        Arc::new(AllocatorManager::new("global", Global)),
        keeps_unused_memory
    );
}
