//! External bytes are counted exactly, for all piece sizes and numbers of threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use arrow_memory_core::BufferAllocator;

use crate::support::tracked;

/// Whether the allocator refuses to release that many bytes, and does not change.
fn refuses(allocator: &BufferAllocator, bytes: usize) -> bool {
    let before = (allocator.stats(), allocator.allocated_memory());
    let released = catch_unwind(AssertUnwindSafe(|| allocator.release_bytes(bytes)));
    released.is_err() && before == (allocator.stats(), allocator.allocated_memory())
}

#[test]
fn external_bytes_are_released_in_whatever_pieces_and_not_one_too_many() {
    const MIB: usize = 1 << 20;
    let (_, root) = tracked(usize::MAX);
    for reservation in [0, 64 * MIB] {
        let child = root.new_child_allocator("child", reservation, usize::MAX);
        let child = child.unwrap();
        // Sizes below and above the maximum that the node's word can count.
        for piece in [1, 4096, 600_000, MIB, 2 * MIB - 1, 2 * MIB, 3 * MIB + 1] {
            for _ in 0..20 {
                child.allocate_bytes(piece).unwrap();
            }
            assert_eq!(child.stats().external_bytes, 20 * piece);
            assert_eq!(child.allocated_memory(), 20 * piece);
            assert!(refuses(&child, 20 * piece + 1));
            for _ in 0..3 {
                child.release_bytes(piece);
            }
            child.release_bytes(7 * piece);
            assert_eq!(child.stats().external_bytes, 10 * piece);
            child.release_bytes(10 * piece);
            assert!(refuses(&child, 1));
            root.verify().unwrap();
        }
        child.close().unwrap();
    }
}

#[test]
fn external_bytes_that_threads_charge_for_one_another_are_counted() {
    let (_, root) = tracked(usize::MAX);
    let buffer = root.buffer(64).unwrap();
    thread::scope(|scope| {
        for seed in 1..=4 {
            let root = &root;
            scope.spawn(move || {
                for round in 0..20_000 {
                    let bytes = 1 + (seed * round) % 9_000;
                    root.allocate_bytes(bytes + 1).unwrap();
                    // This may release a byte that another thread charged; then one of ours is left for that
                    // thread.
                    root.release_bytes(bytes);
                    drop(root.buffer(64).unwrap());
                }
            });
        }
    });
    assert_eq!(root.stats().external_bytes, 80_000);
    assert!(refuses(&root, 80_001));
    root.release_bytes(80_000);
    drop(buffer);
    assert_eq!(root.allocated_memory(), 0);
    root.verify().unwrap();
}

#[test]
fn an_allocator_that_left_its_tree_with_a_reservation_counts_forced_bytes() {
    let (_, root) = tracked(1 << 20);
    let child = root.new_child_allocator("child", 1000, 1 << 20).unwrap();
    child.close().unwrap();

    child.force_allocate(10);

    assert_eq!(
        (child.stats().external_bytes, root.allocated_memory()),
        (10, 0)
    );
    assert!(refuses(&child, 11));
    child.release_bytes(4);
    assert_eq!(child.stats().external_bytes, 6);
    child.release_bytes(6);
    assert!(refuses(&child, 1));
}

#[test]
fn any_number_that_is_too_large_is_refused() {
    let (_, root) = tracked(usize::MAX);
    root.allocate_bytes(100).unwrap();
    root.allocate_bytes(100).unwrap();
    for bytes in [201, 1 << 21, 1 << 42, 1 << 63, usize::MAX - 1, usize::MAX] {
        assert!(refuses(&root, bytes), "{bytes}");
    }
    root.release_bytes(200);
}
