//! The program's heap in a tree, as a global allocator uses it: accounts, the leaf `(heap)`, and what outlives its
//! scope.
#![expect(unsafe_code, reason = "stands in for a global allocator")]

use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::thread;

use arrow_memory_core::__private::heap::{Account, Heap, Taken};
use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{AllocError, BufferAllocator, RootAllocator};

use crate::support::{allocated, child, exact, over, tracked};

/// A heap block, as far as accounts know it.
pub(crate) struct Block {
    id: u32,
    size: usize,
}

/// What a global allocator does in a scope.
pub(crate) fn block(heap: &Heap, size: usize) -> Block {
    let account = heap.account();
    // SAFETY: the heap is borrowed.
    let charged = account.take(size) || unsafe { account.take_slowly(size) } != Taken::Ended;
    assert!(charged, "the scope has not ended");
    Block {
        id: account.id(),
        size,
    }
}

impl Block {
    /// A block whose bytes were charged to the account of `heap`.
    pub(crate) fn charged(heap: &Heap, size: usize) -> Self {
        let id = heap.account().id();
        Self { id, size }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the id is an account's.
        let account = unsafe { Account::of(self.id) };
        // SAFETY: `block` charged the bytes, which are given back once.
        if !unsafe { account.give(self.size) } {
            // SAFETY: as above; nothing was given back yet.
            unsafe { account.give_slowly(self.size) };
        }
    }
}

/// The allocated bytes of the child of this name, if the tree has it.
fn named(root: &BufferAllocator, name: &str) -> Option<usize> {
    let snapshot = root.snapshot();
    let mut found = snapshot
        .entries
        .iter()
        .filter(|entry| &*entry.allocator.name == name);
    let bytes = found.next().map(|entry| entry.allocated);
    assert!(found.next().is_none(), "two of this name");
    bytes
}

fn at_rest(root: &BufferAllocator, allocated: usize) {
    root.verify().unwrap();
    assert_eq!(root.allocated_memory(), allocated);
}

#[test]
fn what_a_scope_allocates_beyond_the_reservation_is_undeclared() {
    let (_, root) = tracked(1 << 20);
    let query = root.child("query").reservation(1000).build().unwrap();
    let heap = Heap::open(&query).unwrap();

    let block = block(&heap, 5000);

    let report = root.report();
    let guilty: Vec<_> = report.undeclared().collect();
    assert_eq!(guilty, [(query.info(), 4000)]);
    drop(block);
    assert_eq!(root.report().undeclared().count(), 0);
}

#[test]
fn heap_blocks_stand_in_a_child_of_the_allocator_until_they_are_freed() {
    let (_, root) = tracked(1 << 20);
    let query = child(&root, "query");
    let heap = Heap::open(&query).unwrap();

    let (a, b) = (block(&heap, 1000), block(&heap, 5000));

    assert_eq!(allocated([&query, &root]), [6000, 6000]);
    assert_eq!(named(&root, "(heap)"), Some(6000));
    drop(a);
    at_rest(&root, 5000);
    drop(b);
    at_rest(&root, 0);
    drop(heap);
    assert_eq!(named(&root, "(heap)"), None);
    at_rest(&root, 0);
}

#[test]
fn scopes_of_one_allocator_share_a_child_which_nobody_can_allocate_from() {
    let (_, root) = tracked(1 << 20);
    let query = child(&root, "query");
    let (one, two) = (Heap::open(&query).unwrap(), Heap::open(&query).unwrap());

    let _blocks = (block(&one, 600), block(&two, 700));

    assert_ne!(one.account(), two.account());
    assert_eq!(named(&root, "(heap)"), Some(1300));
    assert!(query.child_allocators().is_empty());
}

#[test]
fn a_closed_allocator_has_no_new_scopes() {
    let (_, root) = tracked(1 << 20);
    let query = child(&root, "query");
    query.close().unwrap();

    let refused = Heap::open(&query).unwrap_err();

    assert!(matches!(refused, AllocError::Closed { .. }), "{refused}");
}

#[test]
fn a_charge_over_the_limit_is_forced_counted_and_told() {
    for credit in [0, 1 << 20] {
        let manager = Arc::new(TrackingManager::new());
        let root: BufferAllocator = over(&manager)
            .credit(credit)
            .limit(4096)
            .build()
            .unwrap()
            .into();
        let query = child(&root, "query");
        let heap = Heap::open(&query).unwrap();

        let within = block(&heap, 4096);
        assert_eq!(heap.over(), None);
        let beyond = block(&heap, 1);

        assert_eq!(root.allocated_memory(), 4097);
        let told = heap.over().unwrap();
        assert_eq!(
            (&told.allocator, told.limit, told.allocated),
            (root.info(), 4096, 4097)
        );
        assert!(query.buffer(64).is_err());
        drop(beyond);
        assert_eq!(heap.over(), None);
        drop(within);
        query.buffer(64).unwrap();
        at_rest(&root, 0);
    }
}

#[test]
fn every_byte_counts_against_buffers_of_the_same_tree() {
    for limit in [999, 1000, 1001] {
        let root = exact(limit + 64);
        let query = child(&root, "query");
        let heap = Heap::open(&query).unwrap();
        let _block = block(&heap, 1000);

        let fits = query.buffer(64).is_ok();

        assert_eq!(fits, limit >= 1000);
    }
}

#[test]
fn what_is_live_when_its_scope_ends_moves_to_a_child_of_the_root() {
    let (_, root) = tracked(1 << 20);
    let query = child(&root, "query");
    let heap = Heap::open(&query).unwrap();
    let (cache, _scratch) = (block(&heap, 1000), block(&heap, 3000));

    drop(_scratch);
    drop(heap);

    assert_eq!(allocated([&query, &root]), [0, 1000]);
    assert_eq!(named(&root, "(retained)"), Some(1000));
    root.verify().unwrap();
    query.close().unwrap();
    drop(cache);
    assert_eq!(named(&root, "(retained)"), None);
    at_rest(&root, 0);
}

#[test]
fn closing_an_allocator_ends_the_scopes_at_and_below_it() {
    let (_, root) = tracked(1 << 20);
    let query = child(&root, "query");
    let scan = child(&query, "scan");
    let (outer, inner) = (Heap::open(&query).unwrap(), Heap::open(&scan).unwrap());
    let blocks = (block(&outer, 1000), block(&inner, 2000));
    drop(scan);

    query.close().unwrap();

    // SAFETY: the heap lives.
    assert_eq!(unsafe { inner.account().take_slowly(600) }, Taken::Ended);
    assert!(!outer.account().take(600));
    assert_eq!(named(&root, "(retained)"), Some(3000));
    assert!(root.child_allocators().is_empty());
    root.verify().unwrap();
    drop(blocks.0);
    drop((outer, inner));
    at_rest(&root, 2000);
    drop(blocks.1);
    at_rest(&root, 0);
    root.close().unwrap();
}

#[test]
fn the_root_does_not_close_while_something_outlives_its_scope() {
    let (_, root) = tracked(1 << 20);
    let heap = Heap::open(&root).unwrap();
    let cache = block(&heap, 1000);

    let refused = root.close().unwrap_err();

    assert_eq!(refused.allocated, 1000);
    assert_eq!(&*refused.children[0].0.name, "(retained)");
    let text = format!("{refused:#}");
    let named = format!("(heap) of {}, whose scope has ended: 1000", root.info());
    assert!(text.contains(&named), "{text}");
    drop(heap);
    drop(cache);
    root.close().unwrap();
}

#[test]
fn a_root_closes_once_what_outlived_its_scope_is_freed_though_scopes_are_there() {
    let (_, root) = tracked(1 << 20);
    let (ended, lives) = (Heap::open(&root).unwrap(), Heap::open(&root).unwrap());
    let cache = block(&ended, 1000);
    drop(ended);
    drop(cache);
    assert_eq!(named(&root, "(retained)"), Some(0));

    root.close().unwrap();

    drop(lives);
}

#[test]
fn the_last_block_of_a_tree_frees_it() {
    let manager = Arc::new(TrackingManager::new());
    let root: BufferAllocator = over(&manager).limit(1 << 20).build().unwrap().into();
    let heap = Heap::open(&root).unwrap();
    let cache = block(&heap, 1000);
    drop((root, heap));
    assert!(Arc::strong_count(&manager) > 1);

    drop(cache);

    // The timer thread drops the tree, and with it the manager: the section of a release runs no foreign code.
    while Arc::strong_count(&manager) > 1 {
        thread::yield_now();
    }
}

#[test]
fn a_block_that_outlived_its_scope_can_grow() {
    let (_, root) = tracked(1 << 20);
    let heap = Heap::open(&root).unwrap();
    let mut cache = block(&heap, 1000);
    drop(heap);

    // SAFETY: the id is an account's.
    let account = unsafe { Account::of(cache.id) };
    // SAFETY: 1,000 bytes are charged to it.
    let grown = unsafe { account.take_more_slowly(500) };

    assert_eq!(grown, Taken::Charged);
    cache.size += 500;
    at_rest(&root, 1500);
    drop(cache);
    at_rest(&root, 0);
}

#[test]
fn names_of_any_length_are_kept() {
    let (_, root) = tracked(1 << 20);
    let mut cached = Vec::new();
    for length in 0..40 {
        let query = child(&root, &"é".repeat(length));
        let heap = Heap::open(&query).unwrap();
        cached.push(block(&heap, 600 + length));
    }
    root.verify().unwrap();
    let retained = root.report().retained;
    let largest: Vec<_> = retained
        .largest
        .iter()
        .map(|(name, bytes)| (&**name, *bytes))
        .collect();
    let names: Vec<_> = (8..40).rev().map(|length| "é".repeat(length)).collect();
    let expected: Vec<_> = names
        .iter()
        .map(|name| (&**name, 600 + name.len() / 2))
        .collect();
    assert_eq!(largest, expected);
    assert_eq!((retained.others, retained.other_bytes), (8, 8 * 600 + 28));

    drop(cached);

    at_rest(&root, 0);
}

#[test]
fn many_threads_charge_one_scope_and_free_each_others_blocks() {
    let (_, root) = tracked(1 << 30);
    let query = child(&root, "query");
    let heap = Heap::open(&query).unwrap();
    let (send, receive) = std::sync::mpsc::channel::<Block>();

    thread::scope(|scope| {
        for thread in 0..4 {
            let (heap, send) = (&heap, send.clone());
            scope.spawn(move || {
                for i in 0..2000 {
                    let block = block(heap, 512 + (i * 97 + thread) % 9000);
                    if i % 3 == 0 {
                        send.send(block).unwrap();
                    }
                }
            });
        }
        drop(send);
        scope.spawn(move || receive.iter().for_each(drop));
        for _ in 0..50 {
            root.verify().unwrap();
            let _ = query.buffer(1 << 31);
        }
    });

    at_rest(&root, 0);
}

#[test]
fn accounts_are_used_again() {
    let root = RootAllocator::new(1 << 20);
    let mut ids = (0..3000).map(|_| Heap::open(&root).unwrap().account().id());

    assert!(ids.all(|id| id < 2048), "other tests have some");
}

#[test]
fn threads_of_a_scope_have_accounts_of_their_own_which_end_with_it() {
    const THREADS: usize = 20; // more than a scope has accounts
    let root = RootAllocator::new(1 << 30);
    let query = root.child("query").build().unwrap();
    let heap = Heap::open(&query).unwrap();
    let all_there = Barrier::new(THREADS);
    let blocks: Vec<Block> = thread::scope(|scope| {
        let allocate = || {
            let made = block(&heap, 1000);
            all_there.wait(); // so that no thread has the place of one that has gone
            assert_eq!(made.id, heap.account().id(), "a thread keeps its account");
            made
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(allocate)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let ids: HashSet<u32> = blocks.iter().map(|block| block.id).collect();
    assert_eq!(ids.len(), 8);
    at_rest(&root, THREADS * 1000);

    drop(heap);

    let retained = root.report().retained;
    assert_eq!(retained.largest, [(Arc::from("query"), THREADS * 1000)]);
    assert_eq!(retained.others, 0);
    assert_eq!(query.allocated_memory(), 0);
    drop(blocks);
    at_rest(&root, 0);
}
