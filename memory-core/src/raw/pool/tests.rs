use std::cell::Cell;
use std::sync::Arc;

use super::*;
use crate::RootAllocator;
use crate::sync::plain::locks_held;
use crate::testing::TrackingManager;

thread_local!(static FREED: Cell<usize> = const { Cell::new(0) });

pub(super) fn note_freed() {
    FREED.set(FREED.get() + 1);
}

#[test]
fn no_chunk_is_freed_while_somebody_walks_and_the_walk_frees_them_at_its_end() {
    let manager = Arc::new(TrackingManager::new());
    let root = RootAllocator::builder().allocation_manager(manager);
    let root = root.debug(false).build().unwrap();
    let mut held: Vec<_> = (0..10 * SLOTS).map(|_| root.buffer(64).unwrap()).collect();
    let node: *const _ = root.handle.ptr().as_ptr().as_ptr();
    let mut before = FREED.get();

    // Another test of this process may walk, too, and then frees what this one leaves.
    for round in 0..100 {
        let mut seen = 0;
        for_each_in_use(|face| {
            assert_eq!(locks_held(), 0);
            if face.node_address() == node {
                // All that this walk has yet to see goes under its feet.
                before = FREED.get();
                held.clear();
                seen += 1;
            }
            assert_eq!(FREED.get(), before, "freed while somebody walks");
            true
        });
        assert!(round > 0 || seen >= 1);
        if FREED.get() > before {
            return;
        }
        held.extend((0..10 * SLOTS).map(|_| root.buffer(64).unwrap()));
    }
    panic!("no chunk was ever freed");
}

#[test]
fn a_walk_ends_when_it_is_told_to() {
    let manager = Arc::new(TrackingManager::new());
    let root = RootAllocator::builder().allocation_manager(manager);
    let root = root.build().unwrap();
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
    let manager = Arc::new(TrackingManager::new());
    let root = RootAllocator::builder().allocation_manager(manager);
    let root = root.build().unwrap();
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

/// A regression: each of the 1,024 slots that a thread keeps may be of another chunk, after many buffers were dropped in
/// another order than that of their creation. So 88 MB of a million buffers stayed.
#[test]
fn the_slots_that_a_thread_keeps_do_not_keep_all_chunks() {
    let manager = Arc::new(TrackingManager::new());
    let root = RootAllocator::builder().allocation_manager(manager);
    let root = root.debug(false).build().unwrap();
    let chunks = 60;
    let mut held: Vec<_> = (0..chunks * SLOTS)
        .map(|_| Some(root.buffer(64).unwrap()))
        .collect();
    let before = FREED.get();

    for index in 0..held.len() {
        // A prime, so that each is dropped once, and those that follow each other are of different chunks.
        let other = index * 7919 % held.len();
        held[other] = None;
    }

    // Other tests of this process may have slots of a few chunks, or walk, and then free what this one leaves.
    let freed = FREED.get() - before;
    assert!(freed > chunks / 2, "{freed} of {chunks} chunks");
}
