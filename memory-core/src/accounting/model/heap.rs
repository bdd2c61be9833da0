//! Races of heap blocks that are charged and freed with what recalls, closes and retires their accounts.
//!
//! A node's memory is a datum in these models, so loom sees a thread that reaches a leaf which is freed. The block has
//! a datum, too, where whoever frees it and whoever gets the bytes next are different threads.
//!
//! Each of these mutations makes some of them fail: retiring an account without shutting its word; a release that
//! looks for the leaf before it has the mutex; giving an account back when its leaf has no bytes, and not when it has
//! none itself; removing it before the last bytes are given back; a recall that leaves the words of accounts open;
//! opening a word without noting what is granted; what is loose counted without the caps; a refusal that does not
//! recall soft leaves; two threads that each open an account for the same lane; a lane that is opened though the allocator
//! is closed; a scope that ends its first account only.

use std::sync::Arc;

use loom::thread;

use super::waiting::{at_rest_alone, datum, obtain_and_write};
use super::{at_rest, check, child, root, uncharge};
use crate::accounting::handle::Handle;
use crate::accounting::heap::{Account, HeapHandle, Taken};
use crate::sync::table::spread;

pub(super) fn open(of: &Handle) -> HeapHandle {
    match HeapHandle::open(of) {
        Ok(heap) => heap,
        Err(_) => panic!("it is open"),
    }
}

/// Charges a block; `false`: the scope has ended. The caller keeps the scope.
pub(super) fn allocate(account: Account, bytes: usize) -> bool {
    // SAFETY: the scopes of the models are dropped after their threads have ended, or allocate nothing.
    account.take(bytes) || unsafe { account.take_slowly(bytes) } != Taken::Ended
}

/// Frees a block that `allocate` charged.
pub(super) fn free(id: u32, bytes: usize) {
    // SAFETY: the models' ids are of accounts.
    let account = unsafe { Account::of(id) };
    // SAFETY: the models give back what they charged.
    if !unsafe { account.give(bytes) } {
        // SAFETY: as above; nothing was given back yet.
        unsafe { account.give_slowly(bytes) };
    }
}

#[test]
fn a_heap_block_and_a_buffer_share_one_limit() {
    check(|| {
        let root = root(64);
        let (query, other) = (child(&root, 64, 0), child(&root, 64, 0));
        let heap = open(&query);
        assert!(allocate(heap.account(), 8));
        let account = heap.account();
        let thread = thread::spawn(move || {
            // Fits in the credit, or takes the mutex.
            assert!(allocate(account, 16));
            free(account.id(), 8);
        });

        let granted = other.charge(40).is_ok();
        assert!(granted, "at most 24 of 64 bytes are allocated beside it");
        assert!(other.charge(17).is_err(), "at least 8 are");

        thread.join().unwrap();
        at_rest(&root, 56);
        free(heap.account().id(), 16);
        uncharge(&other, 40);
        at_rest(&root, 0);
    });
}

#[test]
fn a_heap_block_is_charged_beside_a_buffer_that_leaves_it_no_room() {
    check(|| {
        let root = root(64);
        let query = child(&root, 64, 0);
        let heap = open(&query);
        assert!(allocate(heap.account(), 8));
        let account = heap.account();
        let thread = thread::spawn(move || assert!(allocate(account, 40)));

        let granted = query.charge(40).is_ok();

        thread.join().unwrap();
        at_rest(&root, if granted { 88 } else { 48 });
    });
}

#[test]
fn a_block_that_is_freed_lets_a_waiter_in() {
    check(|| {
        let root = root(64);
        let (query, other) = (child(&root, 64, 0), child(&root, 64, 0));
        let heap = open(&query);
        assert!(allocate(heap.account(), 48));
        let (id, datum) = (heap.account().id(), datum());
        let written = datum.clone();
        let thread = thread::spawn(move || {
            written.write();
            free(id, 48);
        });

        obtain_and_write(&other, 32, &datum);

        thread.join().unwrap();
        at_rest_alone(&root, 32);
    });
}

/// Checks a tree at rest: so many bytes are allocated, all of them by blocks whose scopes have ended.
fn at_rest_retained(root: &Handle, bytes: usize) {
    at_rest(root, bytes);
    let retained = root.retained();
    let named: usize = retained.largest.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(named + retained.other_bytes, bytes);
}

/// Charges blocks over the limit of 64, and has a soft word opened there: 44 bytes are charged to the heap.
fn soft(root: &Handle, account: Account) {
    assert!(allocate(account, 40));
    root.force_external(30).unwrap();
    assert!(allocate(account, 4));
    root.release_external(30);
    assert!(account.held().credit > 0, "the word is open");
}

#[test]
fn soft_credit_makes_nobody_refuse_what_fits_or_grant_what_does_not() {
    check(|| {
        let root = root(64);
        let (query, other) = (child(&root, 1 << 20, 0), child(&root, 64, 0));
        let heap = open(&query);
        soft(&root, heap.account());
        let id = heap.account().id();
        let thread = thread::spawn(move || {
            free(id, 4);
        });

        other.charge(20).expect("20 of 64 bytes fit beside 44");
        assert!(other.charge(5).is_err(), "at least 60 are in use");

        thread.join().unwrap();
        at_rest(&root, 60);
    });
}

#[test]
fn a_soft_charge_and_a_buffer_see_each_other() {
    check(|| {
        let root = root(64);
        let (query, other) = (child(&root, 1 << 20, 0), child(&root, 64, 0));
        let heap = open(&query);
        soft(&root, heap.account());
        let account = heap.account();
        let thread = thread::spawn(move || assert!(allocate(account, 8)));

        let granted = other.charge(20).is_ok();

        thread.join().unwrap();
        at_rest(&root, if granted { 72 } else { 52 });
        assert_eq!(heap.over().is_some(), granted);
    });
}

#[test]
fn blocks_that_are_freed_in_two_soft_scopes_let_a_waiter_in() {
    check(|| {
        let root = root(64);
        let [a, b, other] = [(); 3].map(|()| child(&root, 64, 0));
        let heaps = [open(&a), open(&b)];
        let ids = [0, 1].map(|at: usize| {
            let account = heaps[at].account();
            assert!(allocate(account, 30));
            account.id()
        });
        let datum = datum();
        let written = datum.clone();
        let thread = thread::spawn(move || {
            for id in [ids[0], ids[1], ids[0], ids[1]] {
                written.write();
                free(id, 8);
            }
        });

        obtain_and_write(&other, 32, &datum);

        thread.join().unwrap();
        at_rest_alone(&root, 60);
    });
}

#[test]
fn a_block_is_freed_while_its_scope_ends_and_its_leaf_is_freed() {
    check(|| {
        let root = root(64);
        let query = child(&root, 64, 0);
        let heap = open(&query);
        assert!(allocate(heap.account(), 8) && allocate(heap.account(), 4));
        let id = heap.account().id();
        let thread = thread::spawn(move || free(id, 8));

        drop(heap);
        drop(query);

        thread.join().unwrap();
        at_rest_retained(&root, 4);
        free(id, 4);
        at_rest(&root, 0);
    });
}

#[test]
fn the_last_block_of_a_tree_is_freed_while_its_scope_and_its_root_end() {
    check(|| {
        let root = root(64);
        let heap = open(&root);
        assert!(allocate(heap.account(), 8));
        let id = heap.account().id();
        let thread = thread::spawn(move || free(id, 8));

        drop(heap);
        drop(root);

        thread.join().unwrap();
    });
}

#[test]
fn an_account_has_a_new_owner_only_after_the_last_block_of_the_one_before() {
    check(|| {
        let root = root(64);
        let first = open(&root);
        assert!(allocate(first.account(), 8) && allocate(first.account(), 4));
        let id = first.account().id();
        let thread = thread::spawn(move || {
            free(id, 8);
            free(id, 4);
        });

        drop(first);
        let second = open(&root);
        assert!(allocate(second.account(), 16));

        thread.join().unwrap();
        at_rest(&root, 16);
        let account = second.account();
        assert_eq!(account.granted() - account.held().credit, 16);
        free(account.id(), 16);
        at_rest(&root, 0);
    });
}

#[test]
fn a_block_is_charged_before_a_close_or_not_at_all() {
    check(|| {
        let root = root(64);
        let query = child(&root, 64, 0);
        let heap = open(&query);
        assert!(allocate(heap.account(), 4));
        let account = heap.account();
        let thread = thread::spawn(move || allocate(account, 8));

        query.close().expect("what outlives it is not the query's");

        let charged = thread.join().unwrap();
        at_rest_retained(&root, if charged { 12 } else { 4 });
        assert_eq!(query.allocated(), 0);
        assert!(!allocate(account, 8));
        free(account.id(), if charged { 12 } else { 4 });
        drop(heap);
        at_rest(&root, 0);
    });
}

#[test]
fn two_threads_of_a_scope_open_an_account_each_while_the_allocator_closes() {
    check(|| {
        let root = root(64);
        let query = child(&root, 64, 0);
        let heap = Arc::new(open(&query));
        assert_eq!(heap.account_of_thread(1), heap.account());
        let shared = Arc::clone(&heap);
        let thread = thread::spawn(move || {
            let account = shared.account_of_thread(2);
            (account, allocate(account, 8))
        });
        let account = heap.account_of_thread(3);
        let charged = allocate(account, 4);

        query.close().expect("what outlives it is not the query's");

        let (other, other_charged) = thread.join().unwrap();
        assert_eq!(heap.account_of_thread(3), account);
        assert!(charged && account != other && account != heap.account());
        at_rest_retained(&root, if other_charged { 12 } else { 4 });
        free(account.id(), 4);
        if other_charged {
            free(other.id(), 8);
        }
        drop(heap);
        at_rest(&root, 0);
    });
}

#[test]
fn threads_that_share_a_lane_open_one_account() {
    check(|| {
        let root = root(64);
        let heap = Arc::new(open(&child(&root, 64, 0)));
        // All lanes but the last have a thread.
        for thread in 1..=7 {
            let _ = heap.account_of_thread(thread);
        }
        // One that has none of its own uses the last.
        let shares_last = (9..).find(|&thread| spread(thread) % 7 == 6).unwrap();
        let shared = Arc::clone(&heap);
        let thread = thread::spawn(move || {
            let account = shared.account_of_thread(8);
            assert!(allocate(account, 8));
            account.id()
        });

        let account = heap.account_of_thread(shares_last);
        assert!(allocate(account, 4));

        let other = thread.join().unwrap();
        drop(heap);
        at_rest_retained(&root, 12);
        free(account.id(), 4);
        free(other, 8);
        at_rest(&root, 0);
    });
}
