//! Who passes a request that waits, how far, and when it can never be granted.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use arrow_memory_core::{BufferAllocator, Retry, RootAllocator, WaitError};

use super::balanced;
use crate::support::{Woken, allocated, child, exact, ones, poll};

/// Whether room is withheld for the only request that waits in the tree.
fn withholds(root: &BufferAllocator) -> bool {
    let [waiter] = &root.snapshot().waiters[..] else {
        panic!("one waits")
    };
    waiter.withholds
}

#[test]
fn a_small_request_may_be_passed_by_a_sixteenth_of_the_limit() {
    let root = exact(16 << 10);
    let [held, scan, passes] = ["held", "scan", "passes"].map(|name| child(&root, name));
    let held = ones(&held, (16 << 10) - 64);
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(scan.wait().buffer_async(128));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    for _ in 0..15 {
        drop(passes.buffer(64).unwrap());
    }
    assert!(!withholds(&root));
    drop(passes.buffer(64).unwrap());

    assert!(withholds(&root));
    passes.buffer(64).unwrap_err();
    drop(held);
    assert!(matches!(poll(waits.as_mut(), &woken), Poll::Ready(Ok(_))));
    assert_eq!(woken.count(), 1);
}

#[test]
fn bytes_that_move_within_an_allocator_pass_nobody_who_waits_there() {
    let root = exact(1024);
    let [one, other, scan] = ["one", "other", "scan"].map(|name| child(&root, name));
    let mut held = ones(&one, 512);
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(scan.wait().buffer_async(1024));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    for _ in 0..4 {
        for target in [&other, &one] {
            held = held.try_transfer_ownership(target).unwrap();
            assert_eq!(target.allocated_memory(), 512);
        }
    }

    assert!(!withholds(&root));
    root.verify().unwrap();
}

#[test]
fn what_a_reservation_covers_waits_although_the_levels_above_could_never_grant_it() {
    let root = exact(1 << 20);
    let parent = root.child("parent").limit(1000).build().unwrap();
    let reserved = parent.child("reserved").reservation(512).limit(512);
    let reserved = reserved.build().unwrap();
    let held = ones(&reserved, 64);
    parent.set_limit(100);
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(reserved.wait().buffer_async(512));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    drop(held);

    assert!(matches!(poll(waits.as_mut(), &woken), Poll::Ready(Ok(_))));
    assert_eq!(allocated([&parent, &root]), [512, 512]);
}

#[test]
fn a_blocked_request_ends_at_its_deadline_without_a_timer() {
    let root = RootAllocator::builder().limit(1024).own_timer(true);
    let root = root.build().unwrap();
    let held = root.buffer(1024).unwrap();
    let began = Instant::now();

    let ended = root.wait().at_most(Duration::from_millis(20)).buffer(64);

    assert!(
        matches!(ended, Err(WaitError::TimedOut { .. })),
        "{ended:?}"
    );
    assert!(began.elapsed() >= Duration::from_millis(20));
    drop(held);
    balanced(&root);
}

#[test]
fn who_waits_at_a_level_whose_children_hold_all_is_not_told_to_give_way() {
    let root = RootAllocator::builder().limit(1024).own_timer(true);
    let root = root.build().unwrap();
    let computes = root.child("computes").build().unwrap();
    let held = computes.buffer(1024).unwrap();
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(root.wait().buffer_async(64));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    let mut now = Instant::now();
    for _ in 0..4 {
        now += Duration::from_secs(10);
        assert!(root.expire_waits(now).is_some());
        assert!(poll(waits.as_mut(), &woken).is_pending());
    }

    drop(held);
    assert!(matches!(poll(waits.as_mut(), &woken), Poll::Ready(Ok(_))));
    drop((waits, computes));
    balanced(&root);
}

#[test]
fn credit_that_a_request_gets_beyond_its_bytes_passes_nobody() {
    const M: usize = 1 << 20;
    let root = RootAllocator::builder().limit(64 * M).credit(M);
    let root = root.own_timer(true).build().unwrap();
    let held = child(&root, "held").wait().reserve(40 * M).unwrap();
    let scan = child(&root, "scan");
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(scan.wait().reserve_async(30 * M));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    // More than the root keeps as credit, so that each is counted.
    let passes = || root.new_reservation().add(M + M / 4).unwrap();
    (0..20).for_each(|_| passes());
    assert!(!withholds(&root), "25 MiB have passed it");
    (0..4).for_each(|_| passes());

    assert!(withholds(&root));
    drop(held);
    assert_eq!(woken.count(), 1);
}

/// The error names the level that is full, and not the one that will never have room.
#[test]
fn growth_that_could_never_fit_above_is_refused_for_ever() {
    let root = exact(2000);
    let query = root.child("query").limit(2048).build().unwrap();
    let (mut buffer, rest) = (query.buffer(1024).unwrap(), query.buffer(256).unwrap());

    let refused = query.wait().grow(&mut buffer, 2048).unwrap_err();

    assert!(matches!(refused, WaitError::Refused(_)), "{refused}");
    assert_eq!(refused.retry(), Retry::Never);
    assert_eq!((buffer.capacity(), root.allocated_memory()), (1024, 1280));
    drop(rest);
}
