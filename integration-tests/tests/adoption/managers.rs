//! Blocks that a tree's manager gets from the program's own allocator are not attributed besides.

use std::alloc::System;
use std::sync::Arc;

use arrow_memory_arrow::{Accounted, into_buffer};
use arrow_memory_core::{AllocError, AllocationManager, GlobalAllocManager, RootAllocator};
use arrow_memory_global::Attributed;
use arrow_memory_jemalloc::{Jemalloc, JemallocManager};
use arrow_memory_mimalloc::{MiMalloc, MimallocManager};
use arrow_memory_system::SystemManager;

use crate::Books;

/// Allocates from the tree in a scope of the same tree, by a manager.
fn check(manager: Arc<dyn AllocationManager>) {
    let name = manager.name().to_owned();
    let builder = RootAllocator::builder().allocation_manager(manager);
    let books = Books::with_root(builder.build().unwrap());
    for (round, bytes) in [512, 1000, 64 << 10, 8 << 20]
        .repeat(3)
        .into_iter()
        .enumerate()
    {
        let resized = |size| {
            let mut buffer = books.join.buffer(size)?;
            buffer.resize(bytes, 7)?;
            Ok(buffer)
        };
        let buffer: Result<_, AllocError> = books.run(|| match round / 4 {
            0 => books.join.buffer_zeroed(bytes),
            1 => resized(bytes),
            _ => resized(64), // which grows
        });
        let buffer = buffer.unwrap().freeze();
        let size = buffer.allocation_size();
        assert_eq!(books.charged(), [size, 0, 0, size], "{bytes} by {name}");

        let ours = into_buffer(buffer);
        let adopted = ours.try_move_to(&books.scan).unwrap();

        assert_eq!(books.charged(), [size, size, 0, 0], "{bytes} by {name}");
        books.run(|| drop(adopted));
        assert_eq!(books.charged(), [0; 4], "{bytes} by {name}");
    }
    books.close();
}

#[test]
fn the_system_allocators_blocks_are_the_trees() {
    check(Arc::new(SystemManager::default()));
    let ours = Attributed::new(System);
    check(Arc::new(GlobalAllocManager::new(
        "system, as the program's",
        ours,
    )));
}

#[test]
fn jemallocs_blocks_are_the_trees() {
    check(Arc::new(JemallocManager::new()));
    let ours = Attributed::new(Jemalloc);
    check(Arc::new(GlobalAllocManager::new(
        "jemalloc, as the program's",
        ours,
    )));
}

#[test]
fn mimallocs_blocks_are_the_trees() {
    check(Arc::new(MimallocManager::new()));
    let ours = Attributed::new(MiMalloc);
    check(Arc::new(GlobalAllocManager::new(
        "mimalloc, as the program's",
        ours,
    )));
}
