//! Allocators for measurements, over a named backend.

use std::sync::Arc;

use arrow_memory_core::{
    AllocationListener, BufferAllocator, RootAllocator, RootAllocatorBuilder, backend,
};
use arrow_memory_jemalloc as _;
use arrow_memory_mimalloc as _;
use arrow_memory_system as _;

/// A listener that does nothing.
#[derive(Debug)]
pub struct Silent;

impl AllocationListener for Silent {}

/// A listener that hears refusals, but not each allocation.
#[derive(Debug)]
pub struct Waiting;

impl AllocationListener for Waiting {
    fn hears_allocations(&self) -> bool {
        false
    }
}

/// A root over the backend of this name.
///
/// # Panics
///
/// If the backend is not the one in use.
pub fn root(name: &str) -> BufferAllocator {
    root_with(name, |builder| builder)
}

/// A root over the backend of this name with a listener that hears every callback.
pub fn heard(name: &str) -> BufferAllocator {
    root_with(name, |builder| builder.listener(Arc::new(Silent)))
}

/// A root over the backend of this name with a listener that hears refusals only.
pub fn waiting(name: &str) -> BufferAllocator {
    root_with(name, |builder| builder.listener(Arc::new(Waiting)))
}

/// A root over the backend of this name, built by `set_up`.
///
/// # Panics
///
/// If the backend is not the one in use.
pub fn root_with(
    name: &str,
    set_up: impl FnOnce(RootAllocatorBuilder) -> RootAllocatorBuilder,
) -> BufferAllocator {
    let manager = backend::manager(name).expect("the backend is linked");
    let builder = RootAllocator::builder().allocation_manager(Arc::clone(&manager));
    let root = set_up(builder).build().expect("a manager is given");
    let before = manager.stats().allocations;
    drop(root.buffer(4096).expect("it is unlimited"));
    assert_eq!(root.allocation_manager().name(), name);
    assert!(
        manager.stats().allocations > before,
        "the backend under test is in use"
    );
    root.into()
}

/// Makes an allocator this many levels below `parent`.
///
/// # Panics
///
/// If an allocator cannot be built.
pub fn below(parent: &BufferAllocator, levels: usize) -> BufferAllocator {
    let mut at = parent.clone();
    for _ in 0..levels {
        at = at.child("level").build().expect("it is unlimited");
    }
    at
}

/// An allocator whose depth is `depth`: the root's is 1.
pub fn at_depth(name: &str, depth: usize) -> BufferAllocator {
    below(&root(name), depth - 1)
}
