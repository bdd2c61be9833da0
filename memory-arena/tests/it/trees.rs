//! Arenas over allocators, and allocators over arenas.

use std::sync::Arc;

use arrow_memory_arena::Arena;
use arrow_memory_core::testing::Block;
use arrow_memory_core::{AllocError, AllocationManager, RootAllocator};

use crate::{KIB, block, layout, tracked};

#[test]
fn an_arena_over_an_allocator_charges_its_chunks_there() {
    let root = RootAllocator::new(1 << 20);
    let query = root.child("query").limit(100 * KIB).build().unwrap();
    let arena = Arena::builder()
        .allocator(&query)
        .chunk_size(16 * KIB)
        .build()
        .unwrap();
    assert_eq!(query.allocated_memory(), 0);

    let small = block(&arena, 64);
    assert_eq!(query.allocated_memory(), 16 * KIB);
    let large = block(&arena, 20_000);
    assert_eq!(query.allocated_memory(), 16 * KIB + 20_032);
    assert_eq!(arena.held_bytes(), 16 * KIB + 20_000);

    drop(small);
    drop(large);
    assert_eq!(query.allocated_memory(), 16 * KIB, "the chunk is kept");
    drop(arena);
    assert_eq!(query.allocated_memory(), 0);
    query.close().unwrap();
}

#[test]
fn an_arena_over_an_allocator_keeps_to_its_limit_and_says_who_refused() {
    let root = RootAllocator::new(40 * KIB);
    let arena = Arena::builder()
        .allocator(&root)
        .chunk_size(16 * KIB)
        .build()
        .unwrap();

    // The second chunk would be of 32 KiB, but only 16 fit; there is no room for a third.
    let mut blocks = Vec::new();
    let error = loop {
        match Block::filled(&arena, layout(KIB), 1) {
            Ok(block) => blocks.push(block),
            Err(error) => break error,
        }
    };

    assert_eq!(blocks.len(), 32);
    assert_eq!(root.allocated_memory(), 32 * KIB);
    let sources: Vec<_> = std::iter::successors(Some(&error as &dyn std::error::Error), |error| {
        error.source()
    })
    .collect();
    let refused = sources
        .iter()
        .find_map(|error| error.downcast_ref::<AllocError>());
    assert!(
        matches!(refused, Some(AllocError::OutOfMemory { .. })),
        "{sources:?}"
    );
    drop(blocks);
    arena.release_unused();
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_tree_may_stand_on_an_arena() {
    let (parent, arena) = tracked();
    let root = RootAllocator::builder()
        .allocation_manager(Arc::new(arena.clone()))
        .build()
        .unwrap();
    let child = root.child("batch").build().unwrap();

    let mut builder = child.buffer(64).unwrap();
    for byte in 0..3000 {
        builder.extend_from_slice(&[byte as u8]).unwrap();
    }
    let frozen = builder.freeze();

    assert_eq!(frozen[2999], 2999_u32 as u8);
    assert!(arena.reset().is_err());
    drop(frozen);
    arena.reset().unwrap();
    drop((child, root, arena));
    parent.assert_clean();
}
