use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::*;
use crate::sync::plain::locks_held;
use crate::testing::TrackingManager;
use crate::{ArrowBufMut, RootAllocator};

/// Tests of one process that count chunks must not run beside each other. Others use few chunks.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root() -> RootAllocator {
    let manager = Arc::new(TrackingManager::new());
    let root = RootAllocator::builder().allocation_manager(manager);
    root.debug(false).build().expect("no debugging")
}

/// Buffers that use up this many chunks, in the order of their creation.
fn fill(root: &RootAllocator, chunks: usize) -> Vec<ArrowBufMut> {
    let buffers = (0..chunks * SLOTS).map(|_| root.buffer(64).expect("no limit"));
    buffers.collect()
}

/// The same buffers, of which those that follow each other are of different chunks.
fn scatter(buffers: Vec<ArrowBufMut>) -> Vec<ArrowBufMut> {
    let mut buffers: Vec<_> = buffers.into_iter().map(Some).collect();
    // A prime, so that each is taken once.
    let order = (0..buffers.len()).map(|index| index * 7919 % buffers.len());
    let order: Vec<_> = order.collect();
    let scattered = order.into_iter().map(|index| buffers[index].take());
    scattered
        .map(|buffer| buffer.expect("taken once"))
        .collect()
}

#[test]
fn no_chunk_is_freed_while_somebody_walks_and_the_walk_frees_them_at_its_end() {
    let _alone = alone();
    let root = root();
    let mut held = fill(&root, 10);
    let node: *const _ = root.handle.ptr().as_ptr().as_ptr();

    // Another test of this process may walk, too, and then frees what this one leaves.
    for round in 0..100 {
        let all = pool().count();
        let mut seen = 0;
        for_each_in_use(|face| {
            assert_eq!(locks_held(), 0);
            if face.node_address() == node {
                // All that this walk has yet to see goes under its feet.
                held.clear();
                seen += 1;
            }
            assert!(pool().count() >= all, "freed while somebody walks");
            true
        });
        assert!(round > 0 || seen >= 1);
        if pool().count() < all {
            return;
        }
        held = fill(&root, 10);
    }
    panic!("no chunk was ever freed");
}

#[test]
fn a_walk_ends_when_it_is_told_to() {
    let root = root();
    let _held = [root.buffer(64).unwrap(), root.buffer(64).unwrap()];

    let mut seen = 0;
    for_each_in_use(|_| {
        seen += 1;
        false
    });
    assert_eq!(seen, 1);
}

/// A child process has none of the threads that walk in its parent. If it kept their count, it would never
/// free a chunk.
#[cfg(unix)]
#[test]
fn a_forked_child_knows_of_no_walk() {
    let root = root();
    let _held = root.buffer(64).unwrap();

    for_each_in_use(|_| {
        assert!(pool().walks > 0);
        // SAFETY: the child reads one number of the pool, whose lock a fork hands over, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let walks = pool().walks;
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(walks != 0)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child that was forked above; the pointer is to a local.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((waited, status), (child, 0));
        false
    });
}

const CHUNKS: usize = 60;

/// A regression: each of the 1,024 slots that a thread keeps may be of another chunk, after many buffers were dropped in
/// another order than that of their creation. So 88 MB of a million buffers stayed.
#[test]
fn the_slots_that_a_thread_keeps_do_not_keep_all_chunks() {
    let _alone = alone();
    let root = root();
    let held = scatter(fill(&root, CHUNKS));

    drop(held);

    let kept = pool().kept();
    assert!(kept < CHUNKS / 2, "{kept} of {CHUNKS} chunks");
}
