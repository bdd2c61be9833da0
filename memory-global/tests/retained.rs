//! Scopes that end while a block of theirs lives, many of them.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]

mod common;

use std::time::{Duration, Instant};

use arrow_memory_core::RootAllocator;
use arrow_memory_global::{Attributed, Scope};
use arrow_memory_system as _;
use common::Hostile;

#[global_allocator]
static GLOBAL: Attributed<Hostile> = Attributed::new(Hostile::new());

const SCOPES: usize = if cfg!(debug_assertions) {
    100_000
} else {
    1_000_000
};
const BLOCK: usize = 512;

/// The shortest of some recalls: a refusal has to look at all that the tree has.
fn refusal(root: &RootAllocator) -> Duration {
    let recall = || {
        let begun = Instant::now();
        drop(root.buffer(1 << 40).unwrap_err());
        begun.elapsed()
    };
    (0..50).map(|_| recall()).min().unwrap()
}

#[test]
fn a_scope_that_left_a_block_costs_64_bytes_and_slows_no_recall() {
    let root = RootAllocator::new(1 << 39);
    let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(SCOPES);
    drop(Scope::new(&root).unwrap());
    let (before, recall) = (GLOBAL.inner().live(), refusal(&root));

    for number in 0..SCOPES {
        let query = root.child(&format!("q{number}")).build().unwrap();
        let scope = Scope::new(&query).unwrap();
        blocks.push(scope.run(|| Vec::with_capacity(BLOCK)));
        drop(scope);
        query.close().unwrap();
    }

    assert_eq!(root.allocated_memory(), SCOPES * BLOCK);
    let more = GLOBAL.inner().live() - before - SCOPES * BLOCK;
    // Accounts come in chunks of 64 KiB.
    assert!(
        more <= SCOPES * 64 + (1 << 18),
        "{} bytes each",
        more / SCOPES
    );
    let slower = refusal(&root);
    assert!(
        slower < recall * 10 + Duration::from_micros(50),
        "{slower:?} after {recall:?}"
    );
    assert!(root.to_verbose_string().contains("(heap) of q"));

    let most = GLOBAL.inner().live();
    blocks.clear();
    assert_eq!(root.allocated_memory(), 0);
    // The accounts are used again.
    for _ in 0..SCOPES {
        let scope = Scope::new(&root).unwrap();
        blocks.push(scope.run(|| Vec::with_capacity(BLOCK)));
    }
    assert!(GLOBAL.inner().live() <= most + (1 << 20));
    drop(blocks);
    root.close().unwrap();
}
