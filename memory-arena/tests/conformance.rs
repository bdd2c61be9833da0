//! Checks the contract of a manager, with other settings and over other managers.

use std::sync::Arc;

use arrow_memory_arena::Arena;
use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{RootAllocator, conformance_suite};
use arrow_memory_system as _;

/// An arena over a manager that finds leaks, double frees and wrong layouts.
fn arena(chunk_size: usize, max_chunk_size: usize) -> Arc<Arena> {
    let builder = Arena::builder().parent(Arc::new(TrackingManager::new()));
    Arc::new(
        builder
            .chunk_size(chunk_size)
            .max_chunk_size(max_chunk_size)
            .build()
            .expect("valid sizes"),
    )
}

conformance_suite!(small_chunks, arena(4096, 4096), keeps_unused_memory);
conformance_suite!(growing_chunks, arena(10_000, 1 << 20), keeps_unused_memory);
conformance_suite!(hardly_any_chunks, arena(1, 1), keeps_unused_memory);
conformance_suite!(large_chunks, arena(8 << 20, 64 << 20), keeps_unused_memory);
conformance_suite!(
    over_an_arena,
    Arc::new(
        Arena::builder()
            .parent(arena(1 << 20, 1 << 20))
            .chunk_size(5000)
            .build()
            .unwrap()
    ),
    keeps_unused_memory
);

conformance_suite!(
    over_an_allocator,
    {
        let root = RootAllocator::builder().allocation_manager(Arc::new(TrackingManager::new()));
        let root = root.build().unwrap();
        Arc::new(
            Arena::builder()
                .allocator(&root)
                .chunk_size(10_000)
                .build()
                .unwrap(),
        )
    },
    keeps_unused_memory
);

#[test]
fn the_default_arena_is_over_the_preferred_backend_other_than_arenas() {
    assert_eq!(Arena::new().parent().name(), "system");
}
