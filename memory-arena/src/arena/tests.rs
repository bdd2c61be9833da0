//! The books after each step of long random runs.

use std::sync::Arc;

use arrow_memory_core::testing::{Block, StdManager};

use super::*;

fn arena(chunk_size: usize, max_chunk_size: usize) -> Arena {
    let builder = Arena::builder().parent(Arc::new(StdManager));
    let builder = builder
        .chunk_size(chunk_size)
        .max_chunk_size(max_chunk_size);
    builder.build().expect("valid sizes")
}

#[test]
fn every_invariant_holds_after_each_step() {
    for seed in 1..=20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let arena = arena(2048 << (seed % 3), 16 << 10);
        let mut held: Vec<Block<'_>> = Vec::new();
        for _ in 0..2000 {
            let bits = random.usize(4..14);
            let size = random.usize(1..=1 << bits);
            let align = 1 << random.usize(..11);
            let layout = Layout::from_size_align(size, align).unwrap();
            match random.usize(..10) {
                0 if !held.is_empty() => drop(held.pop()),
                1..=3 if !held.is_empty() => drop(held.swap_remove(random.usize(..held.len()))),
                4..=5 if !held.is_empty() => {
                    let index = random.usize(..held.len());
                    held[index].reallocate(size, 1).unwrap();
                }
                6 if random.usize(..40) == 0 => arena.release_unused(),
                7 if random.usize(..40) == 0 => held.clear(),
                _ => held.push(Block::filled(&arena, layout, 1).unwrap()),
            }

            let bytes = held.iter().map(|block| block.layout().size()).sum();
            arena.inner.lock().check(held.len(), bytes);
        }
        drop(held);
        arena.inner.lock().check(0, 0);
        arena.reset().unwrap();
    }
}

#[test]
fn largeness_is_decided_at_a_quarter_of_the_first_chunk() {
    let arena = arena(4096, 1 << 20);
    let is_large = |size, align| {
        let layout = Layout::from_size_align(size, align).unwrap();
        arena.inner.is_large(layout)
    };

    assert!(!is_large(0, 1));
    assert!(!is_large(1024, 64));
    assert!(is_large(1025, 64));
    assert!(!is_large(64, 1024));
    assert!(is_large(65, 1024));
    assert!(is_large(1, 2 << 20));
    assert!(is_large(isize::MAX as usize, 1));
}
