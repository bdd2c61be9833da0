//! The heap of the process grows with what is alive, and by no more than so much for each thing; and when that was
//! released, nothing is left.

use std::sync::Mutex;
use std::task::{Context, Waker};

use arrow_memory_core::{BufferAllocator, Cost, ForeignAllocation, RootAllocator};
use arrow_memory_system as _;

use crate::{MANNERS, MIB, Stubborn, alone, attack, heap};

/// What is kept for reuse by threads and pools, whatever happened before: some chunks of slots.
const KEPT: isize = 3 << 20;

/// So many things are alive at once.
const MANY: usize = if cfg!(debug_assertions) {
    10_000
} else {
    50_000
};

/// Two tests of a kind must not run beside each other; and the first things of a process are made before one is
/// measured.
fn warm(root: &BufferAllocator) {
    let held: Vec<_> = (0..1000).map(|_| root.buffer(1).unwrap()).collect();
    drop(held);
    for manner in MANNERS {
        let child = root.child("warm").limit(MIB).build().unwrap();
        attack(&child, manner, &|| true);
    }
}

/// Makes many things and checks that each costs at most so many bytes of heap, its place in a vector included; and that
/// nothing is left of many, many times, when they were dropped.
fn assert_proportional<T>(allowed: usize, make: impl Fn(usize) -> T) {
    let before = heap::live();
    for round in 0..5 {
        let held: Vec<T> = (0..MANY).map(&make).collect();
        let each = (heap::live() - before - KEPT) / MANY as isize;
        assert!(each <= allowed as isize, "{each} bytes each");
        drop_in_another_order(held);
        let left = heap::live() - before;
        assert!(left <= KEPT, "{left} bytes after round {round}");
    }
}

/// Drops the values at random, so that what is kept of them for reuse is from all over the place.
fn drop_in_another_order<T>(mut values: Vec<T>) {
    fastrand::Rng::with_seed(1).shuffle(&mut values);
    drop(values);
}

#[test]
fn a_buffer_of_a_byte_costs_a_slot() {
    let _alone = alone();
    let root = RootAllocator::unlimited();
    warm(&root);
    // A slot of 88 bytes, the handle, and what chunks and vectors have in reserve.
    assert_proportional(88 + 24 + 16, |_| root.buffer(1).unwrap());
}

#[test]
fn a_ledger_costs_a_slot() {
    let _alone = alone();
    let root = RootAllocator::unlimited();
    warm(&root);
    let guests: Vec<_> = (0..10)
        .map(|_| root.child("guest").build().unwrap())
        .collect();
    let buffer = |_| root.buffer_from_slice(b"1").unwrap();
    let held: Vec<_> = (0..MANY / 10).map(buffer).collect();
    assert_proportional(88 + 24 + 16, |index| {
        held[index / 10].retain_in(&guests[index % 10]).unwrap()
    });
}

#[test]
fn an_empty_buffer_costs_nothing() {
    let _alone = alone();
    let root = RootAllocator::unlimited();
    warm(&root);
    assert_proportional(size_of_val(&root.buffer(0).unwrap()), |_| {
        root.buffer(0).unwrap()
    });
}

#[test]
fn a_child_costs_less_than_a_kibibyte_whatever_it_is_called() {
    let _alone = alone();
    let root = RootAllocator::unlimited();
    warm(&root);
    let number = Mutex::new(0_u64);
    assert_proportional(1024, |_| {
        let mut number = number.lock().unwrap();
        *number += 1;
        root.child(&format!("child-{number}")).build().unwrap()
    });
}

#[test]
fn a_level_costs_less_than_a_kibibyte() {
    let _alone = alone();
    let root = RootAllocator::unlimited();
    warm(&root);
    let latest: Mutex<BufferAllocator> = Mutex::new((*root).clone());
    assert_proportional(1024, |index| {
        let mut latest = latest.lock().unwrap();
        if index == 0 {
            *latest = (*root).clone();
        }
        *latest = latest.child("level").build().unwrap();
        if index + 1 == MANY {
            std::mem::replace(&mut *latest, (*root).clone())
        } else {
            latest.clone()
        }
    });
}

#[test]
fn a_reservation_costs_little() {
    let _alone = alone();
    let root = RootAllocator::unlimited();
    warm(&root);
    assert_proportional(400, |_| root.new_reservation());
}

#[test]
fn foreign_memory_costs_a_slot_and_its_owner() {
    let _alone = alone();
    let root = RootAllocator::unlimited();
    warm(&root);
    assert_proportional(320, |_| {
        let foreign = ForeignAllocation::from_owner(vec![1_u8]);
        root.wrap_foreign_allocation(foreign).unwrap()
    });
}

#[test]
fn a_request_that_waits_costs_less_than_two_kibibytes_and_nothing_once_it_is_cancelled() {
    let _alone = alone();
    // Nobody is told to give way.
    let root = RootAllocator::builder().limit(4 * MIB).own_timer(true);
    let root = root.build().unwrap();
    warm(&root);
    let held = root.buffer(4 * MIB).unwrap();
    assert_proportional(2048, |_| {
        let mut wait = Box::pin(root.wait().buffer_async(1));
        let mut context = Context::from_waker(Waker::noop());
        let polled = wait.as_mut().poll(&mut context);
        assert!(polled.is_pending(), "{polled:?}");
        wait
    });
    drop(held);
}

#[test]
fn a_registered_cache_costs_less_than_a_kibibyte() {
    let _alone = alone();
    let root = RootAllocator::unlimited();
    warm(&root);
    assert_proportional(1024, |_| root.on_shortage(Cost::Drop, Stubborn));
}

#[test]
fn no_attack_leaves_anything_behind() {
    let _alone = alone();
    let root = RootAllocator::new(16 * MIB);
    let greedy = root.child("greedy").build().unwrap();
    for manner in MANNERS {
        attack(&greedy, manner, &|| true);
        let before = heap::live();
        for _ in 0..20 {
            attack(&greedy, manner, &|| true);
        }
        let left = heap::live() - before;
        assert!(left <= KEPT, "{manner:?}: {left} bytes");
    }
    assert_eq!((root.allocated_memory(), root.verify()), (0, Ok(())));
}

/// What an attacker holds in the smallest pieces is bounded by its limit, and so is the bookkeeping.
#[test]
fn the_bookkeeping_of_a_client_is_bounded_by_its_limit() {
    let _alone = alone();
    let root = RootAllocator::new(64 * MIB);
    warm(&root);
    let greedy = root.child("greedy").limit(32 * MIB).build().unwrap();
    let before = heap::live();

    let held: Vec<_> = std::iter::from_fn(|| greedy.buffer(1).ok()).collect();

    assert_eq!(held.len(), 32 * MIB / 64);
    let bookkeeping = heap::live() - before - (held.capacity() * 24) as isize;
    assert!(bookkeeping < 48 * MIB as isize, "{bookkeeping} bytes");
    drop_in_another_order(held);
    let left = heap::live() - before;
    assert!(left <= KEPT, "{left} bytes");
}
