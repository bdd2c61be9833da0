//! Waiters beside threads that take and release all the time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use arrow_memory_core::{
    AllocationManager, AllocationReservation, BufferAllocator, RootAllocator, WaitError,
};
use arrow_memory_integration_tests::for_every_backend;

use crate::support::{LONG, assert_empty, builder, poll_spuriously, poll_with, until};

for_every_backend!(a_large_waiter_is_granted_before_many_bytes_have_passed_it);

const LIMIT: usize = 1 << 20;
const SMALL: usize = 64 << 10;
const THREADS: usize = 8;

/// Eight threads take small buffers, each before it releases the one that it had. Once the large request waits,
/// they may take one and a half times the limit. After that each keeps its last buffer. Together these leave too
/// little, so the large request is granted before that, or never.
///
/// Without credit, since what a child takes of the credit that it has does not pass anybody: that credit was not
/// there for the waiter.
fn a_large_waiter_is_granted_before_many_bytes_have_passed_it(
    backend: &Arc<dyn AllocationManager>,
) {
    let root = RootAllocator::builder()
        .limit(LIMIT)
        .credit(0)
        .allocation_manager(Arc::clone(backend))
        .build()
        .unwrap();

    wait_beside_threads(&root, LIMIT + LIMIT / 2);
}

#[test]
fn a_large_waiter_is_granted_beside_threads_that_have_credit() {
    wait_beside_threads(&RootAllocator::new(LIMIT), usize::MAX);
}

/// Waits for nine tenths of the limit, beside threads that may take so many bytes from then on.
fn wait_beside_threads(root: &RootAllocator, budget: usize) {
    let (waits, granted) = (AtomicBool::new(false), AtomicBool::new(false));
    let (left, all_hold) = (AtomicUsize::new(budget), Barrier::new(THREADS + 1));
    let take = |child: BufferAllocator| {
        let mut held = child.buffer(SMALL).ok();
        all_hold.wait();
        while !granted.load(Ordering::Acquire) {
            let counts = waits.load(Ordering::Acquire);
            if counts && left.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
                continue;
            }
            held = child.buffer(SMALL).ok();
            if counts && held.is_some() {
                take_part(&left);
            }
        }
        drop(held);
    };

    thread::scope(|scope| {
        for index in 0..THREADS {
            let (child, take) = (root.child(&format!("small-{index}")), &take);
            scope.spawn(move || take(child.build().unwrap()));
        }
        all_hold.wait();
        let large = root.child("large").build().unwrap();
        scope.spawn(|| {
            until(|| granted.load(Ordering::Acquire) || !root.snapshot().waiters.is_empty());
            waits.store(true, Ordering::Release);
        });
        let buffer = large.wait().at_most(LONG).buffer(LIMIT / 10 * 9);
        granted.store(true, Ordering::Release);
        assert!(buffer.is_ok(), "{buffer:?}");
    });

    assert_empty(root);
}

/// Takes one buffer's bytes of a budget, or what is left of it.
fn take_part(left: &AtomicUsize) {
    let less = |left: usize| Some(left.saturating_sub(SMALL));
    let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}

/// Five queries that each hold a fifth and want another one, beside a thread that takes and releases a little.
#[test]
fn a_ring_of_waiters_that_hold_memory_is_resolved_beside_a_trickle_of_small_requests() {
    const FIFTH: usize = 200 << 10;
    let root = builder(5 * FIFTH + (8 << 10))
        .patience(Duration::from_millis(20))
        .build()
        .unwrap();
    let (all_hold, ended) = (Barrier::new(5), AtomicUsize::new(0));

    let told: usize = thread::scope(|scope| {
        let trickle = root.child("trickle").build().unwrap();
        let ended = &ended;
        scope.spawn(move || {
            while ended.load(Ordering::Acquire) < 5 {
                drop(trickle.buffer(1 << 10));
            }
        });
        let threads: Vec<_> = (0..5)
            .map(|index| {
                let query = root.child(&format!("query-{index}")).build().unwrap();
                let all_hold = &all_hold;
                scope.spawn(move || {
                    let held = query.wait().reserve(FIFTH).unwrap();
                    all_hold.wait();
                    let (both, told) = both_fifths(&query, held, FIFTH);
                    drop(both);
                    ended.fetch_add(1, Ordering::Release);
                    told
                })
            })
            .collect();
        threads.into_iter().map(|it| it.join().unwrap()).sum()
    });

    assert!((1..5).contains(&told), "{told} had to give way");
    assert_empty(&root);
}

/// Waits for as many bytes again as `held` has, and releases these when it is told to give way. Returns all the
/// bytes, and how often it was told.
fn both_fifths(
    query: &BufferAllocator,
    held: AllocationReservation,
    fifth: usize,
) -> (Vec<AllocationReservation>, usize) {
    let (mut held, mut told) = (Some(held), 0);
    let mut wait = query.wait();
    loop {
        let bytes = if held.is_some() { fifth } else { 2 * fifth };
        match wait.reserve(bytes) {
            Ok(more) => return (held.into_iter().chain([more]).collect(), told),
            Err(WaitError::GiveWay(give_way)) => {
                held = None;
                told += 1;
                wait = query.wait().after(give_way);
            }
            Err(error) => panic!("{error:#}"),
        }
    }
}

/// Children that each hold a small buffer take the next one before they release the one that they had.
#[test]
fn a_waiter_is_passed_by_as_many_bytes_as_it_asks_for_and_no_more() {
    let root = RootAllocator::new(LIMIT);
    let children: Vec<_> = (0..THREADS)
        .map(|index| root.child(&format!("small-{index}")).build().unwrap())
        .collect();
    let mut held: Vec<_> = children
        .iter()
        .map(|child| child.buffer(SMALL).unwrap())
        .collect();
    let large = root.child("large").build().unwrap();
    let mut waits = Box::pin(large.wait().buffer_async(LIMIT / 10 * 9));
    assert!(poll_with(&mut waits, Waker::noop()).is_pending());

    let mut passed = 0;
    for index in (0..THREADS).cycle().take(100) {
        match children[index].buffer(SMALL) {
            Ok(buffer) => held[index] = buffer,
            Err(_) => break,
        }
        passed += SMALL;
    }

    assert!((LIMIT / 10 * 9..LIMIT).contains(&passed), "{passed}");
    drop((waits, held, children, large));
    assert_empty(&root);
}

/// A regression: the level to which waiters moved was opened before they were in its queue. In a debug build an
/// assertion failed under the tree's lock.
#[test]
fn waiters_that_fit_at_one_level_and_lack_room_above_wait_there() {
    let root = RootAllocator::new(1000 << 10);
    let other = root.child("other").build().unwrap();
    let elsewhere = other.buffer(500 << 10).unwrap();
    let query = root.child("query").limit(650 << 10).build().unwrap();
    let held = query.buffer(100 << 10).unwrap();
    let mut waits: Vec<_> = (0..20)
        .map(|_| Box::pin(query.wait().buffer_async(600 << 10)))
        .collect();
    for waits in &mut waits {
        assert!(poll_with(waits, Waker::noop()).is_pending());
    }
    let lacking = || {
        let waiters = root.snapshot().waiters;
        waiters
            .iter()
            .filter(|it| &*it.lacks_room.name == "ROOT")
            .count()
    };
    assert_eq!(lacking(), 0);

    drop(held);

    assert_eq!(lacking(), 20);
    root.verify().unwrap();
    drop(elsewhere);
    for waits in waits {
        // Each holds its buffer until the next one is polled.
        drop(poll_spuriously(waits).unwrap());
    }
    drop((query, other));
    assert_empty(&root);
}
