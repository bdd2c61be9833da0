//! The set-up that most tests share.

use std::sync::Arc;

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{ArrowBuf, BufferAllocator, RootAllocator, RootAllocatorBuilder};

/// A root over a manager that tracks every block.
pub(crate) fn tracked(limit: usize) -> (Arc<TrackingManager>, BufferAllocator) {
    let manager = Arc::new(TrackingManager::new());
    let root = over(&manager).limit(limit).build().unwrap();
    (manager, root.into())
}

/// The builder of such a root, for further settings.
pub(crate) fn over(manager: &Arc<TrackingManager>) -> RootAllocatorBuilder {
    RootAllocator::builder().allocation_manager(manager.clone())
}

/// A root with a limit, whose peaks are exact.
pub(crate) fn exact(limit: usize) -> BufferAllocator {
    let builder = over(&Arc::new(TrackingManager::new())).credit(0);
    builder.limit(limit).build().unwrap().into()
}

pub(crate) fn child(parent: &BufferAllocator, name: &str) -> BufferAllocator {
    parent.child(name).build().unwrap()
}

/// A buffer of `size` ones.
pub(crate) fn ones(allocator: &BufferAllocator, size: usize) -> ArrowBuf {
    allocator.buffer_from_slice(&vec![1; size]).unwrap()
}

/// The allocated bytes of each allocator.
pub(crate) fn allocated<const N: usize>(allocators: [&BufferAllocator; N]) -> [usize; N] {
    allocators.map(BufferAllocator::allocated_memory)
}
